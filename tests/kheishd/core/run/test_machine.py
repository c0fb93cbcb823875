"""The run machine: every status with every command, and the laws that hold for every journal."""

from functools import partial
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.run import machine as run_machine
from kheishd.core.run.commands import (
    BeginModelCall,
    Command,
    Compact,
    EndEarly,
    FailModelCall,
    Interrupt,
    Judge,
    Judgement,
    Release,
    RequestCancel,
    Start,
)
from kheishd.core.run.due import ALONE_AT, PARKED_AT, AskModel, Pause, StopEffect, TakeUp, due
from kheishd.core.run.machine import ACCEPTED, decide, evolve, foresee
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
    verdict,
)

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord

OPEN: tuple[RunStatus, ...] = tuple(ACCEPTED)
ALL_ENDED: tuple[RunStatus, ...] = ("completed", "failed", "cancelled", "interrupted")
WAITING = OPEN[2:]
COMMANDS: tuple[type[Command], ...] = get_args(Command)


def make_table() -> str:
    """Make the state table of the module's docstring from the transitions."""
    border = "=============== ================ ==============================================="
    lines = [border, f"{'status':15} {'command':16} leads to", border]
    targets: dict[tuple[str, type[Command]], set[str]] = {}
    for transition in all_transitions():
        statuses = targets.setdefault(
            (_merge_waiting(transition.source.status), type(transition.command)), set()
        )
        statuses.add(_merge_waiting(transition.target.status))
    for status in ("queued", "running", "waiting"):
        name = status
        for kind in COMMANDS:
            if (status, kind) in targets:
                names = ", ".join(sorted(targets[status, kind], key=_rank))
                lines.append(f"{name:15} {kind.__name__:16} {names}")
                name = ""
    return "\n".join([*lines, f"{'ended':15} {'any':16} refused: RunAlreadyEnded", border])


def _merge_waiting(status: str) -> str:
    """Return the status, with both waiting statuses as one."""
    return "waiting" if status in WAITING else status


def _rank(status: str) -> int:
    return ("queued", "running", "waiting", *ALL_ENDED).index(status)


def test_the_docstring_has_the_state_table() -> None:
    """The table of states is generated from the code."""
    assert make_table() in (run_machine.__doc__ or ""), f"put this into core/run/machine.py:\n{make_table()}"


@pytest.mark.parametrize("status", OPEN)
def test_accepted_commands_are_those_that_occur(status: RunStatus) -> None:
    """In each status exactly the accepted commands occur."""
    occurring = {
        type(transition.command) for transition in all_transitions() if transition.source.status == status
    }
    assert occurring == set(ACCEPTED[status])


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_an_unaccepted_command_is_a_bug(kind: type[Command]) -> None:
    """A command that the status does not accept stops before any event."""
    command = next(
        transition.command for transition in all_transitions() if isinstance(transition.command, kind)
    )
    for status in OPEN:
        run = next(run for run in all_runs() if run.status == status)
        if kind not in ACCEPTED[status]:
            with pytest.raises(AssertionError):
                decide(run, PINNED, command)


@pytest.mark.parametrize("status", ALL_ENDED)
def test_an_ended_run_refuses_all_commands(status: RunStatus) -> None:
    """The refusal names the run's outcome."""
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


def test_a_waiting_run_has_no_worker() -> None:
    """A run with running or unjudged calls does not wait, and only a running run has a worker."""
    for run in all_runs():
        states = {call.state for call in run.calls}
        if run.status in WAITING:
            assert states & {"asked", "questioned", "awaiting"}
            assert not states & {"new", "called", "doubted"}
        if run.status != "running":
            assert not run.claimed


def test_a_text_turn() -> None:
    """A text turn records its usage and the cursor of its answer."""
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


