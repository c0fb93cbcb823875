"""The daemon without its sockets: a real store, the handlers, a run worker; and models that do as told."""

import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import trio

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
from kheishd.records.writer import SessionWriter
from kheishd.store.commit import Group
from kheishd.store.environment import Transaction
from kheishd.store.table import Table
from kheishd.store.tables import CHECKPOINTS, PINNED, RUNS, SESSIONS
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
"""How long a test may take, on the real clock and on a mock one."""

ModelPart = Callable[[ModelRequest], AsyncIterator[ModelEvent]]


def wall_clock() -> int:
    """Wall time by trio's clock, so that a mock clock moves both."""
    return EPOCH_MS + round(trio.current_time() * 1000)


async def says(*pieces: str) -> AsyncIterator[ModelEvent]:
    """Yield an answer in pieces."""
    for piece in pieces:
        yield TextDelta(piece)
    yield ModelAnswer([Text("".join(pieces))], Usage(len(pieces), 1), "end", "scripted")


async def gives(*items: Item, stop_reason: str = "end") -> AsyncIterator[ModelEvent]:
    """Yield an answer that comes all at once."""
    yield ModelAnswer(list(items), Usage(1, 1), stop_reason, "scripted")


async def fails(reason: str = "overloaded", **details: Any) -> AsyncIterator[ModelEvent]:
    """Yield a call that fails in a way that may pass, unless ``retryable`` says otherwise."""
    if reason:
        raise ModelFailure(reason, f"the provider said {reason}", **({"retryable": True} | details))
    yield TextDelta("")


