"""The holder of the runtimes: the current one for new work, older ones until they are unused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from kheishd.kernel.runtime import Runtime


class RuntimeHolder:
    """The current runtime, and older ones that active runs still use.

    ``retire`` is called once for each replaced runtime, on the loop, when its last user has left.
    ``changed`` is set when there is another current one; take it before you read that.
    """

    def __init__(self, first: Runtime, retire: Callable[[Runtime], None]) -> None:
        self._current = first
        self._retire = retire
        self._users: dict[int, int] = {}
        self.on_replace: Callable[[], None] = lambda: None
        self.changed = trio.Event()

    def current(self) -> Runtime:
        """Return the newest runtime, for work that does not outlast a reload."""
        return self._current

    @contextmanager
    def hold(self) -> Iterator[Runtime]:
        """Hold the newest runtime open until the context is left, even if a reload replaces it."""
        runtime = self._current
        self._users[runtime.generation] = self._users.get(runtime.generation, 0) + 1
        try:
            yield runtime
        finally:
            self._users[runtime.generation] -= 1
            if not self._users[runtime.generation]:
                del self._users[runtime.generation]
                if runtime.generation != self._current.generation:
                    self._retire(runtime)

    def replace(self, runtime: Runtime) -> None:
        """Make a runtime the current one."""
        assert runtime.generation > self._current.generation, "generations increase"
        replaced, self._current = self._current, runtime
        if replaced.generation not in self._users:
            self._retire(replaced)
        self._announce()
        self.on_replace()

    def amend(self, runtime: Runtime) -> None:
        """Replace the current runtime by one of its generation, with other definitions of agents."""
        assert runtime.generation == self._current.generation, "the rest of a runtime stays"
        self._current = runtime
        self._announce()

    def _announce(self) -> None:
        """Wake the tasks that wait for another current runtime."""
        self.changed.set()
        self.changed = trio.Event()

    def held(self) -> list[int]:
        """Return the generations in use, oldest first."""
        return sorted(self._users)