def test_a_foreseen_run_differs_in_cursors_and_times_only() -> None:
    """A run is foreseen as the command leaves it, without its events."""
    machine = Machine().do(Start(), begin())
    command = answer_with_calls(2)
    foreseen = foresee(machine.run, machine.pinned, command)
    assert len(machine.journal) == 3
    run = machine.do(command).run
    assert [call.call_id for call in foreseen.calls] == [call.call_id for call in run.calls]
    assert foreseen == replace(
        run,
        updated_cursor=foreseen.updated_cursor,
        updated_at_ms=foreseen.updated_at_ms,
        output_cursor=foreseen.output_cursor,
        worked_ms=foreseen.worked_ms,
    )


def test_a_retry_keeps_the_item_id() -> None:
    """The next attempt has the same item id, and is due after the pause."""
    machine = Machine().do(Start(), begin("itm_1"), FailModelCall(ERROR, 9_000))
    assert due(machine.run, machine.pinned, 8_999, owned=True) == Pause(9_000)
    assert due(machine.run, machine.pinned, 9_000, owned=True) == AskModel()
    machine.do(begin("itm_2"))
    run = machine.run
    assert (run.item_id, run.attempt, run.failures, run.retry_at_ms) == ("itm_1", 2, 1, None)


def test_a_restart_is_an_attempt_and_no_failure() -> None:
    """Attempts count all tries of a message, failures only those of the provider."""
    machine = Machine().do(
        Start(), begin(), Release("shutdown"), Start(), begin(), FailModelCall(ERROR, 9_000)
    )
    assert (machine.run.attempt, machine.run.failures) == (2, 1)
    machine.do(begin(), answer(CALL), begin())
    assert (machine.run.attempt, machine.run.failures) == (1, 0)


def test_a_permanent_failure_fails_the_run() -> None:
    """Without a time for a retry the run fails and keeps the error."""
    run = Machine().do(Start(), begin(), FailModelCall(ERROR, None)).run
    assert (run.status, run.error) == ("failed", ERROR)


def test_the_usage_of_a_failed_call_is_counted() -> None:
    """An answer that came and could not be used is paid, whether the call is retried or not."""
    usage = Usage(10, 20)
    machine = Machine().do(Start(), begin(), FailModelCall(ERROR, 9_000, usage))
    assert (machine.run.status, machine.run.usage) == ("running", usage)
    run = machine.do(begin(), FailModelCall(ERROR, None, usage)).run
    assert (run.status, run.error, run.usage) == ("failed", ERROR, usage + usage)


def test_a_failure_after_a_stop_request_cancels_the_run() -> None:
    """The requested outcome counts, and the error is kept."""
    run = Machine().do(Start(), begin(), RequestCancel("cancelled"), FailModelCall(ERROR, None)).run
    assert (run.status, run.error) == ("cancelled", ERROR)


def test_starts_without_progress() -> None:
    """The count increases with each effect and returns to 0 with an answer, a failure or a release."""
    machine = Machine().do(Start(), begin())
    assert machine.run.starts_without_progress == 1
    machine.do(Start(), begin())
    assert machine.run.starts_without_progress == 2
    for outcome in (answer(CALL), FailModelCall(ERROR, 1), Release("shutdown"), FailModelCall(ERROR, None)):
        restarted = Machine()
        restarted.record = machine.run
        assert restarted.do(outcome).run.starts_without_progress == 0


def test_calls_that_crash_the_daemon_are_counted() -> None:
    """Calls side by side are one start; repeated crashes make the run run alone, then park it."""
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


def test_a_crash_is_not_held_against_a_run_that_waits_for_others() -> None:
    """Calls that only wait for other runs outlast any number of crashes; with another call, each counts."""
    waiting = partial(allow, parallel=True, repeatable=True, waits=True)
    machine = Machine().do(Start(), begin(), answer_with_calls(3), waiting)
    for _ in range(2 * PARKED_AT):
        machine.do(call_tools)
        assert due(machine.run, machine.pinned, 0, owned=False) == TakeUp(alone=False)
        machine.do(Start())
    assert (machine.run.status, machine.run.starts_without_progress) == ("running", 0)
    mixed = Machine().do(Start(), begin(), answer_with_calls(3))
    mixed.do(
        Judge(
            [
                Judgement(verdict(call, parallel=True, repeatable=True, waits=index != 1))
                for index, call in enumerate(mixed.run.calls)
            ]
        )
    )
    for _ in range(PARKED_AT):
        mixed.do(call_tools, Start())
    assert mixed.run.error is not None
    assert mixed.run.error.reason == "parked"


