"""Text that is not committed yet: the model's answer or a tool's output, passed to followers as it arrives.

A :class:`LiveText` is the text of one model call of a run, or the output of one tool call. It begins with the
call, grows piece by piece, and ends when its message or result is in the journal, or when the run is stopped.
A higher attempt replaces a lower one.

Each piece is encoded once and passed to every follower at once, without waiting. A follower that is up to
date sends the piece on. A follower that lags ignores it, remembers its offset, and later reads the rest from
here in one piece. A slow follower therefore costs two numbers and not a queue.

A model's text is stored whole. A tool's output may be endless, so only its end is stored, and a late follower
misses the part before it. Offsets count from the true beginning, so that the gap is visible.

Known secrets are removed before any follower gets a piece. The end of a piece that may be the beginning of a
secret is held back until more text arrives or the text is flushed.

Nothing here is durable and nothing is awaited; everything runs on the loop's thread.
"""

from collections import deque
from typing import Literal, Protocol

import msgspec

from kheishd.core.text.scrub import Scrubber
from kheishd.core.text.stream import TextStreamScrubber
from protocol.limits.call import MAX_LIVE_CHARACTERS

Kind = Literal["text", "thinking", "output"]
MODEL_KINDS: tuple[Kind, ...] = ("thinking", "text")
TOOL_KINDS: tuple[Kind, ...] = ("output",)

# A tool may write one character at a time, and each piece takes about 50 bytes more than its text.
MAX_PIECES = 1_024

_encode = msgspec.json.Encoder().encode


class TextBuffer:
    """The text of one kind, or its end: it has ``length`` characters and stores those from ``start`` on."""

    __slots__ = ("_max_characters", "_pieces", "length", "scrubber", "start")

    def __init__(self, max_characters: int | None = None) -> None:
        self.scrubber = TextStreamScrubber()
        self.length = 0
        self.start = 0
        self._max_characters = max_characters
        self._pieces: deque[str] = deque()

    def append(self, text: str) -> None:
        """Append text. With a limit, drop pieces from the start once enough text follows them."""
        self._pieces.append(text)
        self.length += len(text)
        if self._max_characters is None:
            return
        while self.length - self.start - len(self._pieces[0]) >= self._max_characters:
            self.start += len(self._pieces.popleft())
        if len(self._pieces) > MAX_PIECES or self.length - self.start > 2 * self._max_characters:
            end = self.text()[-self._max_characters :]
            self.start = self.length - len(end)
            self._pieces = deque((end,))

    def skip(self, characters: int) -> None:
        """Count characters that no follower gets, and drop the text before them."""
        self._pieces.clear()
        self.length += characters
        self.start = self.length

    def text(self, offset: int = 0) -> str:
        """Return the stored text from an offset on."""
        if len(self._pieces) > 1:
            # Joined for good, so that many readers of a long text pay for its length once.
            self._pieces = deque(("".join(self._pieces),))
        stored = self._pieces[0] if self._pieces else ""
        return stored[offset - self.start :] if offset > self.start else stored


class LiveText:
    """The text so far of one attempt at one call."""

    __slots__ = ("_stem", "attempt", "buffers", "followers", "item_id", "run_id", "session_id")

    def __init__(
        self, session_id: str, run_id: str, item_id: str, attempt: int, kinds: tuple[Kind, ...]
    ) -> None:
        self.session_id = session_id
        self.run_id = run_id
        self.item_id = item_id
        self.attempt = attempt
        self.buffers: dict[Kind, TextBuffer] = {
            kind: TextBuffer(MAX_LIVE_CHARACTERS if kind == "output" else None) for kind in kinds
        }
        self.followers: list[Follower] = []
        self._stem = _encode({"run_id": run_id, "item_id": item_id, "attempt": attempt})[1:-1]

    @property
    def key(self) -> tuple[str, str]:
        """The run and the message or call, which identify the text; attempts share a key."""
        return self.run_id, self.item_id

    def lengths(self) -> dict[Kind, int]:
        """Return the length of the text so far, by kind."""
        return {kind: buffer.length for kind, buffer in self.buffers.items()}

    def text(self, kind: Kind) -> str:
        """Return the stored text of a kind."""
        return self.buffers[kind].text()

    def delta(self, kind: Kind, offset: int, text: str) -> bytes:
        """Encode the params of a ``journal.delta`` from ``run_id`` on, the part that all followers share."""
        return b'%b,"offset":%d,"kind":"%b","text":%b}' % (self._stem, offset, kind.encode(), _encode(text))


