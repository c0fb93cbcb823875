"""Events of triggers. They stand in the stream of the bus."""

from typing import Literal

from protocol.journal.envelope import Event
from protocol.objects.trigger import FiringOutcome, TriggerAuthor, TriggerStatus, TriggerTerms
from protocol.transcript import Authority, InputOrigin


class TriggerCreated(TriggerTerms, Event, frozen=True, tag="trigger_created"):
    """A trigger was created, or changed by its file.

    ``owner_session`` is the session whose agent made it. ``authority`` is that of its task; null: the task is
    data, of these ``origins``, like everything that its author sends.
    """

    trigger_id: str
    author: TriggerAuthor
    owner_session: str | None = None
    authority: Authority | None = None
    origins: list[InputOrigin] = []


class TriggerChanged(Event, frozen=True, tag="trigger_changed"):
    """A trigger was paused or resumed."""

    trigger_id: str
    status: TriggerStatus


class TriggerFired(Event, frozen=True, tag="trigger_fired"):
    """An event reached a trigger.

    ``delivered``: it is the input of the run ``woken_run``. ``held``: it is delivered at ``due_at_ms``,
    together with the events until then. ``refused``: the target did not take it, for ``reason``; the trigger
    gives it up. ``stopped``: its chain has more ``hops`` than the trigger allows.
    """

    trigger_id: str
    event_id: str
    event_cursor: int
    outcome: FiringOutcome
    woken_session: str | None = None
    woken_run: str | None = None
    due_at_ms: int | None = None
    attempt: int = 0
    hops: int = 0
    reason: str | None = None
    note: str = ""


class TriggerDeleted(Event, frozen=True, tag="trigger_deleted"):
    """A trigger was deleted: by a caller, after its firing, by its file, or because its session ended."""

    trigger_id: str
    why: Literal["request", "once", "file", "session_ended"]
