"""Text while it is being written: kept until it is committed, handed on as it comes.

A *writing* is the text of one model call of a run, or the output of one tool call. It begins with the call,
grows piece by piece and ends when its message or its result is in the journal (or the run stopped). A higher
attempt replaces the lower.

A piece is encoded once and given, at once and without waiting, to every follower: those level with the
text send it on, the others pass it over, remember how far they had come and later read the rest here, in
one piece. So what a slow follower costs is two numbers, not a queue.

What a model says is kept whole. A tool may write without end, so of its output only the end is kept, and
whoever comes later, or falls far behind, misses the rest: offsets are counted from the true beginning all
the same, so that a gap shows.

Known secrets are taken out before anybody sees a piece. The end of a piece that may become one is held
back until more has come, or the text is whole.

Nothing here is durable and nothing here is awaited; everything happens on the loop's thread.
"""

from collections import deque
from typing import Literal, Protocol

import msgspec

from kheishd.core.text.scrub import Scrubber
from kheishd.core.text.stream import TextStreamScrubber
from protocol.limits.call import MAX_LIVE_CHARACTERS

Kind = Literal["text", "thinking", "output"]
OF_MODELS: tuple[Kind, ...] = ("thinking", "text")
OF_TOOLS: tuple[Kind, ...] = ("output",)

# A tool may write a character at a time, and each piece takes some 50 bytes besides.
MAX_PIECES = 1_024

_encode = msgspec.json.Encoder().encode


class TextBuffer:
    """The text of one kind, or its end: ``length`` characters came, those from ``start`` on are kept."""

    __slots__ = ("_most", "_pieces", "flow", "length", "start")

    def __init__(self, most: int | None = None) -> None:
        self.flow = TextStreamScrubber()
        self.length = 0
        self.start = 0
        self._most = most
        self._pieces: deque[str] = deque()

    def append(self, text: str) -> None:
        """Make the text longer. Where only its end is kept, pieces go once enough comes after them."""
        self._pieces.append(text)
        self.length += len(text)
        if self._most is None:
            return
        while self.length - self.start - len(self._pieces[0]) >= self._most:
            self.start += len(self._pieces.popleft())
        if len(self._pieces) > MAX_PIECES or self.length - self.start > 2 * self._most:
            kept = self.text()[-self._most :]
            self.start = self.length - len(kept)
            self._pieces = deque((kept,))

    def skip(self, characters: int) -> None:
        """So much came that nobody is told of; what was kept before it is of no use any more."""
        self._pieces.clear()
        self.length += characters
        self.start = self.length

    def text(self, offset: int = 0) -> str:
        """What is kept of the text, from an offset on."""
        if len(self._pieces) > 1:
            # Joined for good, so that many readers of a long text cost its length once.
            self._pieces = deque(("".join(self._pieces),))
        kept = self._pieces[0] if self._pieces else ""
        return kept[offset - self.start :] if offset > self.start else kept


