"""Requests on their way: one that is open, and the answers of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from protocol.errors.rpc import Overloaded, RequestCancelled
from protocol.limits.rpc import MAX_LINE_BYTES
from protocol.rpc.wire import encode_batch, encode_error

if TYPE_CHECKING:
    import trio

    from protocol.errors.refusal import Refusal

Reply = Callable[[bytes], None]
"""Where the encoded answer of a request goes."""


class Undo(Protocol):
    """An update that can perhaps be taken back."""

    def cancel(self) -> bool:
        """Whether it was."""
        ...


class Open:
    """A request that could not be answered at once.

    It is *committing* while its transaction is queued or runs, and *waiting* while a task of its own
    waits for something; the latter has a ``scope``. It is answered exactly once, by ``finish``.
    """

    __slots__ = ("_closed", "_reply", "id", "job", "refusal", "scope", "waits")

    def __init__(self, id_: bytes, reply: Reply, closed: Callable[[Open], None], *, waits: bool) -> None:
        self.id = id_
        self.waits = waits
        self.job: Undo | None = None
        self.scope: trio.CancelScope | None = None
        self.refusal: Refusal | None = None
        self._reply = reply
        self._closed = closed

    def finish(self, message: bytes) -> None:
        """Answer it."""
        self._closed(self)
        self._reply(message)

    def drop(self) -> None:
        """It did not come about; whoever opened it answers."""
        self._closed(self)

    def refuse(self, refusal: Refusal) -> None:
        """Answer it with a refusal."""
        self.finish(encode_error(self.id, refusal))

    def cancel(self, refusal: Refusal | None = None) -> None:
        """Take it back: it answers ``refusal`` (or that it was cancelled) unless its result comes first."""
        self.refusal = refusal or RequestCancelled()
        if self.scope is not None:
            self.scope.cancel()
        elif self.job is not None and self.job.cancel():
            self.refuse(self.refusal)

    def abandon(self) -> None:
        """Nobody is there for the answer. A transaction goes on: leaving changes nothing."""
        self.refusal = RequestCancelled()
        if self.scope is not None:
            self.scope.cancel()


class Gathering:
    """The answers of one batch, sent together once there are as many as there will be."""

    __slots__ = ("_answers", "_bytes", "_pending", "_reply")

    def __init__(self, reply: Reply) -> None:
        self._answers: list[bytes] = []
        self._bytes = 0
        # One for the batch itself, until all of it was looked at.
        self._pending = 1
        self._reply = reply

    def expect(self) -> None:
        """One more answer will come."""
        self._pending += 1

    def add(self, answer: bytes | None) -> None:
        """One of the expected answers, or None for what has none."""
        if answer is not None:
            self._answers.append(answer)
            self._bytes += len(answer)
        self._pending -= 1
        if self._pending == 0 and self._answers:
            self._reply(encode_batch(self._answers))

    def room(self) -> None:
        """Errors: Overloaded once the answers are as long together as one message may be."""
        if self._bytes >= MAX_LINE_BYTES:
            raise Overloaded(f"the batch's answers are over {MAX_LINE_BYTES} bytes; send it in parts")
