"""The stored record of a run."""

from protocol.objects.run import RunState


class RunRecord(RunState, frozen=True, kw_only=True, omit_defaults=True):
    """A run as it is stored: the fold of its events, and the state of the run machine.

    A field that clients must not see belongs here. The values pinned at acceptance never change: they have a
    table of their own (``PINNED``), so that no later event writes them again. ``empty_answers`` counts the
    failed attempts of the current model call that were empty answers.
    """

    empty_answers: int = 0