class Writing:
    """The text so far of one attempt at one call."""

    __slots__ = ("_stem", "attempt", "followers", "item_id", "run_id", "session_id", "strands")

    def __init__(
        self, session_id: str, run_id: str, item_id: str, attempt: int, kinds: tuple[Kind, ...]
    ) -> None:
        self.session_id = session_id
        self.run_id = run_id
        self.item_id = item_id
        self.attempt = attempt
        self.strands: dict[Kind, TextBuffer] = {
            kind: TextBuffer(MAX_LIVE_CHARACTERS if kind == "output" else None) for kind in kinds
        }
        self.followers: list[Follower] = []
        self._stem = _encode({"run_id": run_id, "item_id": item_id, "attempt": attempt})[1:-1]

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from what else is being written: its run, and its message or call."""
        return self.run_id, self.item_id

    def lengths(self) -> dict[Kind, int]:
        """How far the text has come, by kind."""
        return {kind: strand.length for kind, strand in self.strands.items()}

    def text(self, kind: Kind) -> str:
        """The text so far, or what is kept of it."""
        return self.strands[kind].text()

    def delta(self, kind: Kind, offset: int, text: str) -> bytes:
        """The params of a ``journal.delta`` from ``run_id`` on: what is the same for every follower."""
        return b'%b,"offset":%d,"kind":"%b","text":%b}' % (self._stem, offset, kind.encode(), _encode(text))


class Follower(Protocol):
    """Somebody who wants text as it is written."""

    @property
    def session_id(self) -> str | None:
        """The one session that is followed; None where ``wants`` must be asked about each."""
        ...

    def wants(self, session_id: str, run_id: str) -> bool:
        """Whether text of this run is wanted."""
        ...

    def delta(self, writing: Writing, delta: bytes) -> None:
        """A piece, about to be added to ``writing``. Must not wait, fail, or follow or unfollow."""
        ...


class Live:
    """All that is being written now, and who follows it."""

    def __init__(self) -> None:
        self._writings: dict[tuple[str, str], Writing] = {}
        self._by_session: dict[str, dict[Follower, None]] = {}
        self._of_many: dict[Follower, None] = {}
        self.scrubber = Scrubber()

    def scrub(self, scrubber: Scrubber) -> None:
        """From now on, let no secret of these through."""
        self.scrubber = scrubber

    def begin(
        self, session_id: str, run_id: str, item_id: str, attempt: int, kinds: tuple[Kind, ...] = OF_MODELS
    ) -> Writing:
        """A call starts: what is to be written of it. What an earlier attempt wrote is gone."""
        writing = Writing(session_id, run_id, item_id, attempt, kinds)
        candidates = (*self._by_session.get(session_id, ()), *self._of_many)
        writing.followers = [follower for follower in candidates if follower.wants(session_id, run_id)]
        self._writings[writing.key] = writing
        return writing

    def text(self, writing: Writing, kind: Kind, text: str) -> None:
        """More text. Errors: KeyError for a kind that the writing does not have."""
        self._tell(writing, kind, writing.strands[kind].flow.feed(text, self.scrubber))

    def whole(self, writing: Writing) -> None:
        """No more text comes: tell what was held back."""
        for kind, strand in writing.strands.items():
            self._tell(writing, kind, strand.flow.finish(self.scrubber))

    def _tell(self, writing: Writing, kind: Kind, text: str) -> None:
        if not text:
            return
        strand = writing.strands[kind]
        if kind == "output" and len(text) > MAX_LIVE_CHARACTERS:
            # So long a piece would be no message: what nobody will see again is not sent either.
            strand.skip(len(text) - MAX_LIVE_CHARACTERS)
            text = text[-MAX_LIVE_CHARACTERS:]
        if writing.followers:
            delta = writing.delta(kind, strand.length, text)
            for follower in writing.followers:
                follower.delta(writing, delta)
        strand.append(text)

    def end(self, writing: Writing) -> None:
        """The message or result is in the journal, or nothing more will come of it."""
        writing.followers = []
        if self._writings.get(writing.key) is writing:
            del self._writings[writing.key]

    def follow(self, follower: Follower) -> None:
        """From now on give every piece that is wanted to ``follower``."""
        if follower.session_id is None:
            self._of_many[follower] = None
        else:
            self._by_session.setdefault(follower.session_id, {})[follower] = None
        for writing in self.current(follower):
            writing.followers.append(follower)

    def unfollow(self, follower: Follower) -> None:
        """No more of it, whether it followed or not."""
        self._of_many.pop(follower, None)
        if follower.session_id is not None:
            followers = self._by_session.get(follower.session_id, {})
            followers.pop(follower, None)
            if not followers:
                self._by_session.pop(follower.session_id, None)
        for writing in self._writings.values():
            if follower in writing.followers:
                writing.followers.remove(follower)

    def current(self, follower: Follower) -> list[Writing]:
        """What is being written now that ``follower`` wants."""
        return [
            writing
            for writing in self._writings.values()
            if follower.session_id in (None, writing.session_id)
            and follower.wants(writing.session_id, writing.run_id)
        ]
