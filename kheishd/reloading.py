"""Reloads, coalesced: however many ask while one is under way, one more follows it, for all of them."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class _Attempt(Generic[T]):
    """One performance of the work, and all who wait for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.value: T
        self.error: Exception | None = None

    def unwrap(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value


class Coalesced(Generic[T]):
    """Performs ``work`` for whoever asks, one at a time.

    A request is served by a performance that began after it was made, so that what was written before
    asking is always read. A caller that is cancelled does not stop the work.
    """

    def __init__(self, nursery: trio.Nursery, work: Callable[[], Awaitable[T]]) -> None:
        self._nursery = nursery
        self._work = work
        self._busy = False
        self._waiting: _Attempt[T] | None = None

    async def request(self) -> T:
        """What the next performance gives. Errors: what it raises."""
        attempt = self._waiting
        if attempt is None:
            attempt = self._waiting = _Attempt()
            if not self._busy:
                self._busy = True
                self._nursery.start_soon(self._perform)
        await attempt.done.wait()
        return attempt.unwrap()

    async def _perform(self) -> None:
        while (attempt := self._waiting) is not None:
            self._waiting = None
            try:
                attempt.value = await self._work()
            except Exception as error:
                attempt.error = error
            attempt.done.set()
        self._busy = False
