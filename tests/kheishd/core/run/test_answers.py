"""Answers: the end of a run, the reasons for another model call, and their limits."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.contract import AnswerCheck, format_instruction
from kheishd.core.run.answers import find_unmet, fit_items, fit_message, measure_data
from kheishd.core.run.commands import (
    AcceptAnswer,
    BeginModelCall,
    Command,
    Release,
    RequestCancel,
    Start,
    Steer,
)
from kheishd.core.run.due import AskModel, JudgeCalls, due
from kheishd.core.run.record import RunRecord
from protocol.contract import BoundContract, Requirement
from protocol.events.call import ToolReturned
from protocol.events.output import OutputEmitted, RequirementSatisfied
from protocol.events.run import MessageAppended, RunEnded
from protocol.limits.call import MAX_CALL_OVERHEAD_BYTES
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.output import MAX_REMINDERS
from protocol.transcript import AssetReference, Item, ProviderData, Text, Thinking, ToolCall, Usage, text_of
from tests.support.machine import Machine

SCHEMA = '{"type":"null"}'
CONTRACT = BoundContract(digest="0" * 64, max_repairs=2)
FILE = Requirement(type="workspace_file", path="a.md")


def begin_run(**pinned: Any) -> Machine:
    """Return a run with an open model call and these pinned values."""
    machine = Machine()
    machine.pinned = replace(machine.pinned, **pinned)
    return machine.do(Start(), BeginModelCall("itm_1"))


def answer(
    text: str = "done", *, problem: str | None = None, stop_reason: str = "end", cut: bool = False
) -> AcceptAnswer:
    """Make a text answer with its contract check."""
    return AcceptAnswer(
        [Text(text)], Usage(3, 2), stop_reason, "m", cut=cut, checked=AnswerCheck(SCHEMA, problem)
    )


def answer_with_calls(*names: str) -> AcceptAnswer:
    """Make an answer with calls."""
    items: list[Item] = [ToolCall(f"call_{number}", name, {}) for number, name in enumerate(names)]
    return AcceptAnswer(items, Usage(1, 1), "tool_calls", "m", checked=AnswerCheck(SCHEMA))


def answer_again(machine: Machine, *commands: Command) -> Machine:
    """Begin a model call for each answer, and accept it."""
    for number, command in enumerate(commands, 2):
        machine.do(BeginModelCall(f"itm_{number}"), command)
    return machine


def last_message(machine: Machine) -> str:
    """Return the text of the last message."""
    messages = [event for _, event in machine.journal if isinstance(event, MessageAppended)]
    return text_of(messages[-1].message.items)


def failure_reason(machine: Machine) -> str | None:
    """Return the reason of the run's failure."""
    return machine.run.error.reason if machine.run.error is not None else None


# The output contract.


def test_a_matching_answer_completes_the_run() -> None:
    """A matching answer needs no repair."""
    machine = begin_run(output_contract=CONTRACT).do(answer())
    assert (machine.run.status, machine.run.repairs) == ("completed", 0)


def test_a_violation_is_repaired() -> None:
    """The model is told the violation and the schema, and answers again."""
    machine = begin_run(output_contract=CONTRACT).do(answer("no", problem="$: wrong"))
    event = machine.journal[-1][1]
    assert isinstance(event, MessageAppended)
    assert (event.message.role, event.follow_up, event.item_id) == ("user", "output_contract", "itm_1.again")
    assert "$: wrong" in last_message(machine)
    assert format_instruction(SCHEMA) in last_message(machine)
    assert (machine.run.status, machine.run.follow_up) == ("running", "output_contract")
    assert due(machine.run, machine.pinned, 0, owned=True) == AskModel()
    answer_again(machine, answer())
    run = machine.run
    assert (run.status, run.repairs, run.follow_up, run.turn) == ("completed", 1, None, 2)


def test_the_number_of_repairs_is_limited() -> None:
    """After the contract's maximum of repairs the run fails."""
    violation = answer("no", problem="$: wrong")
    machine = answer_again(begin_run(output_contract=CONTRACT).do(violation), violation)
    assert (machine.run.status, machine.run.repairs) == ("running", 2)
    answer_again(machine, violation)
    assert (machine.run.status, failure_reason(machine)) == ("failed", "output_contract_violated")
    assert machine.run.error is not None
    assert "$: wrong" in machine.run.error.message
    without_repairs = begin_run(output_contract=BoundContract(digest="0", max_repairs=0)).do(violation)
    assert failure_reason(without_repairs) == "output_contract_violated"


