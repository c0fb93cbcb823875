"""The effect that a run needs next: asked after every commit and, for every run, after a restart. Pure.

See ``core/run/machine.py`` for the theory of operation.
"""

from kheishd.core.run import calls
from kheishd.core.run.budget import make_timeout, remaining_ms
from kheishd.core.run.record import RunRecord
from protocol.objects.run import ENDED, Pinned, RunError
from protocol.structs import Value

ALONE_AT = 2
PARKED_AT = 3


class TakeUp(Value, frozen=True):
    """A worker must take up the run."""

    alone: bool


class AskModel(Value, frozen=True):
    """A model call is due."""


class JudgeCalls(Value, frozen=True):
    """The calls with these indexes must be judged."""

    indexes: tuple[int, ...]


class ExecuteCalls(Value, frozen=True):
    """The calls with these indexes must run, side by side."""

    indexes: tuple[int, ...]


class ProbeCalls(Value, frozen=True):
    """The daemon died during the calls with these indexes: their outcomes must be determined."""

    indexes: tuple[int, ...]


class Pause(Value, frozen=True):
    """Nothing is due until a time on the wall clock."""

    until_ms: int


class StopEffect(Value, frozen=True):
    """The current effect must be stopped, and the run ended as requested."""


class Expire(Value, frozen=True):
    """The run's time is used up: the current effect must be stopped, and the run ended."""

    error: RunError


Effect = TakeUp | AskModel | JudgeCalls | ExecuteCalls | ProbeCalls | Pause | StopEffect | Expire


def due(run: RunRecord, pinned: Pinned, now_ms: int, *, owned: bool) -> Effect | None:
    """Return the effect that is due; None for a run that has ended or waits for a person.

    Args:   ``owned``: a worker of this process has taken up the run. A run that a dead daemon left running
            is taken up again.
    """
    if run.status in ENDED:
        return None
    if owned and (indexes := calls.find_doubted(run.calls)):
        # The outcome of each call is determined even if the run is to be stopped.
        return ProbeCalls(indexes)
    if run.cancel is not None and (owned or not has_interrupted_calls(run)):
        return StopEffect()
    if run.status not in ("queued", "running"):
        return None
    if not owned:
        return TakeUp(alone=must_run_alone(run))
    if remaining_ms(run, pinned, now_ms) == 0:
        return Expire(make_timeout(pinned))
    if run.calls:
        if indexes := calls.next_to_judge(run.calls):
            return JudgeCalls(indexes)
        if indexes := calls.next_to_run(run.calls):
            return ExecuteCalls(indexes)
        return None
    if run.retry_at_ms is not None and run.retry_at_ms > now_ms:
        return Pause(run.retry_at_ms)
    return AskModel()


def has_interrupted_calls(run: RunRecord) -> bool:
    """Whether a daemon died during calls of a run that no worker owns."""
    return any(call.state in ("called", "doubted") for call in run.calls)


def must_run_alone(run: RunRecord) -> bool:
    """Whether the run must execute alone. A run that will be parked executes nothing and need not wait."""
    return ALONE_AT <= run.starts_without_progress < PARKED_AT


def next_attempt_at_ms(
    *,
    now_ms: int,
    attempt: int,
    max_attempts: int,
    backoff_s: float,
    max_backoff_s: float,
    retry_after_s: float | None,
    max_retry_after_s: float,
    jitter: float,
) -> int | None:
    """Return the time of the attempt after attempt ``attempt`` (from 1), which failed temporarily.

    The backoff doubles with every attempt. ``jitter`` (0 to 1) shortens it by up to half, so that runs that
    failed together do not retry together. The provider's own delay (``retry_after_s``) is applied in full.

    Shape:  Unix milliseconds; None after the last attempt, or if the provider's delay is above
            ``max_retry_after_s`` or invalid.
    """
    if attempt >= max_attempts:
        return None
    if retry_after_s is not None:
        acceptable = 0 <= retry_after_s <= max_retry_after_s
        return now_ms + round(retry_after_s * 1000) if acceptable else None
    # 64 doublings exceed any ceiling; many more would overflow a float.
    backoff = min(backoff_s * 2.0 ** min(attempt - 1, 64), max_backoff_s)
    return now_ms + round(backoff * (1 - jitter / 2) * 1000)
