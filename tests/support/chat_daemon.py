"""A fake daemon for one chat: a session with a running run, whose events the test emits."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protocol import __version__
from tests.support.daemons import until
from tests.support.scripted import Message, Peer, serve_scripts

SESSION, RUN, MESSAGE = "ses_1", "run_1", "itm_1"

HISTORY_CURSOR = 10
"""The cursor up to which the chat reads the history."""

Responder = Callable[[Peer, Message], object]


class ChatDaemon:
    """A daemon with prepared results by method, and events that the test emits."""

    def __init__(self) -> None:
        self.home = Path()
        self.history: list[Message] = []
        self.approvals: list[Message] = []
        self.questions: list[Message] = []
        self.doubts: list[Message] = []
        self.run: Message = {"run_id": RUN, "calls": []}
        self.results: dict[str, Responder | Any] = {}
        self.calls: list[tuple[str, Message]] = []
        self._cursor = HISTORY_CURSOR
        self._peer: Peer | None = None
        self._subscription = ""
        self._is_followed = threading.Event()

    def __call__(self, peer: Peer) -> None:
        """Serve one connection to its end."""
        self._peer = peer
        while True:
            try:
                request = peer.request()
            except AssertionError:
                return
            try:
                self._answer(peer, request)
            except ConnectionError:  # The chat ended during its call.
                return

    def _answer(self, peer: Peer, request: Message) -> None:
        method, params = str(request["method"]), request["params"]
        result = self.results.get(method, self._default_result(method, params))
        if callable(result):
            result(peer, request)
        else:
            peer.answer(request, result)
        self.calls.append((method, params))
        if method == "journal.subscribe" and "session_id" in params:
            self._subscription = params["subscription"]
            self._is_followed.set()

    def _default_result(self, method: str, params: Message) -> Any:
        session = {"session_id": SESSION, "updated_cursor": HISTORY_CURSOR, "open_runs": [RUN]}
        return {
            "daemon.status": {"version": __version__, "default_agent": "default"},
            "journal.subscribe": {"subscription": params.get("subscription"), "cursor": self._cursor},
            "conversation.get": {"session_id": SESSION, "session": session},
            "conversation.history": {"messages": self.history[::-1], "next": None},
            "run.get": self.run,
            "agent.list": {"agents": [], "next": None},
            "workspace.get": {"path": "/", "workspace": "/", "default": True},
            "approval.list": {"approvals": self.approvals, "next": None},
            "question.list": {"questions": self.questions, "next": None},
            "indoubt.list": {"indoubts": self.doubts, "next": None},
        }.get(method, {})

    def has_call(self, method: str) -> bool:
        """Whether the chat has called a method."""
        return any(name == method for name, _ in self.calls)

    def wait_for_call(self, method: str) -> Message:
        """Wait until the chat has called a method; return the params of its first call."""
        until(lambda: self.has_call(method), f"a call of {method}")
        return next(params for name, params in self.calls if name == method)

    def hang_up(self) -> None:
        """Close the connection; the chat may connect again."""
        assert self._peer is not None
        self._is_followed.clear()
        self._peer.hang_up()

    # Events.

    def emit(self, kind: str, **fields: Any) -> None:
        """Emit an event of the session."""
        assert self._is_followed.wait(30), "no chat follows the session"
        assert self._peer is not None
        self._cursor += 1
        event = {"type": kind, "cursor": self._cursor, "at_ms": 1000, "session_id": SESSION, "run_id": RUN}
        self._peer.notify(
            "journal.event", subscription=self._subscription, cursor=self._cursor, event=event | fields
        )

    def emit_output(self, call_id: str, text: str, offset: int) -> None:
        """Emit output of a running call."""
        assert self._peer is not None
        delta = {"run_id": RUN, "item_id": call_id, "attempt": 1, "offset": offset, "kind": "output"}
        self._peer.notify("journal.delta", subscription=self._subscription, **delta, text=text)

    def request_call(self, call_id: str, **arguments: Any) -> None:
        """Emit a message in which the model requests a call of bash."""
        item = {"kind": "tool_call", "call_id": call_id, "name": "bash", "arguments": arguments}
        self.emit("message_appended", item_id=MESSAGE, message={"role": "assistant", "items": [item]})

    def answer_approval(self, number: int, decision: str, actor: str = "uid:0", **fields: Any) -> None:
        """Emit the answer to an approval."""
        ids = {"approval_id": f"apr_{number}", "call_id": f"call_{number}"}
        self.emit("approval_answered", **ids, decision=decision, actor=actor, **fields)


def make_approval(number: int, command: str, **fields: Any) -> Message:
    """Return the approval of a command, in the form of lists and events."""
    return {
        "approval_id": f"apr_{number}",
        "session_id": SESSION,
        "run_id": RUN,
        "call_id": f"call_{number}",
        "tool": "bash",
        "created_cursor": number,
        "preview": {"kind": "command", "text": command},
        **fields,
    }


@contextmanager
def serve_chat(home: Path, connections: int = 1) -> Iterator[ChatDaemon]:
    """Serve a chat on the socket of a home.

    The first connection checks for a daemon, and the second one asks about the trust in the directory.
    """
    daemon = ChatDaemon()
    daemon.home = home
    (home / "run").mkdir(parents=True)
    with serve_scripts(home / "run" / "kheishd.sock", lambda peer: None, *[daemon] * (1 + connections)):
        yield daemon
