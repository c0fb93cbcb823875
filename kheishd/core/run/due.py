"""What the world owes a run: asked by its worker after every commit, and of every run after a restart. Pure.

See ``core/run.py`` for the theory of operation.
"""

from dataclasses import dataclass

from kheishd.core.run import calls
from kheishd.core.run.budget import time_up
from kheishd.core.run.record import RunRecord
from protocol.objects.run import ENDED, Pinned, RunError

ALONE_AT = 2
PARKED_AT = 3


@dataclass(frozen=True, slots=True)
class TakeUp:
    """A worker is to take the run up."""

    alone: bool


@dataclass(frozen=True, slots=True)
class AskModel:
    """The model is to be asked."""


@dataclass(frozen=True, slots=True)
class JudgeCalls:
    """These calls, by their places in the run's list, are to be judged."""

    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Execute:
    """These calls are to run, side by side."""

    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LookInto:
    """The daemon died in these calls: find out what became of them."""

    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing until then, on the wall clock."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The effect is to be stopped, and the run ended as somebody asked."""


@dataclass(frozen=True, slots=True)
class Expire:
    """The run's time is over: the effect is to be stopped, and the run ended."""

    error: RunError


Effect = TakeUp | AskModel | JudgeCalls | Execute | LookInto | Pause | Stop | Expire


def due(run: RunRecord, pinned: Pinned, now_ms: int, *, held: bool) -> Effect | None:
    """What the world owes ``run`` now; None for one that has ended or waits for a person.

    ``held`` is whether a worker of this process has taken it up: one that was left running by a daemon
    that died is taken up anew.
    """
    if run.status in ENDED:
        return None
    if held and (places := calls.doubted(run.calls)):
        # Even of a run that is to be stopped the truth about each call is told.
        return LookInto(places)
    if run.cancel is not None and (held or not left_running(run)):
        return Stop()
    if run.status not in ("queued", "running"):
        return None
    if not held:
        return TakeUp(alone=suspect(run))
    if (error := time_up(run, pinned, now_ms)) is not None:
        return Expire(error)
    if run.calls:
        return _due_calls(run)
    if run.retry_at_ms is not None and run.retry_at_ms > now_ms:
        return Pause(run.retry_at_ms)
    return AskModel()


def _due_calls(run: RunRecord) -> Effect | None:
    if places := calls.to_judge(run.calls):
        return JudgeCalls(places)
    if places := calls.to_run(run.calls):
        return Execute(places)
    return None


def left_running(run: RunRecord) -> bool:
    """Whether a daemon died in calls of a run that nobody holds."""
    return any(call.state in ("called", "doubted") for call in run.calls)


def suspect(run: RunRecord) -> bool:
    """Whether the run is to be executed alone. One to be parked is not executed at all, and need not wait."""
    return ALONE_AT <= run.starts_without_progress < PARKED_AT
