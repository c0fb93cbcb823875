"""The run machine by itself: a run whose commands are decided and whose events are applied."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.run.calls import next_to_judge, next_to_run
from kheishd.core.run.commands import (
    AbandonQuestion,
    AcceptAnswer,
    AnswerApprovals,
    AnswerQuestion,
    ApprovalAnswer,
    ApprovalAsk,
    AwaitEvent,
    BeginModelCall,
    CallReturn,
    CallTools,
    Command,
    Compact,
    Compaction,
    EndEarly,
    EndRestored,
    EndWait,
    ExpireApproval,
    Fail,
    FailedCompaction,
    FailModelCall,
    Interrupt,
    Judge,
    Judgement,
    NoteAgentsFiles,
    NoteHooks,
    NoteRecall,
    Observe,
    QuestionAsk,
    Release,
    RenewApproval,
    RequestCancel,
    ResolveDoubt,
    ReturnResult,
    Start,
    Steer,
)
from kheishd.core.run.machine import decide, evolve
from protocol.events.hook import CallInputChanged, HookContextAdded
from protocol.events.run import RunAccepted
from protocol.events.session import SessionRenamed
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_event, encode_line
from protocol.objects.approval import Preview
from protocol.objects.memory import RecalledNote
from protocol.objects.permission import Verdict
from protocol.objects.question import Question
from protocol.objects.run import ENDED, CallOutcome, OpenCall, Pinned, RunError, RunKind
from protocol.objects.workspace import AgentsFile
from protocol.transcript import Item, Text, Thinking, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kheishd.core.run.record import RunRecord

ERROR = RunError("server_error", "the provider failed", 500, retryable=True)
TEXT: Item = Text("hello")
CALL: Item = ToolCall("call_1", "read_file", {"path": "/etc/hostname"})


SUMMARY = Compaction(upto=1, strategy="summary", trigger="auto", summary="x", usage=Usage(5, 1))
NO_SUMMARY = FailedCompaction(trigger="auto", error=ERROR, usage=Usage(3, 0))


CONTEXT = HookContextAdded(
    hook="guard", invocation_key="k", text="Note.", origin="program", source="hook:guard"
)


PINNED = Pinned(route="offline", driver="offline", model="offline")


def acceptance(
    *,
    max_turns: int = 0,
    guest: str | None = None,
    kind: RunKind = "input",
    tools: list[str] | None = None,
) -> RunAccepted:
    """Make the first event of a run."""
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
        self.append(acceptance(max_turns=self.max_turns, guest=self.guest, kind=self.kind, tools=self.tools))

    @property
    def run(self) -> RunRecord:
        assert self.record is not None
        return self.record

    def append(self, event: JournalEvent) -> None:
        """Journal one event and apply it."""
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
        """Carry out commands one after another; a function makes one for the current run."""
        for item in commands:
            command = item(self.run) if callable(item) else item
            for event in decide(self.run, self.pinned, command):
                self.append(event)
        return self

    def kinds(self) -> list[str]:
        """Return the types of the events so far."""
        return [str(event.__struct_config__.tag) for _, event in self.journal]

    def states(self) -> str:
        """Return the states of the open calls, in order."""
        return " ".join(call.state for call in self.run.calls)


def begin(item_id: str = "itm_1") -> BeginModelCall:
    """Begin a model call."""
    return BeginModelCall(item_id)


def answer(*items: Item, usage: Usage | None = None) -> AcceptAnswer:
    """Make a model's answer, a text by default."""
    return AcceptAnswer(list(items) or [TEXT], usage or Usage(3, 2), "end", "model-1")


def answer_with_calls(count: int = 1, *, first: int = 1, tool: str = "read_file") -> AcceptAnswer:
    """Make an answer with the calls ``call_1`` and so on."""
    return answer(*(ToolCall(f"call_{number}", tool, {}) for number in range(first, first + count)))


# Commands about the open calls of a run.


def verdict(call: OpenCall, **fields: Any) -> Verdict:
    """Make a verdict that allows a call, unless ``fields`` differ."""
    values = {"decision": "allow", "base": "allow", "why": "test"} | fields
    return Verdict(call_id=call.call_id, tool=call.tool, **values)


def allow(run: RunRecord, **facts: bool) -> Judge:
    """Allow all calls of the next batch; ``facts`` are those of their tools."""
    batch = [run.calls[index] for index in next_to_judge(run.calls)]
    return Judge([Judgement(verdict(call, **facts)) for call in batch])


def approval(call: OpenCall, *, binding: str | None = None) -> ApprovalAsk:
    """Make a request to approve a call."""
    return ApprovalAsk(
        approval_id=f"apr_{call.call_id}.{call.attempt}.{call.updated_cursor}",
        preview=Preview(kind="text", text="the preview", binding=binding),
    )


def question(call: OpenCall) -> QuestionAsk:
    """Make the question of a call."""
    return QuestionAsk(f"qst_{call.call_id}", [Question(question="Which?", key="which")])