def test_a_parked_run_leaves_its_calls_in_doubt() -> None:
    """A call during which the daemon died may have taken effect, so an operator must resolve it."""
    machine = Machine().do(Start(), begin(), answer_with_calls(), allow)
    for _ in range(2):
        machine.do(call_tools, Start(), partial(resolve_doubt, index=0, outcome="not_done"))
    machine.do(call_tools, Start())
    assert machine.kinds()[-3:] == ["indoubt_opened", "tool_returned", "run_ended"]


def test_judging_that_crashes_the_daemon_is_counted() -> None:
    """Judging journals no start, so each daemon that takes up the run again counts."""
    machine = Machine().do(Start(), begin(), answer_with_calls())
    starts = 0
    while machine.run.status not in ENDED:
        machine.do(Start())
        starts += 1
    assert starts == PARKED_AT + 1
    assert machine.run.error is not None
    assert machine.run.error.reason == "parked"


def test_waiting_is_not_counted_as_a_crash() -> None:
    """A wait for a person, a release and a retry's pause are no crashes."""
    machine = Machine().do(Start(), begin(), answer_with_calls(2), ask_person)
    machine.do(answer_approvals, Start(), Release("shutdown"), Start())
    assert machine.run.starts_without_progress == 0
    paused = Machine().do(Start(), begin(), FailModelCall(ERROR, 9_000), Start(), Start(), Start())
    assert paused.run.starts_without_progress == 0


def test_a_crash_loop_runs_alone_and_is_parked() -> None:
    """Two starts beside other runs, one alone, then the run fails as parked."""
    machine = Machine()
    for start in (1, 2, 3):
        alone = start - 1 == ALONE_AT
        assert due(machine.run, machine.pinned, 0, owned=False) == TakeUp(alone=alone)
        machine.do(Start(), begin())
        started = [event for _, event in machine.journal if isinstance(event, RunStarted)][-1]
        assert started == RunStarted(starts=start, alone=alone)
    assert machine.run.starts_without_progress == PARKED_AT
    # Parking executes nothing, so it need not wait for other runs.
    assert due(machine.run, machine.pinned, 0, owned=False) == TakeUp(alone=False)
    run = machine.do(Start()).run
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.reason == "parked"
    assert "3 times" in run.error.message


def test_cancel() -> None:
    """A queued run ends at once as cancelled; a running one is stopped first; the first request counts."""
    assert Machine().do(RequestCancel("interrupted")).run.status == "cancelled"
    machine = Machine().do(Start(), begin(), RequestCancel("interrupted", "enough"))
    assert machine.run.status == "running"
    assert decide(machine.run, machine.pinned, RequestCancel("cancelled")) == [], "the first wish stands"
    assert machine.do(EndEarly([TEXT])).run.status == "interrupted"
    message = machine.journal[-2][1]
    assert isinstance(message, MessageAppended)
    assert (message.item_id, message.stop_reason, message.message.items) == ("itm_1", "cancelled", [TEXT])


def test_an_answer_after_a_stop_request_is_kept() -> None:
    """The answer is complete in the transcript, and the run has the requested outcome."""
    machine = Machine().do(Start(), begin(), RequestCancel("cancelled"), answer())
    assert machine.kinds()[-2:] == ["message_appended", "run_ended"]
    assert machine.run.status == "cancelled"


def test_a_stop_request_survives_a_crash() -> None:
    """After a restart the run is only ended."""
    machine = Machine().do(Start(), begin(), RequestCancel("interrupted"))
    assert due(machine.run, machine.pinned, 0, owned=False) == StopEffect()
    assert machine.do(Start()).run.status == "interrupted"


