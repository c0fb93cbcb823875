"""What follows from an answer: when the run is over, why its model is asked again, and how often."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.contract import AnswerCheck, format_instruction
from kheishd.core.run.answers import find_unmet, fit_items
from kheishd.core.run.commands import AcceptAnswer, BeginModelCall, Cancel, Command, Release, Start, Steer
from kheishd.core.run.due import AskModel, JudgeCalls, due
from kheishd.core.run.record import RunRecord
from protocol.contract import BoundContract, Requirement
from protocol.events.call import ToolReturned
from protocol.events.output import OutputEmitted, RequirementSatisfied
from protocol.events.run import MessageAppended, RunEnded
from protocol.limits.call import MAX_CALL_OVERHEAD_BYTES
from protocol.limits.output import MAX_REMINDERS
from protocol.transcript import AssetReference, Item, Text, Thinking, ToolCall, Usage, text_of
from tests.support.machine import Machine

SCHEMA = '{"type":"null"}'
CONTRACT = BoundContract(digest="0" * 64, max_repairs=2)
FILE = Requirement(type="workspace_file", path="a.md")


def begun(**pinned: Any) -> Machine:
    """A run whose model was asked, with what it is bound to."""
    machine = Machine()
    machine.pinned = replace(machine.pinned, **pinned)
    return machine.do(Start(), BeginModelCall("itm_1"))


def says(
    text: str = "done", *, problem: str | None = None, stop_reason: str = "end", cut: bool = False
) -> AcceptAnswer:
    """An answer of text, as the worker found it: with what is wrong with it."""
    return AcceptAnswer(
        [Text(text)], Usage(3, 2), stop_reason, "m", cut=cut, checked=AnswerCheck(SCHEMA, problem)
    )


def calls(*names: str) -> AcceptAnswer:
    """An answer that asks for tools."""
    items: list[Item] = [ToolCall(f"call_{number}", name, {}) for number, name in enumerate(names)]
    return AcceptAnswer(items, Usage(1, 1), "tool_calls", "m", checked=AnswerCheck(SCHEMA))


def then(machine: Machine, *commands: Command) -> Machine:
    """The same, each answer to a question of its own."""
    for number, command in enumerate(commands, 2):
        machine.do(BeginModelCall(f"itm_{number}"), command)
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
    assert due(machine.run, machine.pinned, 0, owned=True) == AskModel()
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
    assert "none are available now" in last_said(machine)
    then(machine, calls("bash"))
    assert failure(machine) == "output_contract_violated"
    assert machine.kinds()[-3:] == ["message_appended", "tool_returned", "run_ended"]


def test_what_somebody_says_meanwhile_gives_the_tools_back() -> None:
    """It is another question, which may need them."""
    machine = begun(output_contract=CONTRACT).do(says("no", problem="$: wrong"))
    machine.do(Steer("str_1", [Text("look again")], "user"))
    assert machine.run.follow_up is None
    machine.do(BeginModelCall("itm_2"), calls("read_file"))
    assert due(machine.run, machine.pinned, 0, owned=True) == JudgeCalls((0,))


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
    assert (machine.run.met_requirements, find_unmet(machine.run, machine.pinned)) == ([0], [])
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
    assert due(machine.run, machine.pinned, 0, owned=True) == JudgeCalls((0,))


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
    pinned: dict[str, Any], answer: AcceptAnswer, reason: str | None
) -> None:
    """What is owed then fails the run; what is only wished for is let be. Repairs are model calls."""
    machine = begun(max_turns=1, **pinned).do(answer)
    assert failure(machine) == reason
    assert machine.run.status == ("failed" if reason else "completed")


@pytest.mark.parametrize("answer", [says(problem="$: wrong"), says(stop_reason="length"), says()])
def test_a_run_that_is_to_stop_is_not_asked_again(answer: AcceptAnswer) -> None:
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
    answers: list[AcceptAnswer], restarts: set[int]
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
        calm.do(BeginModelCall("itm"), answer)
        if number in restarts:
            shaken.do(Release("shutdown"), Start())
        shaken.do(BeginModelCall("itm"), answer)
        assert counts(calm.run) == counts(shaken.run)
    assert calm.run.status in ("completed", "failed")
    assert isinstance(calm.journal[-1][1], RunEnded)


def counts(run: RunRecord) -> tuple[Any, ...]:
    """What decides what follows from the next answer."""
    return run.status, run.follow_up, run.repairs, run.reminders, len(run.partial_cursors), run.error


# The size of an answer.


def size(items: list[Item]) -> int:
    """The bytes of some items as a list of JSON."""
    return len(msgspec.json.encode(items))


def test_what_fits_is_kept_as_it_is() -> None:
    """Nothing is copied or changed when there is room."""
    items: list[Item] = [Thinking("hm", "signed"), Text("hello"), ToolCall("c", "t", {})]
    assert fit_items(items, 1_000) == (items, False)
    assert fit_items([], 0) == ([], False)


@pytest.mark.parametrize("text", ["aaaaaaaaaa", "ääääääääää", "😀😀😀😀😀", '""""""""""', "\n\x00\n\x00\n"])
def test_text_is_cut_between_characters_to_the_byte(text: str) -> None:
    """As much as fits in JSON, escapes and all; one character more would not."""
    whole = size([Text(text)]) - 2
    for room in range(whole + 2):
        kept, cut = fit_items([Text(text)], room)
        assert cut == (room < whole)
        got = kept[0].text if kept and isinstance(kept[0], Text) else ""
        assert text.startswith(got)
        assert not kept or size(kept) - 2 <= room
        if cut:
            assert size([Text(text[: len(got) + 1])]) - 2 > room


def test_signed_thinking_and_calls_are_kept_whole_or_not_at_all() -> None:
    """Half of what was signed is refused by who signed it; half a call is no call."""
    for whole in (
        Thinking("x" * 100, "signed"),
        Thinking("x" * 100, redacted=True),
        ToolCall("c", "t" * 100, {}),
    ):
        assert fit_items([whole], 110) == ([], True)
    assert fit_items([AssetReference("a" * 100)], 50) == ([], True)
    kept, cut = fit_items([Thinking("x" * 100)], 60)
    assert cut
    assert isinstance(kept[0], Thinking)
    assert 0 < len(kept[0].text) < 100


def test_a_call_takes_the_room_of_its_result_too() -> None:
    """A call whose result would not fit is left out, for it may not stand without one."""
    call = ToolCall("c", "t", {})
    room = size([call]) - 2 + MAX_CALL_OVERHEAD_BYTES
    assert fit_items([call], room) == ([call], False)
    assert fit_items([call], room - 1) == ([], True)


ITEMS = st.lists(
    st.one_of(
        st.builds(Text, st.text(max_size=40)),
        st.builds(Thinking, st.text(max_size=40), st.none() | st.just("signed")),
        st.builds(ToolCall, st.text(max_size=8), st.text(max_size=8), st.just({"a": 1})),
    ),
    max_size=6,
)


@given(ITEMS, st.integers(0, 2_000))
def test_what_is_kept_is_a_beginning_and_within_its_limit(items: list[Item], room: int) -> None:
    """In order, whole but for the last, and never over the limit."""
    kept, cut = fit_items(items, room)
    assert not kept or size(kept) - 2 <= room
    assert cut or kept == items
    assert kept[:-1] == items[: len(kept) - 1 if kept else 0]
