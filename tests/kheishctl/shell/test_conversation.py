"""Tests of the client of a conversation, with a real daemon that stops and starts."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from kheishctl.client import RequestRefused
from kheishctl.contract import Json
from kheishctl.render.changes import (
    AnswerText,
    ApprovalClosing,
    CallEnd,
    CallStart,
    ChildProgress,
    DisplayChange,
    MessageEnd,
    RunEnd,
    StartedInput,
)
from kheishctl.render.children import ChildFollower
from kheishctl.render.messages import format_message
from kheishctl.shell.conversation import ConversationClient
from tests.support.daemons import PATIENCE_S, Daemon, run_kheishd, short_home
from tests.support.scripted import Peer, serve_scripts
from tests.support.waiting_runs import asks, order, writes


class RecordingListener:
    """A listener that records all changes, and waits for them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.history: list[str] = []
        self.changes: list[DisplayChange] = []
        self.requests: list[Json] = []
        self.doubts: list[Json] = []
        self._has_changed = asyncio.Event()

    def start(self, messages: list[Json], *, has_more: bool) -> None:
        """Record the history."""
        self.history = [format_message(entry["message"]) for entry in messages]
        self._add(f"started {len(messages)}{' more' if has_more else ''}")

    def replace_pending(self, requests: list[Json], doubts: list[Json]) -> None:
        """Record the pending requests."""
        self.requests, self.doubts = requests, doubts
        self._add("pending")

    def receive(self, change: DisplayChange) -> None:
        """Record a change."""
        self.changes.append(change)
        self._add(type(change).__name__)

    def note(self, text: str, style: str = "dim") -> None:
        """Record a note."""
        self._add(text)

    def redraw(self) -> None:
        """Check the awaited condition again."""
        self._has_changed.set()

    @property
    def answers(self) -> str:
        """The text of all answers."""
        return "".join(change.text for change in self.changes if isinstance(change, AnswerText))

    @property
    def progress(self) -> dict[str, ChildProgress]:
        """The last progress of each agent below, by its path."""
        return {change.path: change for change in self.changes if isinstance(change, ChildProgress)}

    @property
    def inputs(self) -> list[str]:
        """The started inputs."""
        return [change.text for change in self.changes if isinstance(change, StartedInput)]

    def count(self, kind: type) -> int:
        """Count the changes of a kind."""
        return sum(isinstance(change, kind) for change in self.changes)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._has_changed.clear()
                await self._has_changed.wait()

    async def wait_for(self, text: str) -> None:
        """Wait until a line of the log contains a text."""
        await self.until(lambda: any(text in line for line in self.log))

    def _add(self, line: str) -> None:
        self.log.append(line)
        self._has_changed.set()


Body = Callable[[ConversationClient, RecordingListener], Awaitable[None]]


def run(
    path: Path,
    sender: str,
    body: Body,
    *,
    agent: str | None = None,
    fresh: bool = False,
    directory: str | None = None,
) -> RecordingListener:
    """Run a body with a client that stays connected and delivers its outbox."""

    async def main() -> RecordingListener:
        listener = RecordingListener()
        conversation = ConversationClient(
            str(path), agent, sender, listener, fresh=fresh, directory=directory
        )
        work = [
            asyncio.ensure_future(conversation.stay_connected()),
            asyncio.ensure_future(conversation.deliver()),
        ]
        test = asyncio.ensure_future(body(conversation, listener))
        done, _ = await asyncio.wait([test, *work], return_when=asyncio.FIRST_COMPLETED)
        for task in (test, *work):
            task.cancel()
        await asyncio.gather(test, *work, return_exceptions=True)
        for task in done:
            task.result()
        return listener

    return asyncio.run(main())


@pytest.fixture
def own() -> Iterator[Daemon]:
    """Return a daemon that the test may kill."""
    with short_home() as home, Daemon(home) as daemon:
        yield daemon


def test_unknown_agent(daemon: Daemon, sender: str) -> None:
    """An unknown agent is refused at the start, before the person types anything."""

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await asyncio.Event().wait()

    with pytest.raises(RequestRefused, match="there is no agent 'nobody'"):
        run(daemon.socket, sender, body, agent="nobody")


