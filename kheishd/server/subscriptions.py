"""Subscriptions to the journal and to text in progress.

A subscription is a cursor: every matching event up to it was sent. It is in one of two states.

* **Catching up**: it sends pages from the journal, as fast as the client receives them. The hub schedules the
  pages, because thousands of subscriptions may catch up at once. At the present it sends ``synced`` (once)
  and the text in progress, and becomes level.
* **Level**: the hub reads the journal once per commit for all subscriptions and hands new lines over;
  :class:`~kheishd.kernel.live.Live` hands over pieces of text. Both are sent at once. If the client has not
  taken everything at that moment, the subscription records its positions and is catching up again.

It has a task only while it is catching up and waits for the client.

So a slow client holds a cursor and a few offsets, never a buffer, and is never disconnected for being slow.
Both states read committed rows, not messages: a repeated notification has no effect, and no bell is missed,
because every bell is taken before the rows are read.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio
from trio.lowlevel import checkpoint

from kheishd.objects.node.journal import Selection, pruned_until
from kheishd.store.epoch import find_shared_cursor
from kheishd.store.tables import CURSORS, RUNS
from protocol.errors.store import StoreDamaged
from protocol.ids import SUBSCRIPTION
from protocol.objects.journal import GapReason, Subscribed
from protocol.objects.run import SETTLED
from protocol.rpc.wire import encode_notification

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from kheishd.kernel.call import Caller
    from kheishd.kernel.live import Kind, Live, LiveText
    from kheishd.kernel.state import Bell, State
    from kheishd.store.environment import Snapshot
    from protocol.objects.event import EventSubscribe
    from protocol.objects.journal import Filter

log = logging.getLogger(__name__)

# The bytes sent before checking the client again, and read by the hub before handing them over.
PAGE_BYTES = 128 * 1024
# The entries that a page, and the hub, examine at once: about two milliseconds of the loop.
PAGE_ENTRIES = 1_000
PAGE_SEEN_BYTES = 1024 * 1024
# The time for sending pages in one loop iteration, for all subscriptions together.
PAGING_S = 0.002
# The subscriptions that receive new entries in one loop iteration: about five milliseconds.
FOLLOWERS_AT_ONCE = 1_000

Gap = tuple[int, GapReason]
"""The cursor from which a subscriber wanted to continue, and why it cannot."""

_encode = msgspec.json.Encoder().encode


class Subscriber(Protocol):
    """The connection of a subscription."""

    caller: Caller
    ended: bool
    subscriptions: dict[str, Subscription] | None

    @property
    def clear(self) -> bool:
        """Whether the client has received everything that was sent."""
        ...

    def push(self, messages: list[bytes]) -> None:
        """Send without waiting."""
        ...

    async def change(self) -> None:
        """Sleep until the client took something, or the connection ended."""
        ...

    def wake(self) -> None:
        """Wake the tasks that sleep in ``change``."""
        ...

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a task."""
        ...


