"""Events of a run, from its input to its end."""

from typing import Any, Literal

from protocol.budget import Cost
from protocol.contract import FollowUp
from protocol.journal.envelope import Event
from protocol.objects.memory import RecalledNote
from protocol.objects.run import Outcome, Pinned, RunError, RunKind
from protocol.objects.workspace import AgentsFile
from protocol.transcript import Authority, InputItem, InputOrigin, Message, Usage


class InputReceived(Event, frozen=True, tag="input_received"):
    """An input was received and is durable.

    ``origin`` is the kind of its author, ``source`` the author's name, address or id. ``authority`` is the
    author of its first item, the task of a schedule or a trigger.
    """

    input_id: str
    items: list[InputItem]
    sender: str | None = None
    guest: str | None = None
    metadata: dict[str, Any] = {}
    origin: InputOrigin = "person"
    source: str = ""
    authority: Authority | None = None


class RunAccepted(Event, frozen=True, tag="run_accepted"):
    """A run was accepted, with its pinned values. ``kind`` is its purpose.

    ``origins`` are those of its input and, for a child's run, of everything that the parent's run had read.

    ``reports``: the agent's parent caused it, and is told once how it ended.
    ``queue_index`` is its index among the open runs of the session if it is ahead of queued ones; null: it is
    the last. ``hops`` is the number of events on the bus that led to it.
    """

    input_id: str
    agent: str
    pinned: Pinned
    sender: str | None = None
    guest: str | None = None
    kind: RunKind = "input"
    origins: list[InputOrigin] = []
    reports: bool = False
    queue_index: int | None = None
    hops: int = 0


class RunStarted(Event, frozen=True, tag="run_started"):
    """A worker started the run. ``alone``: no other run beside it, because it crashed the daemon before."""

    starts: int
    alone: bool = False


class ModelAsked(Event, frozen=True, tag="model_asked"):
    """A model call started. ``item_id`` names the message it will append; ``attempt`` counts from 1."""

    item_id: str
    turn: int
    attempt: int


class ModelFailed(Event, frozen=True, tag="model_failed"):
    """A model call failed and is retried at ``retry_at_ms``; null: it is not retried.

    ``usage`` and ``cost`` are those of an unusable answer, such as an empty one. ``route`` is the route that
    failed, of a run with several, and ``auth_ref`` the key, of a route with several. ``next_route`` and
    ``next_auth_ref`` are asked instead; without them, the call is repeated. ``passed_over`` are the routes
    and keys that came first and were not asked, each with the reason.
    """

    item_id: str
    turn: int
    attempt: int
    error: RunError
    retry_at_ms: int | None
    usage: Usage = Usage()
    cost: Cost | None = None
    route: str | None = None
    auth_ref: str | None = None
    next_route: str | None = None
    next_auth_ref: str | None = None
    passed_over: list[str] = []


class MessageAppended(Event, frozen=True, tag="message_appended"):
    """A message was appended to the transcript.

    ``stop_reason``: ``end``, ``length``, ``tool_calls``, ``refusal``, ``pause``, or ``cancelled`` for the
    part of an answer that had arrived when the run was stopped. ``follow_up`` marks a message that the daemon
    wrote, as the user, to make the model answer again. ``route`` is the route that answered, of a run with
    several; ``passed_over`` are the routes and keys that came first and were not asked, each with the reason.
    """

    item_id: str
    message: Message
    usage: Usage = Usage()
    stop_reason: str = "end"
    model: str | None = None
    follow_up: FollowUp | None = None
    cost: Cost | None = None
    route: str | None = None
    passed_over: list[str] = []


class Steered(Event, frozen=True, tag="steered"):
    """A message was added to the run in flight; the model reads it before its next answer.

    ``origins`` are those of everything that the author of its task, an agent, had read. ``hops`` is the
    number of events on the bus that led to it.
    """

    steer_id: str
    items: list[InputItem]
    sender: str | None = None
    origin: InputOrigin = "person"
    source: str = ""
    authority: Authority | None = None
    origins: list[InputOrigin] = []
    hops: int = 0


class AgentsFilesLoaded(Event, frozen=True, tag="agents_files_loaded"):
    """The run read the ``AGENTS.md`` files of its workspace; its models are given them until it ends.

    ``text`` is the SHA-256 (hex) of the blob with their text; null: they are empty.
    """

    files: list[AgentsFile]
    text: str | None = None


class NotesRecalled(Event, frozen=True, tag="notes_recalled"):
    """The run was given notes of its agent that fit its input; its models see them until it ends.

    ``text`` is the SHA-256 (hex) of the blob with their text. The run has read data of ``origins``.
    """

    notes: list[RecalledNote]
    text: str
    origins: list[InputOrigin] = []


class RunReleased(Event, frozen=True, tag="run_released"):
    """A worker released the run in an orderly stop; the next start of the daemon resumes it."""

    note: str = ""


class CancelRequested(Event, frozen=True, tag="cancel_requested"):
    """A client asked to stop the run. ``outcome`` is its status once it has stopped."""

    outcome: Literal["cancelled", "interrupted"]
    note: str = ""


class RunEnded(Event, frozen=True, tag="run_ended"):
    """The run ended. ``error`` is set if it failed. ``origins`` are those of everything that it has read.

    ``worked_ms`` is its working time, in a session that counts it for a budget.
    """

    outcome: Outcome
    error: RunError | None = None
    note: str = ""
    origins: list[InputOrigin] = []
    worked_ms: int = 0


class RunConcluded(Event, frozen=True, tag="run_concluded"):
    """The work that remained after the run's end is done: its mail is settled, and its end is reported.

    ``report``: the parent was told by ``mail``, or its ``wait`` returned the outcome; ``dropped``: its
    session had ended; null: the run does not report. ``message_id`` is the message in the parent's mailbox.
    """

    report: Literal["mail", "wait", "dropped"] | None = None
    message_id: str | None = None
