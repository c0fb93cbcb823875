"""The run machine: every status with every command, and the laws that hold for every journal."""

from functools import partial
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.run import machine as run_machine
from kheishd.core.run.commands import (
    BeginModelCall,
    Cancel,
    Command,
    Compact,
    EndEarly,
    FailModelCall,
    Interrupt,
    Release,
    Start,
)
from kheishd.core.run.due import ALONE_AT, PARKED_AT, AskModel, Pause, StopEffect, TakeUp, due
from kheishd.core.run.machine import ACCEPTED, decide, evolve
from protocol.errors.run import RunAlreadyEnded
from protocol.events.run import MessageAppended, ModelAsked, RunEnded, RunStarted, Steered
from protocol.objects.run import ENDED, RunError, RunStatus
from protocol.transcript import Usage
from tests.support.machine import (
    CALL,
    ERROR,
    HISTORIES,
    NO_SUMMARY,
    PINNED,
    STEER,
    SUMMARY,
    TEXT,
    Machine,
    all_runs,
    all_transitions,
    allow,
    answer,
    answer_approvals,
    answer_with_calls,
    ask_person,
    begin,
    call_tools,
    is_same,
    resolve_doubt,
    return_first,
)

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord

OPEN: tuple[RunStatus, ...] = tuple(ACCEPTED)
ALL_ENDED: tuple[RunStatus, ...] = ("completed", "failed", "cancelled", "interrupted")
WAITING = OPEN[2:]
COMMANDS: tuple[type[Command], ...] = get_args(Command)


def table() -> str:
    """The state table of the module's docstring, made from what the code does."""
    rule = "=============== ================ ==============================================="
    lines = [rule, f"{'status':15} {'command':16} leads to", rule]
    after: dict[tuple[str, type[Command]], set[str]] = {}
    for transition in all_transitions():
        came = after.setdefault((_shown(transition.source.status), type(transition.command)), set())
        came.add(_shown(transition.target.status))
    for status in ("queued", "running", "waiting"):
        name = status
        for kind in COMMANDS:
            if (status, kind) in after:
                names = ", ".join(sorted(after[status, kind], key=_rank))
                lines.append(f"{name:15} {kind.__name__:16} {names}")
                name = ""
    return "\n".join([*lines, f"{'ended':15} {'any':16} refused: RunAlreadyEnded", rule])


def _shown(status: str) -> str:
    return "waiting" if status in WAITING else status


def _rank(status: str) -> int:
    return ("queued", "running", "waiting", *ALL_ENDED).index(status)


def test_the_table_in_the_docstring_is_what_the_code_does() -> None:
    """The states and what leads from one to another are drawn from the code."""
    assert table() in (run_machine.__doc__ or ""), f"put this into core/run/machine.py:\n{table()}"


@pytest.mark.parametrize("status", OPEN)
def test_what_a_status_accepts_is_what_can_be_done_with_it(status: RunStatus) -> None:
    """Every command that a status accepts occurs there, and nothing else does."""
    occurring = {
        type(transition.command) for transition in all_transitions() if transition.source.status == status
    }
    assert occurring == set(ACCEPTED[status])


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_a_command_is_a_fault_where_it_is_not_accepted(kind: type[Command]) -> None:
    """It stops at once, before anything of it is written."""
    command = next(
        transition.command for transition in all_transitions() if isinstance(transition.command, kind)
    )
    for status in OPEN:
        run = next(run for run in all_runs() if run.status == status)
        if kind not in ACCEPTED[status]:
            with pytest.raises(AssertionError):
                decide(run, PINNED, command)


@pytest.mark.parametrize("status", ALL_ENDED)
def test_a_run_that_has_ended_takes_no_command(status: RunStatus) -> None:
    """The refusal says how it ended."""
    run = next(run for run in all_runs() if run.status == status)
    commands = {type(transition.command): transition.command for transition in all_transitions()}
    assert len(commands) == len(COMMANDS)
    for command in commands.values():
        with pytest.raises(RunAlreadyEnded, match=f"run_1 has already .*{status}"):
            decide(run, PINNED, command)


def test_after_a_start_no_call_runs() -> None:
    """A call that ran when the daemon died is ready again or doubted."""
    starts = [transition for transition in all_transitions() if RunStarted in map(type, transition.events)]
    assert any(call.state == "called" for transition in starts for call in transition.source.calls)
    assert not any(call.state == "called" for transition in starts for call in transition.target.calls)


