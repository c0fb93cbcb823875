"""The run worker, and the life of a run from its start to its end.

=========== ==================================================================================================
file        responsibility
=========== ==================================================================================================
worker      starts an executor for every run that is due, within the limit of active runs
executor    asks the run machine for the next effect and performs it, until none is due
active      the run's current record, its commits, and the scope in which an effect can be stopped
model       one model call: the prompt, the streamed text, the answer or the failure
context     the prompt: instructions, transcript and tools, and the compaction that keeps it short enough
transcript  the session's transcript, read from a checkpoint and the events after it
calls       a batch of tool calls: judged, started, run side by side, and their results committed
judge       the decision about one call: allowed, denied, or a person is asked
probes      the calls during which a daemon died: whether they took effect
results     tool output, cut to the sizes that the journal and the model accept
=========== ==================================================================================================

Every step ends in a command to the run machine that is committed before the next step begins. Wherever the
daemon dies, the journal therefore holds either the whole step or nothing of it, and the next daemon continues
from the record.
"""
