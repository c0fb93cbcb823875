"""The run machine by itself: a run, and commands that are decided and folded as the store would."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.run.calls import doubt, to_judge, to_run
from kheishd.core.run.commands import (
    Abandon,
    Answered,
    Ask,
    CallTools,
    Cancel,
    Command,
    Compact,
    Errored,
    Fail,
    Interrupt,
    Judge,
    Judgement,
    Lapse,
    Observe,
    Release,
    Renew,
    Reply,
    Resolve,
    Return,
    Settle,
    Start,
    Steer,
    Stopped,
)
from kheishd.core.run.machine import decide, evolve
from protocol.events.approval import ApprovalAnswered, ApprovalRequested
from protocol.events.call import CallProbed, ToolCalled, ToolObserved, ToolReturned
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.indoubt import IndoubtResolved
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.events.run import RunAccepted
from protocol.events.session import SessionRenamed
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_event, encode_line
from protocol.objects.approval import Preview
from protocol.objects.permission import Verdict
from protocol.objects.question import Question
from protocol.objects.run import ENDED, CallOutcome, OpenCall, Pinned, RunError, RunKind
from protocol.transcript import Item, Text, Thinking, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kheishd.core.run.record import RunRecord

ERROR = RunError("server_error", "the provider failed", 500, retryable=True)
TEXT: Item = Text("hello")
CALL: Item = ToolCall("call_1", "read_file", {"path": "/etc/hostname"})


SUMMARY = ContextCompacted(upto=1, strategy="summary", trigger="auto", summary="x", usage=Usage(5, 1))
NO_SUMMARY = CompactionFailed(trigger="auto", error=ERROR, usage=Usage(3, 0))


PINNED = Pinned(route="offline", driver="offline", model="offline")


def accepted(
    *,
    max_turns: int = 0,
    guest: str | None = None,
    kind: RunKind = "input",
    tools: list[str] | None = None,
) -> RunAccepted:
    """Return the first event of a run."""
    pinned = replace(PINNED, max_turns=max_turns, tools=tools)
    return RunAccepted(
        input_id="inp_1", agent="default", pinned=pinned, sender="user", guest=guest, kind=kind
    )


@dataclass
class Machine:
    """One run: its record, its pinned values and its journal.

    Every event goes through its bytes, as in the store.
    """

    max_turns: int = 0
    guest: str | None = None
    kind: RunKind = "input"
    tools: list[str] | None = None
    journal: list[tuple[Envelope, JournalEvent]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now_ms = 1_000
        self.record: RunRecord | None = None
        self.pinned = PINNED
        self.append(accepted(max_turns=self.max_turns, guest=self.guest, kind=self.kind, tools=self.tools))

    @property
    def run(self) -> RunRecord:
        assert self.record is not None
        return self.record

    def append(self, event: JournalEvent) -> None:
        """Journal one event and fold it."""
        self.now_ms += 10
        envelope = Envelope(
            cursor=len(self.journal) + 1, at_ms=self.now_ms, session_id="ses_1", run_id="run_1"
        )
        stored = decode_event(encode_line(envelope, event))
        assert not isinstance(stored, Unknown)
        self.journal.append((envelope, stored))
        self.record = evolve(self.record, envelope, stored)
        if isinstance(stored, RunAccepted):
            self.pinned = stored.pinned

    def do(self, *commands: Command | Callable[[RunRecord], Command]) -> Machine:
        """Decide and fold commands, one after another; some are made for the run as it is by then."""
        for each in commands:
            command = each(self.run) if callable(each) else each
            for event in decide(self.run, self.pinned, command):
                self.append(event)
        return self

    def kinds(self) -> list[str]:
        """Return the types of the events so far."""
        return [str(event.__struct_config__.tag) for _, event in self.journal]

    def states(self) -> str:
        """Return the states of the open calls, in order."""
        return " ".join(call.state for call in self.run.calls)


def ask(item_id: str = "itm_1") -> Ask:
    """Return a model call begins."""
    return Ask(item_id)


def answered(*items: Item, usage: Usage | None = None) -> Answered:
    """Return a model answers, with a text if nothing else is said."""
    return Answered(list(items) or [TEXT], usage or Usage(3, 2), "end", "model-1")


def calling(count: int = 1, *, first: int = 1, tool: str = "read_file") -> Answered:
    """Return a model asks for tools: ``call_1`` and so on."""
    return answered(*(ToolCall(f"call_{number}", tool, {}) for number in range(first, first + count)))


# What is done with calls, of those that a run has open.


def verdict(call: OpenCall, *, parallel: bool = False, repeatable: bool = False, **more: Any) -> Verdict:
    """Return a call is allowed, unless ``more`` says otherwise."""
    judged = {"decision": "allow", "base": "allow", "why": "test"} | more
    return Verdict(call_id=call.call_id, tool=call.tool, parallel=parallel, repeatable=repeatable, **judged)


def allowed(run: RunRecord, *, parallel: bool = False, repeatable: bool = False) -> Judge:
    """All new calls that are judged together are allowed."""
    return Judge(
        [
            Judgement(verdict(run.calls[place], parallel=parallel, repeatable=repeatable))
            for place in to_judge(run.calls)
        ]
    )


def approval(call: OpenCall, *, number: int = 0, binding: str | None = None) -> ApprovalRequested:
    """Return a person is to be asked about a call."""
    return ApprovalRequested(
        approval_id=f"apr_{call.call_id}.{call.attempt}.{call.updated_cursor}",
        call_id=call.call_id,
        tool=call.tool,
        index=number,
        message_cursor=4,
        preview=Preview(kind="text", text="what it would do", binding=binding),
    )


def question(call: OpenCall) -> QuestionAsked:
    """Return a call asks a person something."""
    asked = [Question(question="Which?", key="which")]
    return QuestionAsked(question_id=f"qst_{call.call_id}", call_id=call.call_id, questions=asked)


def returned(call: OpenCall, how: CallOutcome = "returned", text: str = "done") -> ToolReturned:
    """Return the result of a call."""
    is_error = how not in ("returned", "answered")
    return ToolReturned(call_id=call.call_id, tool=call.tool, how=how, text=text, is_error=is_error)


def asked(run: RunRecord, *, questions: bool = False) -> Judge:
    """Return a person is to be asked about all new calls that are judged together."""
    ask_about = question if questions else approval
    chosen = [run.calls[place] for place in to_judge(run.calls)]
    return Judge([Judgement(verdict(call, decision="ask"), asks=ask_about(call)) for call in chosen])


def called(run: RunRecord) -> CallTools:
    """Return the calls that are to run do."""
    chosen = [run.calls[place] for place in to_run(run.calls)]
    return CallTools([ToolCalled(call_id=c.call_id, tool=c.tool, attempt=c.attempt + 1) for c in chosen])


def resolved(
    run: RunRecord, decision: str = "allow", *, updated_input: dict[str, Any] | None = None
) -> Resolve:
    """Return a person answers every approval the same way."""
    waiting = [call for call in run.calls if call.state == "asked"]
    answers = [
        ApprovalAnswered(
            approval_id=call.waits_for or "",
            call_id=call.call_id,
            decision="deny" if decision == "deny" else "allow",
            updated_input=updated_input,
        )
        for call in waiting
    ]
    return Resolve(answers, [returned(call, "denied") for call in waiting] if decision == "deny" else [])


def finished(run: RunRecord, how: CallOutcome = "returned") -> Return:
    """Return the first call that runs, or is to run, has its result."""
    return Return(returned(next(call for call in run.calls if call.state in ("called", "ready")), how))


def replied(call: OpenCall) -> Reply:
    """Return a person answers a question."""
    answer = QuestionAnswered(question_id=call.waits_for or "", call_id=call.call_id)
    return Reply(answer, returned(call, "answered"))


def abandoned(call: OpenCall) -> Abandon:
    """Nobody will answer a question."""
    lapsed = QuestionLapsed(question_id=call.waits_for or "", call_id=call.call_id, how="cancelled")
    return Abandon(lapsed, "nobody knows")


def found(run: RunRecord, place: int, outcome: str) -> Settle:
    """Return the probe's finding about a call that was cut short by a crash."""
    call = run.calls[place]
    if outcome == "not_done":
        return Settle((CallProbed(call_id=call.call_id, tool=call.tool, note="nothing is there"),))
    item, told = doubt(run, place, note="nothing is known")
    if outcome == "unknown":
        return Settle((item, told))
    settled = IndoubtResolved(
        indoubt_id=item.indoubt_id, call_id=call.call_id, tool=call.tool, outcome="done"
    )
    return Settle((item, settled, returned(call)))