def test_tools_are_withheld_during_a_repair() -> None:
    """Calls get results at once and count as a violation."""
    machine = begin_run(output_contract=CONTRACT).do(answer("no", problem="$: wrong"))
    answer_again(machine, answer_with_calls("read_file", "bash"))
    results = [event for _, event in machine.journal if isinstance(event, ToolReturned)]
    assert [(event.how, event.text) for event in results] == [
        ("failed", "This was not run: answer with JSON only.")
    ] * 2
    assert (machine.run.calls, machine.run.repairs, machine.run.status) == ([], 2, "running")
    assert "none are available now" in last_message(machine)
    answer_again(machine, answer_with_calls("bash"))
    assert failure_reason(machine) == "output_contract_violated"
    assert machine.kinds()[-3:] == ["message_appended", "tool_returned", "run_ended"]


def test_a_steer_ends_the_repair() -> None:
    """A steer is another question, which may need tools."""
    machine = begin_run(output_contract=CONTRACT).do(answer("no", problem="$: wrong"))
    machine.do(Steer("str_1", [Text("look again")], "user"))
    assert machine.run.follow_up is None
    machine.do(BeginModelCall("itm_2"), answer_with_calls("read_file"))
    assert due(machine.run, machine.pinned, 0, owned=True) == JudgeCalls((0,))


def test_steering_comes_before_the_contract() -> None:
    """An answer to an earlier message is not final."""
    machine = begin_run(output_contract=CONTRACT).do(Steer("str_1", [Text("wait")], "user"))
    machine.do(answer("no", problem="$: wrong"))
    assert (machine.run.repairs, machine.run.status) == (0, "running")
    assert machine.kinds()[-1] == "message_appended"


# Requirements.


def test_unmet_requirements_are_reminded_twice() -> None:
    """After two reminders the run fails."""
    machine = begin_run(requirements=[FILE]).do(answer())
    assert (machine.run.follow_up, machine.run.reminders) == ("completion", 1)
    assert "write the file 'a.md'" in last_message(machine)
    answer_again(machine, answer())
    assert machine.run.reminders == MAX_REMINDERS
    answer_again(machine, answer())
    assert (machine.run.status, failure_reason(machine)) == ("failed", "completion_required")


def test_met_requirements_complete_the_run() -> None:
    """A requirement may be met before the answer or after a reminder."""
    satisfied = RequirementSatisfied(index=0, call_id="call_1", path="a.md")
    machine = begin_run(requirements=[FILE])
    machine.append(satisfied)
    machine.append(satisfied)
    assert (machine.run.met_requirements, find_unmet(machine.run, machine.pinned)) == ([0], [])
    assert machine.do(answer()).run.status == "completed"
    reminded = begin_run(requirements=[FILE]).do(answer())
    reminded.append(satisfied)
    assert answer_again(reminded, answer()).run.status == "completed"


def test_requirements_come_before_the_contract() -> None:
    """The contract is checked once all requirements are met; each has its own count."""
    violation = answer("no", problem="$: wrong")
    machine = begin_run(requirements=[FILE], output_contract=CONTRACT).do(violation)
    assert machine.run.follow_up == "completion"
    machine.append(RequirementSatisfied(index=0, call_id="call_1", path="a.md"))
    answer_again(machine, violation)
    run = machine.run
    assert (run.follow_up, run.reminders, run.repairs) == ("output_contract", 1, 1)


def test_tools_are_available_after_a_reminder() -> None:
    """Meeting a requirement needs tools."""
    machine = answer_again(begin_run(requirements=[FILE]).do(answer()), answer_with_calls("write_file"))
    assert due(machine.run, machine.pinned, 0, owned=True) == JudgeCalls((0,))


# Length.


def test_a_truncated_answer_is_continued() -> None:
    """The partial answers are recorded in order until the last one."""
    partial = answer("one ", stop_reason="length")
    machine = answer_again(begin_run(max_continuations=3).do(partial), partial, answer("two"))
    run = machine.run
    assert (run.status, len(run.partial_cursors), run.turn) == ("completed", 2, 3)
    cursors = [envelope.cursor for envelope, event in machine.journal if is_answer(event)]
    assert [*run.partial_cursors, run.output_cursor] == cursors


def is_answer(event: object) -> bool:
    """Whether an event is a model's message."""
    return isinstance(event, MessageAppended) and event.message.role == "assistant"