def test_new_conversation(daemon: Daemon, sender: str) -> None:
    """A new conversation starts empty; the journal reports the sent message and its answer."""

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("started 0")
        conversation.send("hello")
        assert not conversation.is_settled
        await listener.until(lambda: listener.count(RunEnd) == 1)
        assert conversation.agent == "default"
        assert not conversation.is_running
        assert not conversation.outbox
        assert conversation.is_settled

    listener = run(daemon.socket, sender, body)
    assert listener.inputs == ["hello"]
    assert listener.answers.endswith("You say: “hello”")
    assert listener.count(MessageEnd) == 1


def test_directory_in_which_no_agent_may_work(daemon: Daemon, sender: str) -> None:
    """A new conversation that works elsewhere than its person says why."""

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("not in /: ")
        assert conversation.workspace not in (None, "/")

    run(daemon.socket, sender, body, directory="/")


def test_resumed_session(daemon: Daemon, sender: str) -> None:
    """The last messages of a resumed session are shown when the call returns."""

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("started 0")
        conversation.send("first")
        await listener.until(lambda: listener.count(RunEnd) == 1)
        session_id = conversation.session_id
        assert session_id is not None
        await conversation.call("conversation.reset", conversation.address())
        conversation.send("second")
        await listener.until(lambda: listener.count(RunEnd) == 2)
        await conversation.resume(session_id)
        assert listener.history[0] == "first"
        await conversation.resume(session_id)

    run(daemon.socket, sender, body)


def test_existing_conversation(daemon: Daemon, sender: str) -> None:
    """The last messages are shown at the start, oldest first, and the journal does not repeat them."""
    for number in range(5):
        daemon.say(f"turn {number}", agent="default", sender=sender)

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("started 6 more")
        conversation.send("now")
        await listener.until(lambda: listener.count(RunEnd) == 1)

    listener = run(daemon.socket, sender, body, agent="default")
    assert listener.history[0] == "turn 2"
    assert listener.inputs == ["now"]


def test_start_during_an_answer(daemon: Daemon, sender: str) -> None:
    """A chat that starts during an answer shows the whole answer once."""
    with daemon.connect() as client:
        sent = client.call(
            "conversation.send", agent="default", sender=sender, content="/slow 20 20\nhello", stream=True
        )
        client.note("journal.delta")

        async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
            await listener.until(lambda: listener.count(RunEnd) == 1)

        listener = run(daemon.socket, sender, body, agent="default")
        assert listener.answers == daemon.call("run.get", run_id=sent["run_id"])["output"]
    assert listener.inputs == []
    assert listener.history[-1] == "/slow 20 20\nhello"


def test_other_client(daemon: Daemon, sender: str) -> None:
    """Messages and resets of another client are followed, also into the next session."""

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("started 0")
        await asyncio.to_thread(daemon.say, "from elsewhere", agent="default", sender=sender)
        await listener.until(lambda: listener.count(RunEnd) == 1)
        await asyncio.to_thread(daemon.call, "conversation.reset", agent="default", sender=sender)
        await listener.wait_for("was reset")
        await asyncio.to_thread(daemon.say, "anew", agent="default", sender=sender)
        await listener.until(lambda: listener.count(RunEnd) == 2)

    listener = run(daemon.socket, sender, body, agent="default")
    assert listener.inputs == ["from elsewhere", "anew"]


