"""The daemon without its sockets: a real store, the handlers, a run worker, and scripted models."""

import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any, cast

import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from kheishd.core.run.commands import AnswerApprovals, ApprovalAnswer, BeginModelCall, Command, Start
from kheishd.core.run.record import RunRecord
from kheishd.kernel.call import Call, Caller, Connection, Control, Mutate
from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.live import Live, LiveText
from kheishd.kernel.runtime import (
    ModelAnswer,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    RouteSpec,
    Runtime,
    TextDelta,
)
from kheishd.kernel.state import State, open_state
from kheishd.objects.talk import run
from kheishd.objects.talk.send import send_to_conversation
from kheishd.objects.talk.stop import cancel_in_conversation, interrupt
from kheishd.records.run import read_pinned
from kheishd.records.writer import SessionWriter
from kheishd.store.commit import Group
from kheishd.store.environment import Transaction
from kheishd.store.table import Table
from kheishd.store.tables import CHECKPOINTS, RUNS, SESSIONS
from kheishd.workers.runs.worker import RunWorker
from protocol.events.session import SessionRenamed
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event
from protocol.objects.conversation import ConversationCancel, ConversationSend
from protocol.objects.run import Pinned, Run, RunCancel, SendResult
from protocol.objects.session import Session, SessionInterrupt
from protocol.rpc.method import SCOPES
from protocol.transcript import Item, Text, Usage, text_of
from tests.support.runtimes import make_runtime
from tests.support.services import make_services

EPOCH_MS = 1_800_000_000_000
OPERATOR = Caller("uid:0", frozenset(SCOPES))
PATIENCE_S = 30.0
VIRTUAL_PATIENCE_S = 1_000_000.0
"""The time limit of a test, on the real clock and on a mock clock."""

ModelPart = Callable[[ModelRequest], AsyncIterator[ModelEvent]]
"""A function that makes the events of one model call."""


def wall_clock() -> int:
    """Return the wall time by trio's clock, so that a mock clock moves both."""
    return EPOCH_MS + round(trio.current_time() * 1000)


async def says(*pieces: str) -> AsyncIterator[ModelEvent]:
    """Answer with a text, piece by piece."""
    for piece in pieces:
        yield TextDelta(piece)
    yield ModelAnswer([Text("".join(pieces))], Usage(len(pieces), 1), "end", "scripted")


async def gives(*items: Item, stop_reason: str = "end") -> AsyncIterator[ModelEvent]:
    """Answer with items, all at once."""
    yield ModelAnswer(list(items), Usage(1, 1), stop_reason, "scripted")


async def fails(reason: str = "overloaded", **details: Any) -> AsyncIterator[ModelEvent]:
    """Fail; the failure is temporary unless ``retryable`` is False."""
    if reason:
        raise ModelFailure(reason, f"the provider said {reason}", **({"retryable": True} | details))
    yield TextDelta("")