def test_the_number_of_continuations_is_limited() -> None:
    """After the pinned maximum a truncated answer is final; one truncated here is never continued."""
    partial = answer("one ", stop_reason="length")
    machine = answer_again(begin_run(max_continuations=1).do(partial), partial)
    assert (machine.run.status, len(machine.run.partial_cursors)) == ("completed", 1)
    assert begin_run().do(partial).run.status == "completed"
    assert begin_run(max_continuations=3).do(answer(stop_reason="length", cut=True)).run.status == "completed"


def test_a_paused_turn_is_continued() -> None:
    """The parts before and after a pause are one answer."""
    partial = answer("one ", stop_reason="pause")
    machine = answer_again(begin_run(max_continuations=3).do(partial), answer("two"))
    run = machine.run
    assert (run.status, len(run.partial_cursors), run.turn) == ("completed", 1, 2)


@pytest.mark.parametrize(
    ("pinned", "reason"), [({}, "turn_paused"), ({"max_continuations": 3, "max_turns": 1}, "turn_limit")]
)
def test_a_pause_is_never_the_end(pinned: dict[str, Any], reason: str) -> None:
    """A paused turn that is not continued fails the run."""
    machine = begin_run(**pinned).do(answer("one ", stop_reason="pause"))
    assert (machine.run.status, failure_reason(machine)) == ("failed", reason)


def test_an_interrupted_answer_is_not_continued() -> None:
    """A partial answer before a steer or calls is no part of the next answer."""
    partial = answer("one ", stop_reason="length")
    machine = begin_run(max_continuations=3).do(partial)
    machine.do(Steer("str_1", [Text("stop, rather this")], "user"))
    answer_again(machine, answer("two"))
    assert (machine.run.status, machine.run.partial_cursors) == ("completed", [])
    repaired = answer_again(
        begin_run(max_continuations=3, output_contract=CONTRACT).do(partial), answer(problem="$: wrong")
    )
    assert len(repaired.run.partial_cursors) == 1
    assert answer_again(repaired, answer()).run.partial_cursors == []


# Limits and ends.


@pytest.mark.parametrize(
    ("pinned", "answer", "reason"),
    [
        ({"output_contract": CONTRACT}, answer(problem="$: wrong"), "output_contract_violated"),
        ({"requirements": [FILE]}, answer(), "completion_required"),
        ({}, answer_with_calls("bash"), "turn_limit"),
        ({"max_continuations": 3}, answer(stop_reason="length"), None),
        ({"output_contract": CONTRACT}, answer(), None),
    ],
)
def test_there_is_no_follow_up_at_the_turn_limit(
    pinned: dict[str, Any], answer: AcceptAnswer, reason: str | None
) -> None:
    """Unmet requirements and contracts fail the run; a continuation is dropped."""
    machine = begin_run(max_turns=1, **pinned).do(answer)
    assert failure_reason(machine) == reason
    assert machine.run.status == ("failed" if reason else "completed")


@pytest.mark.parametrize("answer", [answer(problem="$: wrong"), answer(stop_reason="length"), answer()])
def test_there_is_no_follow_up_after_a_stop_request(answer: AcceptAnswer) -> None:
    """The answer is kept, and the run is cancelled."""
    machine = begin_run(output_contract=CONTRACT, requirements=[FILE], max_continuations=3)
    machine.do(RequestCancel("cancelled"), answer)
    assert machine.run.status == "cancelled"


def test_the_record_has_the_cursor_of_each_output() -> None:
    """The record points at each output."""
    machine = begin_run()
    machine.append(OutputEmitted(output_id="out_1", text="one"))
    machine.append(OutputEmitted(output_id="out_2", text="two"))
    assert machine.run.output_cursors == [4, 5]
    assert machine.do(answer()).run.output_cursors == [4, 5]


ANSWERS = (
    answer(),
    answer(problem="$: wrong"),
    answer(stop_reason="length"),
    answer(problem="$: cut", stop_reason="length"),
)


@given(st.lists(st.sampled_from(ANSWERS), min_size=20, max_size=20), st.sets(st.integers(0, 19)))
def test_every_run_with_follow_ups_ends(answers: list[AcceptAnswer], restarts: set[int]) -> None:
    """Any sequence of answers ends the run, and restarts do not change the counts."""
    pinned: dict[str, Any] = {
        "output_contract": CONTRACT,
        "requirements": [FILE],
        "max_continuations": 3,
    }
    undisturbed, restarted = begin_run(**pinned), begin_run(**pinned)
    for number, answer in enumerate(answers):
        if undisturbed.run.ended_at_ms is not None:
            break
        undisturbed.do(BeginModelCall("itm"), answer)
        if number in restarts:
            restarted.do(Release("shutdown"), Start())
        restarted.do(BeginModelCall("itm"), answer)
        assert follow_up_state(undisturbed.run) == follow_up_state(restarted.run)
    assert undisturbed.run.status in ("completed", "failed")
    assert isinstance(undisturbed.journal[-1][1], RunEnded)


