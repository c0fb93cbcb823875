"""Open requests, and the collected answers of a batch."""

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
"""The receiver of a request's encoded answer."""


class CancellableUpdate(Protocol):
    """A queued update that may still be cancelled."""

    def cancel(self) -> bool:
        """Whether the update was cancelled."""
        ...


class OpenRequest:
    """A request that could not be answered at once.

    It is *committing* while its transaction is queued or runs, and *waiting* while a task of its own waits;
    the latter has a ``scope``. ``finish`` answers it exactly once.
    """

    __slots__ = ("_closed", "_reply", "id", "job", "refusal", "scope", "waits")

    def __init__(
        self, id_: bytes, reply: Reply, closed: Callable[[OpenRequest], None], *, waits: bool
    ) -> None:
        self.id = id_
        self.waits = waits
        self.job: CancellableUpdate | None = None
        self.scope: trio.CancelScope | None = None
        self.refusal: Refusal | None = None
        self._reply = reply
        self._closed = closed

    def finish(self, message: bytes) -> None:
        """Answer the request."""
        self._closed(self)
        self._reply(message)

    def drop(self) -> None:
        """Close the request without an answer; its opener answers."""
        self._closed(self)

    def refuse(self, refusal: Refusal) -> None:
        """Answer the request with a refusal."""
        self.finish(encode_error(self.id, refusal))

    def cancel(self, refusal: Refusal | None = None) -> None:
        """Cancel the request: it is answered with ``refusal``, unless its result comes first."""
        self.refusal = refusal or RequestCancelled()
        if self.scope is not None:
            self.scope.cancel()
        elif self.job is not None and self.job.cancel():
            self.refuse(self.refusal)

    def abandon(self) -> None:
        """Cancel the request because its client disconnected. A queued transaction still runs."""
        self.refusal = RequestCancelled()
        if self.scope is not None:
            self.scope.cancel()


class BatchReply:
    """The answers of one batch, sent together when all are ready."""

    __slots__ = ("_answers", "_bytes", "_pending", "_reply")

    def __init__(self, reply: Reply) -> None:
        self._answers: list[bytes] = []
        self._bytes = 0
        # The batch itself counts as one until all its messages are dispatched.
        self._pending = 1
        self._reply = reply

    def expect(self) -> None:
        """Expect one more answer."""
        self._pending += 1

    def add(self, answer: bytes | None) -> None:
        """Add an expected answer, or None if there is none."""
        if answer is not None:
            self._answers.append(answer)
            self._bytes += len(answer)
        self._pending -= 1
        if self._pending == 0 and self._answers:
            self._reply(encode_batch(self._answers))

    def require_capacity(self) -> None:
        """Reject another request if the answers fill a message. Errors: Overloaded."""
        if self._bytes >= MAX_LINE_BYTES:
            raise Overloaded(f"the batch's answers exceed {MAX_LINE_BYTES} bytes; send it in parts")