class Follower(Protocol):
    """A recipient of live text."""

    @property
    def session_id(self) -> str | None:
        """The only session that is followed; None if ``wants`` decides for each run."""
        ...

    def wants(self, session_id: str, run_id: str) -> bool:
        """Whether the follower wants the text of this run."""
        ...

    def delta(self, live_text: LiveText, delta: bytes) -> None:
        """Take a piece, right before it is appended. Must not wait, raise, follow or unfollow."""
        ...


class Live:
    """All live texts and their followers."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], LiveText] = {}
        self._by_session: dict[str, dict[Follower, None]] = {}
        self._of_all: dict[Follower, None] = {}
        self.scrubber = Scrubber()

    def scrub(self, scrubber: Scrubber) -> None:
        """Remove these secrets from all further text."""
        self.scrubber = scrubber

    # Texts.

    def begin(
        self, session_id: str, run_id: str, item_id: str, attempt: int, kinds: tuple[Kind, ...] = MODEL_KINDS
    ) -> LiveText:
        """Begin the text of a call. It replaces the text of an earlier attempt."""
        live_text = LiveText(session_id, run_id, item_id, attempt, kinds)
        candidates = (*self._by_session.get(session_id, ()), *self._of_all)
        live_text.followers = [follower for follower in candidates if follower.wants(session_id, run_id)]
        self._texts[live_text.key] = live_text
        return live_text

    def append(self, live_text: LiveText, kind: Kind, text: str) -> None:
        """Append text. Errors: KeyError for a kind that the live text does not have."""
        self._publish(live_text, kind, live_text.buffers[kind].scrubber.feed(text, self.scrubber))

    def flush(self, live_text: LiveText) -> None:
        """Publish the text that was held back; no text may follow."""
        for kind, buffer in live_text.buffers.items():
            self._publish(live_text, kind, buffer.scrubber.finish(self.scrubber))

    def _publish(self, live_text: LiveText, kind: Kind, text: str) -> None:
        if not text:
            return
        buffer = live_text.buffers[kind]
        if kind == "output" and len(text) > MAX_LIVE_CHARACTERS:
            # The piece would exceed the size of a message, and its start would be dropped at once anyway.
            buffer.skip(len(text) - MAX_LIVE_CHARACTERS)
            text = text[-MAX_LIVE_CHARACTERS:]
        if live_text.followers:
            delta = live_text.delta(kind, buffer.length, text)
            for follower in live_text.followers:
                follower.delta(live_text, delta)
        buffer.append(text)

    def end(self, live_text: LiveText) -> None:
        """Forget a text: its message or result is in the journal, or will never be."""
        live_text.followers = []
        if self._texts.get(live_text.key) is live_text:
            del self._texts[live_text.key]

    # Followers.

    def follow(self, follower: Follower) -> None:
        """Pass every further piece that ``follower`` wants to it."""
        if follower.session_id is None:
            self._of_all[follower] = None
        else:
            self._by_session.setdefault(follower.session_id, {})[follower] = None
        for live_text in self.current(follower):
            live_text.followers.append(follower)

    def unfollow(self, follower: Follower) -> None:
        """Pass nothing to ``follower`` any more, whether it followed or not."""
        self._of_all.pop(follower, None)
        if follower.session_id is not None:
            followers = self._by_session.get(follower.session_id, {})
            followers.pop(follower, None)
            if not followers:
                self._by_session.pop(follower.session_id, None)
        for live_text in self._texts.values():
            if follower in live_text.followers:
                live_text.followers.remove(follower)

    def current(self, follower: Follower) -> list[LiveText]:
        """Return the live texts that ``follower`` wants."""
        return [
            live_text
            for live_text in self._texts.values()
            if follower.session_id in (None, live_text.session_id)
            and follower.wants(live_text.session_id, live_text.run_id)
        ]
