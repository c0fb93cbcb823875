"""A daemon's side of a chat, played from a test: one session with a run in flight, and what happens in it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kheishctl import __version__
from tests.support.daemons import until
from tests.support.scripted import Message, Peer, scripted

SESSION, RUN, MESSAGE = "ses_1", "run_1", "itm_1"
BEFORE = 10
"""The cursor up to which the chat reads the history."""

Reply = Callable[[Peer, Message], object]


class Stage:
    """What the daemon says: answers by method, and events when the test tells them. Serves one chat."""

    def __init__(self) -> None:
        self.history: list[Message] = []
        self.approvals: list[Message] = []
        self.questions: list[Message] = []
        self.doubts: list[Message] = []
        self.run: Message = {"run_id": RUN, "calls": []}
        self.replies: dict[str, Reply | Any] = {}
        self.asked: list[tuple[str, Message]] = []
        self._cursor = BEFORE
        self._peer: Peer | None = None
        self._subscription = ""
        self._ready = threading.Event()

    # What the chat does.

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
            except ConnectionError:  # The chat was closed before it had its answer.
                return

    def _answer(self, peer: Peer, request: Message) -> None:
        method, params = str(request["method"]), request["params"]
        answer = self.replies.get(method, self._result(method, params))
        if callable(answer):
            answer(peer, request)
        else:
            peer.answer(request, answer)
        self.asked.append((method, params))
        if method == "journal.subscribe" and "session_id" in params:
            self._subscription = params["subscription"]
            self._ready.set()

    def _result(self, method: str, params: Message) -> Any:
        session = {"session_id": SESSION, "updated_cursor": BEFORE, "open_runs": [RUN]}
        return {
            "daemon.status": {"version": __version__, "default_agent": "default"},
            "journal.subscribe": {"subscription": params.get("subscription"), "cursor": self._cursor},
            "conversation.get": {"session_id": SESSION, "session": session},
            "conversation.history": {"messages": self.history[::-1], "next": None},
            "run.get": self.run,
            "approval.list": {"approvals": self.approvals, "next": None},
            "question.list": {"questions": self.questions, "next": None},
            "indoubt.list": {"indoubts": self.doubts, "next": None},
        }.get(method, {})

    def drop(self) -> None:
        """Hang up; who dials again is served anew."""
        assert self._peer is not None
        self._ready.clear()
        self._peer.hang_up()

    def asks(self, method: str) -> Message:
        """Wait until the chat has called a method: its params."""
        until(lambda: any(name == method for name, _ in self.asked), f"a call of {method}")
        return next(params for name, params in self.asked if name == method)

    # What the daemon tells.

    def tell(self, kind: str, **fields: Any) -> None:
        """Something happened in the session."""
        assert self._ready.wait(30), "nobody follows"
        assert self._peer is not None
        self._cursor += 1
        event = {"type": kind, "cursor": self._cursor, "at_ms": 1000, "session_id": SESSION, "run_id": RUN}
        self._peer.notify(
            "journal.event", subscription=self._subscription, cursor=self._cursor, event=event | fields
        )

    def write(self, call_id: str, text: str, offset: int) -> None:
        """Return a call writes something while it runs."""
        assert self._peer is not None
        delta = {"run_id": RUN, "item_id": call_id, "attempt": 1, "offset": offset, "kind": "output"}
        self._peer.notify("journal.delta", subscription=self._subscription, **delta, text=text)

    def call(self, call_id: str, **arguments: Any) -> None:
        """Return the model asks for a call of bash."""
        item = {"kind": "tool_call", "call_id": call_id, "name": "bash", "arguments": arguments}
        self.tell("message_appended", item_id=MESSAGE, message={"role": "assistant", "items": [item]})

    def approval(self, number: int, text: str, **fields: Any) -> Message:
        """Return an approval of a command, as it is listed and told."""
        preview = {"kind": "command", "text": text}
        return {
            "approval_id": f"apr_{number}",
            "session_id": SESSION,
            "run_id": RUN,
            "call_id": f"call_{number}",
            "tool": "bash",
            "created_cursor": number,
            "preview": preview,
            **fields,
        }

    def answered(self, number: int, decision: str, actor: str = "uid:0", **fields: Any) -> None:
        """Return an approval was answered."""
        ids = {"approval_id": f"apr_{number}", "call_id": f"call_{number}"}
        self.tell("approval_answered", **ids, decision=decision, actor=actor, **fields)


@contextmanager
def staged(home: Path, connections: int = 1) -> Iterator[Stage]:
    """Provide a scripted daemon for that home. The chat connects once to see whether it runs."""
    stage = Stage()
    (home / "run").mkdir(parents=True)
    with scripted(home / "run" / "kheishd.sock", lambda peer: None, *[stage] * connections):
        yield stage
