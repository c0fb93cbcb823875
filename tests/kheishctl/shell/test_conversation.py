"""The chat's side of one conversation, with a real daemon that comes and goes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kheishctl.client import RequestRefused
from kheishctl.contract import Json
from kheishctl.render.messages import format_message
from kheishctl.render.pieces import (
    AnswerText,
    ApprovalClosing,
    CallResult,
    CallStart,
    MessageEnd,
    Piece,
    RunEnd,
    StartedInput,
)
from kheishctl.shell.conversation import Conversation
from tests.support.daemons import PATIENCE_S, Daemon, short_home
from tests.support.scripted import Peer, scripted


class Heeder:
    """A listener that remembers, and that can be waited with."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.history: list[str] = []
        self.pieces: list[Piece] = []
        self.asked: list[Json] = []
        self.doubts: list[Json] = []
        self._more = asyncio.Event()

    def entered(self, messages: list[Json], *, more: bool) -> None:
        """Remember where it stood."""
        self.history = [format_message(entry["message"]) for entry in messages]
        self._add(f"entered {len(messages)}{' more' if more else ''}")

    def waits(self, asked: list[Json], doubts: list[Json]) -> None:
        """Remember what waits."""
        self.asked, self.doubts = asked, doubts
        self._add("waits")

    def shown(self, piece: Piece) -> None:
        """Remember what happened."""
        self.pieces.append(piece)
        self._add(type(piece).__name__)

    def noted(self, text: str, style: str = "dim") -> None:
        """Remember what was said about it."""
        self._add(text)

    def changed(self) -> None:
        """Nothing to draw, but who waits looks again."""
        self._more.set()

    @property
    def said(self) -> str:
        """All text that was said."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, AnswerText))

    @property
    def heard(self) -> list[str]:
        """All inputs that were heard."""
        return [piece.text for piece in self.pieces if isinstance(piece, StartedInput)]

    def count(self, kind: type) -> int:
        """How many pieces of a kind there were."""
        return sum(isinstance(piece, kind) for piece in self.pieces)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._more.clear()
                await self._more.wait()

    async def notes(self, text: str) -> None:
        """Wait until something was noted."""
        await self.until(lambda: any(text in line for line in self.log))

    def _add(self, line: str) -> None:
        self.log.append(line)
        self._more.set()


Body = Callable[[Conversation, Heeder], Awaitable[None]]


def converse(path: Path, sender: str, body: Body, *, agent: str | None = None, fresh: bool = False) -> Heeder:
    """Run a body beside a conversation that stays connected and delivers."""

    async def run() -> Heeder:
        heeder = Heeder()
        conversation = Conversation(str(path), agent, sender, heeder, fresh=fresh)
        work = [
            asyncio.ensure_future(conversation.stay_connected()),
            asyncio.ensure_future(conversation.deliver()),
        ]
        main = asyncio.ensure_future(body(conversation, heeder))
        done, _ = await asyncio.wait([main, *work], return_when=asyncio.FIRST_COMPLETED)
        for task in (main, *work):
            task.cancel()
        await asyncio.gather(main, *work, return_exceptions=True)
        for task in done:
            task.result()
        return heeder

    return asyncio.run(run())


@pytest.fixture
def own() -> Iterator[Daemon]:
    """A daemon that may be killed."""
    with short_home() as home, Daemon(home) as daemon:
        yield daemon


def test_an_agent_that_is_not_there(daemon: Daemon, sender: str) -> None:
    """It is said on entry, before anything is typed for nobody."""

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await asyncio.Event().wait()

    with pytest.raises(RequestRefused, match="there is no agent 'nobody'"):
        converse(daemon.socket, sender, body, agent="nobody")


def test_a_new_conversation(daemon: Daemon, sender: str) -> None:
    """It is entered empty; what is said is heard back from the journal, then its answer."""

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await heeder.notes("entered 0")
        conversation.say("hello")
        await heeder.until(lambda: heeder.count(RunEnd) == 1)
        assert conversation.agent == "default"
        assert not conversation.running
        assert not conversation.outbox

    heeder = converse(daemon.socket, sender, body)
    assert heeder.heard == ["hello"]
    assert heeder.said.endswith("You say: “hello”")
    assert heeder.count(MessageEnd) == 1


def test_an_old_conversation_shows_its_last_turns(daemon: Daemon, sender: str) -> None:
    """The last messages, oldest first, and nothing of them again as news."""
    for number in range(5):
        daemon.say(f"turn {number}", agent="default", sender=sender)

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await heeder.notes("entered 6 more")
        conversation.say("now")
        await heeder.until(lambda: heeder.count(RunEnd) == 1)

    heeder = converse(daemon.socket, sender, body, agent="default")
    assert heeder.history[0] == "turn 2"
    assert heeder.heard == ["now"]


def test_entering_in_the_middle_of_an_answer(daemon: Daemon, sender: str) -> None:
    """The text so far and the rest: the whole answer, once."""
    with daemon.connect() as client:
        sent = client.call(
            "conversation.send", agent="default", sender=sender, content="/slow 20 20\nhello", stream=True
        )
        client.note("journal.delta")

        async def body(conversation: Conversation, heeder: Heeder) -> None:
            await heeder.until(lambda: heeder.count(RunEnd) == 1)

        heeder = converse(daemon.socket, sender, body, agent="default")
        assert heeder.said == daemon.call("run.get", run_id=sent["run_id"])["output"]
    assert heeder.heard == []
    assert heeder.history[-1] == "/slow 20 20\nhello"


def test_what_another_client_does_is_followed(daemon: Daemon, sender: str) -> None:
    """From its first message on, through a reset by others into the next session."""

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await heeder.notes("entered 0")
        await asyncio.to_thread(daemon.say, "from elsewhere", agent="default", sender=sender)
        await heeder.until(lambda: heeder.count(RunEnd) == 1)
        await asyncio.to_thread(daemon.call, "conversation.reset", agent="default", sender=sender)
        await heeder.notes("was reset")
        await asyncio.to_thread(daemon.say, "anew", agent="default", sender=sender)
        await heeder.until(lambda: heeder.count(RunEnd) == 2)

    heeder = converse(daemon.socket, sender, body, agent="default")
    assert heeder.heard == ["from elsewhere", "anew"]


def test_beginning_anew(daemon: Daemon, sender: str) -> None:
    """Asked for a fresh one, the old session is left behind."""
    old = daemon.say("old", agent="default", sender=sender)["session_id"]

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await heeder.notes("entered 0")
        conversation.say("new")
        await heeder.until(lambda: heeder.count(RunEnd) == 1)

    converse(daemon.socket, sender, body, agent="default", fresh=True)
    assert daemon.call("conversation.get", agent="default", sender=sender)["session_id"] != old


def test_cancel(daemon: Daemon, sender: str) -> None:
    """The run in flight is stopped; the conversation goes on."""

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await heeder.notes("entered")
        conversation.say("/slow 1000 1000")
        await heeder.until(lambda: conversation.running)
        await conversation.cancel()
        await heeder.until(lambda: heeder.count(RunEnd) == 1)
        conversation.say("and now")
        await heeder.until(lambda: heeder.count(RunEnd) == 2)

    heeder = converse(daemon.socket, sender, body)
    outcomes = [piece.status for piece in heeder.pieces if isinstance(piece, RunEnd)]
    assert outcomes == ["cancelled", "completed"]


def test_the_daemon_is_killed_in_the_middle(own: Daemon) -> None:
    """The answer is whole in the end, said once, and what was typed meanwhile is sent once."""

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await heeder.notes("entered")
        conversation.say("/slow 20 30\nhello")
        await heeder.until(lambda: heeder.count(AnswerText) >= 2)
        await asyncio.to_thread(own.kill)
        await heeder.notes("the connection is lost")
        conversation.say("typed meanwhile")
        assert not conversation.connected
        await asyncio.to_thread(own.restart)
        await heeder.notes("connected again")
        await heeder.until(lambda: heeder.count(RunEnd) == 2)

    heeder = converse(own.socket, "ada", body)
    assert heeder.heard == ["/slow 20 30\nhello", "typed meanwhile"]
    inputs = own.events(types=["input_received"])
    assert len(inputs) == 2
    assert heeder.count(MessageEnd) == 2


def test_a_daemon_that_comes_late(own: Daemon) -> None:
    """It is waited for."""
    own.stop()

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        conversation.say("early")
        await asyncio.to_thread(own.restart)
        await heeder.until(lambda: heeder.count(RunEnd) == 1)

    assert converse(own.socket, "ada", body).heard == ["early"]


def test_what_is_refused_is_said(daemon: Daemon, sender: str) -> None:
    """The chat goes on."""

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        conversation.say("")
        await heeder.notes("not sent: ")
        await heeder.until(lambda: not conversation.outbox)

    converse(daemon.socket, sender, body)


def test_what_waits_is_told_on_entry(daemon: Daemon, sender: str) -> None:
    """Approvals and questions of the session, once; answered elsewhere, that is heard."""
    write = '/call write_file {"path": "a", "content": "x"}'
    ask = '/call ask_user_question {"questions": [{"question": "Why?"}]}'
    daemon.say(f"{write}\n{ask}", agent="default", sender=sender)

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await heeder.notes("waits")
        approval, question = heeder.asked
        assert approval["arguments"] == {"path": "a", "content": "x"}
        deny = [{"approval_id": approval["approval_id"], "decision": "deny"}]
        await asyncio.to_thread(daemon.call, "approval.resolve", resolutions=deny)
        await heeder.until(lambda: heeder.count(ApprovalClosing) == 1)
        decline = {"question_id": question["question_id"], "declined": True}
        await asyncio.to_thread(daemon.call, "question.answer", **decline)
        await heeder.until(lambda: heeder.count(RunEnd) == 1)

    heeder = converse(daemon.socket, sender, body, agent="default")
    assert [type(piece).__name__ for piece in heeder.pieces if isinstance(piece, CallResult)] == [
        "CallResult"
    ] * 2
    assert {piece.summary for piece in heeder.pieces if isinstance(piece, ApprovalClosing)} == {"a content=x"}


class Script:
    """A daemon that answers by method, until a method is missing."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[Json] = []

    def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        while True:
            try:
                request = peer.request()
            except AssertionError:
                return
            self.asked.append(request)
            # Once the test has seen what it wanted, it hangs up in the middle of the next question.
            with suppress(BrokenPipeError):
                self.answer(peer, request)

    def answer(self, peer: Peer, request: Json) -> None:
        """Answer one request."""
        answer = self.answers[request["method"]]
        if callable(answer):
            answer(peer, request)
        else:
            peer.answer(request, answer)


