"""The run machine: every status with every command, and the laws that hold for every journal."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core import run as run_machine
from kheishd.core.commands import (
    Answered,
    Ask,
    Cancel,
    Command,
    Compact,
    Errored,
    Interrupt,
    Release,
    Start,
    Stopped,
)
from kheishd.core.run import ACCEPTED, ALONE_AT, PARKED_AT, AskModel, Pause, Stop, TakeUp, decide, due, evolve
from protocol.errors import RunAlreadyEnded
from protocol.events import MessageAppended, RunEnded, RunStarted
from protocol.objects.run import ENDED, Run, RunError, Status
from protocol.transcript import ToolCall, ToolResult, Usage
from tests.support.machine import (
    CALL,
    COMMANDS,
    ERROR,
    NO_SUMMARY,
    SUMMARY,
    TEXT,
    Machine,
    answered,
    ask,
    same,
)

OPEN: tuple[Status, ...] = tuple(ACCEPTED)
ALL_ENDED: tuple[Status, ...] = ("completed", "failed", "cancelled", "interrupted")


def samples(status: Status) -> list[Run]:
    """Runs of a status in every condition that a rule looks at."""
    queued = Machine().run
    if status == "queued":
        return [queued]
    asked = Machine().do(Start(), ask()).run
    if status in ALL_ENDED:
        return [replace(asked, status=status)]
    limited = Machine(max_turns=1).do(Start(), ask()).run
    compaction = Machine(kind="compaction").do(Start(), ask()).run
    runs = [
        replace(run, status=status, cancel=cancel, starts_without_progress=starts)
        for run, cancel, starts in product(
            (asked, limited, compaction), (None, "cancelled", "interrupted"), range(4)
        )
    ]
    return [*runs, Machine().do(Start(), ask(), Errored(ERROR, 9_000)).run] if status == "running" else runs


def status_after(run: Run, command: Command) -> str:
    """The status after the events of a command."""
    machine = Machine()
    machine.record = run
    return machine.do(command).run.status


def table() -> str:
    """The state table of the module's docstring, made from what the code does."""
    rule = "=============== ============ ==============================================="
    lines = [rule, f"{'status':15} {'command':12} leads to", rule]
    waiting = OPEN[2:]
    states: tuple[tuple[str, Status], ...] = (
        ("queued", "queued"),
        ("running", "running"),
        ("waiting", waiting[0]),
    )
    for name, status in states:
        for kind in ACCEPTED[status]:
            forms = [command for command in COMMANDS if isinstance(command, kind)]
            after = {
                "waiting" if found in waiting else found
                for run, form in product(samples(status), forms)
                for found in (status_after(run, form),)
            }
            lines.append(f"{name:15} {kind.__name__:12} {', '.join(sorted(after, key=_rank))}")
            name = ""
    return "\n".join([*lines, f"{'ended':15} {'any':12} refused: RunAlreadyEnded", rule])


def _rank(status: str) -> int:
    return ("queued", "running", "waiting", *ALL_ENDED).index(status)


def test_the_table_in_the_docstring_is_what_the_code_does() -> None:
    """The states and what leads from one to another are drawn from the code."""
    assert table() in (run_machine.__doc__ or ""), f"put this into core/run.py:\n{table()}"


@pytest.mark.parametrize("status", OPEN)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_is_decided_where_it_is_accepted_and_nowhere_else(status: Status, command: Command) -> None:
    """What a status accepts leads to a record; anything else is a fault that stops at once."""
    for run in samples(status):
        if isinstance(command, ACCEPTED[status]):
            assert status_after(run, command) in (*OPEN, *ALL_ENDED)
        else:
            with pytest.raises(AssertionError):
                decide(run, command)


@pytest.mark.parametrize("status", ALL_ENDED)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_run_that_has_ended_takes_no_command(status: Status, command: Command) -> None:
    """The refusal says how it ended."""
    run = samples(status)[0]
    with pytest.raises(RunAlreadyEnded, match=f"run_1 has already .*{status}"):
        decide(run, command)


