"""Calls: each gets exactly one result, in all circumstances."""

from functools import partial
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.approval import EXPIRED
from kheishd.core.context.transcript import Transcript
from kheishd.core.run import calls as call_rules
from kheishd.core.run.calls import (
    IN_DOUBT,
    NOT_RUN,
    STOPPED,
    next_to_judge,
    next_to_run,
    normalize_calls,
    require_state,
)
from kheishd.core.run.commands import (
    AnswerApprovals,
    ApprovalAnswer,
    CallTools,
    EndEarly,
    ExpireApproval,
    Fail,
    Interrupt,
    Judge,
    Judgement,
    Observe,
    Release,
    RenewApproval,
    RequestCancel,
    ResolveDoubt,
    ReturnResult,
    Start,
)
from kheishd.core.run.due import PARKED_AT
from kheishd.core.run.machine import decide
from protocol.contract import Requirement
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested
from protocol.events.call import ToolCalled, ToolObserved, ToolReturned
from protocol.events.indoubt import IndoubtOpened
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.events.run import MessageAppended, RunEnded
from protocol.events.session import SessionRenamed
from protocol.limits.call import (
    MAX_CALL_ID_BYTES,
    MAX_CALLS,
    MAX_JUDGED_CALLS,
    MAX_PARALLEL_CALLS,
    MAX_TOOL_BYTES,
)
from protocol.objects.run import ENDED, CallState, OpenCall
from protocol.transcript import Item, Text, ToolCall, ToolResult
from tests.support.machine import (
    HISTORIES,
    Machine,
    abandon,
    all_transitions,
    allow,
    answer_approvals,
    answer_question,
    answer_with_calls,
    approval,
    ask_person,
    begin,
    call_tools,
    possible_commands,
    question,
    resolve_doubt,
    result,
    return_first,
    verdict,
)


def begin_run(count: int = 1) -> Machine:
    """Return a run whose model requests some calls."""
    return Machine().do(Start(), begin(), answer_with_calls(count))


def results_of(machine: Machine) -> dict[str, ToolReturned]:
    """Return the results so far by call; each call has at most one."""
    resolve_doubt: dict[str, ToolReturned] = {}
    for _, event in machine.journal:
        if isinstance(event, ToolReturned):
            assert event.call_id not in resolve_doubt
            resolve_doubt[event.call_id] = event
    return resolve_doubt


# The table of the docstring.


def test_the_docstring_has_the_transitions_of_calls() -> None:
    """The table in the docstring has each state and all states that it leads to."""
    reached: dict[str, set[str]] = {"returned": {"nothing"}}
    for transition in all_transitions():
        states = {call.call_id: call.state for call in transition.target.calls}
        for call in transition.source.calls:
            # The list is cleared when all calls have their results, and when the run ends.
            state = states.get(call.call_id, "returned")
            if state != call.state:
                reached.setdefault(call.state, set()).add(state)
    *_, body, _ = (call_rules.__doc__ or "").split(f"{'=' * 10} {'=' * 46} {'=' * 32}\n")
    rows = {line[:11].strip(): set(line[58:].split()) for line in body.splitlines()}
    assert rows == reached


# The model's message.


def test_normalize_calls() -> None:
    """Repeated, used and empty ids become distinct; nothing else changes."""
    items: list[Item] = [
        Text("I look."),
        *(ToolCall(call_id, "look", {"at": 1}) for call_id in ("a", "a", "", "", "b", "a-2")),
    ]
    normalized = normalize_calls(items, {"b", "b-2"})
    assert [item.call_id for item in normalized if isinstance(item, ToolCall)] == [
        "a",
        "a-2",
        "call",
        "call-2",
        "b-3",
        "a-2-2",
    ]
    assert normalized[0] == items[0]
    assert all(item.arguments == {"at": 1} for item in normalized if isinstance(item, ToolCall))


@given(st.lists(st.text(max_size=60), max_size=30), st.sets(st.text(max_size=60), max_size=10))
def test_normalized_calls_are_valid_for_every_provider(ids: list[str], used_ids: set[str]) -> None:
    """Ids are distinct and, like names, within their limits and characters."""
    items: list[Item] = [ToolCall(call_id, call_id, {}) for call_id in ids]
    normalized = [item for item in normalize_calls(items, used_ids) if isinstance(item, ToolCall)]
    call_ids = [call.call_id for call in normalized]
    assert len(set(call_ids)) == len(ids)
    assert not used_ids & set(call_ids)
    for call in normalized:
        assert 0 < len(call.call_id.encode()) <= MAX_CALL_ID_BYTES
        assert call.call_id.isprintable()
        assert len(call.name) <= MAX_TOOL_BYTES
        assert all(character.isascii() for character in call.name)
        assert call.name.replace("-", "").replace("_", "").isalnum() or not call.name.strip("-_")


