"""Locks by name, for tasks: who changes a file holds its name meanwhile, so that no edit is lost."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import trio


class PathLocks:
    """The names that are held now. One for the whole daemon: a reload must not forget who holds what."""

    def __init__(self) -> None:
        self._locks: dict[str, trio.Lock] = {}

    @asynccontextmanager
    async def held(self, paths: Iterable[str]) -> AsyncIterator[None]:
        """Hold some names, once nobody else does. All take them in one order, so nobody waits in a ring."""
        async with AsyncExitStack() as stack:
            for path in sorted(set(paths)):
                await stack.enter_async_context(self._held(path))
            yield

    @asynccontextmanager
    async def _held(self, path: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(path, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # The last one takes the lock away; whoever waits for it, waits for this very one.
            if not lock.locked() and self._locks.get(path) is lock:
                del self._locks[path]

    def __len__(self) -> int:
        """How many names are held or waited for."""
        return len(self._locks)