def test_a_run_waits_only_while_nobody_has_it_in_hand() -> None:
    """While a call of it runs or is yet to be judged, it is its worker's; and one that ended is nobody's."""
    for run in all_runs():
        states = {call.state for call in run.calls}
        if run.status in WAITING:
            assert states & {"asked", "questioned"}
            assert not states & {"new", "called", "doubted"}
        if run.status != "running":
            assert not run.claimed


def test_a_turn_is_taken_up_asked_and_answered() -> None:
    """A text turn: its record says what it used and where the answer stands."""
    machine = Machine().do(Start(), begin(), answer(usage=Usage(10, 4)))
    assert machine.kinds() == [
        "run_accepted",
        "run_started",
        "model_asked",
        "message_appended",
        "run_ended",
    ]
    run = machine.run
    assert (run.status, run.turn, run.attempt, run.item_id) == ("completed", 1, 0, None)
    assert (run.output_cursor, run.usage, run.ended_at_ms) == (4, Usage(10, 4), 1_050)
    assert (run.started_at_ms, run.accepted_at_ms, run.updated_at_ms) == (1_020, 1_010, 1_050)


def test_a_failed_call_is_made_again_for_the_same_message() -> None:
    """The next attempt writes the same item, and the pause before it is over when it begins."""
    machine = Machine().do(Start(), begin("itm_1"), FailModelCall(ERROR, 9_000))
    assert due(machine.run, machine.pinned, 8_999, owned=True) == Pause(9_000)
    assert due(machine.run, machine.pinned, 9_000, owned=True) == AskModel()
    machine.do(begin("itm_2"))
    run = machine.run
    assert (run.item_id, run.attempt, run.failures, run.retry_at_ms) == ("itm_1", 2, 1, None)


def test_a_restart_makes_another_attempt_and_uses_up_no_patience() -> None:
    """Attempts count tries, so that newer text replaces older; failures count what the provider refused."""
    machine = Machine().do(
        Start(), begin(), Release("shutdown"), Start(), begin(), FailModelCall(ERROR, 9_000)
    )
    assert (machine.run.attempt, machine.run.failures) == (2, 1)
    machine.do(begin(), answer(CALL), begin())
    assert (machine.run.attempt, machine.run.failures) == (1, 0)


def test_a_failure_that_cannot_pass_ends_the_run_with_its_error() -> None:
    """Without a time to try again the run has failed and keeps the error."""
    run = Machine().do(Start(), begin(), FailModelCall(ERROR, None)).run
    assert (run.status, run.error) == ("failed", ERROR)


def test_a_failure_while_it_is_to_be_stopped_honours_the_wish() -> None:
    """Who asked for a stop is told of one; the error is kept."""
    run = Machine().do(Start(), begin(), Cancel("cancelled"), FailModelCall(ERROR, None)).run
    assert (run.status, run.error) == ("cancelled", ERROR)


def test_starts_without_progress_rise_with_every_effect_and_return_with_any_outcome() -> None:
    """An effect that is started counts until an answer, a failure, an orderly stop or an end."""
    machine = Machine().do(Start(), begin())
    assert machine.run.starts_without_progress == 1
    machine.do(Start(), begin())
    assert machine.run.starts_without_progress == 2
    for outcome in (answer(CALL), FailModelCall(ERROR, 1), Release("shutdown"), FailModelCall(ERROR, None)):
        after = Machine()
        after.record = machine.run
        assert after.do(outcome).run.starts_without_progress == 0


def test_tools_that_bring_the_daemon_down_count_as_models_do() -> None:
    """Calls side by side are one start; one that is run again and again is tried alone and then parked."""
    machine = Machine().do(
        Start(), begin(), answer_with_calls(3), partial(allow, parallel=True, repeatable=True)
    )
    for starts in (1, 2, 3):
        machine.do(call_tools)
        assert machine.run.starts_without_progress == starts
        assert due(machine.run, machine.pinned, 0, owned=False) == TakeUp(alone=starts == ALONE_AT)
        machine.do(Start())
    assert machine.run.error is not None
    assert machine.run.error.reason == "parked"


def test_a_parked_run_leaves_its_calls_in_doubt() -> None:
    """What it died in three times may have taken effect: it is an operator's to look at."""
    machine = Machine().do(Start(), begin(), answer_with_calls(), allow)
    for _ in range(2):
        machine.do(call_tools, Start(), partial(resolve_doubt, index=0, outcome="not_done"))
    machine.do(call_tools, Start())
    assert machine.kinds()[-3:] == ["indoubt_opened", "tool_returned", "run_ended"]


