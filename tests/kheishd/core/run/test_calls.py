"""The calls of a message: how each gets its one result, whatever happens."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.context.transcript import Transcript
from kheishd.core.run import calls as call_rules
from kheishd.core.run.calls import IN_DOUBT, NOT_RUN, STOPPED, distinct, doubt, place_of, to_judge, to_run
from kheishd.core.run.commands import (
    CallTools,
    Cancel,
    Fail,
    Interrupt,
    Judge,
    Judgement,
    Lapse,
    Observe,
    Release,
    Renew,
    Resolve,
    Return,
    Start,
    Stopped,
)
from kheishd.core.run.due import PARKED_AT
from kheishd.core.run.machine import decide
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested
from protocol.events.call import ToolCalled, ToolObserved, ToolReturned
from protocol.events.indoubt import IndoubtOpened
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.events.run import MessageAppended, RunEnded
from protocol.events.session import SessionRenamed
from protocol.journal.line import JournalEvent
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
    abandoned,
    allowed,
    approval,
    ask,
    asked,
    called,
    calling,
    everything,
    finished,
    found,
    possible,
    replied,
    resolved,
    returned,
    verdict,
)


def begun(count: int = 1) -> Machine:
    """A run whose model asks for so many tools."""
    return Machine().do(Start(), ask(), calling(count))


def results(machine: Machine) -> dict[str, ToolReturned]:
    """The results so far, by call; each call has one at most."""
    found: dict[str, ToolReturned] = {}
    for _, event in machine.journal:
        if isinstance(event, ToolReturned):
            assert event.call_id not in found
            found[event.call_id] = event
    return found


# The table of the docstring.


def test_the_table_in_the_docstring_is_what_happens_to_calls() -> None:
    """Each state, and all that it ever leads to."""
    reached: dict[str, set[str]] = {"returned": {"nothing"}}
    for each in everything():
        after = {call.call_id: call.state for call in each.after.calls}
        for call in each.before.calls:
            # Calls of which all have their results are not kept, and neither are those of a run that ended.
            now = after.get(call.call_id, "returned")
            if now != call.state:
                reached.setdefault(call.state, set()).add(now)
    *_, body, _ = (call_rules.__doc__ or "").split(f"{'=' * 10} {'=' * 46} {'=' * 32}\n")
    rows = {line[:11].strip(): set(line[58:].split()) for line in body.splitlines()}
    assert rows == reached


# The model's message.


def test_every_call_has_an_id_of_its_own() -> None:
    """Ids that are repeated, used before or missing are made different; nothing else of the items changes."""
    items: list[Item] = [
        Text("I look."),
        *(ToolCall(call_id, "look", {"at": 1}) for call_id in ("a", "a", "", "", "b", "a-2")),
    ]
    kept = distinct(items, {"b", "b-2"})
    assert [item.call_id for item in kept if isinstance(item, ToolCall)] == [
        "a",
        "a-2",
        "call",
        "call-2",
        "b-3",
        "a-2-2",
    ]
    assert kept[0] == items[0]
    assert all(item.arguments == {"at": 1} for item in kept if isinstance(item, ToolCall))


@given(st.lists(st.text(max_size=60), max_size=30), st.sets(st.text(max_size=60), max_size=10))
def test_ids_and_names_are_such_as_every_provider_takes_back(ids: list[str], used: set[str]) -> None:
    """Whatever a model makes up: ids differ from each other and from all before, and have their limits."""
    items: list[Item] = [ToolCall(call_id, call_id, {}) for call_id in ids]
    kept = [item for item in distinct(items, used) if isinstance(item, ToolCall)]
    fresh = [call.call_id for call in kept]
    assert len(set(fresh)) == len(ids)
    assert not used & set(fresh)
    for call in kept:
        assert 0 < len(call.call_id.encode()) <= MAX_CALL_ID_BYTES
        assert len(call.name) <= MAX_TOOL_BYTES
        assert all(character.isascii() for character in call.name)
        assert call.name.replace("-", "").replace("_", "").isalnum() or not call.name.strip("-_")


def test_too_many_calls_are_refused_one_by_one() -> None:
    """Three hundred calls in one message: none runs, each is told why, and the model is asked again."""
    machine = begun(MAX_CALLS + 44)
    assert machine.run.calls == []
    assert machine.run.status == "running"
    assert len(results(machine)) == 300
    assert "300 calls in one message, and the limit is 256" in results(machine)["call_300"].text
    assert begun(MAX_CALLS).states() == " ".join(["new"] * MAX_CALLS)


# Judging.


def test_a_large_batch_is_judged_a_part_at_a_time() -> None:
    """The run is judged on while some of it waits for a person already, whose answer may come meanwhile."""
    machine = begun(MAX_JUDGED_CALLS + 2)
    assert to_judge(machine.run.calls) == tuple(range(MAX_JUDGED_CALLS))
    machine.do(asked)
    assert machine.run.status == "running"
    assert to_run(machine.run.calls) == ()
    machine.do(resolved)
    assert to_judge(machine.run.calls) == (MAX_JUDGED_CALLS, MAX_JUDGED_CALLS + 1)
    assert to_run(machine.run.calls) == ()
    assert machine.do(asked).run.status == "waiting_for_approval"
    machine.do(resolved)
    assert (machine.run.status, to_run(machine.run.calls)) == ("running", (0,))


def test_a_question_is_waited_for_before_an_approval() -> None:
    """A run says what it waits for; where it is both, the question comes first."""
    machine = begun(2)
    first, second = machine.run.calls
    both = [Judgement(verdict(first), asks=approval(first))]
    machine.do(Judge([*both, Judgement(verdict(second), asks=machine_question(second))]))
    assert machine.run.status == "waiting_for_user_question"
    assert machine.do(replied(machine.run.calls[1])).run.status == "waiting_for_approval"
    assert results(machine)["call_2"].how == "answered"


def machine_question(call: OpenCall) -> QuestionAsked:
    """A question that a call is."""
    asks = asked(begun().run, questions=True).judgements[0].asks
    assert isinstance(asks, QuestionAsked)
    return QuestionAsked(question_id="qst_2", call_id=call.call_id, questions=asks.questions)


# Running.


def row(*states: str) -> list[OpenCall]:
    """Calls in these states; those that end with a + may run beside others."""
    return [
        OpenCall(call_id=f"c{number}", tool="t", state=_state(state), parallel=state.endswith("+"))
        for number, state in enumerate(states)
    ]


def _state(state: str) -> CallState:
    name: CallState = "returned" if state.startswith("returned") else "ready"
    return name if state.rstrip("+") == name else "asked"


@pytest.mark.parametrize(
    ("states", "together"),
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
def test_calls_run_side_by_side_if_they_say_so_and_stand_together(
    states: list[str], together: tuple[int, ...]
) -> None:
    """In the order of the message, sixteen at once at most; nothing at all while a person is asked."""
    assert to_run(row(*states)) == together


def test_calls_run_in_their_order_and_then_the_model_is_asked() -> None:
    """One after another; once the last has its result there are none any more."""
    machine = begun(2).do(allowed)
    assert (machine.states(), to_run(machine.run.calls)) == ("ready ready", (0,))
    machine.do(called)
    assert machine.states() == "called ready"
    assert (machine.run.calls[0].attempt, machine.run.calls[0].called_at_ms) == (1, machine.now_ms)
    machine.do(finished)
    assert (machine.states(), to_run(machine.run.calls)) == ("returned ready", (1,))
    machine.do(called, finished)
    assert (machine.run.calls, machine.run.status) == ([], "running")


def test_what_a_call_changed_is_written_with_its_result() -> None:
    """Events of its own come right before the result, in the same commit."""
    machine = begun().do(allowed, called)
    renamed = SessionRenamed(title="a better title")
    events = decide(machine.run, machine.pinned, Return(returned(machine.run.calls[0]), (renamed,)))
    assert events == [renamed, returned(machine.run.calls[0])]


def test_an_approval_is_asked_for_anew_where_what_was_approved_changed() -> None:
    """Before it runs or at the last moment, when nothing was done yet; the new answer counts."""
    for before in ([], [called]):
        machine = begun().do(asked, resolved, *before)
        machine.do(Renew(approval(machine.run.calls[0], binding="b2")))
        call = machine.run.calls[0]
        assert (machine.run.status, call.state, call.binding) == ("waiting_for_approval", "asked", "b2")
        assert machine.run.starts_without_progress == 0
        machine.do(resolved)
        assert (machine.states(), machine.run.calls[0].approved) == ("ready", True)


def test_a_run_is_not_waiting_while_another_call_of_the_group_runs() -> None:
    """Whoever cancels then is told when that one has stopped, too."""
    machine = begun(2).do(partial(allowed, parallel=True), called)
    machine.do(Renew(approval(machine.run.calls[0], binding="new")))
    assert (machine.states(), machine.run.status) == ("asked called", "running")
    assert machine.do(Cancel("cancelled")).run.status == "running"
    assert machine.do(Stopped([])).run.status == "cancelled"


def test_an_input_that_a_person_changed_is_remembered_by_its_place() -> None:
    """The arguments stand in the journal; what was shown is not what will be done, so it binds no more."""
    machine = begun().do(asked, partial(resolved, updated_input={"path": "b"}))
    call = machine.run.calls[0]
    answer = next(event for _, event in machine.journal if isinstance(event, ApprovalAnswered))
    assert answer.updated_input == {"path": "b"}
    assert call.input_cursor == len(machine.journal)
    assert call.binding is None


# Commands that do not fit.


def test_a_command_about_a_call_in_another_state_is_a_fault() -> None:
    """Nothing of it is written: no call has two results, none runs unjudged."""
    machine = begun(2)
    call = machine.run.calls[0]
    for command in (
        Return(returned(call)),
        Renew(approval(call)),
        Observe(ToolObserved(call_id="call_1", evidence={})),
        Lapse("apr_1", returned(call, "denied")),
        CallTools([ToolCalled(call_id="call_1", tool="t")]),
        replied(call),
        abandoned(call),
        found(machine.run, 0, "done"),
        Return(returned(OpenCall(call_id="call_9", tool="t", state="called"))),
    ):
        with pytest.raises(AssertionError):
            decide(machine.run, machine.pinned, command)
    machine.do(allowed)
    for late in (allowed(begun(2).run), CallTools([ToolCalled(call_id="call_2", tool="t")])):
        with pytest.raises(AssertionError):
            decide(machine.run, machine.pinned, late)


def test_a_call_is_found_by_its_id_while_it_is_open() -> None:
    """One that has its result is no longer available."""
    machine = begun(2).do(allowed, called, finished)
    assert place_of(machine.run, "call_2") == 1
    with pytest.raises(AssertionError, match="no open call call_1"):
        place_of(machine.run, "call_1")


def test_a_denial_without_its_result_is_a_fault() -> None:
    """The call would wait for ever."""
    machine = begun().do(asked)
    with pytest.raises(AssertionError, match="result at once"):
        decide(machine.run, machine.pinned, Resolve(resolved(machine.run, "deny").answers, []))


# The daemon dies, stops, or the run is to be stopped.


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_call_that_ran_when_the_daemon_died(repeatable: bool) -> None:
    """One that may be run twice is ready again; any other is looked into first."""
    machine = begun().do(partial(allowed, repeatable=repeatable), called, Start())
    assert machine.states() == ("ready" if repeatable else "doubted")


@pytest.mark.parametrize(
    ("outcome", "states", "last"),
    [("done", "", "tool_returned"), ("not_done", "ready", "call_probed"), ("unknown", "", "tool_returned")],
)
def test_what_became_of_it(outcome: str, states: str, last: str) -> None:
    """Done: it has its result. Not done: it is run. Unknown: it is in doubt, and the model is told."""
    machine = begun().do(allowed, called, Start(), partial(found, place=0, outcome=outcome))
    assert (machine.states(), machine.kinds()[-1]) == (states, last)


def test_a_doubt_says_what_is_known() -> None:
    """The item has an id that follows from the call; the model reads that it was not run again."""
    machine = begun().do(allowed, called)
    item, told = doubt(machine.run, 0, note="a process was found", evidence={"pid": 7})
    assert item.indoubt_id == "dbt_1.1.0"
    assert (item.call_id, item.message_cursor, item.evidence) == ("call_1", 4, {"pid": 7})
    assert (told.how, told.is_error) == ("in_doubt", True)
    assert told.text == f"{IN_DOUBT} What is known: a process was found."


def test_calls_that_were_stopped_have_the_results_they_gave() -> None:
    """What ran says what came of it, what did not run says so, and what was asked is withdrawn."""
    machine = begun(3)
    first, second, third = machine.run.calls
    machine.do(
        Judge(
            [
                Judgement(verdict(first, parallel=True)),
                Judgement(verdict(second, parallel=True)),
                Judgement(verdict(third)),
            ]
        ),
        called,
        Cancel("cancelled"),
    )
    ended = Return(returned(first, text="all of it"), (SessionRenamed(title="t"),))
    # Of a call that is not running nobody has a result to give.
    machine.do(Stopped([], (ended, Return(returned(third, text="a lie")))))
    assert {call_id: result.text for call_id, result in results(machine).items()} == {
        "call_1": "all of it",
        "call_2": STOPPED,
        "call_3": NOT_RUN,
    }
    assert machine.kinds()[-5:-3] == ["session_renamed", "tool_returned"]


def test_a_call_that_a_restart_would_have_repeated_is_not_said_to_have_never_run() -> None:
    """It began, whatever it did by then."""
    machine = begun().do(partial(allowed, repeatable=True), called, Cancel("cancelled"), Start())
    assert machine.states() == "ready"
    machine.do(Stopped([]))
    assert results(machine)["call_1"].text == STOPPED


def test_an_orderly_stop_keeps_what_may_be_run_again() -> None:
    """What may not has its result; the rest is run by the next daemon."""
    machine = begun(2)
    verdicts = [
        verdict(call, parallel=True, repeatable=call.call_id == "call_1") for call in machine.run.calls
    ]
    machine.do(Judge([Judgement(each) for each in verdicts]), called)
    machine.do(Release("shutdown", (Return(returned(machine.run.calls[1], "stopped")),)))
    assert (machine.states(), machine.run.starts_without_progress) == ("called returned", 0)
    assert machine.do(Start()).states() == "ready returned"


def test_a_question_that_nobody_answers_ends_the_run() -> None:
    """It lapses once; what else was asked is withdrawn; who wanted the run stopped before is honoured."""
    machine = begun(2)
    first, second = machine.run.calls
    machine.do(
        Judge(
            [
                Judgement(verdict(first), asks=approval(first)),
                Judgement(verdict(second), asks=machine_question(second)),
            ]
        ),
        abandoned(second),
    )
    lapsed = [event for _, event in machine.journal if isinstance(event, QuestionLapsed | ApprovalLapsed)]
    assert [event.how for event in lapsed] == ["cancelled", "withdrawn"]
    assert machine.run.status == "cancelled"
    stopping = begun().do(Cancel("interrupted"), partial(asked, questions=True))
    assert stopping.do(abandoned(stopping.run.calls[0])).run.status == "interrupted"


@pytest.mark.parametrize("end", [Fail, Interrupt])
def test_whatever_ends_a_run_closes_its_calls(end: type[Fail | Interrupt]) -> None:
    """A run that fails has died in nothing; one that is only marked after a restart may have."""
    error = next(c.error for c in possible(begun().run) if isinstance(c, Fail))
    machine = begun().do(allowed, called, end(error))
    assert results(machine)["call_1"].how == ("in_doubt" if end is Interrupt else "stopped")


# Laws.


def waiting(machine: Machine) -> set[str]:
    """The approvals and questions that nobody has answered or taken back."""
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
def test_every_call_has_exactly_one_result_once_its_run_has_ended(machine: Machine) -> None:
    """And nothing that a person was asked is left open; before that, what is open is what the record says."""
    calls = [
        item.call_id
        for _, event in machine.journal
        if isinstance(event, MessageAppended)
        for item in event.message.items
        if isinstance(item, ToolCall)
    ]
    still_open = {call.call_id for call in machine.run.calls if call.state != "returned"}
    assert results(machine).keys() == set(calls) - still_open
    asks = {call.waits_for for call in machine.run.calls if call.waits_for is not None}
    assert waiting(machine) == asks
    if machine.run.status in ENDED:
        assert not still_open | asks


@given(HISTORIES)
def test_a_call_begins_before_it_has_its_result_and_not_after(machine: Machine) -> None:
    """What ran was journaled first; after its result nothing more of it is."""
    over: set[str] = set()
    running: set[str] = set()
    for _, event in machine.journal:
        call_id = getattr(event, "call_id", None)
        match event:
            case ToolCalled():
                assert call_id not in over | running
                running.add(event.call_id)
            case ToolReturned():
                over.add(event.call_id)
                running.discard(event.call_id)
            case IndoubtOpened():
                assert call_id not in over
            case _ if isinstance(call_id, str):
                assert call_id not in over
                if isinstance(event, ToolObserved):
                    assert call_id in running
                else:
                    running.discard(call_id)
            case _:
                # A start leaves nothing running.
                running = set() if type(event).__name__ == "RunStarted" else running


@given(HISTORIES)
def test_a_transcript_is_valid_whatever_happened(machine: Machine) -> None:
    """A message with calls is followed by exactly their results, in order; nothing stands in between."""
    transcript = Transcript()
    for envelope, event in machine.journal:
        transcript.fold(envelope, event)
        expected: list[str] = []
        for message in transcript.messages:
            got = [item.call_id for item in message.items if isinstance(item, ToolResult)]
            assert got == expected
            expected = [item.call_id for item in message.items if isinstance(item, ToolCall)]
        assert expected == list(transcript.calls), "only the newest message may have calls without results"
    if machine.run.status in ENDED:
        assert (transcript.calls, transcript.pending) == ({}, [])


@given(st.integers(1, 3), st.booleans())
def test_a_batch_that_brings_the_daemon_down_again_and_again_is_parked(count: int, repeatable: bool) -> None:
    """However many of its calls run side by side, and whether they may be run again or not."""
    machine = begun(count).do(partial(allowed, parallel=True, repeatable=repeatable))
    while machine.run.status not in ENDED:
        machine.do(called, Start())
        while (places := call_rules.doubted(machine.run.calls)) and machine.run.status not in ENDED:
            machine.do(partial(found, place=places[0], outcome="not_done"))
    assert machine.run.error is not None
    assert machine.run.error.reason == "parked"
    assert sum(isinstance(event, ToolCalled) for _, event in machine.journal) == PARKED_AT * count


def test_every_transition_gives_what_it_closes_one_result() -> None:
    """Whatever happens to a run: a call that was open and is not any more got its result right there."""
    for each in everything():
        before = {call.call_id for call in each.before.calls if call.state != "returned"}
        after = {call.call_id for call in each.after.calls if call.state != "returned"}
        given_ = [event.call_id for event in each.events if isinstance(event, ToolReturned)]
        opened = {call.call_id for call in each.after.calls} - {c.call_id for c in each.before.calls}
        refused = [item for item in given_ if item not in before]
        assert sorted(item for item in given_ if item in before) == sorted(before - after)
        assert not opened & set(given_)
        assert not refused or _ends(each.events), "only at the limit of turns a call is refused unseen"


def _ends(events: list[JournalEvent]) -> bool:
    return isinstance(events[-1], RunEnded)
