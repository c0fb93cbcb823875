"""Events of a run, from its input to its end."""

from typing import Any, Literal

from protocol.budget import Cost
from protocol.contract import FollowUp
from protocol.journal.envelope import Event
from protocol.objects.run import Outcome, Pinned, RunError, RunKind
from protocol.transcript import InputItem, Message, Usage


class InputReceived(Event, frozen=True, tag="input_received"):
    """Somebody said something; it is on the disk from here on."""

    input_id: str
    items: list[InputItem]
    sender: str | None = None
    guest: str | None = None
    metadata: dict[str, Any] = {}


class RunAccepted(Event, frozen=True, tag="run_accepted"):
    """A run will answer an input, or do what else its ``kind`` says, with what is pinned."""

    input_id: str
    agent: str
    pinned: Pinned
    sender: str | None = None
    guest: str | None = None
    kind: RunKind = "input"


class RunStarted(Event, frozen=True, tag="run_started"):
    """A worker took the run up. ``alone``: no other beside it, as it brought the daemon down before."""

    starts: int
    alone: bool = False


class ModelAsked(Event, frozen=True, tag="model_asked"):
    """A model call begins; ``item_id`` names the message it will give, ``attempt`` counts from 1."""

    item_id: str
    turn: int
    attempt: int


class ModelFailed(Event, frozen=True, tag="model_failed"):
    """A model call failed and will be made again at ``retry_at_ms``."""

    item_id: str
    turn: int
    attempt: int
    error: RunError
    retry_at_ms: int


class MessageAppended(Event, frozen=True, tag="message_appended"):
    """A message was added to the transcript.

    ``stop_reason``: ``end``, ``length``, ``tool_calls``, ``refusal``, or ``cancelled`` for the part of an
    answer that had arrived when it was stopped. ``follow_up``: the daemon says this, as a user, to have the
    model answer again.
    """

    item_id: str
    message: Message
    usage: Usage = Usage()
    stop_reason: str = "end"
    model: str | None = None
    follow_up: FollowUp | None = None
    cost: Cost | None = None


class Steered(Event, frozen=True, tag="steered"):
    """Somebody said something to the run in flight; the model reads it before its next answer."""

    steer_id: str
    items: list[InputItem]
    sender: str | None = None


class RunReleased(Event, frozen=True, tag="run_released"):
    """A worker put the run down in an orderly way; it goes on at the daemon's next start."""

    note: str = ""


class CancelRequested(Event, frozen=True, tag="cancel_requested"):
    """Somebody wants the run stopped; ``outcome`` is what it will be called."""

    outcome: Literal["cancelled", "interrupted"]
    note: str = ""


class RunEnded(Event, frozen=True, tag="run_ended"):
    """The run is over, with an outcome and, if it failed, the error."""

    outcome: Outcome
    error: RunError | None = None
    note: str = ""
