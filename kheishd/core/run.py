"""The run machine, pure: what may happen to a run, what follows from what happened, what is due.

Theory of operation. A run is accepted into its session's line and is *queued* until the runs before it
have ended. A worker takes it up (``RunStarted``) and from then on asks :func:`due` what the world owes:
a model call, a pause before the next try, or nothing. Everything the worker does is committed as events
that :func:`decide` gives, and the record is only ever what :func:`evolve` makes of those events; so a
worker that wakes after a crash sees what one sees that wakes after a commit.

``starts_without_progress`` rises in the commit that starts an effect and returns to 0 with any outcome or
orderly stop. A run found with 2 is executed with no other beside it, one found with 3 is parked as failed:
no crash loop is immortal and no neighbour is blamed.

=============== ============ ===============================================
status          command      leads to
=============== ============ ===============================================
queued          Start        running
                Cancel       cancelled
                Fail         failed
running         Start        running, failed, cancelled, interrupted
                Ask          running
                Answered     running, completed, failed, cancelled, interrupted
                Errored      running, failed, cancelled, interrupted
                Cancel       running
                Stopped      cancelled, interrupted
                Release      running
                Fail         failed, cancelled, interrupted
                Interrupt    cancelled, interrupted
waiting         Cancel       waiting
                Stopped      cancelled, interrupted
                Fail         failed, cancelled, interrupted
ended           any          refused: RunAlreadyEnded
=============== ============ ===============================================

What may never live here: a clock, a file, a socket, randomness. They are passed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from msgspec.structs import replace

from protocol.errors import RunAlreadyEnded
from protocol.events import (
    CancelRequested,
    Envelope,
    JournalEvent,
    MessageAppended,
    ModelAsked,
    ModelFailed,
    RunAccepted,
    RunEnded,
    RunReleased,
    RunStarted,
)
from protocol.objects.run import ENDED, Run, RunError, Status
from protocol.transcript import Item, Message, ToolCall, ToolResult, Usage

ALONE_AT = 2
PARKED_AT = 3


# Commands: what a worker or a handler wants done.


@dataclass(frozen=True, slots=True)
class Start:
    """A worker takes the run up."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The model is about to be asked; ``item_id`` is for the message it will give."""

    item_id: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The model answered. ``result_id`` is for the message with the results of its tool calls."""

    items: list[Item]
    usage: Usage
    stop_reason: str
    model: str | None
    result_id: str


@dataclass(frozen=True, slots=True)
class Errored:
    """The model call failed. ``retry_at_ms`` is when to try again; None: not at all."""

    error: RunError
    retry_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody wants the run stopped."""

    outcome: Literal["cancelled", "interrupted"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The effect of a run that is to be cancelled has stopped; ``items`` had arrived by then."""

    items: list[Item]


@dataclass(frozen=True, slots=True)
class Release:
    """The worker puts the run down because the daemon stops."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The run cannot go on."""

    error: RunError


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The run is not to go on after a restart, because the configuration says so."""

    error: RunError


Command = Start | Ask | Answered | Errored | Cancel | Stopped | Release | Fail | Interrupt

ACCEPTED: Final[Mapping[Status, tuple[type[Command], ...]]] = {
    "queued": (Start, Cancel, Fail),
    "running": (Start, Ask, Answered, Errored, Cancel, Stopped, Release, Fail, Interrupt),
    "waiting_for_approval": (Cancel, Stopped, Fail),
    "waiting_for_user_question": (Cancel, Stopped, Fail),
}
"""What may be done with a run, by its status; with one that has ended, nothing."""


# Effects: what the world owes a run now.


@dataclass(frozen=True, slots=True)
class TakeUp:
    """A worker is to take the run up."""

    alone: bool


@dataclass(frozen=True, slots=True)
class AskModel:
    """The model is to be asked."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing until then, on the wall clock."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The effect is to be stopped, and the run ended as somebody asked."""


Effect = TakeUp | AskModel | Pause | Stop


def due(run: Run, now_ms: int, *, held: bool) -> Effect | None:
    """What the world owes ``run`` now; None for one that has ended or waits for a person.

    ``held`` is whether a worker of this process has taken it up: one that was left running by a daemon
    that died is taken up anew.
    """
    if run.status in ENDED:
        return None
    if run.cancel is not None:
        return Stop()
    if run.status not in ("queued", "running"):
        return None
    if not held:
        return TakeUp(alone=_suspect(run))
    if run.retry_at_ms is not None and run.retry_at_ms > now_ms:
        return Pause(run.retry_at_ms)
    return AskModel()


def _suspect(run: Run) -> bool:
    """Whether the run is to be executed alone. One to be parked is not executed at all, and need not wait."""
    return ALONE_AT <= run.starts_without_progress < PARKED_AT


def decide(run: Run, command: Command) -> list[JournalEvent]:
    """The events that carry out a command.

    Errors: RunAlreadyEnded if the run has ended; AssertionError for a command that its status does not
    accept, which only a fault of the worker can give.
    """
    if run.status in ENDED:
        raise RunAlreadyEnded(f"the run {run.run_id} has already {_ended_how(run)}")
    assert isinstance(command, ACCEPTED[run.status]), f"{type(command).__name__} of a run {run.status}"
    match command:
        case Start():
            return _start(run)
        case Ask(item_id):
            asked = run.item_id if run.item_id is not None else item_id
            return [ModelAsked(item_id=asked, step=run.step + 1, attempt=run.attempt + 1)]
        case Answered():
            return _answered(run, command)
        case Errored(error, retry_at_ms):
            if retry_at_ms is None or run.item_id is None:
                return _failed(run, error)
            return [
                ModelFailed(
                    item_id=run.item_id,
                    step=run.step + 1,
                    attempt=run.attempt,
                    error=error,
                    retry_at_ms=retry_at_ms,
                )
            ]
        case Cancel(outcome, reason):
            return _cancel(run, outcome, reason)
        case Stopped(items):
            return _stopped(run, items)
        case Release(reason):
            return [RunReleased(reason=reason)]
        case Fail(error):
            return _failed(run, error)
        case Interrupt(error):
            return [RunEnded(outcome=run.cancel or "interrupted", error=error)]
        case _:
            assert_never(command)


def _ended_how(run: Run) -> str:
    return {"failed": "failed", "completed": "completed"}.get(run.status, f"been {run.status}")


def _failed(run: Run, error: RunError) -> list[JournalEvent]:
    # Asked to stop in the moment in which it failed: the wish is honoured, the error is kept.
    return [RunEnded(outcome=run.cancel or "failed", error=error)]


def _start(run: Run) -> list[JournalEvent]:
    if run.cancel is not None:
        return _stopped(run, [])
    if run.starts_without_progress >= PARKED_AT:
        error = RunError(
            "parked",
            f"the daemon went down {run.starts_without_progress} times in a row while this run was "
            "working, the last time with no other run beside it; its journal shows what it was doing",
        )
        return [RunEnded(outcome="failed", error=error)]
    return [RunStarted(start=run.start + 1, alone=_suspect(run))]


def _answered(run: Run, command: Answered) -> list[JournalEvent]:
    item_id = run.item_id
    assert item_id is not None, "an answer to a question nobody asked"
    said = MessageAppended(
        item_id=item_id,
        message=Message("assistant", command.items, agent=run.guest),
        usage=command.usage,
        stop_reason=command.stop_reason,
        model=command.model,
    )
    calls = [item for item in command.items if isinstance(item, ToolCall)]
    if not calls:
        # Asked to stop in the moment in which it was done: the answer is kept, the wish is honoured.
        return [said, RunEnded(outcome=run.cancel or "completed")]
    results: list[Item] = [no_such_tool(call) for call in calls]
    returned = MessageAppended(item_id=command.result_id, message=Message("tool", results))
    if run.pinned.max_turns and run.step + 1 >= run.pinned.max_turns:
        error = RunError("turn_limit", f"the run reached its limit of {run.pinned.max_turns} model calls")
        return [said, returned, RunEnded(outcome="failed", error=error)]
    return [said, returned]


def no_such_tool(call: ToolCall) -> ToolResult:
    """The result of a call to a tool that is not there."""
    return ToolResult(call.call_id, call.name, "There is no tool of that name here.", is_error=True)


def _cancel(run: Run, outcome: Literal["cancelled", "interrupted"], reason: str) -> list[JournalEvent]:
    if run.cancel is not None:
        return []
    if run.status == "queued":
        # Nothing of it has begun: it ends here and now, and there is nothing to interrupt.
        return [
            CancelRequested(outcome="cancelled", reason=reason),
            RunEnded(outcome="cancelled", reason=reason),
        ]
    return [CancelRequested(outcome=outcome, reason=reason)]


def _stopped(run: Run, items: list[Item]) -> list[JournalEvent]:
    ended = RunEnded(outcome=run.cancel or "cancelled")
    # A call that had arrived will not be carried out, and one without a result may not stand.
    kept: list[Item] = [item for item in items if not isinstance(item, ToolCall)]
    if not kept or run.item_id is None:
        return [ended]
    partial = MessageAppended(
        item_id=run.item_id,
        message=Message("assistant", kept, agent=run.guest),
        stop_reason="cancelled",
    )
    return [partial, ended]


def evolve(run: Run | None, envelope: Envelope, event: JournalEvent) -> Run:
    """The run after an event of its own; total over the events of a run.

    Errors: AssertionError for a first event that is not ``RunAccepted``: the journal is damaged.
    """
    if isinstance(event, RunAccepted):
        return _accepted(envelope, event)
    assert run is not None, "a run's first event is its acceptance"
    run = replace(run, cursor=envelope.cursor, changed_at_ms=envelope.at_ms)
    match event:
        case RunStarted(start=start):
            first = run.started_at_ms if run.started_at_ms is not None else envelope.at_ms
            return replace(run, status="running", start=start, started_at_ms=first)
        case ModelAsked(item_id=item_id, attempt=attempt):
            return replace(
                run,
                item_id=item_id,
                attempt=attempt,
                retry_at_ms=None,
                starts_without_progress=run.starts_without_progress + 1,
            )
        case ModelFailed(retry_at_ms=retry_at_ms):
            return replace(run, retry_at_ms=retry_at_ms, failures=run.failures + 1, starts_without_progress=0)
        case MessageAppended():
            return _appended(run, envelope, event)
        case RunReleased():
            return replace(run, starts_without_progress=0)
        case CancelRequested(outcome=outcome):
            return replace(run, cancel=outcome)
        case RunEnded(outcome=outcome, error=error):
            return replace(
                run,
                status=outcome,
                error=error,
                ended_at_ms=envelope.at_ms,
                retry_at_ms=None,
                item_id=None,
                starts_without_progress=0,
            )
        case _:
            return run


def _accepted(envelope: Envelope, event: RunAccepted) -> Run:
    assert envelope.session_id is not None
    assert envelope.run_id is not None
    return Run(
        run_id=envelope.run_id,
        session_id=envelope.session_id,
        agent=event.agent,
        sender=event.sender,
        guest=event.guest,
        input_id=event.input_id,
        status="queued",
        accepted_at_ms=envelope.at_ms,
        changed_at_ms=envelope.at_ms,
        accepted_cursor=envelope.cursor,
        cursor=envelope.cursor,
        pinned=event.pinned,
    )


def _appended(run: Run, envelope: Envelope, event: MessageAppended) -> Run:
    if event.message.role != "assistant":
        return run
    return replace(
        run,
        step=run.step + 1,
        attempt=0,
        failures=0,
        item_id=None,
        output_cursor=envelope.cursor,
        usage=run.usage + event.usage,
        starts_without_progress=0,
    )