STEER = Steer("str_1", [Text("and hurry")], "user")


def possible(run: RunRecord) -> list[Command]:
    """Every command that a worker, a person or a restart may give a run as it is, in every form that matters.

    A worker does nothing out of its order; what people want may come at any time.
    """
    commands: list[Command] = [Cancel("cancelled", "enough"), Cancel("interrupted"), STEER]
    commands += _of_people(run)
    commands.append(Fail(RunError("internal_error", "something failed")))
    if run.status == "queued":
        return [Start(), *commands]
    if run.status == "running":
        stopped = tuple(_result(call) for call in run.calls if call.state == "called")
        commands += [Start(), Release("shutdown", stopped), Release("shutdown")]
        commands.append(Interrupt(RunError("daemon_restarted", "the daemon was restarted")))
        commands += _of_calls(run) if run.calls else _of_model(run)
        if run.cancel is not None:
            commands += [Stopped([], stopped), Stopped([Thinking("hm"), TEXT, CALL])]
    return commands


def _result(call: OpenCall) -> Return:
    return Return(returned(call), (SessionRenamed(title=f"by {call.call_id}"),))


def _of_model(run: RunRecord) -> Iterator[Command]:
    yield Ask("itm_1")
    if run.attempt:
        yield from (Compact(SUMMARY), Compact(NO_SUMMARY), Compact(None))
    if run.attempt and run.kind == "input":
        first = 2 * run.turn + 1
        yield from (answered(), calling(first=first), calling(2, first=first))
        yield from (Errored(ERROR, None), Errored(ERROR, 5_000))