BASE = {
    "daemon.status": {"version": "9.9.9"},
    "journal.subscribe": {"subscription": "watch", "cursor": 1},
    "definition.get": {"name": "default"},
}


def not_found(peer: Peer, request: Json) -> None:
    """There is no such conversation."""
    peer.refuse(request, 1404, "none yet", reason="conversation_not_found")


def no_such_method(peer: Peer, request: Json) -> None:
    """An older daemon."""
    peer.refuse(request, -32601, "no such method", reason="method_not_found")


def test_a_conversation_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """What runs is shown, of a daemon that knows nothing that waits; long lists are read to their end."""
    call = {"kind": "tool_call", "call_id": "c1", "name": "bash", "arguments": {"command": "ls"}}
    message = {"cursor": 5, "message": {"role": "assistant", "items": [call]}}
    run_call = {"call_id": "c1", "tool": "bash", "state": "called", "called_at_ms": 7}

    def questions(peer: Peer, request: Json) -> None:
        after = request["params"].get("after", "0")
        page = {"0": ([{"question_id": "q1"}], "1"), "1": ([{"question_id": "q2"}], None)}[after]
        peer.answer(request, {"questions": page[0], "next": page[1]})

    answers = {
        "conversation.get": {"session_id": "s", "session": {"updated_cursor": 5, "open_runs": ["r"]}},
        "conversation.history": {"messages": [message], "next": None},
        "run.get": {"calls": [run_call]},
        "approval.list": no_such_method,
        "question.list": questions,
        "indoubt.list": {"indoubts": [{"indoubt_id": "d"}], "next": None},
    }

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await heeder.notes("waits")
        assert conversation.running
        assert conversation.session_id == "s"
        assert heeder.pieces == [CallStart("c1", "bash", "ls", 7)]
        assert [each["question_id"] for each in heeder.asked] == ["q1", "q2"]
        assert heeder.doubts == [{"indoubt_id": "d"}]

    with scripted(tmp_path / "s", Script(BASE | answers)):
        converse(tmp_path / "s", "ada", body)