class Subscription:
    """A subscription of one client. The hub creates it."""

    def __init__(
        self,
        hub: Hub,
        peer: Subscriber,
        selection: Selection,
        name: str,
        cursor: int,
        gap: Gap | None = None,
        *,
        deltas: bool,
        until_settled: str | None,
    ) -> None:
        self.name = name
        self.selection = selection
        self.until_settled = until_settled
        self.over = False
        self._hub = hub
        self._peer = peer
        self._cursor = cursor
        self._gap = gap
        self._deltas = deltas
        self._level = False
        self._synced = False
        self._reported_gap = 0
        # The text sent when the client fell behind, by item: attempt, characters by kind.
        self._sent: dict[tuple[str, str], tuple[int, dict[Kind, int]]] = {}
        quoted = _encode(name)
        self._event_head = b'{"jsonrpc":"2.0","method":"journal.event","params":{"subscription":%b,' % quoted
        self._delta_head = b'{"jsonrpc":"2.0","method":"journal.delta","params":{"subscription":%b,' % quoted

    # Level.

    @property
    def session_id(self) -> str | None:
        """The followed session, or None for several."""
        return self.selection.stream

    def wants(self, session_id: str, run_id: str) -> bool:
        """Whether the subscription includes text of this run."""
        if not self.selection.covers_run(run_id):
            return False
        if self.selection.stream is not None:
            return session_id == self.selection.stream
        with self._hub.state.read() as store:
            return self.selection.admits(store, session_id)

    def delta(self, live_text: LiveText, delta: bytes) -> None:
        """Send a piece of text, if the client has received everything before."""
        if self._level:
            if self._peer.clear:
                self._peer.push([self._delta_head + delta + b"}"])
            else:
                self._fall_behind()

    def hand(self, store: Snapshot, entries: list[LiveEntry]) -> None:
        """Send new entries, if the client has received everything before."""
        if not self._level:
            return
        head = self._event_head
        if self.selection.whole_stream and entries[0].cursor > self._cursor:
            messages = [head + entry.tail for entry in entries]
        else:
            messages = [
                head + entry.tail
                for entry in entries
                if entry.cursor > self._cursor
                and self.selection.admits(store, entry.stream)
                and self.selection.matches(entry.line)
            ]
        if not messages:
            return
        if not self._peer.clear:
            self._fall_behind()
            return
        self._cursor = entries[-1].cursor
        self._peer.push(messages)
        self._end_if_settled(store)

    def _fall_behind(self) -> None:
        """Change from level to catching up."""
        self._level = False
        self._hub.leave(self)
        if self._deltas:
            self._sent = {
                live_text.key: (live_text.attempt, live_text.lengths())
                for live_text in self._hub.live.current(self)
            }
        self._hub.catch_up(self)

    # Catching up.

    def catch_up(self) -> None:
        """Send the next missing page, and schedule another unless the present is reached."""
        if self.over or self._peer.ended:
            return
        if not self._peer.clear:
            self._peer.start(self._when_clear)
        elif not self._send_page():
            self._hub.catch_up(self)

    async def _when_clear(self) -> None:
        """Schedule the next page when the client has received everything."""
        while not self._peer.clear and not self._peer.ended and not self.over:
            await self._peer.change()
        self._hub.catch_up(self)

    def _send_page(self) -> bool:
        """Send a page; return whether the present, or the end, is reached."""
        scrub = self._hub.state.store.scrub or bytes
        with self._hub.state.read() as store:
            self._report_gap(store)
            messages: list[bytes] = []
            size = seen = 0
            lines = self.selection.examine(store, self._cursor)
            try:
                for examined, (cursor, line, length) in enumerate(lines, 1):
                    self._cursor = cursor
                    seen += length
                    if line is not None:
                        # An old line may contain a value that became a secret later.
                        messages.append(self._event_head + _tail(cursor, scrub(line)))
                        size += length
                    if size >= PAGE_BYTES or seen >= PAGE_SEEN_BYTES or examined >= PAGE_ENTRIES:
                        self._peer.push(messages)
                        return False
            except Exception:
                # The events before a damaged one are intact.
                self._peer.push(messages)
                raise
            self._cursor = max(self._cursor, store.last_cursor)
            if not self._synced:
                self._synced = True
                messages.append(self._note("synced", cursor=self._cursor, epoch=self._hub.state.epoch))
            self._peer.push(messages)
            return self._end_if_settled(store) or self._become_level(store)

    def _become_level(self, store: Snapshot) -> bool:
        """Become level if the client takes all the text in progress; return whether it did."""
        if self._deltas:
            for live_text in self._hub.live.current(self):
                if not self._peer.clear:
                    return False
                self._send_text(store, live_text)
        self._sent = {}
        self._level = True
        self._hub.join(self, store.last_cursor)
        return True

    def _send_text(self, store: Snapshot, live_text: LiveText) -> None:
        """Send the missing text of a message or tool output, unless its durable event was already sent.

        If part of it is no longer kept, the offset shows the gap.
        """
        run = store.get(RUNS, live_text.run_id)
        if run is not None and run.item_id != live_text.item_id:
            calls = (call for call in run.calls if call.state == "called")
            if all(call.call_id != live_text.item_id for call in calls):
                return
        attempt, lengths = self._sent.get(live_text.key, (0, {}))
        if attempt != live_text.attempt:
            lengths = {}
        messages = []
        for kind, buffer in live_text.buffers.items():
            offset = max(lengths.get(kind, 0), buffer.start)
            if offset < buffer.length:
                delta = live_text.delta(kind, offset, buffer.text(offset))
                messages.append(self._delta_head + delta + b"}")
        self._sent[live_text.key] = (live_text.attempt, live_text.lengths())
        self._peer.push(messages)

    def _report_gap(self, store: Snapshot) -> None:
        """Report history that is not there: pruned, or of another line of history, as before a restore.

        In one stream, all entries before the pruned mark were pruned.
        """
        if self._gap is not None:
            (start, reason), self._gap = self._gap, None
            self._push_gap(start, self._cursor, reason)
        pruned = pruned_until(store, self.selection.stream)
        if pruned > max(self._cursor, self._reported_gap):
            self._reported_gap = pruned
            self._push_gap(self._cursor, pruned, "pruned")
            if self.selection.stream is not None:
                self._cursor = pruned

    def _push_gap(self, start: int, end: int, reason: GapReason) -> None:
        fields = {"from": start, "to": end, "epoch": self._hub.state.epoch, "reason": reason}
        self._peer.push([self._note("gap", **fields)])

    # The end.

    def _end_if_settled(self, store: Snapshot) -> bool:
        """End after the event that settled the run; that event is in ``store``, so it was sent."""
        if self.until_settled is None:
            return False
        run = store.get(RUNS, self.until_settled)
        if run is not None and run.status not in SETTLED:
            return False
        self.end("settled")
        return True

    def end(self, reason: str) -> None:
        """Send the end notification and release the subscription."""
        self._peer.push([self._note("end", reason=reason)])
        self.forget()

    def forget(self) -> None:
        """Release the subscription and send nothing more."""
        self.over = True
        self._level = False
        if self._peer.subscriptions is not None:
            self._peer.subscriptions.pop(self.name, None)
        self._hub.forget(self)
        self._peer.wake()

    def _note(self, name: str, **fields: object) -> bytes:
        return encode_notification(f"journal.{name}", _encode({"subscription": self.name, **fields}))


