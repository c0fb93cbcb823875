"""What follows from an answer: when the run is over, why its model is asked again, and how often."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.contract import AnswerCheck, format_instruction
from kheishd.core.run.answers import owed
from kheishd.core.run.commands import Answered, Ask, Cancel, Command, Release, Start, Steer
from kheishd.core.run.due import AskModel, JudgeCalls, due
from kheishd.core.run.record import RunRecord
from protocol.contract import BoundContract, Requirement
from protocol.events.call import ToolReturned
from protocol.events.output import OutputEmitted, RequirementSatisfied
from protocol.events.run import MessageAppended, RunEnded
from protocol.limits.output import MAX_REMINDERS
from protocol.transcript import Item, Text, ToolCall, Usage, text_of
from tests.support.machine import Machine

SCHEMA = '{"type":"null"}'
CONTRACT = BoundContract(digest="0" * 64, max_repairs=2)
FILE = Requirement(type="workspace_file", path="a.md")


def begun(**pinned: Any) -> Machine:
    """A run whose model was asked, with what it is bound to."""
    machine = Machine()
    machine.pinned = replace(machine.pinned, **pinned)
    return machine.do(Start(), Ask("itm_1"))


def says(
    text: str = "done", *, problem: str | None = None, stop_reason: str = "end", cut: bool = False
) -> Answered:
    """An answer of text, as the worker found it: with what is wrong with it."""
    return Answered(
        [Text(text)], Usage(3, 2), stop_reason, "m", cut=cut, checked=AnswerCheck(SCHEMA, problem)
    )


def calls(*names: str) -> Answered:
    """An answer that asks for tools."""
    items: list[Item] = [ToolCall(f"call_{number}", name, {}) for number, name in enumerate(names)]
    return Answered(items, Usage(1, 1), "tool_calls", "m", checked=AnswerCheck(SCHEMA))


def then(machine: Machine, *commands: Command) -> Machine:
    """The same, each answer to a question of its own."""
    for number, command in enumerate(commands, 2):
        machine.do(Ask(f"itm_{number}"), command)
    return machine


def last_said(machine: Machine) -> str:
    """What was said last, by whomever."""
    said = [event for _, event in machine.journal if isinstance(event, MessageAppended)]
    return text_of(said[-1].message.items)


def failure(machine: Machine) -> str | None:
    """Why the run failed."""
    return machine.run.error.reason if machine.run.error is not None else None


# The output contract.


def test_an_answer_that_fits_completes_the_run() -> None:
    """Nothing is said about it."""
    machine = begun(output_contract=CONTRACT).do(says())
    assert (machine.run.status, machine.run.repairs) == ("completed", 0)


def test_an_answer_that_does_not_fit_is_to_be_mended() -> None:
    """The model is told what is wrong and what fits, and is asked again; then it fits."""
    machine = begun(output_contract=CONTRACT).do(says("no", problem="$: wrong"))
    event = machine.journal[-1][1]
    assert isinstance(event, MessageAppended)
    assert (event.message.role, event.follow_up, event.item_id) == ("user", "output_contract", "itm_1.again")
    assert "$: wrong" in last_said(machine)
    assert format_instruction(SCHEMA) in last_said(machine)
    assert (machine.run.status, machine.run.follow_up) == ("running", "output_contract")
    assert due(machine.run, machine.pinned, 0, held=True) == AskModel()
    then(machine, says())
    run = machine.run
    assert (run.status, run.repairs, run.follow_up, run.turn) == ("completed", 1, None, 2)


def test_what_cannot_be_mended_fails_the_run() -> None:
    """As often as the contract allows, and then no more."""
    bad = says("no", problem="$: wrong")
    machine = then(begun(output_contract=CONTRACT).do(bad), bad)
    assert (machine.run.status, machine.run.repairs) == ("running", 2)
    then(machine, bad)
    assert (machine.run.status, failure(machine)) == ("failed", "output_contract_violated")
    assert machine.run.error is not None
    assert "$: wrong" in machine.run.error.message
    at_once = begun(output_contract=BoundContract(digest="0", max_repairs=0)).do(bad)
    assert failure(at_once) == "output_contract_violated"


def test_tools_are_withheld_while_an_answer_is_mended() -> None:
    """Calls get their results at once, and count as an answer that does not fit."""
    machine = begun(output_contract=CONTRACT).do(says("no", problem="$: wrong"))
    then(machine, calls("read_file", "bash"))
    results = [event for _, event in machine.journal if isinstance(event, ToolReturned)]
    assert [(each.how, each.text) for each in results] == [
        ("failed", "This was not run: answer with JSON only.")
    ] * 2
    assert (machine.run.calls, machine.run.repairs, machine.run.status) == ([], 2, "running")
    assert "there are none now" in last_said(machine)
    then(machine, calls("bash"))
    assert failure(machine) == "output_contract_violated"
    assert machine.kinds()[-3:] == ["message_appended", "tool_returned", "run_ended"]


def test_what_somebody_says_meanwhile_gives_the_tools_back() -> None:
    """It is another question, which may need them."""
    machine = begun(output_contract=CONTRACT).do(says("no", problem="$: wrong"))
    machine.do(Steer("str_1", [Text("look again")], "user"))
    assert machine.run.follow_up is None
    machine.do(Ask("itm_2"), calls("read_file"))
    assert due(machine.run, machine.pinned, 0, held=True) == JudgeCalls((0,))


def test_steering_comes_before_the_contract() -> None:
    """An answer to something else than what was said last is no final answer."""
    machine = begun(output_contract=CONTRACT).do(Steer("str_1", [Text("wait")], "user"))
    machine.do(says("no", problem="$: wrong"))
    assert (machine.run.repairs, machine.run.status) == (0, "running")
    assert machine.kinds()[-1] == "message_appended"


# Requirements.


def test_what_is_to_be_done_is_asked_for_twice() -> None:
    """Then the run fails, whatever it answers."""
    machine = begun(requirements=[FILE]).do(says())
    assert (machine.run.follow_up, machine.run.reminders) == ("completion", 1)
    assert "write the file 'a.md'" in last_said(machine)
    then(machine, says())
    assert machine.run.reminders == MAX_REMINDERS
    then(machine, says())
    assert (machine.run.status, failure(machine)) == ("failed", "completion_required")


def test_what_was_done_is_not_asked_for() -> None:
    """Before the answer or upon a reminder."""
    done = RequirementSatisfied(index=0, call_id="call_1", path="a.md")
    machine = begun(requirements=[FILE])
    machine.append(done)
    machine.append(done)
    assert (machine.run.met_requirements, owed(machine.run, machine.pinned)) == ([0], [])
    assert machine.do(says()).run.status == "completed"
    late = begun(requirements=[FILE]).do(says())
    late.append(done)
    assert then(late, says()).run.status == "completed"


def test_what_is_to_be_done_comes_before_what_is_to_be_given() -> None:
    """An answer is checked once nothing else is left; each has its own count."""
    bad = says("no", problem="$: wrong")
    machine = begun(requirements=[FILE], output_contract=CONTRACT).do(bad)
    assert machine.run.follow_up == "completion"
    machine.append(RequirementSatisfied(index=0, call_id="call_1", path="a.md"))
    then(machine, bad)
    run = machine.run
    assert (run.follow_up, run.reminders, run.repairs) == ("output_contract", 1, 1)


def test_a_reminder_leaves_the_tools() -> None:
    """They are what it takes."""
    machine = then(begun(requirements=[FILE]).do(says()), calls("write_file"))
    assert due(machine.run, machine.pinned, 0, held=True) == JudgeCalls((0,))


# Length.


def test_an_answer_that_was_cut_is_gone_on_with() -> None:
    """Its parts are remembered, in order, until the last one is whole."""
    cut = says("one ", stop_reason="length")
    machine = then(begun(max_continuations=3).do(cut), cut, says("two"))
    run = machine.run
    assert (run.status, len(run.partial_cursors), run.turn) == ("completed", 2, 3)
    cursors = [envelope.cursor for envelope, event in machine.journal if is_answer(event)]
    assert [*run.partial_cursors, run.output_cursor] == cursors


def is_answer(event: object) -> bool:
    """Whether an event is a model's message."""
    return isinstance(event, MessageAppended) and event.message.role == "assistant"