def result(outcome: CallOutcome = "returned", text: str = "done") -> CallReturn:
    """Make the result of a call."""
    return CallReturn(outcome, text, is_error=outcome not in ("returned", "answered"))


def ask_person(run: RunRecord, *, questions: bool = False) -> Judge:
    """Ask a person about all calls of the next batch."""
    make = question if questions else approval
    batch = [run.calls[index] for index in next_to_judge(run.calls)]
    return Judge([Judgement(verdict(call, decision="ask"), make(call)) for call in batch])


def call_tools(run: RunRecord) -> CallTools:
    """Start the calls that are due."""
    return CallTools({run.calls[index].call_id: {} for index in next_to_run(run.calls)})


def answer_approvals(
    run: RunRecord,
    decision: Literal["allow", "deny"] = "allow",
    *,
    updated_input: dict[str, Any] | None = None,
) -> AnswerApprovals:
    """Answer every pending approval the same way."""
    pending = [call.call_id for call in run.calls if call.state == "asked"]
    return AnswerApprovals(
        [ApprovalAnswer(call_id, decision, updated_input=updated_input) for call_id in pending]
    )


def return_first(run: RunRecord, outcome: CallOutcome = "returned") -> ReturnResult:
    """Return the result of the first call that runs or is ready."""
    call = next(call for call in run.calls if call.state in ("called", "ready"))
    return ReturnResult(call.call_id, result(outcome))


def answer_question(call: OpenCall) -> AnswerQuestion:
    """Answer the question of a call."""
    return AnswerQuestion(call.call_id, [], declined=False, justification="", reply="this one")


def abandon(call: OpenCall) -> AbandonQuestion:
    """Abandon the question of a call."""
    return AbandonQuestion(call.call_id, "cancelled", "nobody knows")


def resolve_doubt(
    run: RunRecord, index: int, outcome: Literal["done", "not_done", "unknown"]
) -> ResolveDoubt:
    """Resolve a call during which the daemon died."""
    return ResolveDoubt(run.calls[index].call_id, outcome, note="the probe's note")


STEER = Steer("str_1", [Text("and hurry")], "user")


def possible_commands(run: RunRecord) -> list[Command]:
    """Return every command that a worker, a person or a restart may give a run, in every relevant form.

    A worker keeps its order; commands of people may come at any time.
    """
    commands: list[Command] = [RequestCancel("cancelled", "enough"), RequestCancel("interrupted"), STEER]
    commands += _commands_of_people(run)
    commands.append(Fail(RunError("internal_error", "something failed")))
    commands.append(EndRestored(RunError("restored", "the store was restored"), "The backup is old"))
    if run.status == "queued":
        return [Start(), *commands]
    if run.status == "running":
        results = tuple(_result(call) for call in run.calls if call.state == "called")
        commands += [Start(), Release("shutdown", results), Release("shutdown")]
        commands.append(Interrupt(RunError("daemon_restarted", "the daemon was restarted")))
        commands += _commands_of_calls(run) if run.calls else _commands_of_model(run)
        if run.cancel is not None:
            commands += [EndEarly([], results), EndEarly([Thinking("hm"), TEXT, CALL])]
    return commands


def _result(call: OpenCall) -> ReturnResult:
    return ReturnResult(call.call_id, result(), (SessionRenamed(title=f"by {call.call_id}"),))


def _commands_of_model(run: RunRecord) -> Iterator[Command]:
    yield BeginModelCall("itm_1")
    if run.attempt:
        yield from (Compact(SUMMARY), Compact(NO_SUMMARY), Compact(None))
    if run.attempt == 1 and run.kind == "input" and not run.turn and run.agents_files_cursor is None:
        yield NoteAgentsFiles([AgentsFile(path="/w/AGENTS.md")], None)
        yield NoteHooks((CONTEXT,))
    if run.attempt == 1 and run.kind == "input" and not run.turn and run.recall_cursor is None:
        yield NoteRecall([RecalledNote("default", 7, "n")], "ab12", ["connector"])
    if run.attempt and run.kind == "input":
        first = 2 * run.turn + 1
        yield from (answer(), answer_with_calls(first=first), answer_with_calls(2, first=first))
        yield from (FailModelCall(ERROR, None), FailModelCall(ERROR, 5_000))


def _commands_of_calls(run: RunRecord) -> Iterator[Command]:
    if next_to_judge(run.calls):
        call_id = run.calls[next_to_judge(run.calls)[0]].call_id
        yield NoteHooks((CallInputChanged(call_id=call_id, hook="guard", updated_input={"path": "/b"}),))
        yield from (allow(run), allow(run, parallel=True, repeatable=True), _ask_and_deny(run))
        yield from (_ask_both(run), ask_person(run), ask_person(run, questions=True))
    if next_to_run(run.calls):
        yield call_tools(run)
    for index, call in enumerate(run.calls):
        if call.state == "called":
            yield Observe(call.call_id, {"pid": 7})
            if not call.parallel:
                yield AwaitEvent(call.call_id, f"evw_{call.call_id}", "ci.*", 1, 9_000)
        if call.state in ("called", "ready"):
            yield from (_result(call), RenewApproval(call.call_id, approval(call, binding="new")))
        if call.state == "doubted":
            for outcome in OUTCOMES:
                yield resolve_doubt(run, index, outcome)