def test_agents_below(daemon: Daemon, sender: str) -> None:
    """Requests of agents below have their path, whether they come before or after the chat begins."""
    tasks = [
        {"name": "ann", "prompt": writes("x.txt")},
        {"name": "bob", "prompt": asks({"question": "Why?"})},
    ]

    async def begin(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("started 0")
        conversation.send(order("delegate", tasks=tasks))
        await listener.until(lambda: {"ApprovalOpening", "QuestionOpening"} <= set(listener.log))
        await listener.until(lambda: "waiting" in str(listener.progress["ann"].status))

    async def come_back(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.until(lambda: listener.progress.keys() == {"ann", "bob"})
        requests = {str(request["agent_path"]): request for request in listener.requests}
        assert requests["ann"]["arguments"]["path"] == "x.txt"
        approval = {"approval_id": requests["ann"]["approval_id"], "decision": "deny"}
        await conversation.call("approval.resolve", {"resolutions": [approval]})
        await listener.until(lambda: listener.progress["ann"].status == "completed")
        assert [change.tool for change in listener.changes if isinstance(change, ApprovalClosing)] == [
            "ann: write_file"
        ]
        await conversation.call("conversation.cancel", conversation.address())
        await listener.until(lambda: listener.count(RunEnd) == 1)

    run(daemon.socket, sender, begin, agent="default")
    run(daemon.socket, sender, come_back, agent="default")


def test_fresh_session(daemon: Daemon, sender: str) -> None:
    """With ``fresh`` the first message starts a new session."""
    previous_id = daemon.say("old", agent="default", sender=sender)["session_id"]

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("started 0")
        conversation.send("new")
        await listener.until(lambda: listener.count(RunEnd) == 1)

    run(daemon.socket, sender, body, agent="default", fresh=True)
    assert daemon.call("conversation.get", agent="default", sender=sender)["session_id"] != previous_id


def test_cancel(daemon: Daemon, sender: str) -> None:
    """A cancelled run ends; the conversation continues."""

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("started")
        conversation.send("/slow 1000 1000")
        await listener.until(lambda: conversation.is_running)
        await conversation.call("conversation.cancel", conversation.address())
        await listener.until(lambda: listener.count(RunEnd) == 1)
        conversation.send("and now")
        await listener.until(lambda: listener.count(RunEnd) == 2)

    listener = run(daemon.socket, sender, body)
    outcomes = [change.status for change in listener.changes if isinstance(change, RunEnd)]
    assert outcomes == ["cancelled", "completed"]


def test_daemon_killed_during_an_answer(own: Daemon) -> None:
    """After a restart the answer is complete, and a message from the time between is sent once."""

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("started")
        conversation.send("/slow 20 30\nhello")
        await listener.until(lambda: listener.count(AnswerText) >= 2)
        await asyncio.to_thread(own.kill)
        await listener.wait_for("connection lost")
        conversation.send("typed meanwhile")
        assert not conversation.is_connected
        await asyncio.to_thread(own.restart)
        await listener.wait_for("connected again")
        await listener.until(lambda: listener.count(RunEnd) == 2)

    listener = run(own.socket, "ada", body)
    assert listener.inputs == ["/slow 20 30\nhello", "typed meanwhile"]
    inputs = own.events(types=["input_received"])
    assert len(inputs) == 2
    assert listener.count(MessageEnd) == 2


def test_a_restored_backup(own: Daemon) -> None:
    """After a restore, the chat says so, shows the conversation as it was, and continues it."""
    backup = own.home.parent / "backup"

    def restore() -> None:
        own.stop()
        assert run_kheishd(own.home, "restore", str(backup)).returncode == 0
        own.restart()

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        conversation.send("kept")
        await listener.until(lambda: listener.count(RunEnd) == 1)
        await asyncio.to_thread(own.call, "daemon.backup", path=str(backup))
        conversation.send("lost")
        await listener.until(lambda: listener.count(RunEnd) == 2)
        await asyncio.to_thread(restore)
        await listener.wait_for("a backup was restored")
        await listener.until(lambda: conversation.is_connected)
        conversation.send("after")
        await listener.until(lambda: listener.count(RunEnd) == 3)

    assert run(own.socket, "ada", body).inputs == ["kept", "lost", "after"]
    texts = [event["items"][0]["text"] for event in own.events(types=["input_received"])]
    assert texts == ["kept", "after"]


def test_a_restored_backup_without_the_conversation(own: Daemon) -> None:
    """If the conversation began after the backup, the next message begins it anew."""
    backup = own.home.parent / "backup"
    own.call("daemon.backup", path=str(backup))

    def restore() -> None:
        own.stop()
        assert run_kheishd(own.home, "restore", str(backup)).returncode == 0
        own.restart()

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        conversation.send("lost")
        await listener.until(lambda: listener.count(RunEnd) == 1)
        await asyncio.to_thread(restore)
        await listener.wait_for("a backup was restored")
        conversation.send("anew")
        await listener.until(lambda: listener.count(RunEnd) == 2)

    run(own.socket, "ada", body)
    texts = [event["items"][0]["text"] for event in own.events(types=["input_received"])]
    assert texts == ["anew"]


def test_unsend(own: Daemon) -> None:
    """A message can be withdrawn until it was sent; the others are sent in order."""
    own.stop()

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        for text in ("first", "second"):
            conversation.send(text)
        assert conversation.unsend(conversation.outbox[0][0])
        assert not conversation.unsend("unknown")
        await asyncio.to_thread(own.restart)
        await listener.until(lambda: listener.count(RunEnd) == 1)
        key = "a key that was sent"
        conversation.outbox.append((key, "third"))
        assert conversation.unsend(key)
        assert not conversation.outbox

    assert run(own.socket, "ada", body).inputs == ["second"]


def test_status(daemon: Daemon, sender: str) -> None:
    """The status has the model, the use and the workspace: from the events, and from the records later."""
    lines: list[str] = []

    async def send(conversation: ConversationClient, listener: RecordingListener) -> None:
        conversation.send("hello")
        await listener.until(lambda: listener.count(RunEnd) == 1)
        assert conversation.running_since_ms is None
        lines.append(conversation.status.format("default", 200))

    async def come_back(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.until(lambda: conversation.is_connected)
        lines.append(conversation.status.format("default", 200))

    run(daemon.socket, sender, send)
    run(daemon.socket, sender, come_back)
    assert lines[0] == lines[1]
    assert re.fullmatch(r"default · offline · context \d+ \(0%\), 200k left · \d+ tokens · .+", lines[0])


def test_daemon_that_starts_later(own: Daemon) -> None:
    """The client waits for a daemon that has not started yet."""
    own.stop()

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        conversation.send("early")
        await asyncio.to_thread(own.restart)
        await listener.until(lambda: listener.count(RunEnd) == 1)

    assert run(own.socket, "ada", body).inputs == ["early"]


def test_refused_message(daemon: Daemon, sender: str) -> None:
    """A refused message leaves the outbox with a note; the chat continues."""

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        conversation.send("")
        await listener.wait_for("not sent: ")
        await listener.until(lambda: not conversation.outbox)

    run(daemon.socket, sender, body)


def test_pending_requests_at_the_start(daemon: Daemon, sender: str) -> None:
    """Pending requests are listed at the start; the journal reports answers from elsewhere."""
    write = '/call write_file {"path": "a", "content": "x"}'
    ask = '/call ask_user_question {"questions": [{"question": "Why?"}]}'
    daemon.say(f"{write}\n{ask}", agent="default", sender=sender)

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("pending")
        approval, question = listener.requests
        assert approval["arguments"] == {"path": "a", "content": "x"}
        deny = [{"approval_id": approval["approval_id"], "decision": "deny"}]
        await asyncio.to_thread(daemon.call, "approval.resolve", resolutions=deny)
        await listener.until(lambda: listener.count(ApprovalClosing) == 1)
        decline = {"question_id": question["question_id"], "declined": True}
        await asyncio.to_thread(daemon.call, "question.answer", **decline)
        await listener.until(lambda: listener.count(RunEnd) == 1)

    listener = run(daemon.socket, sender, body, agent="default")
    assert listener.count(CallEnd) == 2
    closings = [change for change in listener.changes if isinstance(change, ApprovalClosing)]
    assert [closing.summary for closing in closings] == ["a content=x"]


class FakeDaemon:
    """A daemon with prepared results by method."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results

    def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        while True:
            try:
                request = peer.request()
            except AssertionError:
                return
            result = self.results[request["method"]]
            # The client may close the connection during a call, at the end of the test.
            with suppress(BrokenPipeError):
                if callable(result):
                    result(peer, request)
                else:
                    peer.answer(request, result)


BASE = {
    "daemon.status": {"version": "9.9.9"},
    "journal.subscribe": {"subscription": "watch", "cursor": 1},
    "definition.get": {"name": "default"},
}


def refuse_conversation(peer: Peer, request: Json) -> None:
    """Refuse a conversation that does not exist."""
    peer.refuse(request, 1404, "none yet", reason="conversation_not_found")


def refuse_method(peer: Peer, request: Json) -> None:
    """Refuse a method like an older daemon."""
    peer.refuse(request, -32601, "no such method", reason="method_not_found")


def test_start_during_a_run(tmp_path: Path) -> None:
    """Running calls are shown; all pages of a list are read; a list that an older daemon lacks is empty."""
    call = {"kind": "tool_call", "call_id": "c1", "name": "bash", "arguments": {"command": "ls"}}
    message = {"cursor": 5, "message": {"role": "assistant", "items": [call]}}
    running = {"call_id": "c1", "tool": "bash", "state": "called", "called_at_ms": 7}

    def list_questions(peer: Peer, request: Json) -> None:
        token = request["params"].get("after", "0")
        rows, next_token = {
            "0": ([{"question_id": "q1"}], "1"),
            "1": ([{"question_id": "q2"}], None),
        }[token]
        peer.answer(request, {"questions": rows, "next": next_token})

    results = {
        "conversation.get": {"session_id": "s", "session": {"updated_cursor": 5, "open_runs": ["r"]}},
        "conversation.history": {"messages": [message], "next": None},
        "run.get": {"calls": [running]},
        "agent.list": refuse_method,
        "approval.list": refuse_method,
        "question.list": list_questions,
        "indoubt.list": {"indoubts": [{"indoubt_id": "d"}], "next": None},
    }

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("pending")
        assert conversation.is_running
        assert conversation.session_id == "s"
        assert listener.changes == [CallStart("c1", "bash", "ls", 7)]
        assert [question["question_id"] for question in listener.requests] == ["q1", "q2"]
        assert listener.doubts == [{"indoubt_id": "d"}]

    with serve_scripts(tmp_path / "s", FakeDaemon(BASE | results)):
        run(tmp_path / "s", "ada", body)


def test_version_difference(tmp_path: Path) -> None:
    """A daemon of another version is named in a note."""

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await listener.wait_for("the daemon is version 9.9.9")
        await listener.wait_for("started 0")

    script = FakeDaemon(BASE | {"conversation.get": refuse_conversation})
    with serve_scripts(tmp_path / "s", script):
        run(tmp_path / "s", "ada", body)


def test_a_failed_subscription(tmp_path: Path) -> None:
    """When the daemon cannot continue a subscription, the client connects again and subscribes anew."""
    subscribed: list[Json] = []

    def subscribe(peer: Peer, request: Json) -> None:
        subscribed.append(request["params"])
        peer.answer(request, {"subscription": "watch", "cursor": 1})
        if len(subscribed) == 1:
            peer.notify("journal.end", subscription="watch", reason="failed")

    async def body(_: ConversationClient, listener: RecordingListener) -> None:
        await listener.until(lambda: len(subscribed) == 2)

    script = FakeDaemon(BASE | {"conversation.get": refuse_conversation, "journal.subscribe": subscribe})
    with serve_scripts(tmp_path / "s", script, script):
        run(tmp_path / "s", "ada", body)


def test_retryable_refusal(tmp_path: Path) -> None:
    """A retryable refusal is retried after the daemon's delay, under the same key."""
    keys: list[str] = []

    def send(peer: Peer, request: Json) -> None:
        keys.append(request["params"]["idempotency_key"])
        if len(keys) == 1:
            peer.refuse(request, 1503, "stopping", reason="daemon_draining", retryable=True, retry_after_ms=1)
        else:
            peer.answer(request, {"session_id": "s", "run_id": "r", "status": "queued", "cursor": 2})

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        conversation.send("hi")
        await listener.wait_for("stopping; retrying")
        await listener.until(lambda: not conversation.outbox)

    script = FakeDaemon(BASE | {"conversation.get": refuse_conversation, "conversation.send": send})
    with serve_scripts(tmp_path / "s", script):
        run(tmp_path / "s", "ada", body)
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_refused_conversation(tmp_path: Path) -> None:
    """A refusal of the conversation, which no reconnection can change, ends the client."""

    def refuse(peer: Peer, request: Json) -> None:
        peer.refuse(request, 1403, "no", reason="agent_forbidden")

    async def body(conversation: ConversationClient, listener: RecordingListener) -> None:
        await asyncio.Event().wait()

    with (
        serve_scripts(tmp_path / "s", FakeDaemon(BASE | {"conversation.get": refuse})),
        pytest.raises(RequestRefused),
    ):
        run(tmp_path / "s", "ada", body)


def test_a_reset_after_the_first_child(tmp_path: Path) -> None:
    """The children of a session that the conversation has left are not followed any more."""

    async def main() -> ChildFollower | None:
        conversation = ConversationClient(str(tmp_path), None, "ada", RecordingListener(), fresh=False)
        conversation._subscription, conversation._session_id = "chat-1", "old"
        conversation._connection = cast("Any", object())
        event = {"type": "child_spawned", "session_id": "old", "child_id": "c", "name": "c", "path": "old/c"}
        conversation._on_notification(
            "journal.event", {"subscription": "chat-1", "cursor": 5, "event": event}
        )
        # The reset comes before the task that follows the child has begun.
        conversation._session_id, conversation._children = "new", None
        await asyncio.gather(*conversation._tasks)
        return conversation._children

    assert asyncio.run(main()) is None
