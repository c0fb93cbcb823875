"""What the world owes a run: something for every run that is in somebody's hands, nothing for any other."""

import pytest

from kheishd.core.run.due import AskModel, Execute, JudgeCalls, LookInto, Pause, Stop, TakeUp, due
from kheishd.core.run.machine import ACCEPTED
from protocol.events.call import ToolCalled
from protocol.objects.run import ENDED
from tests.support.machine import PINNED, everything, everywhere

WAITING = tuple(ACCEPTED)[2:]


@pytest.mark.parametrize("now_ms", [0, 10**15])
def test_due_says_something_for_every_run(now_ms: int) -> None:
    """A run in a worker's hands always has an effect: no worker takes it up in vain again and again."""
    for run in everywhere():
        effect = due(run, PINNED, now_ms, held=True)
        if run.status in ENDED or run.status in WAITING:
            assert effect is None
            assert due(run, PINNED, now_ms, held=False) is None
        elif any(call.state == "called" for call in run.calls):
            assert isinstance(effect, Stop | LookInto | None), "what runs is waited for"
        else:
            expected = AskModel | Pause if not run.calls else JudgeCalls | Execute | LookInto
            assert isinstance(effect, Stop if run.cancel and not isinstance(effect, LookInto) else expected)


def test_a_run_that_nobody_holds_is_taken_up_or_stopped() -> None:
    """It is stopped at once unless the daemon died in a call of it: then the truth about that comes first."""
    for run in everywhere():
        if run.status not in ("queued", "running"):
            continue
        died_in = any(call.state in ("called", "doubted") for call in run.calls)
        expected = Stop if run.cancel is not None and not died_in else TakeUp
        assert isinstance(due(run, PINNED, 0, held=False), expected)


def test_a_batch_is_judged_as_a_whole() -> None:
    """Nothing runs while a call of the batch is new, waits for a person, or is in doubt."""
    executed = 0
    for run in everywhere():
        effect = due(run, PINNED, 0, held=True)
        if isinstance(effect, Execute):
            executed += 1
            assert {call.state for call in run.calls} <= {"ready", "returned"}
    assert executed
    for each in everything():
        if any(isinstance(event, ToolCalled) for event in each.events):
            assert {call.state for call in each.before.calls} <= {"ready", "returned"}