def test_too_many_calls_in_a_message() -> None:
    """No call runs, each gets a result, and the model is called again."""
    machine = begin_run(MAX_CALLS + 44)
    assert machine.run.calls == []
    assert machine.run.status == "running"
    assert len(results_of(machine)) == 300
    assert "300 calls in one message; the limit is 256" in results_of(machine)["call_300"].text
    assert begin_run(MAX_CALLS).states() == " ".join(["new"] * MAX_CALLS)


# Judging.


def test_a_large_batch_is_judged_in_parts() -> None:
    """Judging continues while earlier calls wait for a person, who may answer meanwhile."""
    machine = begin_run(MAX_JUDGED_CALLS + 2)
    assert next_to_judge(machine.run.calls) == tuple(range(MAX_JUDGED_CALLS))
    machine.do(ask_person)
    assert machine.run.status == "running"
    assert next_to_run(machine.run.calls) == ()
    machine.do(answer_approvals)
    assert next_to_judge(machine.run.calls) == (MAX_JUDGED_CALLS, MAX_JUDGED_CALLS + 1)
    assert next_to_run(machine.run.calls) == ()
    assert machine.do(ask_person).run.status == "waiting_for_approval"
    machine.do(answer_approvals)
    assert (machine.run.status, next_to_run(machine.run.calls)) == ("running", (0,))


def test_a_question_precedes_an_approval_in_the_status() -> None:
    """A run that waits for both has the status of the question."""
    machine = begin_run(2)
    first, second = machine.run.calls
    machine.do(
        Judge([Judgement(verdict(first), approval(first)), Judgement(verdict(second), question(second))])
    )
    assert machine.run.status == "waiting_for_user_question"
    assert machine.do(answer_question(machine.run.calls[1])).run.status == "waiting_for_approval"
    assert results_of(machine)["call_2"].how == "answered"


# Running.


def make_calls(*states: str) -> list[OpenCall]:
    """Make calls in these states; a + means parallel."""
    return [
        OpenCall(call_id=f"c{number}", tool="t", state=_state(state), parallel=state.endswith("+"))
        for number, state in enumerate(states)
    ]


def _state(state: str) -> CallState:
    name: CallState = "returned" if state.startswith("returned") else "ready"
    return name if state.rstrip("+") == name else "asked"


@pytest.mark.parametrize(
    ("states", "indexes"),
    [
        ([], ()),
        (["ready", "ready"], (0,)),
        (["ready+", "ready+", "ready", "ready+"], (0, 1)),
        (["ready", "ready+", "ready+"], (0,)),
        (["returned", "ready+", "returned+", "ready+"], (1, 3)),
        (["returned", "returned"], ()),
        (["ready+", "asked"], ()),
        (["asked", "ready+"], ()),
        (["ready+"] * 20, tuple(range(MAX_PARALLEL_CALLS))),
    ],
)
def test_next_to_run(states: list[str], indexes: tuple[int, ...]) -> None:
    """Adjacent parallel calls run together, up to the limit, and none while a person is asked."""
    assert next_to_run(make_calls(*states)) == indexes


def test_calls_run_in_order() -> None:
    """Calls run one after another; the last result clears the list."""
    machine = begin_run(2).do(allow)
    assert (machine.states(), next_to_run(machine.run.calls)) == ("ready ready", (0,))
    machine.do(call_tools)
    assert machine.states() == "called ready"
    assert (machine.run.calls[0].attempt, machine.run.calls[0].called_at_ms) == (1, machine.now_ms)
    machine.do(return_first)
    assert (machine.states(), next_to_run(machine.run.calls)) == ("returned ready", (1,))
    machine.do(call_tools, return_first)
    assert (machine.run.calls, machine.run.status) == ([], "running")


def test_a_calls_events_precede_its_result() -> None:
    """A call's own events are committed right before its result."""
    machine = begin_run().do(allow, call_tools)
    renamed = SessionRenamed(title="a better title")
    events = decide(machine.run, machine.pinned, ReturnResult("call_1", result(text="saw it"), (renamed,)))
    assert events == [
        renamed,
        ToolReturned(call_id="call_1", tool="read_file", how="returned", text="saw it"),
    ]