def test_in_the_end_a_cut_answer_is_the_answer() -> None:
    """As often as the run pinned; and never where what is kept was cut by us."""
    cut = says("one ", stop_reason="length")
    machine = then(begun(max_continuations=1).do(cut), cut)
    assert (machine.run.status, len(machine.run.partial_cursors)) == ("completed", 1)
    assert begun().do(cut).run.status == "completed"
    assert begun(max_continuations=3).do(says(stop_reason="length", cut=True)).run.status == "completed"


def test_what_comes_after_something_else_is_no_part() -> None:
    """A part of an answer that somebody interrupted, or that led to calls, is not of the next answer."""
    cut = says("one ", stop_reason="length")
    machine = begun(max_continuations=3).do(cut)
    machine.do(Steer("str_1", [Text("stop, rather this")], "user"))
    then(machine, says("two"))
    assert (machine.run.status, machine.run.partial_cursors) == ("completed", [])
    bound = then(begun(max_continuations=3, output_contract=CONTRACT).do(cut), says(problem="$: wrong"))
    assert len(bound.run.partial_cursors) == 1
    assert then(bound, says()).run.partial_cursors == []


# Limits and ends.


@pytest.mark.parametrize(
    ("pinned", "answer", "reason"),
    [
        ({"output_contract": CONTRACT}, says(problem="$: wrong"), "output_contract_violated"),
        ({"requirements": [FILE]}, says(), "completion_required"),
        ({}, calls("bash"), "turn_limit"),
        ({"max_continuations": 3}, says(stop_reason="length"), None),
        ({"output_contract": CONTRACT}, says(), None),
    ],
)
def test_at_the_last_model_call_nothing_is_asked_again(
    pinned: dict[str, Any], answer: Answered, reason: str | None
) -> None:
    """What is owed then fails the run; what is only wished for is let be. Repairs are model calls."""
    machine = begun(max_turns=1, **pinned).do(answer)
    assert failure(machine) == reason
    assert machine.run.status == ("failed" if reason else "completed")