OUTCOMES: tuple[Literal["done", "not_done", "unknown"], ...] = ("done", "not_done", "unknown")


def _ask_and_deny(run: RunRecord) -> Judge:
    """Ask about every other call of the next batch, and deny the rest."""
    judgements: list[Judgement] = []
    for number, index in enumerate(next_to_judge(run.calls)):
        call = run.calls[index]
        if number % 2:
            judgements.append(Judgement(verdict(call, decision="deny", base="deny"), result("denied")))
        else:
            judgements.append(Judgement(verdict(call, decision="ask"), approval(call)))
    return Judge(judgements)


def _ask_both(run: RunRecord) -> Judge:
    """Request approvals and ask questions, alternately, for the next batch."""
    approvals, questions = ask_person(run).judgements, ask_person(run, questions=True).judgements
    return Judge([(approvals, questions)[number % 2][number] for number in range(len(approvals))])


def _commands_of_people(run: RunRecord) -> Iterator[Command]:
    for call in run.calls:
        if call.state == "asked":
            yield from (answer_approvals(run), answer_approvals(run, "deny"))
            yield answer_approvals(run, updated_input={"path": "x"})
            yield ExpireApproval(call.call_id)
        if call.state == "awaiting":
            yield EndWait(_result(call), "delivered", "evt_1", 1, 2)
        if call.state == "questioned":
            yield from (answer_question(call), abandon(call))


# All reachable states.


MAX_TURNS = 2


@dataclass(frozen=True)
class Transition:
    """A command, its events, and the run before and after it."""

    source: RunRecord
    command: Command
    events: list[JournalEvent]
    target: RunRecord


def carry_out(run: RunRecord, command: Command) -> Transition:
    """Carry out one command of a run."""
    machine = Machine(max_turns=MAX_TURNS if run.kind == "input" else 0)
    machine.journal, machine.record = [], run
    machine.do(command)
    return Transition(run, command, [event for _, event in machine.journal], machine.run)


@lru_cache
def all_transitions() -> list[Transition]:
    """Return every command on every distinguishable run of two turns and two calls."""
    queue = [Machine(max_turns=MAX_TURNS).run, Machine(kind="compaction").run]
    keys, transitions = set(map(_key, queue)), []
    while queue:
        run = queue.pop()
        for command in possible_commands(run) if run.status not in ENDED else ():
            transition = carry_out(run, command)
            transitions.append(transition)
            if _key(transition.target) not in keys:
                keys.add(_key(transition.target))
                queue.append(transition.target)
    return transitions


def all_runs() -> list[RunRecord]:
    """Return every run of ``all_transitions``."""
    runs = [run for transition in all_transitions() for run in (transition.source, transition.target)]
    return list({id(run): run for run in runs}.values())


def _key(run: RunRecord) -> tuple[Any, ...]:
    """Return the properties by which runs are distinguished."""
    calls = tuple((call.state, call.parallel, call.repeatable, call.attempt > 0) for call in run.calls)
    model_call = (run.attempt > 0, run.retry_at_ms is not None, run.pending_steers > 0)
    counts = run.turn, min(run.starts_without_progress, 3)
    return run.status, run.kind, run.cancel, calls, model_call, counts, run.claimed


_DISTURBING = (Steer, Release, FailModelCall, ExpireApproval, RenewApproval, Compact)
_ENDING = (RequestCancel, Fail, Interrupt, EndRestored, AbandonQuestion)


def make_history(choices: list[int], max_turns: int = 0) -> Machine:
    """Make a journal from some choices: mostly of progress, sometimes of a disturbance."""
    machine = Machine(max_turns=max_turns)
    for choice in choices:
        if machine.run.status in ENDED:
            break
        commands = possible_commands(machine.run)
        if choice % 4:
            commands = [command for command in commands if _is_progress(machine.run, command)] or commands
        elif choice % 16:
            commands = [command for command in commands if not isinstance(command, _ENDING)]
        machine.do(commands[choice // 16 % len(commands)])
    return machine


def _is_progress(run: RunRecord, command: Command) -> bool:
    if isinstance(command, Start):
        return run.status == "queued"
    if isinstance(command, BeginModelCall):
        return not run.attempt or run.retry_at_ms is not None
    if isinstance(command, AcceptAnswer):
        return run.turn >= 2 or command.items != [TEXT]
    return not isinstance(command, _DISTURBING + _ENDING)


HISTORIES = st.builds(
    make_history, st.lists(st.integers(0, 16 * 60), min_size=15, max_size=45), st.integers(0, 3)
)


def is_same(record: object, reference: object) -> bool:
    """Whether two records are stored as the same bytes."""
    return msgspec.msgpack.encode(record) == msgspec.msgpack.encode(reference)
