"""Who uses which runtime: the newest is for new work, an older one lives until its last user leaves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kheishd.kernel.runtime import Runtime


class RuntimeHolder:
    """The current runtime and those that runs in flight still use.

    ``retire`` is called once for each runtime that was replaced and has no user left, on the loop.
    """

    def __init__(self, first: Runtime, retire: Callable[[Runtime], None]) -> None:
        self._current = first
        self._retire = retire
        self._users: dict[int, int] = {}

    def current(self) -> Runtime:
        """The newest runtime, for work that ends before the next ``await`` that matters."""
        return self._current

    @contextmanager
    def hold(self) -> Iterator[Runtime]:
        """Keep the newest runtime, whatever replaces it, until the context is left."""
        runtime = self._current
        self._users[runtime.generation] = self._users.get(runtime.generation, 0) + 1
        try:
            yield runtime
        finally:
            self._users[runtime.generation] -= 1
            if not self._users[runtime.generation]:
                del self._users[runtime.generation]
                self._let_go(runtime)

    def replace(self, runtime: Runtime) -> None:
        """From here on, new work gets this one."""
        assert runtime.generation > self._current.generation, "generations rise"
        old, self._current = self._current, runtime
        if old.generation not in self._users:
            self._retire(old)

    def held(self) -> list[int]:
        """The generations in use, oldest first."""
        return sorted(self._users)

    def _let_go(self, runtime: Runtime) -> None:
        if runtime is not self._current:
            self._retire(runtime)