def test_a_written_file_meets_a_requirement() -> None:
    """The machine records met requirements with the result; an error meets none."""
    for succeeds in (True, False):
        machine = begin_run()
        machine.pinned = replace(
            machine.pinned, requirements=[Requirement(type="workspace_file", path="a.md")]
        )
        machine.do(allow, call_tools)
        outcome = result() if succeeds else result("failed")
        machine.do(ReturnResult("call_1", outcome, written=("b.md", "docs/a.md")))
        assert machine.run.met_requirements == ([0] if succeeds else [])


def test_renew_approval() -> None:
    """An approval can be renewed before the call or when it has begun; the new answer counts."""
    for commands in ([], [call_tools]):
        machine = begin_run().do(ask_person, answer_approvals, *commands)
        machine.do(RenewApproval("call_1", approval(machine.run.calls[0], binding="b2")))
        call = machine.run.calls[0]
        assert (machine.run.status, call.state, call.binding) == ("waiting_for_approval", "asked", "b2")
        assert machine.run.starts_without_progress == 0
        machine.do(answer_approvals)
        assert (machine.states(), machine.run.calls[0].approved) == ("ready", True)


def test_a_run_with_a_running_call_does_not_wait() -> None:
    """A stop request then waits for the running call."""
    machine = begin_run(2).do(partial(allow, parallel=True), call_tools)
    machine.do(RenewApproval("call_1", approval(machine.run.calls[0], binding="new")))
    assert (machine.states(), machine.run.status) == ("asked called", "running")
    assert machine.do(RequestCancel("cancelled")).run.status == "running"
    assert machine.do(EndEarly([])).run.status == "cancelled"


def test_a_changed_input_is_recorded_by_its_cursor() -> None:
    """The input is in the journal, and the approval is bound to no preview."""
    machine = begin_run().do(ask_person, partial(answer_approvals, updated_input={"path": "b"}))
    call = machine.run.calls[0]
    answer = next(event for _, event in machine.journal if isinstance(event, ApprovalAnswered))
    assert answer.updated_input == {"path": "b"}
    assert call.input_cursor == len(machine.journal)
    assert call.binding is None


# Commands that do not fit.


def test_a_command_about_a_call_in_another_state_is_a_bug() -> None:
    """Such a command has no events, so no call has two results or runs unjudged."""
    machine = begin_run(2)
    call = machine.run.calls[0]
    for command in (
        ReturnResult("call_1", result()),
        RenewApproval("call_1", approval(call)),
        Observe("call_1", {}),
        ExpireApproval("call_1"),
        AnswerApprovals([ApprovalAnswer("call_1", "allow")]),
        CallTools({"call_1": {}}),
        answer_question(call),
        abandon(call),
        resolve_doubt(machine.run, 0, "done"),
        ReturnResult("call_9", result()),
    ):
        with pytest.raises(AssertionError):
            decide(machine.run, machine.pinned, command)
    machine.do(allow)
    for late in (allow(begin_run(2).run), CallTools({"call_2": {}}), CallTools({})):
        with pytest.raises(AssertionError):
            decide(machine.run, machine.pinned, late)


def test_require_state() -> None:
    """A call is found by its id; one that has its result is in no other state."""
    machine = begin_run(2).do(allow, call_tools, return_first)
    assert require_state(machine.run, "call_2", "ready") == (1, machine.run.calls[1])
    with pytest.raises(AssertionError, match="call_1 is returned"):
        require_state(machine.run, "call_1", "ready", "called")
    with pytest.raises(AssertionError, match="no call call_9"):
        require_state(machine.run, "call_9", "ready")


def test_a_denied_call_gets_its_result_at_once() -> None:
    """A denial, or an expiry, is committed with the result; the person's note is for the model."""
    machine = begin_run(2).do(ask_person)
    denial = ApprovalAnswer("call_2", "deny", note="not that file")
    events = decide(machine.run, machine.pinned, AnswerApprovals([ApprovalAnswer("call_1", "allow"), denial]))
    assert [type(event) for event in events] == [ApprovalAnswered, ApprovalAnswered, ToolReturned]
    assert [event.approval_id for event in events if isinstance(event, ApprovalAnswered)] == [
        call.waits_for for call in machine.run.calls
    ]
    machine.do(AnswerApprovals([denial]), ExpireApproval("call_1"))
    assert "not that file" in results_of(machine)["call_2"].text
    assert results_of(machine)["call_1"].text == EXPIRED
    assert {event.how for event in results_of(machine).values()} == {"denied"}


# The daemon dies, stops, or the run is to be stopped.


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_call_that_ran_when_the_daemon_died(repeatable: bool) -> None:
    """A repeatable call is ready again; any other call is doubted."""
    machine = begin_run().do(partial(allow, repeatable=repeatable), call_tools, Start())
    assert machine.states() == ("ready" if repeatable else "doubted")


