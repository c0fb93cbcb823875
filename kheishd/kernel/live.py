"""Text while it is being written: kept whole until its message is committed, handed on as it comes.

A *writing* is the text of one model call of one run. It begins with the call, grows piece by piece and
ends when its message is in the journal (or the run stopped). A higher attempt replaces the lower.

A piece is encoded once and given, at once and without waiting, to every follower: those level with the
text send it on, the others pass it over, remember how far they had come and later read the rest here, in
one piece. So what a slow follower costs is two numbers, not a queue.

Known secrets are taken out before anybody sees a piece. The end of a piece that may become one is held
back until more has come, or the text is whole.

Nothing here is durable and nothing here is awaited; everything happens on the loop's thread.
"""

from typing import Literal, Protocol

import msgspec

from kheishd.core.scrub import Flow, Scrubber

Kind = Literal["text", "thinking"]
KINDS: tuple[Kind, ...] = ("thinking", "text")

_encode = msgspec.json.Encoder().encode


class Writing:
    """The text so far of one attempt at one model call."""

    __slots__ = (
        "_pieces",
        "_stem",
        "attempt",
        "flows",
        "followers",
        "item_id",
        "lengths",
        "run_id",
        "session_id",
    )

    def __init__(self, session_id: str, run_id: str, item_id: str, attempt: int) -> None:
        self.session_id = session_id
        self.run_id = run_id
        self.item_id = item_id
        self.attempt = attempt
        self.lengths: dict[Kind, int] = {"thinking": 0, "text": 0}
        self.flows: dict[Kind, Flow] = {"thinking": Flow(), "text": Flow()}
        self.followers: list[Follower] = []
        self._pieces: dict[Kind, list[str]] = {"thinking": [], "text": []}
        self._stem = _encode({"run_id": run_id, "item_id": item_id, "attempt": attempt})[1:-1]

    def append(self, kind: Kind, text: str) -> None:
        """Make the text longer."""
        self._pieces[kind].append(text)
        self.lengths[kind] += len(text)

    def text(self, kind: Kind) -> str:
        """The text so far."""
        pieces = self._pieces[kind]
        if len(pieces) > 1:
            # Joined for good, so that many readers of a long text cost its length once.
            pieces[:] = ["".join(pieces)]
        return pieces[0] if pieces else ""

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
        self._writings: dict[str, Writing] = {}
        self._by_session: dict[str, dict[Follower, None]] = {}
        self._of_many: dict[Follower, None] = {}
        self._scrubber = Scrubber()

    def scrub(self, scrubber: Scrubber) -> None:
        """From now on, let no secret of these through."""
        self._scrubber = scrubber

    def begin(self, session_id: str, run_id: str, item_id: str, attempt: int) -> None:
        """A model call starts. What an earlier attempt wrote is gone."""
        writing = Writing(session_id, run_id, item_id, attempt)
        candidates = (*self._by_session.get(session_id, ()), *self._of_many)
        writing.followers = [follower for follower in candidates if follower.wants(session_id, run_id)]
        self._writings[run_id] = writing

    def text(self, run_id: str, kind: Kind, text: str) -> None:
        """More text. Errors: KeyError unless the run's writing has begun."""
        writing = self._writings[run_id]
        self._tell(writing, kind, writing.flows[kind].feed(text, self._scrubber))

    def whole(self, run_id: str) -> None:
        """No more text comes: tell what was held back. Errors: KeyError as for ``text``."""
        writing = self._writings[run_id]
        for kind in KINDS:
            self._tell(writing, kind, writing.flows[kind].rest(self._scrubber))

    def _tell(self, writing: Writing, kind: Kind, text: str) -> None:
        if not text:
            return
        if writing.followers:
            delta = writing.delta(kind, writing.lengths[kind], text)
            for follower in writing.followers:
                follower.delta(writing, delta)
        writing.append(kind, text)

    def end(self, run_id: str) -> None:
        """The message is in the journal, or nothing more will come of it."""
        self._writings.pop(run_id, None)

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
