"""The client of one conversation: follows it and sends messages, across reconnections. No terminal I/O.

One task keeps a connection: it dials, finds the session of the conversation, follows the session from the
last known cursor, and dials again after a loss. Another task delivers the messages of the outbox in order,
each under its own idempotency key, so that a message that is sent again after a loss is accepted once. The
listener hears every change, including those of this client, from the journal.

Two subscriptions follow the conversation: ``watch`` reports when the address is bound to another session (by
the first message or by a reset), and the other one follows the current session. A third one follows the
agents below it, once there are any.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from kheishctl.client import ConnectionLost, Failure, NoDaemon, RequestRefused, is_failed_end
from kheishctl.contract import MAX_PAGE_ROWS
from kheishctl.render.changes import Notice
from kheishctl.render.children import CHILD_EVENTS, ChildFollower
from kheishctl.render.daemon import describe_version_difference
from kheishctl.render.follower import StreamFollower
from kheishctl.render.messages import format_message, name_author
from kheishctl.shell.connection import ChatConnection
from kheishctl.shell.status import ConversationStatus
from protocol import __version__
from protocol.text import one_line

if TYPE_CHECKING:
    from kheishctl.contract import Json
    from kheishctl.render.changes import DisplayChange

WATCH = "watch"
WATCHED_TYPES = ["conversation_bound", "conversation_unbound"]

RECONNECT_SECONDS = 0.25
MAX_RECONNECT_SECONDS = 30.0
RETRY_SECONDS = 1.0
MESSAGES_AT_START = 6

# The methods that list the pending requests of a session, with the name of the list in the result.
LISTS = (("approval.list", "approvals"), ("question.list", "questions"), ("indoubt.list", "indoubts"))

# Refusals of a list that mean an empty one: an older daemon has no such method, a token may lack the scope.
_UNAVAILABLE = ("method_not_found", "scope_missing")


class ConversationListener(Protocol):
    """The receiver of a conversation's changes."""

    def start(self, messages: list[Json], *, has_more: bool) -> None:
        """Show the start of the chat and the last messages, oldest first."""
        ...

    def replace_pending(self, requests: list[Json], doubts: list[Json]) -> None:
        """Replace all pending approvals and questions, and all calls in doubt."""
        ...

    def receive(self, change: DisplayChange) -> None:
        """Show a change of the conversation."""
        ...

    def note(self, text: str, style: str = "dim") -> None:
        """Show a note about the conversation."""
        ...

    def redraw(self) -> None:
        """Show a change of the connection or the outbox."""
        ...