@pytest.mark.parametrize("status", [*OPEN, *ALL_ENDED])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("now_ms", [0, 9_000, 10**15])
def test_due_says_something_for_every_run(status: Status, held: bool, now_ms: int) -> None:
    """Nothing for one that has ended; to stop before anything else for one that is to be stopped."""
    for run in samples(status):
        effect = due(run, now_ms, held=held)
        if status in ENDED:
            assert effect is None
        elif run.cancel is not None:
            assert effect == Stop()
        elif status in OPEN[2:]:
            assert effect is None
        elif not held:
            assert isinstance(effect, TakeUp)
        else:
            assert isinstance(effect, AskModel | Pause)


def test_a_turn_is_taken_up_asked_and_answered() -> None:
    """A text turn: its record says what it used and where the answer stands."""
    machine = Machine().do(Start(), ask(), answered(usage=Usage(10, 4)))
    assert machine.kinds() == [
        "run_accepted",
        "run_started",
        "model_asked",
        "message_appended",
        "run_ended",
    ]
    run = machine.run
    assert (run.status, run.step, run.attempt, run.item_id) == ("completed", 1, 0, None)
    assert (run.output_cursor, run.usage, run.ended_at_ms) == (4, Usage(10, 4), 1_050)
    assert (run.started_at_ms, run.accepted_at_ms, run.changed_at_ms) == (1_020, 1_010, 1_050)


def test_a_failed_call_is_made_again_for_the_same_message() -> None:
    """The next attempt writes the same item, and the pause before it is over when it begins."""
    machine = Machine().do(Start(), ask("itm_1"), Errored(ERROR, 9_000))
    assert due(machine.run, 8_999, held=True) == Pause(9_000)
    assert due(machine.run, 9_000, held=True) == AskModel()
    machine.do(ask("itm_2"))
    run = machine.run
    assert (run.item_id, run.attempt, run.failures, run.retry_at_ms) == ("itm_1", 2, 1, None)


def test_a_restart_makes_another_attempt_and_uses_up_no_patience() -> None:
    """Attempts count tries, so that newer text replaces older; failures count what the provider refused."""
    machine = Machine().do(Start(), ask(), Release("shutdown"), Start(), ask(), Errored(ERROR, 9_000))
    assert (machine.run.attempt, machine.run.failures) == (2, 1)
    machine.do(ask(), answered(CALL), ask())
    assert (machine.run.attempt, machine.run.failures) == (1, 0)


def test_a_failure_that_cannot_pass_ends_the_run_with_its_error() -> None:
    """Without a time to try again the run has failed and keeps the error."""
    run = Machine().do(Start(), ask(), Errored(ERROR, None)).run
    assert (run.status, run.error) == ("failed", ERROR)


def test_a_failure_while_it_is_to_be_stopped_honours_the_wish() -> None:
    """Who asked for a stop is told of one; the error is kept."""
    run = Machine().do(Start(), ask(), Cancel("cancelled"), Errored(ERROR, None)).run
    assert (run.status, run.error) == ("cancelled", ERROR)


def test_starts_without_progress_rise_with_every_effect_and_return_with_any_outcome() -> None:
    """An effect that is started counts until an answer, a failure, an orderly stop or an end."""
    machine = Machine().do(Start(), ask())
    assert machine.run.starts_without_progress == 1
    machine.do(Start(), ask())
    assert machine.run.starts_without_progress == 2
    for outcome in (answered(CALL), Errored(ERROR, 1), Release("shutdown"), Errored(ERROR, None)):
        after = Machine()
        after.record = machine.run
        assert after.do(outcome).run.starts_without_progress == 0