def test_the_turn_limit_ends_the_run() -> None:
    """The last calls get their results, so the transcript is valid."""
    machine = Machine(max_turns=2).do(
        Start(), begin(), answer_with_calls(), allow, call_tools, return_first, begin()
    )
    machine.do(answer_with_calls(2, first=2))
    assert machine.kinds()[-4:] == ["message_appended", "tool_returned", "tool_returned", "run_ended"]
    assert machine.run.status == "failed"
    assert machine.run.error == RunError("turn_limit", "the run reached its limit of 2 model calls")


def test_interrupt() -> None:
    """A run that was left running can be marked as interrupted."""
    error = RunError("daemon_restarted", "the daemon was restarted")
    assert Machine().do(Start(), begin(), Interrupt(error)).run.status == "interrupted"


def test_messages_of_a_guest_have_its_name() -> None:
    """Complete and partial answers name the guest."""
    for command in (answer(), EndEarly([TEXT])):
        machine = Machine(guest="critic").do(Start(), begin(), command)
        message = machine.journal[-2][1]
        assert isinstance(message, MessageAppended)
        assert message.message.agent == "critic"


def test_a_run_begins_with_its_acceptance() -> None:
    """A journal that begins otherwise is damaged."""
    machine = Machine()
    with pytest.raises(AssertionError, match="acceptance"):
        evolve(None, machine.journal[0][0], RunStarted(starts=1))


# Steering.


def test_a_steer_causes_another_model_call() -> None:
    """An answer after a steer is not final."""
    machine = Machine().do(Start(), begin(), STEER, answer())
    assert (machine.run.status, machine.run.pending_steers) == ("running", 1)
    assert due(machine.run, machine.pinned, 0, owned=True) == AskModel()
    assert machine.do(begin("itm_2")).run.pending_steers == 0
    assert machine.do(answer()).run.status == "completed"


def test_a_steer_does_not_prevent_the_end() -> None:
    """At the turn limit or after a stop request the run ends; the next run reads the steer."""
    assert Machine(max_turns=1).do(Start(), begin(), STEER, answer()).run.status == "completed"
    assert (
        Machine().do(Start(), begin(), STEER, RequestCancel("cancelled"), answer()).run.status == "cancelled"
    )


# Laws.


@given(HISTORIES)
def test_any_prefix_of_any_journal_folds_to_one_record(machine: Machine) -> None:
    """Evolve is total and depends on the events alone; cursors and times only increase."""
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
    """A run has at most one end, and no event after it."""
    ends = [event for _, event in machine.journal if isinstance(event, RunEnded)]
    assert len(ends) == (1 if machine.run.status in ENDED else 0)
    assert not ends or machine.journal[-1][1] == ends[0]


@given(HISTORIES)
def test_no_steer_is_lost(machine: Machine) -> None:
    """A steer is followed by a model call, is pending, or the run ends."""
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
def test_every_crash_loop_ends(commands: list[Command]) -> None:
    """A run that is started repeatedly without any outcome is parked before its fourth start."""
    machine = Machine()
    while machine.run.status not in ENDED:
        machine.do(Start())
        if machine.run.status not in ENDED:
            machine.do(*(command for command in commands if isinstance(command, BeginModelCall)), begin())
    assert machine.kinds().count("run_started") <= PARKED_AT
    assert machine.run.error is not None
    assert machine.run.error.reason == "parked"


# Compaction.


def test_a_run_continues_after_a_compaction() -> None:
    """The usage is counted, and a summary or its failure is an outcome."""
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
def test_a_compaction_run_ends_with_its_compaction(command: Compact, outcome: str) -> None:
    """The result is kept, also after a stop request in the same moment."""
    machine = Machine(kind="compaction").do(Start(), begin(), command)
    assert machine.run.status == outcome
    assert ("context_compacted" in machine.kinds()) == (command.result is SUMMARY)
    stopped = Machine(kind="compaction").do(Start(), begin(), RequestCancel("cancelled"), command)
    assert stopped.run.status == "cancelled"
    assert stopped.run.usage == machine.run.usage