class ConversationClient:
    """A client of one conversation. ``agent`` is None until the daemon has named its default agent.

    ``directory`` is that of the person, in which a new conversation works if it may; ``moves``: so does an
    existing one. ``workspace`` is the directory of the conversation's next run, as far as it is known.
    """

    def __init__(
        self,
        path: str,
        agent: str | None,
        sender: str,
        listener: ConversationListener,
        *,
        fresh: bool,
        directory: str | None = None,
        moves: bool = False,
    ) -> None:
        self.path = path
        self.agent = agent
        self.sender = sender
        self.directory = directory
        self.workspace: str | None = None
        self._moves = moves
        self.outbox: deque[tuple[str, str]] = deque()
        # The key of the last message that was sent, with or without an answer.
        self._attempted = ""
        # The session and the cursor of the last acceptance.
        self._accepted: tuple[str, int] = ("", 0)
        self._listener = listener
        self._fresh = fresh
        self._connection: ChatConnection | None = None
        self._is_up = asyncio.Event()
        self._has_outgoing = asyncio.Event()
        self._sessions: asyncio.Queue[str | None] = asyncio.Queue()
        self._is_resumed = asyncio.Event()
        self._session_id: str | None = None
        self._subscription = ""
        self._subscriptions = 0
        self._watch_cursor: int | None = None
        self._epoch: str | None = None
        self._version = __version__
        self._follower = StreamFollower()
        self.status = ConversationStatus()
        self._children: ChildFollower | None = None
        self._children_subscription = ""
        self._tasks: set[asyncio.Future[None]] = set()
        self.presets: Json = {}
        # Streams that the daemon could not continue, since the last event.
        self._failures = 0

    @property
    def is_connected(self) -> bool:
        """Whether the client follows the conversation now."""
        return self._is_up.is_set()

    @property
    def session_id(self) -> str | None:
        """The current session of the conversation; None before its first message."""
        return self._session_id

    @property
    def is_running(self) -> bool:
        """Whether a run of the conversation is known to be running."""
        return self._follower.running is not None

    @property
    def is_settled(self) -> bool:
        """Whether every message was accepted, its events were received, and no run is running."""
        session_id, cursor = self._accepted
        is_behind = self._session_id in (None, session_id) and self._follower.cursor < cursor
        return not self.outbox and not is_behind and not self.is_running

    @property
    def running_since_ms(self) -> int | None:
        """The time at which the running run was started, if it is known."""
        return self.status.started_at_ms(self._follower.running)

    def preset(self, **properties: Any) -> None:
        """Set properties of the session that the first message will start."""
        self.presets = self.presets | properties

    def switch_sender(self, sender: str, agent: str | None = None) -> bool:
        """Continue as another sender, or with another agent; False while messages are unsent."""
        if self.outbox:
            return False
        self.sender, self.agent = sender, agent or self.agent
        self._session_id = self._watch_cursor = None
        self._accepted = ("", 0)
        self._subscription, self._follower, self._children, self.presets = "", StreamFollower(), None, {}
        self.status = ConversationStatus()
        self._listener.replace_pending([], [])
        if self._connection is not None:
            # The next connection finds the session of the other conversation.
            self._is_up.clear()
            self._connection.close()
        return True

    async def move(self, path: str) -> None:
        """Let the conversation work in a directory from now on. Errors: RequestRefused, ConnectionLost."""
        if self._session_id is None:
            self.preset(workspace=path)
        else:
            await self.call("session.update", {"session_id": self._session_id, "workspace": path})
        self.workspace = path

    def send(self, text: str) -> None:
        """Put a message into the outbox."""
        self.outbox.append((f"kheishctl-{uuid4().hex}", text))
        self._has_outgoing.set()

    def unsend(self, key: str) -> bool:
        """Remove a message from the outbox; False if the daemon may have accepted it already."""
        row = next((row for row in self.outbox if row[0] == key), None)
        if row is None or key == self._attempted:
            return False
        self.outbox.remove(row)
        return True

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Call a method of the daemon. Errors: RequestRefused, ConnectionLost."""
        if self._connection is None:
            raise ConnectionLost("there is no connection to the daemon at the moment")
        return await self._connection.call(method, params)

    def address(self) -> Json:
        """Return the params that name the conversation."""
        return {"sender": self.sender} | ({"agent": self.agent} if self.agent else {})

    async def resume(self, session_id: str) -> None:
        """Continue an earlier session; return when its last messages are shown.

        Errors: RequestRefused, ConnectionLost.
        """
        self._is_resumed.clear()
        await self.call("conversation.resume", self.address() | {"session_id": session_id})
        if session_id != self._session_id:
            await self._is_resumed.wait()

    # The connection.

    async def stay_connected(self) -> None:
        """Follow the conversation, reconnecting after each loss; run until cancelled.

        Errors: SocketForbidden, RequestRefused.
        """
        while True:
            try:
                await self._follow_conversation()
            except (NoDaemon, ConnectionLost):
                await asyncio.sleep(min(RECONNECT_SECONDS * 2**self._failures, MAX_RECONNECT_SECONDS))

    async def _follow_conversation(self) -> None:
        """Follow the conversation over one connection until it is lost."""
        sessions = self._sessions = asyncio.Queue()
        connection = self._connection = await ChatConnection.dial(
            self.path, self._on_notification, lambda: self._on_lost(sessions)
        )
        try:
            await self._open(connection)
            self._is_up.set()
            self._listener.redraw()
            while (session_id := await sessions.get()) is not None:
                if session_id == self._session_id:
                    self._is_resumed.set()
                    continue
                earlier = await self._is_earlier(connection, session_id)
                previous, self._follower = self._subscription, StreamFollower()
                self.status = ConversationStatus()
                previous_children, self._children_subscription = self._children_subscription, ""
                self._children = None
                self._listener.replace_pending([], [])
                if earlier:
                    # Its events are not shown anew, only its last messages.
                    await self._start(connection)
                else:
                    await self._subscribe(connection, session_id, 0)
                if previous:
                    await connection.call("journal.unsubscribe", {"subscription": previous})
                if previous_children:
                    await connection.call("journal.unsubscribe", {"subscription": previous_children})
                self._is_resumed.set()
        finally:
            self._is_resumed.set()
            # A close by this side must not be reported as a loss.
            self._is_up.clear()
            connection.close()

    async def _is_earlier(self, connection: ChatConnection, session_id: str) -> bool:
        """Whether the conversation was bound to a session that existed before, such as a fork."""
        conversation = await connection.call("conversation.get", self.address())
        session = conversation["session"]
        self.workspace = conversation.get("workspace")
        is_older = conversation.get("bound_at_ms", 0) > session.get("created_at_ms", 0)
        return conversation["session_id"] == session_id and (is_older or bool(session.get("fork_of")))

    def _on_lost(self, sessions: asyncio.Queue[str | None]) -> None:
        was_up = self.is_connected
        self._connection = None
        self._is_up.clear()
        sessions.put_nowait(None)
        if was_up:
            hint = "start it with 'kheishctl daemon start'"
            self._listener.note(f"connection lost; waiting for the daemon ({hint})", "yellow")
            self._listener.redraw()

    async def _open(self, connection: ChatConnection) -> None:
        """Watch the address and follow its session, if it has one."""
        status = await connection.call("daemon.status")
        self.agent = self.agent or str(status.get("default_agent", "default"))
        version = str(status["version"])
        if version != self._version:
            self._version = version
            self._listener.note(describe_version_difference(version), "yellow")
        self._enter_epoch(status.get("epoch"))
        position = self._position(self._watch_cursor)
        watch = {"types": WATCHED_TYPES, "subscription": WATCH}
        subscribed = await connection.call("journal.subscribe", watch | position)
        self._watch_cursor = max(self._watch_cursor or 0, int(subscribed["cursor"]))
        if self._session_id is None:
            await self._start(connection)
            return
        await self._list_pending(connection, self._session_id)
        await self._subscribe(connection, self._session_id, self._follower.cursor)
        self._listener.note("connected again")

    def _enter_epoch(self, epoch: str | None) -> None:
        """Begin anew if a backup was restored: cursors, and perhaps the session, are of another history."""
        if self._epoch not in (None, epoch):
            self._listener.note(
                "a backup was restored: the conversation is as it was then, and later messages are lost",
                "yellow",
            )
            self._session_id = self._watch_cursor = None
            self._accepted = ("", 0)
            self._subscription = ""
            self._follower, self.status = StreamFollower(), ConversationStatus()
            self._listener.replace_pending([], [])
        self._epoch = epoch

    def _position(self, cursor: int | None) -> Json:
        """Return the params of a subscription that continues at a cursor of this epoch."""
        if cursor is None:
            return {}
        return {"after": cursor} if self._epoch is None else {"after": cursor, "epoch": self._epoch}

    async def _start(self, connection: ChatConnection) -> None:
        """Find the session of the address and show its last messages; a new address has no session.

        Errors: RequestRefused, also for an unknown agent, which cannot receive messages.
        """
        try:
            if self._fresh:
                self._fresh = False
                await connection.call("conversation.reset", self.address())
            conversation = await connection.call("conversation.get", self.address())
            if self._moves:
                update = {"session_id": conversation["session_id"], "workspace": self.directory}
                await connection.call("session.update", update)
                conversation = await connection.call("conversation.get", self.address())
        except RequestRefused as refused:
            if refused.reason != "conversation_not_found":
                raise
            await connection.call("definition.get", {"name": self.agent})
            problem = await self._find_workspace(connection)
            self._listener.start([], has_more=False)
            if problem:
                self._listener.note(f"not in {one_line(self.directory or '')}: {one_line(problem)}", "yellow")
            return
        self._moves = False
        self.workspace = conversation.get("workspace")
        session = conversation["session"]
        cursor = int(session["updated_cursor"])
        # The history is shown up to this cursor and the journal after it, so that nothing is shown twice.
        newest = self.address() | {"order": "newest", "limit": MESSAGES_AT_START}
        page = await connection.call("conversation.history", newest)
        open_runs = session.get("open_runs", ())
        entries = [entry for entry in reversed(page["messages"]) if entry["cursor"] <= cursor]
        queued = [entry for entry in entries if entry.get("unread") and entry.get("run_id") in open_runs]
        messages = [entry for entry in entries if entry not in queued]
        self.status = ConversationStatus()
        self.status.read_session(session)
        self.status.read_history(page["messages"])
        self._listener.start(messages, has_more=page["next"] is not None)
        self._follower = StreamFollower(cursor)
        for entry in queued:
            text = format_message(entry["message"])
            sender = name_author(str(entry.get("sender") or ""), entry["message"])
            self._listener.receive(self._follower.queue_input(entry["run_id"], text, sender))
        answers = [entry["message"] for entry in messages if entry["message"]["role"] == "assistant"]
        self._follower.learn(answers[-1] if answers else {"items": []})
        self._follower.running = next(iter(open_runs), None)
        # The last run names the model and the workspace, whether it has ended or not.
        run_ids = [row["run_id"] for row in page["messages"] if row.get("run_id")]
        if last_run := self._follower.running or next(iter(run_ids), None):
            with suppress(RequestRefused):
                run = await connection.call("run.get", {"run_id": last_run})
                self.status.read_run(run)
                for change in self._follower.resume(run) if self._follower.running else ():
                    self._listener.receive(change)
        await self._list_pending(connection, conversation["session_id"])
        await self._subscribe(connection, conversation["session_id"], self._follower.cursor)

    async def _find_workspace(self, connection: ChatConnection) -> str:
        """Find out where a new conversation will work; return why not in the person's directory.

        Errors: Failure if it may not work where it is to.
        """
        if self.directory is None:
            return ""
        try:
            view = await connection.call("workspace.get", {"path": self.directory, "agent": self.agent})
        except RequestRefused as refused:
            if refused.reason not in _UNAVAILABLE:
                raise
            return ""
        self.workspace = str(view["workspace"])
        if self._moves:
            self._moves = False
            if view.get("problem"):
                raise Failure(str(view["problem"]))
            self.workspace = str(view["path"])
            self.preset(workspace=self.workspace)
        return str(view.get("problem", ""))

    async def _list_pending(self, connection: ChatConnection, session_id: str) -> None:
        """Report the pending requests of a session, before later events can change them."""
        lists: dict[str, list[Json]] = {plural: [] for _, plural in LISTS}
        await self._list_requests(connection, session_id, lists)
        self._children, self._children_subscription = None, ""
        progress: list[DisplayChange] = []
        if len(await self._list_agents(connection, session_id)) > 1:
            # Events from here on follow; what happened before them is in the lists.
            children = await self._follow_children(connection, session_id, None)
            agents = await self._list_agents(connection, session_id)
            progress = children.add(agents)
            for agent in agents:
                if agent["agent_id"] != session_id and (
                    agent.get("pending_approvals") or agent.get("pending_questions")
                ):
                    below: dict[str, list[Json]] = {plural: [] for _, plural in LISTS}
                    await self._list_requests(connection, agent["agent_id"], below)
                    for plural in ("approvals", "questions"):
                        lists[plural] += filter(None, map(children.mark, below[plural]))
        self._listener.replace_pending([*lists["approvals"], *lists["questions"]], lists["indoubts"])
        for change in progress:
            self._listener.receive(change)

    async def _list_requests(
        self, connection: ChatConnection, session_id: str, lists: dict[str, list[Json]]
    ) -> None:
        """Add the pending requests of a session to the lists. Errors: RequestRefused, ConnectionLost."""
        for method, plural in LISTS:
            rows = lists[plural]
            params: Json = {"session_id": session_id}
            while True:
                try:
                    page = await connection.call(method, params)
                except RequestRefused as refused:
                    if refused.reason not in _UNAVAILABLE:
                        raise
                    break
                rows += page[plural]
                if page.get("next") is None:
                    break
                params["after"] = page["next"]

    async def _list_agents(self, connection: ChatConnection, session_id: str) -> list[Json]:
        """Return the live agents of a session's tree; none if the daemon refuses to list them."""
        try:
            page = await connection.call("agent.list", {"root": session_id, "limit": MAX_PAGE_ROWS})
        except RequestRefused:
            return []
        agents: list[Json] = page["agents"]
        return agents

    async def _follow_children(
        self, connection: ChatConnection, session_id: str, cursor: int | None
    ) -> ChildFollower:
        """Follow the agents below a session, from a cursor or from now on."""
        self._subscriptions += 1
        self._children_subscription = f"children-{self._subscriptions}"
        children = self._children = ChildFollower(session_id, cursor or 0)
        params = {
            "session_id": session_id,
            "subtree": True,
            "types": list(CHILD_EVENTS),
            "subscription": self._children_subscription,
        }
        await connection.call("journal.subscribe", params | self._position(cursor))
        return children

    async def _follow_first_child(self, session_id: str, cursor: int) -> None:
        """Follow the agents below a session, of which the event after the cursor is the first."""
        with suppress(RequestRefused, ConnectionLost):
            # The conversation may have been reset since, to another session.
            if self._connection is not None and self._session_id == session_id:
                await self._follow_children(self._connection, session_id, cursor)

    async def _subscribe(self, connection: ChatConnection, session_id: str, cursor: int) -> None:
        self._subscriptions += 1
        self._subscription = f"chat-{self._subscriptions}"
        self._session_id = session_id
        params = {"session_id": session_id, "deltas": True, "subscription": self._subscription}
        await connection.call("journal.subscribe", params | self._position(cursor))

    def _on_notification(self, method: str, params: Json) -> None:
        subscription = params.get("subscription")
        if is_failed_end(method, params) and self._connection is not None:
            if not self._failures:
                notice = Notice("the daemon could not continue the stream of events; its log says why")
                self._listener.receive(notice)
            self._failures += 1
            self._connection.close()  # The next connection continues from the last cursor.
            return
        if method == "journal.event":
            self._failures = 0
        if subscription == self._subscription:
            event = params.get("event", {})
            if int(params.get("cursor", 0)) > self._follower.cursor:
                self.status.feed(event)
            for change in self._follower.feed(method, params):
                self._listener.receive(change)
            if event.get("type") == "session_updated" and "workspace" in event["changes"]:
                self.workspace = event["changes"]["workspace"]
            if event.get("type") == "child_spawned" and self._children is None:
                session_id, cursor = str(event["session_id"]), int(params["cursor"]) - 1
                self._children = ChildFollower(session_id, cursor)
                task = asyncio.ensure_future(self._follow_first_child(session_id, cursor))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if subscription == self._children_subscription and self._children is not None:
            for change in self._children.feed(method, params):
                self._listener.receive(change)
        if subscription != WATCH:
            return
        if "cursor" in params:
            self._watch_cursor = max(self._watch_cursor or 0, int(params["cursor"]))
        event = params.get("event", {})
        if method != "journal.event" or (event["agent"], event["sender"]) != (self.agent, self.sender):
            return
        if event["type"] == "conversation_bound":
            self._sessions.put_nowait(str(event["session_id"]))
        elif event.get("session_id") == self._session_id and not event.get("moved"):
            self._listener.note("the conversation was reset; the next message starts a new session")

    # The outbox.

    async def deliver(self) -> None:
        """Send the messages of the outbox in order, each once; run until cancelled."""
        while True:
            while not self.outbox:
                self._has_outgoing.clear()
                await self._has_outgoing.wait()
            await self._is_up.wait()
            if not self.outbox:
                continue  # It was withdrawn while there was no connection.
            key, text = self.outbox[0]
            self._attempted = key
            settings = {name: value for name, value in self.presets.items() if value is not None}
            # A conversation that starts over works where the earlier one did.
            place = {"cwd": directory} if (directory := self.workspace or self.directory) else {}
            params = self.address() | place | {"content": text, "idempotency_key": key} | settings
            try:
                sent = await self.call("conversation.send", params)
                self._accepted = (str(sent.get("session_id")), int(sent.get("cursor", 0)))
                if self.presets:
                    # The settings of a message are those of its run only.
                    await self.call("session.update", {"session_id": sent["session_id"]} | self.presets)
                    self.presets = {}
            except ConnectionLost:
                continue  # The next connection sends it again under the same key.
            except RequestRefused as refused:
                if refused.retryable:
                    self._listener.note(f"{refused}; retrying", "yellow")
                    await asyncio.sleep(refused.data.get("retry_after_ms", RETRY_SECONDS * 1000) / 1000)
                    continue
                self._listener.note(f"not sent: {refused}", "red")
            self.outbox.popleft()
            self._listener.redraw()