def test_a_run_that_brings_the_daemon_down_is_tried_alone_and_then_parked() -> None:
    """Twice beside others, once alone, then never again; its error says what happened."""
    machine = Machine()
    for start in (1, 2, 3):
        alone = start - 1 == ALONE_AT
        assert due(machine.run, 0, held=False) == TakeUp(alone=alone)
        machine.do(Start(), ask())
        last = [event for _, event in machine.journal if isinstance(event, RunStarted)][-1]
        assert last == RunStarted(start=start, alone=alone)
    assert machine.run.starts_without_progress == PARKED_AT
    # Parking executes nothing, so it need not wait until nobody else is at work.
    assert due(machine.run, 0, held=False) == TakeUp(alone=False)
    run = machine.do(Start()).run
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.reason == "parked"
    assert "3 times" in run.error.message


def test_a_cancelled_run_ends_where_it_stands() -> None:
    """In its queue it ends at once, whatever it was to be called; running, it is stopped first."""
    assert Machine().do(Cancel("interrupted")).run.status == "cancelled"
    machine = Machine().do(Start(), ask(), Cancel("interrupted", "enough"))
    assert machine.run.status == "running"
    assert decide(machine.run, Cancel("cancelled")) == [], "the first wish stands"
    assert machine.do(Stopped([TEXT])).run.status == "interrupted"
    said = machine.journal[-2][1]
    assert isinstance(said, MessageAppended)
    assert (said.item_id, said.stop_reason, said.message.items) == ("itm_1", "cancelled", [TEXT])


def test_an_answer_that_comes_while_it_is_to_be_stopped_is_kept() -> None:
    """The answer is whole in the transcript and the run is called what was asked for."""
    machine = Machine().do(Start(), ask(), Cancel("cancelled"), answered())
    assert machine.kinds()[-2:] == ["message_appended", "run_ended"]
    assert machine.run.status == "cancelled"


def test_a_run_that_was_to_be_stopped_when_the_daemon_died_is_not_taken_up() -> None:
    """Even a start only ends it."""
    machine = Machine().do(Start(), ask(), Cancel("interrupted"))
    assert due(machine.run, 0, held=False) == Stop()
    assert machine.do(Start()).run.status == "interrupted"


def test_the_limit_of_model_calls_ends_the_run_with_a_valid_transcript() -> None:
    """The last calls still get their results."""
    machine = Machine(max_turns=2).do(Start(), ask(), answered(CALL), ask(), answered(CALL))
    assert machine.run.status == "failed"
    assert machine.run.error == RunError("turn_limit", "the run reached its limit of 2 model calls")
    assert dangling(machine) == []


def test_what_is_left_running_can_be_marked_interrupted() -> None:
    """The cautious way after a restart."""
    error = RunError("daemon_restarted", "the daemon was restarted")
    assert Machine().do(Start(), ask(), Interrupt(error)).run.status == "interrupted"


def test_a_guest_signs_what_it_says() -> None:
    """Whole answers and parts of one name the guest."""
    for last in (answered(), Stopped([TEXT])):
        machine = Machine(guest="critic").do(Start(), ask(), last)
        said = machine.journal[-2][1]
        assert isinstance(said, MessageAppended)
        assert said.message.agent == "critic"


def test_a_run_begins_with_its_acceptance() -> None:
    """A journal that begins otherwise is damaged."""
    machine = Machine()
    with pytest.raises(AssertionError, match="acceptance"):
        evolve(None, machine.journal[0][0], RunStarted(start=1))


# Laws.

# What a worker and clients can do; the worker answers only what was asked.
WORLD = st.lists(st.sampled_from(COMMANDS), max_size=30)


def journal_of(commands: list[Command], max_turns: int) -> Machine:
    """A journal as decide makes it: commands that make no sense at that point are passed over."""
    machine = Machine(max_turns=max_turns)
    for command in commands:
        run = machine.run
        if run.status in ENDED or not isinstance(command, ACCEPTED[run.status]):
            continue
        if isinstance(command, Answered) and run.attempt == 0:
            continue
        machine.do(command)
    return machine