def follow_up_state(run: RunRecord) -> tuple[Any, ...]:
    """Return the fields that decide the next follow-up."""
    return run.status, run.follow_up, run.repairs, run.reminders, len(run.partial_cursors), run.error


# The size of an answer.


def size_of(items: list[Item]) -> int:
    """Return the bytes of some items as a JSON list."""
    return len(msgspec.json.encode(items))


def test_fit_items_without_truncation() -> None:
    """Nothing is changed if there is room."""
    items: list[Item] = [Thinking("hm", "signed"), Text("hello"), ToolCall("c", "t", {})]
    assert fit_items(items, 1_000) == (items, False)
    assert fit_items([], 0) == ([], False)


@pytest.mark.parametrize("text", ["aaaaaaaaaa", "ääääääääää", "😀😀😀😀😀", '""""""""""', "\n\x00\n\x00\n"])
def test_text_is_truncated_between_characters(text: str) -> None:
    """As much as fits in JSON is kept, to the byte; one more character would not fit."""
    whole = size_of([Text(text)]) - 2
    for room in range(whole + 2):
        fitting, cut = fit_items([Text(text)], room)
        assert cut == (room < whole)
        prefix = fitting[0].text if fitting and isinstance(fitting[0], Text) else ""
        assert text.startswith(prefix)
        assert not fitting or size_of(fitting) - 2 <= room
        if cut:
            assert size_of([Text(text[: len(prefix) + 1])]) - 2 > room


def test_signed_thinking_and_calls_are_kept_whole_or_not_at_all() -> None:
    """A part of a signed thought or of a call is not valid."""
    for whole in (
        Thinking("x" * 100, "signed"),
        Thinking("x" * 100, redacted=True),
        ToolCall("c", "t" * 100, {}),
    ):
        assert fit_items([whole], 110) == ([], True)
    assert fit_items([AssetReference("a" * 100)], 50) == ([], True)
    fitting, cut = fit_items([Thinking("x" * 100)], 60)
    assert cut
    assert isinstance(fitting[0], Thinking)
    assert 0 < len(fitting[0].text) < 100


def test_a_call_takes_the_room_of_its_result() -> None:
    """A call whose result would not fit is dropped."""
    call = ToolCall("c", "t", {})
    room = size_of([call]) - 2 + MAX_CALL_OVERHEAD_BYTES
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
def test_fitting_items_are_a_prefix_within_the_limit(items: list[Item], room: int) -> None:
    """The items keep their order, all but the last are whole, and the limit holds."""
    fitting, cut = fit_items(items, room)
    assert not fitting or size_of(fitting) - 2 <= room
    assert cut or fitting == items
    assert fitting[:-1] == items[: len(fitting) - 1 if fitting else 0]


def test_provider_data_is_dropped_before_items() -> None:
    """Data that does not fit beside the items is dropped whole; its origin and the items stay."""
    data = ProviderData("o", fields={"details": "x" * 50})
    call = ToolCall("c", "t", {}, provider_data=ProviderData("o", "id", {"signature": "x" * 50}))
    bare = ToolCall("c", "t", {}, provider_data=ProviderData("o", "id"))
    room = size_of([call]) - 2 + MAX_CALL_OVERHEAD_BYTES + measure_data(data)
    assert fit_message([call], data, room) == ([call], data, False)
    assert fit_message([call], data, room - 1) == ([bare], ProviderData("o"), False)
    assert fit_message([call], None, room) == ([call], None, False)
    assert fit_message([Text("hello")], None, 1) == ([], None, True)
    assert fit_message([Text("hello")], data, 1) == ([], ProviderData("o"), True)


def test_a_call_that_does_not_fit_says_so() -> None:
    """A call above the limit keeps its name, and its result can tell the model what was too large."""
    call = ToolCall("c1", "write_file", {"content": "x" * MAX_ANSWER_BYTES})
    items, cut = fit_items([Text("I write."), call], MAX_ANSWER_BYTES)
    text, stub = items
    assert (text, cut) == (Text("I write."), True)
    assert isinstance(stub, ToolCall)
    assert (stub.call_id, stub.name, stub.arguments) == ("c1", "write_file", {})
    assert stub.invalid is not None
    assert f"exceeds the {MAX_ANSWER_BYTES:,} bytes" in stub.invalid
    assert fit_items([call], 10) == ([], True)