@dataclass
class Scripted:
    """A ModelCaller whose answers the test makes: by the last message, else in order.

    The last of ``answers`` serves all further calls; without any, the last message is repeated. ``requests``
    holds every request. ``open_calls`` counts the calls in progress, ``max_open_calls`` their maximum.
    ``summary_answers`` and ``summary_requests`` are the same for summaries and titles.
    """

    answers: list[ModelPart] = field(default_factory=list)
    answers_to: dict[str, ModelPart] = field(default_factory=dict)
    requests: list[ModelRequest] = field(default_factory=list)
    open_calls: int = 0
    max_open_calls: int = 0
    summary_answers: list[ModelPart] = field(default_factory=lambda: [summarizes])
    summary_requests: list[ModelRequest] = field(default_factory=list)

    @asynccontextmanager
    async def ask(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Make the events of a call."""
        if request.purpose == "answer":
            self.requests.append(request)
            answers = self.answers or [echo]
            part = self.answers_to.get(text_of(request.messages[-1].items))
        else:
            self.summary_requests.append(request)
            answers, part = self.summary_answers, None
        if part is None:
            part = answers.pop(0) if len(answers) > 1 else answers[0]
        self.open_calls += 1
        self.max_open_calls = max(self.max_open_calls, self.open_calls)
        try:
            yield part(request)
        finally:
            self.open_calls -= 1

    def problem(self, route: RouteSpec) -> str | None:
        """Return None: every route is ready."""
        return None

    async def aclose(self) -> None:
        """Close nothing."""


async def summarizes(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Answer with a summary."""
    yield TextDelta("They talked.")
    yield ModelAnswer([Text("They talked.")], Usage(500, 20), "end", "scripted")


def echo(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Answer with the last message."""
    return says(f"You said: {text_of(request.messages[-1].items)}")


@dataclass
class Gate:
    """A model call that answers with a first part, waits until ``opened``, and sends the rest."""

    first: str = "so far"
    rest: str = " and so on"
    reached: trio.Event = field(default_factory=trio.Event)
    opened: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Yield the events of the call."""
        if self.first:
            yield TextDelta(self.first)
        self.reached.set()
        await self.opened.wait()
        yield TextDelta(self.rest)
        yield ModelAnswer([Text(self.first + self.rest)], Usage(2, 2), "end", "scripted")


class EveryText:
    """A follower of all live text."""

    session_id = None

    def __init__(self) -> None:
        self.deltas: list[bytes] = []

    def wants(self, session_id: str, run_id: str) -> bool:
        """Want every run."""
        return True

    def delta(self, live_text: LiveText, delta: bytes) -> None:
        """Record a piece."""
        self.deltas.append(delta)


class Desk:
    """A store with services for workers, and a caller of handlers.

    ``groups`` are the bells that each commit has rung. ``retired`` are the generations of closed runtimes.
    """

    def __init__(self, state: State, runtime: Runtime) -> None:
        self.state = state
        self.models = cast("Scripted", runtime.models)
        self.live = Live()
        self.retired: list[int] = []
        self.holder = RuntimeHolder(runtime, lambda old: self.retired.append(old.generation))
        self.services = make_services(state, self.holder, live=self.live)
        self.groups: list[frozenset[str]] = []
        deliver = state.deliver

        def deliver_and_record(group: Group) -> None:
            self.groups.append(group.rung)
            deliver(group)

        state.deliver = deliver_and_record  # type: ignore[method-assign]

    def call(self, caller: Caller = OPERATOR) -> Call:
        """Return the context of a handler."""
        runtime = self.holder.current()
        return Call(
            caller,
            self.services,
            runtime,
            cast("Control", None),
            cast("Connection", None),
            1,
            self.state.now_ms(),
        )

    async def do(
        self, handler: Mutate, params: Any, *, follow: bool = True, caller: Caller = OPERATOR
    ) -> Any:
        """Call a mutation; with ``follow`` also the part after its commit."""
        call = self.call(caller)
        plan = params if handler.prepare is None else handler.prepare(call, params)
        result = await self.state.update(lambda tx: handler.apply(tx, call, plan))
        if handler.on_commit is not None:
            handler.on_commit(call, result)
        if not follow or handler.follow is None or not handler.has_follow_up(params):
            return result
        return await handler.follow(call, params, result)

    async def send(self, content: str = "hello", sender: str = "user", **params: Any) -> SendResult:
        """Send a message; return when the run is accepted, or has settled with ``wait``."""
        message = ConversationSend(content=content, sender=sender, **params)
        return cast("SendResult", await self.do(send_to_conversation, message))

    async def ask(self, content: str = "hello", sender: str = "user", **params: Any) -> SendResult:
        """Send a message and wait until the run has settled."""
        return await self.send(content, sender, wait="settled", **params)

    async def cancel(self, run_id: str, *, follow: bool = True) -> Run:
        """Cancel a run and wait until it has stopped."""
        return cast("Run", await self.do(run.cancel, RunCancel(run_id=run_id), follow=follow))

    async def cancel_conversation(self, sender: str = "user") -> Any:
        """Cancel the active run of a conversation and wait until it has stopped."""
        return await self.do(cancel_in_conversation, ConversationCancel(sender=sender))

    async def interrupt(self, session_id: str) -> Any:
        """Interrupt the active run of a session and wait until it has stopped."""
        return await self.do(interrupt, SessionInterrupt(session_id=session_id))

    async def command(self, run_id: str, *make: Callable[[RunRecord], Command]) -> RunRecord:
        """Commit commands together; a function makes each command for the current record."""

        def carry_out(tx: Transaction) -> RunRecord:
            for make_command in make:
                writer = writer_of(tx, run_id)
                writer.carry_out(make_command(writer.run))
                writer.write()
            return writer.run

        return await self.state.update(carry_out)

    def copy_store(self, directory: Path) -> None:
        """Copy the store to a new directory, as a crash would leave it now."""
        directory.mkdir()
        self.state.store.backup(directory / "state")

    async def allow(self, run_id: str, **answer: Any) -> None:
        """Allow the first call that waits for an approval; return when the run has ended."""

        def allow(tx: Transaction) -> None:
            writer = writer_of(tx, run_id)
            call = next(call for call in writer.run.calls if call.state == "asked")
            writer.carry_out(AnswerApprovals([ApprovalAnswer(call.call_id, "allow", **answer)]))
            writer.write()

        await self.state.update(allow)
        await self.until(lambda: self.ended(run_id))

    def ended(self, run_id: str) -> bool:
        """Whether a run has ended."""
        return self.run(run_id).ended_at_ms is not None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, which is checked after every commit."""
        while True:
            bell = self.state.bell("journal")
            if condition():
                return
            await bell.wait()

    async def leave_running(self, run_id: str, starts: int) -> None:
        """Leave a run as a daemon does that dies in its ``starts``-th model call (0: before any)."""

        def begin(tx: Transaction) -> None:
            writer = writer_of(tx, run_id)
            for _ in range(max(starts, 1)):
                writer.carry_out(Start())
                if starts:
                    writer.carry_out(BeginModelCall("itm_left"))
            writer.write()

        await self.state.update(begin)

    async def delete_session(self, session_id: str) -> None:
        """Damage the store: delete a session's record."""
        await self.state.update(lambda tx: tx.delete(SESSIONS, session_id))

    async def corrupt_run(self, run_id: str) -> None:
        """Damage the store: make a run's record unreadable."""
        await self.state.update(lambda tx: tx.put(RUNS, run_id, value=cast("RunRecord", "spoilt")))

    def count(self, table: Table[Any]) -> int:
        """Return the number of rows of a table."""
        with self.state.read() as store:
            return store.count(table)

    async def rename(self, session_id: str, *, times: int) -> None:
        """Append events to a session's journal by renaming it."""

        def rename(tx: Transaction) -> None:
            writer = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id))
            for number in range(times):
                writer.append(SessionRenamed(title=f"title {number}"))
            writer.write()

        await self.state.update(rename)

    async def forget_transcript(self, session_id: str) -> None:
        """Make the next run read the transcript from the store, as after a restart."""
        await wait_all_tasks_blocked()
        self.services.transcripts.take(session_id)

    async def put_checkpoint(self, session_id: str, cursor: int, content: bytes) -> None:
        """Store bytes as a checkpoint, which the next run reads."""
        await self.forget_transcript(session_id)
        await self.state.update(lambda tx: tx.put(CHECKPOINTS, session_id, cursor, value=content))

    async def delete_checkpoints(self, session_id: str) -> None:
        """Delete a session's checkpoints, and make the next run read the journal."""
        await self.forget_transcript(session_id)

        def delete(tx: Transaction) -> None:
            for key, _ in list(tx.scan(CHECKPOINTS, session_id)):
                tx.delete(CHECKPOINTS, *key)

        await self.state.update(delete)

    def listen(self) -> Callable[[], list[dict[str, Any]]]:
        """Follow all further text; return a function that returns the pieces so far."""
        follower = EveryText()
        self.live.follow(follower)
        return lambda: [msgspec.json.decode(b"{" + delta) for delta in follower.deltas]

    def live_runs(self) -> list[str]:
        """Return the run of each live text."""
        return [live_text.run_id for live_text in self.live.current(EveryText())]

    def pinned(self, run_id: str) -> Pinned:
        """Return the values that a run pinned."""
        with self.state.read() as store:
            return read_pinned(store, store.need(RUNS, run_id))

    def run(self, run_id: str) -> RunRecord:
        """Return a run's current record."""
        with self.state.read() as store:
            return store.need(RUNS, run_id)

    def session(self, session_id: str) -> Session:
        """Return a session's current record."""
        with self.state.read() as store:
            return store.need(SESSIONS, session_id)

    def journal(self, session_id: str) -> list[tuple[Envelope, JournalEvent | Unknown]]:
        """Return the events of a session."""
        with self.state.read() as store:
            return [(decode_envelope(line), decode_event(line)) for _, line in store.entries(session_id)]

    def kinds(self, session_id: str, run_id: str | None = None) -> list[str]:
        """Return the types of the events of a session, or of one of its runs."""
        return [
            str(event.__struct_config__.tag)
            for envelope, event in self.journal(session_id)
            if run_id is None or envelope.run_id == run_id
        ]

    def answers(self, session_id: str) -> list[str]:
        """Return the texts of a session's answers, in order."""
        return [
            text_of(message.items)
            for _, event in self.journal(session_id)
            if (message := getattr(event, "message", None)) is not None and message.role == "assistant"
        ]


