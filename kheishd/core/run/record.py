"""The stored record of a run."""

from msgspec import Struct

from protocol.objects.run import RunState


class AwaitedSource(Struct, frozen=True):
    """A pattern of sources that a run waited for, and the cursor after which it has got no event of them."""

    source: str
    cursor: int


class RunRecord(RunState, frozen=True, kw_only=True, omit_defaults=True):
    """A run as it is stored: the fold of its events, and the state of the run machine.

    A field that clients must not see belongs here. The values pinned at acceptance are not part of it,
    because every event of the run writes the record anew: they stay in the event of the acceptance.
    ``empty_answers`` counts the failed attempts of the current model call that were empty answers.
    ``awaited`` are the patterns of events that the run waited for: it listens to them until it ends.
    """

    empty_answers: int = 0
    awaited: list[AwaitedSource] = []