def _of_calls(run: RunRecord) -> Iterator[Command]:
    if to_judge(run.calls):
        yield from (allowed(run), allowed(run, parallel=True, repeatable=True), _mixed(run))
        yield from (_halves(run), asked(run), asked(run, questions=True))
    if to_run(run.calls):
        yield called(run)
    for place, call in enumerate(run.calls):
        if call.state == "called":
            yield Observe(ToolObserved(call_id=call.call_id, evidence={"pid": 7}))
        if call.state in ("called", "ready"):
            yield from (_result(call), Renew(approval(call, binding="new")))
        if call.state == "doubted":
            yield from (found(run, place, outcome) for outcome in ("done", "not_done", "unknown"))


def _mixed(run: RunRecord) -> Judge:
    """Of the new calls one is asked about, one denied, and so on."""
    judgements: list[Judgement] = []
    for number, place in enumerate(to_judge(run.calls)):
        call = run.calls[place]
        if number % 2:
            judged = verdict(call, decision="deny", base="deny")
            judgements.append(Judgement(judged, result=returned(call, "denied")))
        else:
            judgements.append(Judgement(verdict(call, decision="ask"), asks=approval(call)))
    return Judge(judgements)


def _halves(run: RunRecord) -> Judge:
    """Every other new call is a question, and a person is to be asked about the rest."""
    approvals, questions = asked(run).judgements, asked(run, questions=True).judgements
    return Judge([(approvals, questions)[number % 2][number] for number in range(len(approvals))])


def _of_people(run: RunRecord) -> Iterator[Command]:
    for call in run.calls:
        if call.state == "asked":
            yield from (resolved(run), resolved(run, "deny"), resolved(run, updated_input={"path": "x"}))
            yield Lapse(call.waits_for or "", returned(call, "denied", "nobody answered"))
        if call.state == "questioned":
            yield from (replied(call), abandoned(call))


# Everywhere that a run can come to.


MAX_TURNS = 2


@dataclass(frozen=True)
class Transition:
    """A command and what it did to a run."""

    before: RunRecord
    command: Command
    events: list[JournalEvent]
    after: RunRecord


def step(run: RunRecord, command: Command) -> Transition:
    """Give one command to a run."""
    machine = Machine(max_turns=MAX_TURNS if run.kind == "input" else 0)
    machine.journal, machine.record = [], run
    machine.do(command)
    return Transition(run, command, [event for _, event in machine.journal], machine.run)


@lru_cache
def everything() -> list[Transition]:
    """Every command on every run of two turns and two calls, as far as the machine tells runs apart."""
    todo = [Machine(max_turns=MAX_TURNS).run, Machine(kind="compaction").run]
    seen, made = set(map(_essence, todo)), []
    while todo:
        run = todo.pop()
        for command in possible(run) if run.status not in ENDED else ():
            made.append(step(run, command))
            after = made[-1].after
            if _essence(after) not in seen:
                seen.add(_essence(after))
                todo.append(after)
    return made


def everywhere() -> list[RunRecord]:
    """Every run that ``everything`` comes to."""
    runs = [each.before for each in everything()] + [each.after for each in everything()]
    return list({id(run): run for run in runs}.values())


def _essence(run: RunRecord) -> tuple[Any, ...]:
    calls = tuple((call.state, call.parallel, call.repeatable, call.attempt > 0) for call in run.calls)
    asked = (run.attempt > 0, run.retry_at_ms is not None, run.pending_steers > 0)
    counted = run.turn, min(run.starts_without_progress, 3)
    return run.status, run.kind, run.cancel, calls, asked, counted, run.claimed


_DISTURBING = (Steer, Release, Errored, Lapse, Renew, Compact)
_ENDING = (Cancel, Fail, Interrupt, Abandon)


def history(choices: list[int], max_turns: int = 0) -> Machine:
    """Return the journal of a sequence of choices; mostly the run continues."""
    machine = Machine(max_turns=max_turns)
    for choice in choices:
        if machine.run.status in ENDED:
            break
        commands = possible(machine.run)
        if choice % 4:
            commands = [each for each in commands if _goes_on(machine.run, each)] or commands
        elif choice % 16:
            commands = [each for each in commands if not isinstance(each, _ENDING)]
        machine.do(commands[choice // 16 % len(commands)])
    return machine


def _goes_on(run: RunRecord, command: Command) -> bool:
    if isinstance(command, Start):
        return run.status == "queued"
    if isinstance(command, Ask):
        return not run.attempt or run.retry_at_ms is not None
    if isinstance(command, Answered):
        return run.turn >= 2 or command.items != [TEXT]
    return not isinstance(command, _DISTURBING + _ENDING)


HISTORIES = st.builds(history, st.lists(st.integers(0, 16 * 60), min_size=15, max_size=45), st.integers(0, 3))


def same(one: object, other: object) -> bool:
    """Whether two records are stored as the same bytes."""
    return msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)