@pytest.mark.parametrize(
    ("outcome", "states", "last"),
    [("done", "", "tool_returned"), ("not_done", "ready", "call_probed"), ("unknown", "", "tool_returned")],
)
def test_resolve_doubt(outcome: Literal["done", "not_done", "unknown"], states: str, last: str) -> None:
    """A done call has its result, one that is not done runs again, and an unknown one is in doubt."""
    machine = begin_run().do(allow, call_tools, Start(), partial(resolve_doubt, index=0, outcome=outcome))
    assert (machine.states(), machine.kinds()[-1]) == (states, last)


def test_an_unknown_outcome_opens_an_indoubt_call() -> None:
    """The id follows from the call; the model reads that the call was not run again, and the note."""
    machine = begin_run().do(allow, call_tools, Start())
    command = ResolveDoubt("call_1", "unknown", "a process was found", {"pid": 7})
    opened, returned = decide(machine.run, machine.pinned, command)
    assert isinstance(opened, IndoubtOpened)
    assert opened.indoubt_id == "dbt_1.1.0"
    assert (opened.call_id, opened.message_cursor, opened.evidence) == ("call_1", 4, {"pid": 7})
    assert isinstance(returned, ToolReturned)
    assert (returned.how, returned.is_error) == ("in_doubt", True)
    assert returned.text == f"{IN_DOUBT} What is known: a process was found."


def test_stopped_calls_keep_their_results() -> None:
    """Running calls keep their results, other calls get one, and pending approvals are withdrawn."""
    machine = begin_run(3)
    first, second, third = machine.run.calls
    machine.do(
        Judge(
            [
                Judgement(verdict(first, parallel=True)),
                Judgement(verdict(second, parallel=True)),
                Judgement(verdict(third)),
            ]
        ),
        call_tools,
        RequestCancel("cancelled"),
    )
    ended = ReturnResult("call_1", result(text="all of it"), (SessionRenamed(title="t"),))
    # The third call does not run, so its result is ignored.
    machine.do(EndEarly([], (ended, ReturnResult("call_3", result(text="a lie")))))
    assert {call_id: result.text for call_id, result in results_of(machine).items()} == {
        "call_1": "all of it",
        "call_2": STOPPED,
        "call_3": NOT_RUN,
    }
    assert machine.kinds()[-5:-3] == ["session_renamed", "tool_returned"]


def test_a_stopped_repeatable_call_is_reported_as_begun() -> None:
    """A repeatable call that is ready again had begun before the restart."""
    machine = begin_run().do(partial(allow, repeatable=True), call_tools, RequestCancel("cancelled"), Start())
    assert machine.states() == "ready"
    machine.do(EndEarly([]))
    assert results_of(machine)["call_1"].text == STOPPED


def test_release_keeps_repeatable_calls() -> None:
    """Other calls get their results; the next daemon runs the repeatable ones again."""
    machine = begin_run(2)
    verdicts = [
        verdict(call, parallel=True, repeatable=call.call_id == "call_1") for call in machine.run.calls
    ]
    machine.do(Judge([Judgement(allowed) for allowed in verdicts]), call_tools)
    machine.do(Release("shutdown", (ReturnResult("call_2", result("stopped")),)))
    assert (machine.states(), machine.run.starts_without_progress) == ("called returned", 0)
    assert machine.do(Start()).states() == "ready returned"


def test_abandon_question() -> None:
    """The question lapses, other approvals are withdrawn, and an earlier stop request counts."""
    machine = begin_run(2)
    first, second = machine.run.calls
    machine.do(
        Judge(
            [
                Judgement(verdict(first), approval(first)),
                Judgement(verdict(second), question(second)),
            ]
        ),
        abandon(second),
    )
    lapsed = [event for _, event in machine.journal if isinstance(event, QuestionLapsed | ApprovalLapsed)]
    assert [event.how for event in lapsed] == ["cancelled", "withdrawn"]
    assert machine.run.status == "cancelled"
    stopping = begin_run().do(RequestCancel("interrupted"), partial(ask_person, questions=True))
    assert stopping.do(abandon(stopping.run.calls[0])).run.status == "interrupted"


@pytest.mark.parametrize("end", [Fail, Interrupt])
def test_every_end_closes_the_calls(end: type[Fail | Interrupt]) -> None:
    """A failed run stops its calls; an interrupted one leaves them in doubt."""
    error = next(c.error for c in possible_commands(begin_run().run) if isinstance(c, Fail))
    machine = begin_run().do(allow, call_tools, end(error))
    assert results_of(machine)["call_1"].how == ("in_doubt" if end is Interrupt else "stopped")