class LiveEntry:
    """A journal entry on its way to many subscriptions."""

    __slots__ = ("cursor", "line", "stream", "tail")

    def __init__(self, cursor: int, stream: str, line: bytes) -> None:
        self.cursor = cursor
        self.stream = stream
        self.line = line
        self.tail = _tail(cursor, line)


def _tail(cursor: int, line: bytes) -> bytes:
    """Return the end of a ``journal.event``: the same for every subscription, with the line as stored."""
    return b'"cursor":%d,"event":%b}}' % (cursor, line)


@contextmanager
def _isolate_errors(subscription: Subscription) -> Iterator[None]:
    """Log an error of one subscription and end it for its client to subscribe again; no other is affected."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StoreDamaged):
            log.error("a subscription ended, because the store is damaged: %s", error.message)
        else:
            log.exception("a subscription failed")
        try:
            subscription.end("failed")
        except Exception:
            log.exception("the end of a subscription could not be sent")
            subscription.forget()


class Hub:
    """The reader of new entries for all level subscriptions, and their registry.

    ``_cursor`` is the newest entry read. A subscription that becomes level has just read up to the present,
    in a snapshot at least as new as the hub's, so no entry falls between the two.
    """

    def __init__(self, state: State, live: Live) -> None:
        self.state = state
        self.live = live
        self._all: dict[Subscription, None] = {}
        self._by_stream: dict[str, dict[Subscription, None]] = {}
        self._of_many: dict[Subscription, None] = {}
        self._cursor = 0
        self._joined: Bell = state.bell()
        # The subscriptions with a page to send, in the order in which they are served.
        self._behind: OrderedDict[Subscription, None] = OrderedDict()
        self._fallen = trio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def subscribe(
        self,
        peer: Subscriber,
        filter_: Filter | EventSubscribe,
        after: int | None,
        epoch: str | None = None,
        *,
        deltas: bool,
        subscription: str | None,
        until_settled: str | None,
    ) -> Subscribed:
        """Create a subscription for a client. Errors: SessionNotFound, RunNotFound, EventBusForbidden.

        A cursor of another line of history is replaced by the last one that both lines share.
        """
        gap: Gap | None = None
        with self.state.read() as store:
            selection = Selection(store, peer.caller, filter_)
            cursor = last = store.last_cursor
            if after is not None and epoch is not None and epoch != self.state.epoch:
                cursor, gap = min(after, find_shared_cursor(store, epoch) or 0), (after, "restored")
            elif after is not None:
                cursor, gap = min(after, last), (after, "beyond_end") if after > last else None
        name = subscription or self.state.new_id(SUBSCRIPTION)
        made = Subscription(
            self, peer, selection, name, cursor, gap, deltas=deltas, until_settled=until_settled
        )
        assert peer.subscriptions is not None, "the peer keeps its subscriptions"
        peer.subscriptions[name] = made
        self._all[made] = None
        if selection.pattern is not None:
            self.state.store.followers.add(selection.pattern)
        if deltas:
            self.live.follow(made)
        self.catch_up(made)
        return Subscribed(name, cursor, self.state.epoch)

    def catch_up(self, subscription: Subscription) -> None:
        """Schedule the next page of a subscription.

        It is sent in a later loop iteration, after the answer to the request that subscribed.
        """
        self._behind[subscription] = None
        self._fallen.set()

    def join(self, subscription: Subscription, present: int) -> None:
        """Add a level subscription. ``present`` is the journal's newest cursor."""
        if not self._by_stream and not self._of_many:
            # No subscription was level, so the hub slept and skips everything in between.
            self._cursor = present
        stream = subscription.selection.stream
        if stream is None:
            self._of_many[subscription] = None
        else:
            self._by_stream.setdefault(stream, {})[subscription] = None
        self._joined.ring()

    def leave(self, subscription: Subscription) -> None:
        """Remove a subscription that is no longer level."""
        self._of_many.pop(subscription, None)
        stream = subscription.selection.stream
        if stream is not None:
            followers = self._by_stream.get(stream, {})
            followers.pop(subscription, None)
            if not followers:
                self._by_stream.pop(stream, None)

    def forget(self, subscription: Subscription) -> None:
        """Remove a subscription that has ended."""
        self.leave(subscription)
        self._behind.pop(subscription, None)
        self.live.unfollow(subscription)
        if subscription in self._all and subscription.selection.pattern is not None:
            self.state.store.followers.remove(subscription.selection.pattern)
        self._all.pop(subscription, None)

    async def run(self) -> None:
        """Hand over committed entries and schedule the pages of those catching up, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._page)
            await self._follow()

    async def _page(self) -> None:
        while True:
            if not self._behind:
                self._fallen = trio.Event()
                await self._fallen.wait()
            until = time.monotonic() + PAGING_S
            while self._behind and time.monotonic() < until:
                subscription, _ = self._behind.popitem(last=False)
                with _isolate_errors(subscription):
                    subscription.catch_up()
            await checkpoint()

    async def _follow(self) -> None:
        while True:
            self._joined = self.state.bell()
            if not self._by_stream and not self._of_many:
                await self._joined.wait()
            bell = self.state.bell(CURSORS.name)
            try:
                entries, caught_up = self._read()
            except StoreDamaged:
                # The newest events cannot be read, and no others will come: the store is read-only.
                log.error("the newest events cannot be sent to their followers, because the store is damaged")
                entries, caught_up = [], True
            if entries:
                await self._distribute(entries)
            if caught_up:
                await bell.wait()
            else:
                await checkpoint()

    def _read(self) -> tuple[list[LiveEntry], bool]:
        """Return new entries with followers, and whether the present is reached."""
        entries: list[LiveEntry] = []
        size = 0
        with self.state.read() as store:
            for examined, (cursor, stream) in enumerate(store.feed(self._cursor), 1):
                self._cursor = cursor
                if self._of_many or stream in self._by_stream:
                    entry = store.entry(stream, cursor)
                    assert entry is not None, "a cursor has its entry"
                    entries.append(LiveEntry(cursor, stream, entry[1]))
                    size += len(entries[-1].line)
                if size >= PAGE_BYTES or examined >= PAGE_ENTRIES:
                    return entries, False
        return entries, True

    async def _distribute(self, entries: list[LiveEntry]) -> None:
        """Hand new entries to their followers, in several loop iterations if there are many.

        A subscription that joins meanwhile has already read them; one that falls behind reads them later.
        """
        assignments = self._assign_entries(entries)
        while True:
            with self.state.read() as store:
                done = 0
                for follower, concerned in islice(assignments, FOLLOWERS_AT_ONCE):
                    with _isolate_errors(follower):
                        follower.hand(store, concerned)
                    done += 1
            if done < FOLLOWERS_AT_ONCE:
                return
            await checkpoint()

    def _assign_entries(self, entries: list[LiveEntry]) -> Iterator[tuple[Subscription, list[LiveEntry]]]:
        """Yield each subscription with its entries."""
        by_stream: dict[str, list[LiveEntry]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry)
        for stream, of_stream in by_stream.items():
            for follower in list(self._by_stream.get(stream, ())):
                yield follower, of_stream
        for follower in list(self._of_many):
            yield follower, entries
