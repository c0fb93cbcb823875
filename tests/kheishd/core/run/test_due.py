"""What the world owes a run: something for every run that is in somebody's hands, nothing for any other."""

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
def test_due_says_something_for_every_run(now_ms: int) -> None:
    """A run in a worker's hands always has an effect: no worker takes it up in vain again and again."""
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


def test_a_run_that_nobody_holds_is_taken_up_or_stopped() -> None:
    """It is stopped at once unless the daemon died in a call of it: then the truth about that comes first."""
    for run in all_runs():
        if run.status not in ("queued", "running"):
            continue
        died_in = any(call.state in ("called", "doubted") for call in run.calls)
        expected = StopEffect if run.cancel is not None and not died_in else TakeUp
        assert isinstance(due(run, PINNED, 0, owned=False), expected)


def test_a_batch_is_judged_as_a_whole() -> None:
    """Nothing runs while a call of the batch is new, waits for a person, or is in doubt."""
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


def at(attempt: int = 1, **changes: Any) -> int | None:
    """When to try again, with patience for four attempts, from time 0."""
    usual = {
        "now_ms": 0,
        "max_attempts": 4,
        "backoff_s": 1.0,
        "max_backoff_s": 60.0,
        "retry_after_s": None,
        "max_retry_after_s": 3600.0,
        "jitter": 0.0,
    }
    return next_attempt_at_ms(attempt=attempt, **(usual | changes))


def test_the_pause_doubles_until_its_ceiling() -> None:
    """1, 2, 4 seconds and so on, never more than the ceiling, however many attempts there were."""
    assert [at(n, max_attempts=100) for n in (1, 2, 3, 6, 7, 99)] == [1000, 2000, 4000, 32000, 60000, 60000]
    assert at(5000, max_attempts=10_000) == 60_000


def test_enough_attempts_are_enough() -> None:
    """The last of them is not followed by another, whatever the provider asks for."""
    assert at(3) == 4000
    assert at(4) is None
    assert at(9) is None
    assert at(4, retry_after_s=1.0) is None


@given(st.floats(0, 1), st.integers(1, 50))
def test_jitter_takes_up_to_half_of_the_pause_away(jitter: float, attempt: int) -> None:
    """So that many that failed together do not come back together."""
    full, some = at(attempt, max_attempts=100), at(attempt, max_attempts=100, jitter=jitter)
    assert full is not None
    assert some is not None
    assert full / 2 <= some <= full


def test_what_the_provider_asks_for_is_waited_in_full() -> None:
    """Jitter takes nothing of it away; more patience than there is means no other attempt."""
    assert at(1, now_ms=500, retry_after_s=90.5, jitter=1.0) == 91_000
    assert at(1, retry_after_s=3600.0) == 3_600_000
    assert at(1, retry_after_s=3600.1) is None
    assert at(1, retry_after_s=0.0) == 0


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -1.0])
def test_what_is_no_time_is_not_waited_for(nonsense: float) -> None:
    """A provider that asks for no time at all in this sense is not asked again."""
    assert at(1, retry_after_s=nonsense) is None
