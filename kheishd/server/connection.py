"""One client connection: its open requests, and the answers that the client has not received yet.

A connection has one task, which reads, dispatches the messages of each read and sends answers together when
they are ready together. It sends at once and without waiting; only bytes that the kernel does not accept are
kept, and only then does a task exist to send the rest.

The resources of a client are limited. Beyond a limit, the connection is not read until it has drained:

* ``MAX_OPEN_REQUESTS`` requests whose transactions are not committed yet;
* ``MAX_UNSENT_BYTES`` of answers that the client has not taken.

``Guests`` limits the connections and unfinished messages of other users.

As many requests may *wait* (for instance for a run to settle), each in a task; the next one is refused as
overloaded, because a wait may last for hours and a cancellation must still be read.

The end of a client's input is a half-close: its open requests are still answered.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import trio
from msgspec import Struct, field

from kheishd.server.dispatch import Dispatcher
from kheishd.server.guests import Guests
from kheishd.server.requests import BatchReply, OpenRequest, Reply
from kheishd.server.rounds import MutationRounds
from protocol.errors.daemon import DaemonDraining
from protocol.errors.journal import SubscriptionExists, SubscriptionNotFound
from protocol.errors.rpc import Overloaded, RequestNotFound
from protocol.errors.token import TokenInvalid
from protocol.limits.rpc import MAX_OPEN_REQUESTS, MAX_SUBSCRIPTIONS, MAX_UNSENT_BYTES
from protocol.objects.rpc import CANCEL, LSP_CANCEL
from protocol.rpc.wire import (
    NULL,
    Batch,
    Decoded,
    Malformed,
    Notification,
    Request,
    Response,
    decode_id,
    encode_error,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from kheishd.kernel.call import Caller
    from kheishd.server.subscriptions import Hub, Subscription
    from protocol.errors.refusal import Refusal
    from protocol.objects.event import EventSubscribe
    from protocol.objects.journal import Filter, Subscribed

log = logging.getLogger(__name__)

# The time slice of one client: a client that sends many requests at once shares the loop with others.
SLICE_S = 0.002

EndReason = Literal["unsubscribed", "shutdown", "revoked"]
"""The reason of ``journal.end`` for a subscription that has not settled."""


class ServerContext(Struct, frozen=True):
    """The components that all connections share. ``nursery`` holds their tasks."""

    dispatcher: Dispatcher
    hub: "Hub"
    nursery: trio.Nursery
    token: trio.lowlevel.TrioToken
    guests: Guests = field(default_factory=Guests)
    rounds: MutationRounds = field(default_factory=MutationRounds)


class ClientConnection(ABC):
    """A client on any transport. A transport adds reading and ``_transmit``."""

    __slots__ = (
        "_changed",
        "_committing",
        "_ready",
        "_ready_bytes",
        "_receiving",
        "_shared",
        "_slice_end",
        "_waiting",
        "caller",
        "ended",
        "is_rejected",
        "opened",
        "subscriptions",
        "unsent_bytes",
    )

    def __init__(self, shared: ServerContext, caller: Caller) -> None:
        self.caller = caller
        self.ended = False
        self.is_rejected = False
        self.subscriptions: dict[str, Subscription] | None = None
        self.unsent_bytes = 0
        self._shared = shared
        self._changed: trio.Event | None = None
        self.opened: dict[OpenRequest, None] = {}
        self._committing = 0
        self._waiting = 0
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._receiving = False
        self._slice_end = 0.0

    # Receiving.

    async def receive(self, messages: Iterable[Decoded]) -> None:
        """Dispatch the messages of one read. Waits while the client exceeds its limits."""
        self._receiving = True
        self._slice_end = time.monotonic() + SLICE_S
        try:
            for value in messages:
                if type(value) is Request:
                    if self._shared.dispatcher.is_mutation(value) and not self._shared.rounds.begin():
                        await self._pause(self._shared.rounds.wait)
                    answer = self._shared.dispatcher.dispatch(value, self, self.answer)
                    if answer is not None:
                        self._ready.append(answer)
                        self._ready_bytes += len(answer)
                elif type(value) is Batch:
                    await self._receive_batch(value)
                else:
                    self._take(value, self.answer)
                if self._full() or time.monotonic() > self._slice_end:
                    await self._pause()
        finally:
            self._receiving = False
        self.flush()

    async def _receive_batch(self, batch: Batch) -> None:
        batch_reply = BatchReply(self.answer)
        for value in batch.items:
            if type(value) is Request:
                if self._shared.dispatcher.is_mutation(value) and not self._shared.rounds.begin():
                    await self._pause(self._shared.rounds.wait)
                self._dispatch_in_batch(value, batch_reply)
            else:
                if type(value) is Malformed:
                    batch_reply.expect()
                self._take(value, batch_reply.add)
            if self._full() or time.monotonic() > self._slice_end:
                await self._pause()
        batch_reply.add(None)

    def _dispatch_in_batch(self, request: Request, batch_reply: BatchReply) -> None:
        batch_reply.expect()
        try:
            batch_reply.require_capacity()
        except Overloaded as refusal:
            batch_reply.add(encode_error(request.id, refusal))
            return
        answer = self._shared.dispatcher.dispatch(request, self, batch_reply.add)
        if answer is not None:
            batch_reply.add(answer)

    def _take(self, value: Decoded, reply: Reply) -> None:
        """Handle a message other than a request. A response is ignored: the daemon sends no requests."""
        match value:
            case Notification():
                method = CANCEL.name if value.method == LSP_CANCEL else value.method
                request = Request(NULL, method, value.params)
                self._shared.dispatcher.dispatch(request, self, _drop)
            case Malformed():
                reply(encode_error(value.id, value.refusal))
            case Request() | Response() | Batch():
                pass

    def _full(self) -> bool:
        return (
            self._committing >= MAX_OPEN_REQUESTS or self._ready_bytes + self.unsent_bytes > MAX_UNSENT_BYTES
        )

    async def _pause(self, wait: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint) -> None:
        """Send ready answers, let other tasks run, and wait until the client is below its limits."""
        self._receiving = False
        self.flush()
        await wait()
        while self._full() and not self.ended:
            await self.change()
        self._receiving = True
        self._slice_end = time.monotonic() + SLICE_S

    # Open requests.

    def open(self, id_: bytes, reply: Reply, *, waits: bool) -> OpenRequest:
        """Register a request that is not answered at once. Errors: Overloaded."""
        if not waits:
            self._committing += 1
        elif self._waiting >= MAX_OPEN_REQUESTS:
            raise Overloaded(f"{MAX_OPEN_REQUESTS} requests of this connection are waiting already")
        else:
            self._waiting += 1
        opened = OpenRequest(id_, reply, self._close_request, waits=waits)
        self.opened[opened] = None
        return opened

    def _close_request(self, opened: OpenRequest) -> None:
        del self.opened[opened]
        if opened.waits:
            self._waiting -= 1
        else:
            self._committing -= 1
        self.wake()

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a task that ends with the connections."""
        self._shared.nursery.start_soon(self._run_guarded, work)

    async def _run_guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            log.exception("a task of a connection failed")
            self.stop("shutdown")

    def cancel_request(self, request_id: str | int | float | None) -> None:
        """Cancel an open request. Errors: RequestNotFound."""
        for opened in self.opened:
            if decode_id(opened.id) == request_id:
                opened.cancel()
                return
        raise RequestNotFound(field="$.params.id")

    @property
    def pending(self) -> bool:
        """Whether an answer or the end of a settling subscription is still to be sent."""
        return bool(self.opened) or any(
            subscription.until_settled is not None for subscription in (self.subscriptions or {}).values()
        )

    def give_up(self, reason: EndReason) -> None:
        """Cancel waiting requests and end subscriptions; queued transactions are still answered."""
        for opened in list(self.opened):
            if opened.waits:
                opened.cancel(DaemonDraining() if reason == "shutdown" else TokenInvalid())
        for subscription in list((self.subscriptions or {}).values()):
            subscription.end(reason)

    def end_endless(self) -> None:
        """End the subscriptions that have no end of their own."""
        for subscription in list((self.subscriptions or {}).values()):
            if subscription.until_settled is None:
                subscription.end("unsubscribed")

    # Subscriptions.

    def subscribe(
        self,
        filter_: Filter | EventSubscribe,
        after: int | None,
        *,
        epoch: str | None = None,
        deltas: bool,
        subscription: str | None = None,
        until_settled: str | None = None,
    ) -> Subscribed:
        """Start a subscription.

        Errors: SubscriptionExists, Overloaded, SessionNotFound, RunNotFound.
        """
        if self.subscriptions is None:
            self.subscriptions = {}
        if len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Overloaded(f"this connection has {MAX_SUBSCRIPTIONS} subscriptions; end some")
        if subscription is not None and subscription in self.subscriptions:
            raise SubscriptionExists(field="$.params.subscription")
        return self._shared.hub.subscribe(
            self,
            filter_,
            after,
            epoch,
            deltas=deltas,
            subscription=subscription,
            until_settled=until_settled,
        )

    def unsubscribe(self, subscription: str) -> None:
        """End a subscription. Errors: SubscriptionNotFound."""
        followed = (self.subscriptions or {}).get(subscription)
        if followed is None:
            raise SubscriptionNotFound(field="$.params.subscription")
        followed.end("unsubscribed")

    # Sending.

    @property
    def clear(self) -> bool:
        """Whether the client has taken everything that was sent."""
        return not self.unsent_bytes and not self.ended

    def answer(self, message: bytes) -> None:
        """Send an answer, together with other answers of this read or of this loop iteration."""
        self._ready.append(message)
        self._ready_bytes += len(message)
        if self._receiving:
            return
        if self._committing:
            self._shared.token.run_sync_soon(self.flush, idempotent=True)
        else:
            self.flush()

    def push(self, messages: list[bytes]) -> None:
        """Send notifications, after the answers that are ready."""
        if self._ready or self._receiving:
            self._ready += messages
            if not self._receiving:
                self.flush()
        elif messages and not self.ended:
            self._transmit(messages)

    def flush(self) -> None:
        """Send the answers that are ready."""
        ready = self._ready
        if ready:
            self._ready = []
            self._ready_bytes = 0
            if not self.ended:
                self._transmit(ready)

    @abstractmethod
    def _transmit(self, messages: list[bytes]) -> None:
        """Send messages without waiting, and keep the rest."""

    # Changes.

    def wake(self) -> None:
        """Wake the tasks that sleep in ``change``."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def change(self) -> None:
        """Sleep until something was answered or sent, or the connection ended."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def note_unfinished(self, count: int) -> None:
        """Note the bytes received of a message whose end has not arrived."""
        self._shared.guests.note_unfinished(self, count)

    def reject(self, refusal: Refusal) -> None:
        """Send a refusal that answers no request, and stop."""
        self.is_rejected = True
        self.answer(encode_error(None, refusal))
        self.stop("unsubscribed")

    @abstractmethod
    def stop(self, reason: EndReason) -> None:
        """Stop reading; the connection's task then answers open requests and closes."""

    def finished(self) -> None:
        """Release everything at the end of the connection."""
        self.ended = True
        self.unsent_bytes = 0
        for opened in list(self.opened):
            opened.abandon()
        for subscription in list((self.subscriptions or {}).values()):
            subscription.forget()
        self.wake()


def _drop(message: bytes) -> None:
    """Drop the answer to a notification."""