def dangling(machine: Machine) -> list[str]:
    """Calls without a result, and results that are one too many, after every message of an assistant."""
    open_calls: list[str] = []
    faults: list[str] = []
    for _, event in machine.journal:
        if isinstance(event, MessageAppended):
            if event.message.role == "assistant":
                faults += open_calls
                open_calls = [item.call_id for item in event.message.items if isinstance(item, ToolCall)]
            for item in event.message.items:
                if isinstance(item, ToolResult):
                    if item.call_id in open_calls:
                        open_calls.remove(item.call_id)
                    else:
                        faults.append(item.call_id)
    return faults + open_calls


@given(WORLD, st.integers(0, 3))
def test_any_prefix_of_any_journal_folds_to_one_record(commands: list[Command], max_turns: int) -> None:
    """Folding is total and depends on nothing but the events; cursors and times only rise."""
    machine = journal_of(commands, max_turns)
    record = None
    for envelope, event in machine.journal:
        record = evolve(record, envelope, event)
        assert record.cursor == envelope.cursor
        assert (record.ended_at_ms is not None) == (record.status in ENDED)
        assert 0 <= record.starts_without_progress <= len(commands)
        due(record, machine.now_ms, held=True)
        due(record, machine.now_ms, held=False)
    assert same(record, machine.run)


@given(WORLD, st.integers(0, 3))
def test_every_call_has_exactly_one_result_whatever_happens(commands: list[Command], max_turns: int) -> None:
    """No journal ever holds a call without its result, nor a result without its call."""
    assert dangling(journal_of(commands, max_turns)) == []


@given(WORLD, st.integers(0, 3))
def test_an_end_is_the_last_event_and_there_is_one_at_most(commands: list[Command], max_turns: int) -> None:
    """After a run has ended nothing more is said of it."""
    machine = journal_of(commands, max_turns)
    ends = [event for _, event in machine.journal if isinstance(event, RunEnded)]
    assert len(ends) == (1 if machine.run.status in ENDED else 0)
    assert not ends or machine.journal[-1][1] == ends[0]


@given(st.lists(st.sampled_from([Start(), Ask("itm_1")]), max_size=40))
def test_no_crash_loop_is_immortal(commands: list[Command]) -> None:
    """Whatever is started again and again without any outcome ends before it is asked a fourth time."""
    machine = Machine()
    while machine.run.status not in ENDED:
        machine.do(Start())
        if machine.run.status not in ENDED:
            machine.do(*(command for command in commands if isinstance(command, Ask)), ask())
    assert machine.kinds().count("run_started") <= PARKED_AT
    assert machine.run.error is not None
    assert machine.run.error.reason == "parked"


# Compaction.


def test_a_run_goes_on_whatever_came_of_a_summary() -> None:
    """What it took is counted, and it is an outcome of what was begun."""
    machine = Machine().do(Start(), ask(), Compact(SUMMARY), Compact(NO_SUMMARY))
    assert (machine.run.status, machine.run.starts_without_progress) == ("running", 0)
    assert machine.run.usage == SUMMARY.usage + NO_SUMMARY.usage
    assert due(machine.run, 0, held=True) == AskModel()
    assert machine.do(answered()).run.status == "completed"


@pytest.mark.parametrize(
    ("command", "outcome"),
    [(Compact(SUMMARY), "completed"), (Compact(None), "completed"), (Compact(NO_SUMMARY), "failed")],
)
def test_a_run_that_is_for_nothing_else_is_over_with_it(command: Compact, outcome: str) -> None:
    """As somebody asked, where it was to be stopped in the same moment; what came of it is kept."""
    machine = Machine(kind="compaction").do(Start(), ask(), command)
    assert machine.run.status == outcome
    assert ("context_compacted" in machine.kinds()) == (command.event is SUMMARY)
    stopped = Machine(kind="compaction").do(Start(), ask(), Cancel("cancelled"), command)
    assert stopped.run.status == "cancelled"
    assert stopped.run.usage == machine.run.usage