@dataclass
class Scripted:
    """A ModelCaller whose answers are made by the test: by what was said last, or else in order.

    The last of ``parts`` serves all further calls; without any, what was said is repeated. ``asked`` holds
    every request; ``open`` counts the calls that are being answered now, ``most`` at once. ``summaries`` and
    ``summed`` are the same for what is to be summed up.
    """

    parts: list[ModelPart] = field(default_factory=list)
    to: dict[str, ModelPart] = field(default_factory=dict)
    asked: list[ModelRequest] = field(default_factory=list)
    open: int = 0
    most: int = 0
    summaries: list[ModelPart] = field(default_factory=lambda: [sums_up])
    summed: list[ModelRequest] = field(default_factory=list)

    @asynccontextmanager
    async def ask(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Answer with the part that is meant."""
        if request.purpose == "answer":
            self.asked.append(request)
            part = self.to.get(text_of(request.messages[-1].items)) or self._next()
        else:
            self.summed.append(request)
            part = self.summaries.pop(0) if len(self.summaries) > 1 else self.summaries[0]
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield part(request)
        finally:
            self.open -= 1

    def _next(self) -> ModelPart:
        if not self.parts:
            return echo
        return self.parts.pop(0) if len(self.parts) > 1 else self.parts[0]

    def problem(self, route: RouteSpec) -> str | None:
        """No route has one."""
        return None

    async def aclose(self) -> None:
        """Nothing is kept open."""


async def sums_up(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Yield a summary."""
    yield TextDelta("They talked.")
    yield ModelAnswer([Text("They talked.")], Usage(500, 20), "end", "scripted")


def echo(request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Repeat what was said last."""
    return says(f"You said: {text_of(request.messages[-1].items)}")


@dataclass
class Gate:
    """A model call that says something, waits to be let on and says the rest."""

    before: str = "so far"
    after: str = " and so on"
    reached: trio.Event = field(default_factory=trio.Event)
    opened: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Yield the events of the call."""
        if self.before:
            yield TextDelta(self.before)
        self.reached.set()
        await self.opened.wait()
        yield TextDelta(self.after)
        yield ModelAnswer([Text(self.before + self.after)], Usage(2, 2), "end", "scripted")


class Everything:
    """A follower of all text there is."""

    session_id = None

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def wants(self, session_id: str, run_id: str) -> bool:
        """Everything."""
        return True

    def delta(self, writing: LiveText, delta: bytes) -> None:
        """Keep it."""
        self.heard.append(delta)


class Desk:
    """What a test works with: the handlers' end and the worker's end of one store.

    ``groups`` are the bells of every commit so far.
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

    async def do(self, handler: Mutate, params: Any, *, follow: bool = True) -> Any:
        """Carry out a mutation; with ``follow`` also what comes after its commit."""
        call = self.call()
        plan = params if handler.prepare is None else handler.prepare(call, params)
        result = await self.state.update(lambda tx: handler.apply(tx, call, plan))
        follows = handler.follows is not None and handler.follows(params)
        if not follow or not follows or handler.follow is None:
            return result
        return await handler.follow(call, params, result)

    async def send(self, content: str = "hello", sender: str = "user", **params: Any) -> SendResult:
        """Send and return when it is accepted, or settled if ``wait`` says so."""
        asked = ConversationSend(content=content, sender=sender, **params)
        return cast("SendResult", await self.do(send_to_conversation, asked))

    async def ask(self, content: str = "hello", sender: str = "user", **params: Any) -> SendResult:
        """Send and wait until the run has settled."""
        return await self.send(content, sender, wait="settled", **params)

    async def cancel(self, run_id: str, *, follow: bool = True) -> Run:
        """Cancel a run and wait until it has stopped."""
        return cast("Run", await self.do(run.cancel, RunCancel(run_id=run_id), follow=follow))

    async def cancel_conversation(self, sender: str = "user") -> Any:
        """Cancel the run in flight and wait until it has stopped."""
        return await self.do(cancel_in_conversation, ConversationCancel(sender=sender))

    async def interrupt(self, session_id: str) -> Any:
        """Interrupt the run in flight and wait until it has stopped."""
        return await self.do(interrupt, SessionInterrupt(session_id=session_id))

    async def order(self, run_id: str, *make: Callable[[RunRecord], Command]) -> RunRecord:
        """Carry out commands, each made for the run as it is by then."""

        def carry_out(tx: Transaction) -> RunRecord:
            for each in make:
                record = tx.get(RUNS, run_id)
                assert record is not None
                fold = SessionWriter(
                    tx, record.session_id, session=tx.get(SESSIONS, record.session_id), run=record
                )
                fold.carry_out(each(fold.run))
                fold.write()
            return fold.run

        return await self.state.update(carry_out)

    def leave_behind(self, directory: Path) -> None:
        """Put into a new directory what would be on the disk if the daemon died now."""
        directory.mkdir()
        self.state.store.backup(directory / "state")

    async def allow(self, run_id: str, **answer: Any) -> None:
        """Return a person allows the first call that a run asks about; returns when the run has ended."""

        def resolve(tx: Transaction) -> None:
            record = tx.get(RUNS, run_id)
            assert record is not None
            asked = next(call for call in record.calls if call.state == "asked")
            allowed = ApprovalAnswer(asked.call_id, "allow", **answer)
            fold = SessionWriter(
                tx, record.session_id, session=tx.get(SESSIONS, record.session_id), run=record
            )
            fold.carry_out(AnswerApprovals([allowed]))
            fold.write()

        await self.state.update(resolve)
        await self.until(lambda: self.ended(run_id))

    def ended(self, run_id: str) -> bool:
        """Whether a run has ended."""
        return self.run(run_id).ended_at_ms is not None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once a condition holds, looking after every commit."""
        while True:
            bell = self.state.bell("journal")
            if condition():
                return
            await bell.wait()

    async def left_running(self, run_id: str, starts: int) -> None:
        """Bring a run to where a daemon leaves it that dies in its ``starts``-th call (0: before any)."""

        def begin(tx: Transaction) -> None:
            record = tx.get(RUNS, run_id)
            assert record is not None
            fold = SessionWriter(
                tx, record.session_id, session=tx.get(SESSIONS, record.session_id), run=record
            )
            for _ in range(max(starts, 1)):
                fold.carry_out(Start())
                if starts:
                    fold.carry_out(BeginModelCall("itm_left"))
            fold.write()

        await self.state.update(begin)

    async def lose_session(self, session_id: str) -> None:
        """Damage the store: a session's record is gone."""
        await self.state.update(lambda tx: tx.delete(SESSIONS, session_id))

    async def spoil(self, run_id: str) -> None:
        """Damage the store: a run's record is not one."""
        await self.state.update(lambda tx: tx.put(RUNS, run_id, value=cast("RunRecord", "spoilt")))

    def count(self, table: Table[Any]) -> int:
        """Return the rows of a table."""
        with self.state.read() as store:
            return store.count(table)

    async def rename(self, session_id: str, *, times: int) -> None:
        """Make a session's journal longer."""

        def again(tx: Transaction) -> None:
            fold = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id))
            for number in range(times):
                fold.append(SessionRenamed(title=f"title {number}"))
            fold.write()

        await self.state.update(again)

    async def put_checkpoint(self, session_id: str, cursor: int, content: bytes) -> None:
        """Write a checkpoint as it is."""
        await self.state.update(lambda tx: tx.put(CHECKPOINTS, session_id, cursor, value=content))

    async def forget_checkpoints(self, session_id: str) -> None:
        """Take a session's checkpoints away."""

        def forget(tx: Transaction) -> None:
            for key, _ in list(tx.scan(CHECKPOINTS, session_id)):
                tx.delete(CHECKPOINTS, *key)

        await self.state.update(forget)

    def listen(self) -> Callable[[], list[dict[str, Any]]]:
        """Follow all text from now on; gives what was heard so far."""
        follower = Everything()
        self.live.follow(follower)
        return lambda: [msgspec.json.decode(b"{" + delta) for delta in follower.heard]

    def writing(self) -> list[str]:
        """Return the runs whose text is being written."""
        return [writing.run_id for writing in self.live.current(Everything())]

    def pinned(self, run_id: str) -> Pinned:
        """Return the values that a run pinned."""
        with self.state.read() as store:
            return store.need(PINNED, run_id)

    def run(self, run_id: str) -> RunRecord:
        """Return a run's record now."""
        with self.state.read() as store:
            found = store.get(RUNS, run_id)
        assert found is not None
        return found

    def session(self, session_id: str) -> Session:
        """Return a session's record now."""
        with self.state.read() as store:
            found = store.get(SESSIONS, session_id)
        assert found is not None
        return found

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

    def said(self, session_id: str) -> list[str]:
        """Return the texts of the answers in a session, in order."""
        return [
            text_of(message.items)
            for _, event in self.journal(session_id)
            if (message := getattr(event, "message", None)) is not None and message.role == "assistant"
        ]


@asynccontextmanager
async def open_desk(
    directory: Path, models: Any = None, *, threaded: bool = False, **runtime: Any
) -> AsyncIterator[Desk]:
    """Provide a desk on the store in ``directory``; nobody works yet. A test that hangs fails."""
    made = make_runtime(models=models or Scripted(), **runtime)
    with trio.fail_after(PATIENCE_S if threaded else VIRTUAL_PATIENCE_S):
        async with open_state(
            directory / "state", version="test", threaded=threaded, clock=wall_clock
        ) as state:
            yield Desk(state, made)


@asynccontextmanager
async def working(desk: Desk) -> AsyncIterator[RunWorker]:
    """Provide a worker at this desk; leaving puts down what it has in hand, as a daemon that stops does."""
    worker = RunWorker(desk.services)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.serve)
        yield worker
        nursery.cancel_scope.cancel()


@contextmanager
def full_disk() -> Iterator[None]:
    """Meanwhile the kernel takes no writes beyond a file's first pages, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