@pytest.mark.parametrize("answer", [says(problem="$: wrong"), says(stop_reason="length"), says()])
def test_a_run_that_is_to_stop_is_not_asked_again(answer: Answered) -> None:
    """The answer is kept, the wish is honoured."""
    machine = begun(output_contract=CONTRACT, requirements=[FILE], max_continuations=3)
    machine.do(Cancel("cancelled"), answer)
    assert machine.run.status == "cancelled"


def test_outputs_are_counted_where_they_stand() -> None:
    """The record points at each."""
    machine = begun()
    machine.append(OutputEmitted(output_id="out_1", text="one"))
    machine.append(OutputEmitted(output_id="out_2", text="two"))
    assert machine.run.output_cursors == [4, 5]
    assert machine.do(says()).run.output_cursors == [4, 5]


ANSWERS = (
    says(),
    says(problem="$: wrong"),
    says(stop_reason="length"),
    says(problem="$: cut", stop_reason="length"),
)


@given(st.lists(st.sampled_from(ANSWERS), min_size=20, max_size=20), st.sets(st.integers(0, 19)))
def test_every_bound_run_ends_and_a_restart_changes_nothing(
    answers: list[Answered], restarts: set[int]
) -> None:
    """However it answers and however often the daemon is started anew, the counts are the same."""
    bound: dict[str, Any] = {
        "output_contract": CONTRACT,
        "requirements": [FILE],
        "max_continuations": 3,
    }
    calm, shaken = begun(**bound), begun(**bound)
    for number, answer in enumerate(answers):
        if calm.run.ended_at_ms is not None:
            break
        calm.do(Ask("itm"), answer)
        if number in restarts:
            shaken.do(Release("shutdown"), Start())
        shaken.do(Ask("itm"), answer)
        assert counts(calm.run) == counts(shaken.run)
    assert calm.run.status in ("completed", "failed")
    assert isinstance(calm.journal[-1][1], RunEnded)


def counts(run: RunRecord) -> tuple[Any, ...]:
    """What decides what follows from the next answer."""
    return run.status, run.follow_up, run.repairs, run.reminders, len(run.partial_cursors), run.error