def test_judging_that_brings_the_daemon_down_is_not_done_for_ever() -> None:
    """It starts nothing that is journaled, so what counts is that a daemon after another took the run up."""
    machine = Machine().do(Start(), begin(), answer_with_calls())
    starts = 0
    while machine.run.status not in ENDED:
        machine.do(Start())
        starts += 1
    assert starts == PARKED_AT + 1
    assert machine.run.error is not None
    assert machine.run.error.reason == "parked"


def test_who_waited_for_a_person_is_not_blamed() -> None:
    """Neither the wait, nor an orderly stop, nor a failure's pause is a daemon that died with the run."""
    machine = Machine().do(Start(), begin(), answer_with_calls(2), ask_person)
    machine.do(answer_approvals, Start(), Release("shutdown"), Start())
    assert machine.run.starts_without_progress == 0
    pausing = Machine().do(Start(), begin(), FailModelCall(ERROR, 9_000), Start(), Start(), Start())
    assert pausing.run.starts_without_progress == 0


def test_a_run_that_brings_the_daemon_down_is_tried_alone_and_then_parked() -> None:
    """Twice beside others, once alone, then never again; its error says what happened."""
    machine = Machine()
    for start in (1, 2, 3):
        alone = start - 1 == ALONE_AT
        assert due(machine.run, machine.pinned, 0, owned=False) == TakeUp(alone=alone)
        machine.do(Start(), begin())
        last = [event for _, event in machine.journal if isinstance(event, RunStarted)][-1]
        assert last == RunStarted(starts=start, alone=alone)
    assert machine.run.starts_without_progress == PARKED_AT
    # Parking executes nothing, so it need not wait until nobody else is at work.
    assert due(machine.run, machine.pinned, 0, owned=False) == TakeUp(alone=False)
    run = machine.do(Start()).run
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.reason == "parked"
    assert "3 times" in run.error.message


def test_a_cancelled_run_ends_where_it_stands() -> None:
    """In its queue it ends at once, whatever it was to be call_tools; running, it is stopped first."""
    assert Machine().do(Cancel("interrupted")).run.status == "cancelled"
    machine = Machine().do(Start(), begin(), Cancel("interrupted", "enough"))
    assert machine.run.status == "running"
    assert decide(machine.run, machine.pinned, Cancel("cancelled")) == [], "the first wish stands"
    assert machine.do(EndEarly([TEXT])).run.status == "interrupted"
    said = machine.journal[-2][1]
    assert isinstance(said, MessageAppended)
    assert (said.item_id, said.stop_reason, said.message.items) == ("itm_1", "cancelled", [TEXT])


def test_an_answer_that_comes_while_it_is_to_be_stopped_is_kept() -> None:
    """The answer is whole in the transcript and the run is called what was asked for."""
    machine = Machine().do(Start(), begin(), Cancel("cancelled"), answer())
    assert machine.kinds()[-2:] == ["message_appended", "run_ended"]
    assert machine.run.status == "cancelled"


def test_a_run_that_was_to_be_stopped_when_the_daemon_died_is_not_taken_up() -> None:
    """Even a start only ends it."""
    machine = Machine().do(Start(), begin(), Cancel("interrupted"))
    assert due(machine.run, machine.pinned, 0, owned=False) == StopEffect()
    assert machine.do(Start()).run.status == "interrupted"


def test_the_limit_of_model_calls_ends_the_run_with_a_valid_transcript() -> None:
    """The last calls still get their results."""
    machine = Machine(max_turns=2).do(
        Start(), begin(), answer_with_calls(), allow, call_tools, return_first, begin()
    )
    machine.do(answer_with_calls(2, first=2))
    assert machine.kinds()[-4:] == ["message_appended", "tool_returned", "tool_returned", "run_ended"]
    assert machine.run.status == "failed"
    assert machine.run.error == RunError("turn_limit", "the run reached its limit of 2 model calls")


def test_what_is_left_running_can_be_marked_interrupted() -> None:
    """The cautious way after a restart."""
    error = RunError("daemon_restarted", "the daemon was restarted")
    assert Machine().do(Start(), begin(), Interrupt(error)).run.status == "interrupted"


def test_a_guest_signs_what_it_says() -> None:
    """Whole answers and parts of one name the guest."""
    for last in (answer(), EndEarly([TEXT])):
        machine = Machine(guest="critic").do(Start(), begin(), last)
        said = machine.journal[-2][1]
        assert isinstance(said, MessageAppended)
        assert said.message.agent == "critic"