def test_another_version_is_named(tmp_path: Path) -> None:
    """Once, plainly."""

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await heeder.notes("the daemon is version 9.9.9")
        await heeder.notes("entered 0")

    script = Script(BASE | {"conversation.get": not_found})
    with scripted(tmp_path / "s", script):
        converse(tmp_path / "s", "ada", body)


def test_a_refusal_that_passes_is_tried_again(tmp_path: Path) -> None:
    """Under the same key, after the time the daemon says."""
    keys: list[str] = []

    def send(peer: Peer, request: Json) -> None:
        keys.append(request["params"]["idempotency_key"])
        if len(keys) == 1:
            peer.refuse(request, 1503, "stopping", reason="daemon_draining", retryable=True, retry_after_ms=1)
        else:
            peer.answer(request, {"session_id": "s", "run_id": "r", "status": "queued", "cursor": 2})

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        conversation.say("hi")
        await heeder.notes("stopping; trying again")
        await heeder.until(lambda: not conversation.outbox)

    script = Script(BASE | {"conversation.get": not_found, "conversation.send": send})
    with scripted(tmp_path / "s", script):
        converse(tmp_path / "s", "ada", body)
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_conversation_that_is_refused_ends_the_chat(tmp_path: Path) -> None:
    """What no reconnection can mend is raised."""

    def refuse(peer: Peer, request: Json) -> None:
        peer.refuse(request, 1403, "no", reason="agent_forbidden")

    async def body(conversation: Conversation, heeder: Heeder) -> None:
        await asyncio.Event().wait()

    with scripted(tmp_path / "s", Script(BASE | {"conversation.get": refuse})), pytest.raises(RequestRefused):
        converse(tmp_path / "s", "ada", body)
