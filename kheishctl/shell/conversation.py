"""The chat's side of one conversation, whatever happens to the connection. Knows no terminal.

One task keeps a connection: it dials, finds where the conversation stands, follows it from the cursor it
had, and dials again when the connection is lost. Another delivers what is said, in order, each under a key
of its own, so that what is sent again after a loss is taken once. What happens in the conversation, by
whomever, is heard only from the journal: what this client says comes back like what another one says,
once the daemon has it.

Two subscriptions make that whole: ``watch`` hears when the address comes to mean another session (the
first message, a reset), the other follows the session that it means now.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from kheishctl import __version__
from kheishctl.client import ConnectionLost, NoDaemon, RequestRefused
from kheishctl.render.daemon import describe_version_difference
from kheishctl.render.follower import StreamFollower
from kheishctl.shell.link import Link

if TYPE_CHECKING:
    from kheishctl.contract import Json
    from kheishctl.render.pieces import Piece

WATCH = "watch"
WATCHED_TYPES = ["conversation_bound", "conversation_unbound"]

RECONNECT_SECONDS = 0.25
RETRY_SECONDS = 1.0
TURNS_ON_ENTRY = 6

# What waits for a person in a session: who lists it, and under which name.
WAITING = (("approval.list", "approvals"), ("question.list", "questions"), ("indoubt.list", "indoubts"))

# A daemon that does not know of such things, and a right that we lack.
_NOTHING = ("method_not_found", "scope_missing")


class Listener(Protocol):
    """Who is told what happens."""

    def entered(self, messages: list[Json], *, more: bool) -> None:
        """The conversation was found; its last messages, oldest first."""
        ...

    def waits(self, asked: list[Json], doubts: list[Json]) -> None:
        """All approvals and questions that wait for a person, and all calls in doubt."""
        ...

    def shown(self, piece: Piece) -> None:
        """Something happened in it."""
        ...

    def noted(self, text: str, style: str = "dim") -> None:
        """Something about it."""
        ...

    def changed(self) -> None:
        """The connection came or went."""
        ...


class Conversation:
    """One (agent, sender) pair, followed. ``agent`` is None until the daemon said which is the default."""

    def __init__(self, path: str, agent: str | None, sender: str, listener: Listener, *, fresh: bool) -> None:
        self.path = path
        self.agent = agent
        self.sender = sender
        self.outbox: deque[tuple[str, str]] = deque()
        self._listener = listener
        self._fresh = fresh
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._filled = asyncio.Event()
        self._sessions: asyncio.Queue[str | None] = asyncio.Queue()
        self._session_id: str | None = None
        self._subscription = ""
        self._subscriptions = 0
        self._watch_cursor: int | None = None
        self._version = __version__
        self._follower = StreamFollower()

    @property
    def connected(self) -> bool:
        """Whether the conversation is being followed now."""
        return self._up.is_set()

    @property
    def session_id(self) -> str | None:
        """The session that the conversation means now; None before its first message."""
        return self._session_id

    @property
    def running(self) -> bool:
        """Whether a run is in flight, as far as is known."""
        return self._follower.running is not None

    def say(self, text: str) -> None:
        """Send something, now or as soon as there is a connection."""
        self.outbox.append((f"kheishctl-{uuid4().hex}", text))
        self._filled.set()

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Ask the daemon. Errors: Refused, Lost."""
        if self._link is None:
            raise ConnectionLost("there is no connection to the daemon at the moment")
        return await self._link.call(method, params)

    def address(self) -> Json:
        """The params that name the conversation."""
        return {"sender": self.sender} | ({"agent": self.agent} if self.agent else {})

    async def cancel(self) -> None:
        """Stop the run in flight; what came of it is heard from the journal. Errors: Refused, Lost."""
        await self.call("conversation.cancel", self.address())

    # The connection.

    async def stay_connected(self) -> None:
        """Follow the conversation over as many connections as it takes. Errors: NotPermitted, Refused."""
        while True:
            try:
                await self._connect()
            except (NoDaemon, ConnectionLost):
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _connect(self) -> None:
        sessions = self._sessions = asyncio.Queue()
        link = self._link = await Link.dial(self.path, self._heard, lambda: self._lost(sessions))
        try:
            await self._enter(link)
            self._up.set()
            self._listener.changed()
            while (session_id := await sessions.get()) is not None:
                await self._turn_to(link, session_id)
        finally:
            # Hanging up ourselves is no loss to speak of.
            self._up.clear()
            link.close()

    def _lost(self, sessions: asyncio.Queue[str | None]) -> None:
        was_up = self._up.is_set()
        self._link = None
        self._up.clear()
        sessions.put_nowait(None)
        if was_up:
            self._listener.noted(
                "the connection is lost; waiting for the daemon ('kheishctl daemon start')", "yellow"
            )
            self._listener.changed()

    async def _enter(self, link: Link) -> None:
        status = await link.call("daemon.status")
        self.agent = self.agent or str(status.get("default_agent", "default"))
        self._name_version(str(status["version"]))
        after = {} if self._watch_cursor is None else {"after": self._watch_cursor}
        watch = {"types": WATCHED_TYPES, "subscription": WATCH}
        begun = await link.call("journal.subscribe", watch | after)
        self._watch_cursor = max(self._watch_cursor or 0, int(begun["cursor"]))
        if self._session_id is not None:
            await self._look_what_waits(link, self._session_id)
            await self._follow(link, self._session_id, self._follower.cursor)
            self._listener.noted("connected again")
        else:
            await self._find(link)

    def _name_version(self, version: str) -> None:
        if version != self._version:
            self._version = version
            self._listener.noted(describe_version_difference(version), "yellow")

    async def _find(self, link: Link) -> None:
        """Find the session that the address means and say where it stands; there may be none yet.

        Errors: Refused, also for an agent that is not there: nothing could be said to it.
        """
        try:
            if self._fresh:
                self._fresh = False
                await link.call("conversation.reset", self.address())
            found = await link.call("conversation.get", self.address())
        except RequestRefused as refused:
            if refused.reason != "conversation_not_found":
                raise
            await link.call("definition.get", {"name": self.agent})
            self._listener.entered([], more=False)
            return
        session = found["session"]
        # Up to the record's cursor from the history, after it from the journal: nothing twice.
        page = await link.call(
            "conversation.history", self.address() | {"order": "newest", "limit": TURNS_ON_ENTRY}
        )
        messages = [
            entry for entry in reversed(page["messages"]) if entry["cursor"] <= session["updated_cursor"]
        ]
        self._listener.entered(messages, more=page["next"] is not None)
        self._follower = StreamFollower(int(session["updated_cursor"]))
        said = (entry["message"] for entry in reversed(messages))
        self._follower.learn(next((each for each in said if each["role"] == "assistant"), {"items": []}))
        await self._look_what_runs(link, next(iter(session.get("open_runs", ())), None))
        await self._look_what_waits(link, found["session_id"])
        await self._follow(link, found["session_id"], self._follower.cursor)

    async def _look_what_runs(self, link: Link, run_id: str | None) -> None:
        """Show the calls that run already."""
        self._follower.running = run_id
        if run_id is not None:
            run = await link.call("run.get", {"run_id": run_id})
            for piece in self._follower.resume(run):
                self._listener.shown(piece)

    async def _look_what_waits(self, link: Link, session_id: str) -> None:
        """Tell what waits for a person: before following, so that what comes after it changes it."""
        found: dict[str, list[Json]] = {}
        for method, plural in WAITING:
            rows = found[plural] = []
            params: Json = {"session_id": session_id}
            while True:
                try:
                    page = await link.call(method, params)
                except RequestRefused as refused:
                    if refused.reason not in _NOTHING:
                        raise
                    break
                rows += page[plural]
                if page.get("next") is None:
                    break
                params["after"] = page["next"]
        self._listener.waits([*found["approvals"], *found["questions"]], found["indoubts"])

    async def _turn_to(self, link: Link, session_id: str) -> None:
        """Follow the session that the address has come to mean, from its beginning."""
        if session_id != self._session_id:
            old, self._follower = self._subscription, StreamFollower()
            self._listener.waits([], [])
            await self._follow(link, session_id, 0)
            if old:
                await link.call("journal.unsubscribe", {"subscription": old})

    async def _follow(self, link: Link, session_id: str, after: int) -> None:
        self._subscriptions += 1
        self._subscription = f"chat-{self._subscriptions}"
        self._session_id = session_id
        params = {"session_id": session_id, "after": after, "deltas": True}
        await link.call("journal.subscribe", params | {"subscription": self._subscription})

    # What is heard.

    def _heard(self, method: str, params: Json) -> None:
        subscription = params.get("subscription")
        if subscription == WATCH:
            self._watched(method, params)
        elif subscription == self._subscription:
            for piece in self._follower.feed(method, params):
                self._listener.shown(piece)

    def _watched(self, method: str, params: Json) -> None:
        if "cursor" in params:
            self._watch_cursor = max(self._watch_cursor or 0, int(params["cursor"]))
        event = params.get("event", {})
        if method != "journal.event" or (event["agent"], event["sender"]) != (self.agent, self.sender):
            return
        if event["type"] == "conversation_bound":
            self._sessions.put_nowait(str(event["session_id"]))
        elif event.get("session_id") == self._session_id:
            self._listener.noted("the conversation was reset; the next message begins a new session")

    # What is said.

    async def deliver(self) -> None:
        """Send what is said, in order, each once. Runs until cancelled."""
        while True:
            while not self.outbox:
                self._filled.clear()
                await self._filled.wait()
            await self._up.wait()
            try:
                await self._send(*self.outbox[0])
            except ConnectionLost:
                continue  # Sent again, under the same key, over the next connection.
            except RequestRefused as refused:
                if refused.retryable:
                    self._listener.noted(f"{refused}; trying again", "yellow")
                    await asyncio.sleep(refused.data.get("retry_after_ms", RETRY_SECONDS * 1000) / 1000)
                    continue
                self._listener.noted(f"not sent: {refused}", "red")
            self.outbox.popleft()
            self._listener.changed()

    async def _send(self, key: str, text: str) -> None:
        await self.call("conversation.send", self.address() | {"content": text, "idempotency_key": key})