def test_a_run_begins_with_its_acceptance() -> None:
    """A journal that begins otherwise is damaged."""
    machine = Machine()
    with pytest.raises(AssertionError, match="acceptance"):
        evolve(None, machine.journal[0][0], RunStarted(starts=1))


# Steering.


def test_what_is_said_to_a_run_is_read_before_it_ends() -> None:
    """An answer that came while somebody said something is not the last: the model is asked once more."""
    machine = Machine().do(Start(), begin(), STEER, answer())
    assert (machine.run.status, machine.run.pending_steers) == ("running", 1)
    assert due(machine.run, machine.pinned, 0, owned=True) == AskModel()
    assert machine.do(begin("itm_2")).run.pending_steers == 0
    assert machine.do(answer()).run.status == "completed"


def test_a_steer_does_not_keep_a_run_from_its_end() -> None:
    """At the limit of its model calls, or to be stopped, it ends; whoever comes next reads what was said."""
    assert Machine(max_turns=1).do(Start(), begin(), STEER, answer()).run.status == "completed"
    assert Machine().do(Start(), begin(), STEER, Cancel("cancelled"), answer()).run.status == "cancelled"


# Laws.


@given(HISTORIES)
def test_any_prefix_of_any_journal_folds_to_one_record(machine: Machine) -> None:
    """Folding is total and depends on nothing but the events; cursors and times only rise."""
    record: RunRecord | None = None
    for envelope, event in machine.journal:
        record = evolve(record, envelope, event)
        assert record.updated_cursor == envelope.cursor
        assert (record.ended_at_ms is not None) == (record.status in ENDED)
        assert 0 <= record.starts_without_progress <= len(machine.journal)
        due(record, machine.pinned, machine.now_ms, owned=True)
        due(record, machine.pinned, machine.now_ms, owned=False)
    assert record is not None
    assert is_same(record, machine.run)


@given(HISTORIES)
def test_an_end_is_the_last_event_and_there_is_one_at_most(machine: Machine) -> None:
    """After a run has ended nothing more is said of it."""
    ends = [event for _, event in machine.journal if isinstance(event, RunEnded)]
    assert len(ends) == (1 if machine.run.status in ENDED else 0)
    assert not ends or machine.journal[-1][1] == ends[0]


@given(HISTORIES)
def test_no_steer_is_lost(machine: Machine) -> None:
    """What is said to a run is followed by a model call that reads it, or the run goes on, or it ends."""
    unread = 0
    for _, event in machine.journal:
        match event:
            case Steered():
                unread += 1
            case ModelAsked() | RunEnded():
                unread = 0
            case _:
                pass
    assert machine.run.pending_steers == unread


@given(st.lists(st.sampled_from([Start(), BeginModelCall("itm_1")]), max_size=40))
def test_no_crash_loop_is_immortal(commands: list[Command]) -> None:
    """Whatever is started again and again without any outcome ends before it is asked a fourth time."""
    machine = Machine()
    while machine.run.status not in ENDED:
        machine.do(Start())
        if machine.run.status not in ENDED:
            machine.do(*(command for command in commands if isinstance(command, BeginModelCall)), begin())
    assert machine.kinds().count("run_started") <= PARKED_AT
    assert machine.run.error is not None
    assert machine.run.error.reason == "parked"


# Compaction.


def test_a_run_goes_on_whatever_came_of_a_summary() -> None:
    """What it took is counted, and it is an outcome of what was begun."""
    machine = Machine().do(Start(), begin(), Compact(SUMMARY), Compact(NO_SUMMARY))
    assert (machine.run.status, machine.run.starts_without_progress) == ("running", 0)
    assert machine.run.usage == SUMMARY.usage + NO_SUMMARY.usage
    assert machine.run.cost is None
    assert due(machine.run, machine.pinned, 0, owned=True) == AskModel()
    assert machine.do(answer()).run.status == "completed"


@pytest.mark.parametrize(
    ("command", "outcome"),
    [(Compact(SUMMARY), "completed"), (Compact(None), "completed"), (Compact(NO_SUMMARY), "failed")],
)
def test_a_run_that_is_for_nothing_else_is_over_with_it(command: Compact, outcome: str) -> None:
    """As somebody ask_person, where it was to be stopped in the same moment; what came of it is kept."""
    machine = Machine(kind="compaction").do(Start(), begin(), command)
    assert machine.run.status == outcome
    assert ("context_compacted" in machine.kinds()) == (command.result is SUMMARY)
    stopped = Machine(kind="compaction").do(Start(), begin(), Cancel("cancelled"), command)
    assert stopped.run.status == "cancelled"
    assert stopped.run.usage == machine.run.usage
