"""The due effect: one for every run that a worker owns, none for a waiting or ended run."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.run.due import (
    AskModel,
    ExecuteCalls,
    JudgeCalls,
    Pause,
    ProbeCalls,
    StopEffect,
    TakeUp,
    due,
    next_attempt_at_ms,
)
from kheishd.core.run.machine import ACCEPTED
from protocol.events.call import ToolCalled
from protocol.objects.run import ENDED
from tests.support.machine import PINNED, all_runs, all_transitions

WAITING = tuple(ACCEPTED)[2:]


@pytest.mark.parametrize("now_ms", [0, 10**15])
def test_every_owned_run_has_a_due_effect(now_ms: int) -> None:
    """A run with a worker always has an effect, so no worker takes it up in vain."""
    for run in all_runs():
        effect = due(run, PINNED, now_ms, owned=True)
        if run.status in ENDED or run.status in WAITING:
            assert effect is None
            assert due(run, PINNED, now_ms, owned=False) is None
        elif any(call.state == "called" for call in run.calls):
            assert isinstance(effect, StopEffect | ProbeCalls | None), "what runs is waited for"
        else:
            expected = AskModel | Pause if not run.calls else JudgeCalls | ExecuteCalls | ProbeCalls
            assert isinstance(
                effect, StopEffect if run.cancel and not isinstance(effect, ProbeCalls) else expected
            )


def test_a_run_without_a_worker() -> None:
    """It is taken up, or stopped at once unless a daemon died during its calls."""
    for run in all_runs():
        if run.status not in ("queued", "running"):
            continue
        died_in = any(call.state in ("called", "doubted") for call in run.calls)
        expected = StopEffect if run.cancel is not None and not died_in else TakeUp
        assert isinstance(due(run, PINNED, 0, owned=False), expected)


def test_a_batch_is_judged_as_a_whole() -> None:
    """No call runs while another one of the batch is new, waits for a person, or is doubted."""
    executed = 0
    for run in all_runs():
        effect = due(run, PINNED, 0, owned=True)
        if isinstance(effect, ExecuteCalls):
            executed += 1
            assert {call.state for call in run.calls} <= {"ready", "returned"}
    assert executed
    for transition in all_transitions():
        if any(isinstance(event, ToolCalled) for event in transition.events):
            assert {call.state for call in transition.source.calls} <= {"ready", "returned"}


# Retries.


def next_attempt(attempt: int = 1, **changes: Any) -> int | None:
    """Return the time of the next attempt, from time 0 and with at most four attempts."""
    defaults = {
        "now_ms": 0,
        "max_attempts": 4,
        "backoff_s": 1.0,
        "max_backoff_s": 60.0,
        "retry_after_s": None,
        "max_retry_after_s": 3600.0,
        "jitter": 0.0,
    }
    return next_attempt_at_ms(attempt=attempt, **(defaults | changes))


def test_the_backoff_doubles_up_to_its_maximum() -> None:
    """The backoff is 1, 2, 4 seconds and so on, up to the maximum."""
    assert [next_attempt(n, max_attempts=100) for n in (1, 2, 3, 6, 7, 99)] == [
        1000,
        2000,
        4000,
        32000,
        60000,
        60000,
    ]
    assert next_attempt(5000, max_attempts=10_000) == 60_000


def test_the_last_attempt_has_no_retry() -> None:
    """After the last attempt there is no other, even if the provider asks for one."""
    assert next_attempt(3) == 4000
    assert next_attempt(4) is None
    assert next_attempt(9) is None
    assert next_attempt(4, retry_after_s=1.0) is None


@given(st.floats(0, 1), st.integers(1, 50))
def test_jitter_shortens_the_backoff_by_up_to_half(jitter: float, attempt: int) -> None:
    """Runs that failed together do not retry together."""
    full, shortened = (
        next_attempt(attempt, max_attempts=100),
        next_attempt(attempt, max_attempts=100, jitter=jitter),
    )
    assert full is not None
    assert shortened is not None
    assert full / 2 <= shortened <= full


def test_the_providers_delay_is_applied_in_full() -> None:
    """Jitter does not shorten it; above the maximum there is no other attempt."""
    assert next_attempt(1, now_ms=500, retry_after_s=90.5, jitter=1.0) == 91_000
    assert next_attempt(1, retry_after_s=3600.0) == 3_600_000
    assert next_attempt(1, retry_after_s=3600.1) is None
    assert next_attempt(1, retry_after_s=0.0) == 0


@pytest.mark.parametrize("delay", [math.nan, math.inf, -1.0])
def test_an_invalid_delay_means_no_retry(delay: float) -> None:
    """A delay that is no valid time means no other attempt."""
    assert next_attempt(1, retry_after_s=delay) is None