# Laws.


def pending_ids(machine: Machine) -> set[str]:
    """Return the ids of the pending approvals and questions."""
    open_ids: set[str] = set()
    for _, event in machine.journal:
        match event:
            case ApprovalRequested(approval_id=id_) | QuestionAsked(question_id=id_):
                assert id_ not in open_ids
                open_ids.add(id_)
            case ApprovalAnswered(approval_id=id_) | ApprovalLapsed(approval_id=id_):
                open_ids.remove(id_)
            case QuestionAnswered(question_id=id_) | QuestionLapsed(question_id=id_):
                open_ids.remove(id_)
            case _:
                pass
    return open_ids


@given(HISTORIES)
def test_every_call_of_an_ended_run_has_one_result(machine: Machine) -> None:
    """No approval stays pending, and before the end the record lists exactly the pending ones."""
    calls = [
        item.call_id
        for _, event in machine.journal
        if isinstance(event, MessageAppended)
        for item in event.message.items
        if isinstance(item, ToolCall)
    ]
    still_open = {call.call_id for call in machine.run.calls if call.state != "returned"}
    assert results_of(machine).keys() == set(calls) - still_open
    asks = {call.waits_for for call in machine.run.calls if call.waits_for is not None}
    assert pending_ids(machine) == asks
    if machine.run.status in ENDED:
        assert not still_open | asks


@given(HISTORIES)
def test_a_calls_events_are_ordered(machine: Machine) -> None:
    """A call begins before its result, and has no event after it."""
    returned: set[str] = set()
    running: set[str] = set()
    for _, event in machine.journal:
        call_id = getattr(event, "call_id", None)
        match event:
            case ToolCalled():
                assert call_id not in returned | running
                running.add(event.call_id)
            case ToolReturned():
                returned.add(event.call_id)
                running.discard(event.call_id)
            case IndoubtOpened():
                assert call_id not in returned
            case _ if isinstance(call_id, str):
                assert call_id not in returned
                if isinstance(event, ToolObserved):
                    assert call_id in running
                else:
                    running.discard(call_id)
            case _:
                # A start leaves nothing running.
                running = set() if type(event).__name__ == "RunStarted" else running


@given(HISTORIES)
def test_every_history_has_a_valid_transcript(machine: Machine) -> None:
    """Each message with calls is directly followed by exactly their results."""
    transcript = Transcript()
    for envelope, event in machine.journal:
        transcript.fold(envelope, event)
        expected: list[str] = []
        for message in transcript.messages:
            result_ids = [item.call_id for item in message.items if isinstance(item, ToolResult)]
            assert result_ids == expected
            expected = [item.call_id for item in message.items if isinstance(item, ToolCall)]
        assert expected == list(transcript.calls), "only the newest message may have calls without results"
    if machine.run.status in ENDED:
        assert (transcript.calls, transcript.pending) == ({}, [])


@given(st.integers(1, 3), st.booleans())
def test_a_batch_in_a_crash_loop_is_parked(count: int, repeatable: bool) -> None:
    """Parallel and repeatable calls do not change the number of starts."""
    machine = begin_run(count).do(partial(allow, parallel=True, repeatable=repeatable))
    while machine.run.status not in ENDED:
        machine.do(call_tools, Start())
        while (indexes := call_rules.find_doubted(machine.run.calls)) and machine.run.status not in ENDED:
            machine.do(partial(resolve_doubt, index=indexes[0], outcome="not_done"))
    assert machine.run.error is not None
    assert machine.run.error.reason == "parked"
    assert sum(isinstance(event, ToolCalled) for _, event in machine.journal) == PARKED_AT * count


def test_every_transition_returns_the_calls_that_it_closes() -> None:
    """A call that is open before a command and not after it gets its result from that command."""
    for transition in all_transitions():
        previous = {call.call_id for call in transition.source.calls if call.state != "returned"}
        current = {call.call_id for call in transition.target.calls if call.state != "returned"}
        returned = [event.call_id for event in transition.events if isinstance(event, ToolReturned)]
        listed = {call.call_id for call in transition.source.calls}
        opened = {call.call_id for call in transition.target.calls} - listed
        unlisted = [call_id for call_id in returned if call_id not in previous]
        assert sorted(call_id for call_id in returned if call_id in previous) == sorted(previous - current)
        assert not opened & set(returned)
        # Only at the limit of turns a call is refused before it is listed.
        assert not unlisted or isinstance(transition.events[-1], RunEnded)
