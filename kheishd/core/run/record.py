"""The stored record of a run."""

from protocol.objects.run import RunState


class RunRecord(RunState, frozen=True, kw_only=True, omit_defaults=True):
    """A run as it is stored: the fold of its events, and the state of the run machine.

    A field that clients must not see belongs here. The values pinned at acceptance are not part of it,
    because every event of the run writes the record anew: they stay in the event of the acceptance.
    ``empty_answers`` counts the failed attempts of the current model call that were empty answers.
    """

    empty_answers: int = 0
