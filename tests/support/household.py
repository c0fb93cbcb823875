"""A daemon served inside the test: sockets, dispatcher, handlers, store, and perhaps a run worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio

from kheishd.core.definition import built_in, parse
from kheishd.debug.captures import CaptureService
from kheishd.debug.files import CaptureFiles
from kheishd.kernel.call import Handler
from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.runtime import RouteSpec
from kheishd.kernel.shells import Shells
from kheishd.kernel.state import State
from kheishd.objects.agents import agent as agents
from kheishd.objects.agents import goal, mailbox, memory, memory_context, persona
from kheishd.objects.node import hook, journal, secret, workspace
from kheishd.objects.people import approval, audit, indoubt, permission, question
from kheishd.objects.talk import (
    compaction,
    conversation,
    fork,
    history,
    output,
    run,
    search,
    send,
    session,
    steer,
    stop,
    transfer,
)
from kheishd.objects.wake import cron, event, trigger
from kheishd.objects.work import checkpoint, task
from kheishd.server.listeners import TcpListen
from kheishd.store.tables import SESSIONS
from kheishd.workers.agents import AgentWorker
from kheishd.workers.mail import MailWorker
from kheishd.workers.runs.worker import RunWorker
from protocol.errors.conversation import ConversationNotFound, SenderForbidden, SenderInvalid
from protocol.errors.definition import AgentForbidden
from protocol.errors.refusal import Refusal
from protocol.errors.session import SessionNotFound
from protocol.objects.definition import Definition
from tests.support.desk import Gate, Scripted
from tests.support.rpc_server import Client, FakeControl, RpcServer, rpc_server
from tests.support.runtimes import make_runtime

HANDLERS: tuple[Handler, ...] = (
    *conversation.HANDLERS,
    *cron.HANDLERS,
    *session.HANDLERS,
    *send.HANDLERS,
    *steer.HANDLERS,
    *stop.HANDLERS,
    *compaction.HANDLERS,
    *history.HANDLERS,
    *search.HANDLERS,
    *fork.HANDLERS,
    *run.HANDLERS,
    *output.HANDLERS,
    *permission.HANDLERS,
    *audit.HANDLERS,
    *transfer.HANDLERS,
    *approval.HANDLERS,
    *question.HANDLERS,
    *indoubt.HANDLERS,
    *task.HANDLERS,
    *checkpoint.HANDLERS,
    *goal.HANDLERS,
    *mailbox.HANDLERS,
    *agents.HANDLERS,
    *persona.HANDLERS,
    *memory.HANDLERS,
    *memory_context.HANDLERS,
    *journal.HANDLERS,
    *workspace.HANDLERS,
    *hook.HANDLERS,
    *secret.HANDLERS,
    *event.HANDLERS,
    *trigger.HANDLERS,
)


def agent(name: str, matter: str = "", instructions: str = "Be brief.") -> Definition:
    """Return an agent as a file defines it."""
    front = f"---\n{matter}\n---\n" if matter else ""
    return parse(name, f"{front}{instructions}".encode(), f"/home/agents/{name}.md")


AGENTS = {
    definition.name: definition
    for definition in (
        built_in(),
        agent("reviewer", "tools: [read_file, grep]\npermission_mode: plan"),
        agent("critic", instructions="Criticize."),
    )
}


class Ready(Scripted):
    """A scripted model caller, and routes that are not ready: those in ``problems``."""

    problems: dict[str, str]

    def problem(self, route: RouteSpec) -> str | None:
        """Return the problem that the test set."""
        return self.problems.get(route.route_id)


ROUTES = {
    "offline": RouteSpec("offline", "offline", "offline", built_in=True),
    "local": RouteSpec("local", "openai", "qwen3", "http://127.0.0.1:1/v1", options={"temperature": 0}),
    "unready": RouteSpec("unready", "anthropic", "claude", auth_ref="env:NOT_SET"),
}


class Household:
    """A client with every right, and the daemon that serves it."""

    def __init__(self, server: RpcServer, client: Client, holder: RuntimeHolder, models: Ready) -> None:
        self.server = server
        self.client = client
        self.holder = holder
        self.models = models

    @property
    def state(self) -> State:
        """The daemon's state."""
        return self.server.state

    @property
    def control(self) -> FakeControl:
        """The controls of the daemon."""
        return self.server.control

    async def call(self, method: str, **params: Any) -> Any:
        """Return the result of a call."""
        return await self.client.call(method, **params)

    async def refusal_of(self, method: str, **params: Any) -> Refusal:
        """Return the refusal of a call."""
        return await refusal_of(self.client, method, **params)

    async def send(self, content: str = "hello", **params: Any) -> Any:
        """Send to a conversation, by default that of (default, user)."""
        return await self.call("conversation.send", content=content, **params)

    async def ask(self, content: str = "hello", **params: Any) -> Any:
        """Send and wait until the run has settled."""
        return await self.send(content, wait="settled", **params)

    async def connect_limited(self, **grant: Any) -> Client:
        """Return a connection with a token that has only some agents, senders or scopes."""
        _, secret = await self.server.token(**grant)
        return await self.server.connect_websocket(secret)

    def head(self) -> int:
        """Return the newest cursor."""
        with self.state.read() as store:
            return store.last_cursor

    def sessions(self) -> int:
        """Return the number of sessions."""
        with self.state.read() as store:
            return store.count(SESSIONS)

    async def events(self, **selection: Any) -> list[Any]:
        """Return events by ``journal.read``."""
        page = await self.call("journal.read", limit=500, **selection)
        events: list[Any] = page["events"]
        return events

    async def kinds(self, **selection: Any) -> list[str]:
        """Return the types of events."""
        return [event["type"] for event in await self.events(**selection)]

    def gate(self, content: str) -> Gate:
        """Hold the answer to this content until the gate opens."""
        gate = Gate()
        self.models.answers_to[content] = gate
        return gate

    def gate_next(self) -> Gate:
        """Hold the next answer until the gate opens."""
        gate = Gate()
        self.models.answers.insert(0, gate)
        return gate

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Provide the workers of runs and agents; leaving the context stops them and the runs in flight."""
        async with trio.open_nursery() as nursery:
            await nursery.start(RunWorker(self.server.services).serve)
            await nursery.start(AgentWorker(self.server.services).serve)
            await nursery.start(MailWorker(self.server.services).serve)
            yield
            nursery.cancel_scope.cancel()


async def require_session_not_found(house: Household, method: str, **params: Any) -> None:
    """Require that the method refuses an unknown session and an uncovered one alike."""
    sent = await house.send(agent="reviewer", sender="bob")
    ann = await house.connect_limited(senders=["ann"])
    critic = await house.connect_limited(agents=["critic"])
    for client, session_id in (
        (house.client, "ses_none"),
        (ann, sent["session_id"]),
        (critic, sent["session_id"]),
    ):
        refusal = await refusal_of(client, method, session_id=session_id, **params)
        assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.session_id")


async def require_conversation_not_found(house: Household, method: str) -> None:
    """Require that the method finds no conversation, for a possible address and for an impossible one."""
    for name in ("default", "nobody", "a\x00b", "ä" * 128):
        refusal = await house.refusal_of(method, agent=name, sender="nobody")
        assert isinstance(refusal, ConversationNotFound)


async def require_limited(house: Household, method: str) -> None:
    """Require that a token that covers (default, ann) reaches no other pair by the method."""
    await house.send(agent="reviewer", sender="ann")
    await house.send(sender="bob")
    ann = await house.connect_limited(agents=["default"], senders=["ann"])
    assert isinstance(await refusal_of(ann, method, agent="reviewer", sender="ann"), AgentForbidden)
    assert isinstance(await refusal_of(ann, method, sender="bob"), SenderForbidden)


async def require_sender_invalid(house: Household, method: str) -> None:
    """Require that the method refuses an impossible sender."""
    assert isinstance(await house.refusal_of(method, sender="a\nb"), SenderInvalid)


async def refusal_of(client: Client, method: str, **params: Any) -> Refusal:
    """Return the refusal of a call over a connection."""
    with pytest.raises(Refusal) as caught:
        await client.call(method, **params)
    return caught.value


@asynccontextmanager
async def household(
    directory: Path,
    *,
    work: bool = True,
    tcp: bool = False,
    captures: CaptureService | None = None,
    shells: Shells | None = None,
    **runtime: Any,
) -> AsyncIterator[Household]:
    """Serve a daemon. Without ``work`` runs stay queued; with ``tcp`` tokens work."""
    captures = captures or CaptureService(CaptureFiles(directory / "debug"))
    models = Ready()
    models.problems = {"unready": "the environment variable NOT_SET is not set"}
    fields: dict[str, Any] = {"models": models, "definitions": AGENTS, "routes": ROUTES}
    first_runtime = make_runtime(1, **(fields | runtime))
    holder = RuntimeHolder(first_runtime, lambda old: None)
    listen = TcpListen("127.0.0.1", 0) if tcp else None
    async with (
        rpc_server(
            directory, HANDLERS, runtimes=holder, captures=captures, shells=shells, tcp=listen
        ) as server,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(captures.serve)
        house = Household(server, await server.connect(), holder, models)
        async with house.working() if work else nullcontext():
            yield house
        nursery.cancel_scope.cancel()


async def pages(client: Client, method: str, key: str, **params: Any) -> list[Any]:
    """Return all rows of a list, read page by page. No page exceeds the limit."""
    rows: list[Any] = []
    token = None
    while True:
        page = await client.call(method, **params, **({"after": token} if token is not None else {}))
        assert len(page[key]) <= params.get("limit", 50)
        rows += page[key]
        token = page["next"]
        if token is None:
            return rows