def writer_of(tx: Transaction, run_id: str) -> SessionWriter:
    """Return a writer of a run and its session."""
    record = tx.need(RUNS, run_id)
    return SessionWriter(tx, record.session_id, session=tx.get(SESSIONS, record.session_id), run=record)


@asynccontextmanager
async def open_desk(
    directory: Path, models: Any = None, *, threaded: bool = False, **runtime: Any
) -> AsyncIterator[Desk]:
    """Open a desk on the store in ``directory``, without a worker. A test that hangs fails."""
    runtime_ = make_runtime(models=models or Scripted(), **runtime)
    with trio.fail_after(PATIENCE_S if threaded else VIRTUAL_PATIENCE_S):
        async with open_state(
            directory / "state", version="test", threaded=threaded, clock=wall_clock
        ) as state:
            yield Desk(state, runtime_)


@asynccontextmanager
async def working(desk: Desk) -> AsyncIterator[RunWorker]:
    """Run a run worker; leaving releases its runs, as a daemon that stops does."""
    worker = RunWorker(desk.services)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.serve)
        yield worker
        nursery.cancel_scope.cancel()


@contextmanager
def full_disk() -> Iterator[None]:
    """Make the kernel refuse writes beyond a file's first pages, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def copy_at_commits(desk: Desk, home: Path) -> list[Path]:
    """Copy the store below a directory now and after each commit from now on, as kills there would leave it.

    Shape:  the list grows by a home for ``open_desk`` with each commit.
    """
    source = home / "state"
    copies: list[Path] = []
    deliver = desk.state.deliver

    def copy() -> None:
        copies.append(home / f"copy{len(copies)}")
        copytree(source, copies[-1] / "state")

    def copy_and_deliver(group: Group) -> None:
        copy()
        deliver(group)

    copy()
    desk.state.deliver = copy_and_deliver  # type: ignore[method-assign]
    return copies
