"""Reloads: a new runtime is built beside the current one and replaces it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import trio

from kheishd.build.agents import add_stored
from kheishd.events import commit_reload
from kheishd.kernel.holder import RuntimeHolder
from kheishd.store.tables import DEFINITIONS
from protocol.errors.daemon import ConfigInvalid
from protocol.errors.store import StoreDamaged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State

log = logging.getLogger("kheishd.daemon")

T = TypeVar("T")


class _Execution(Generic[T]):
    """One execution of the work, shared by its requests."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.value: T
        self.error: Exception | None = None


class Coalesced(Generic[T]):
    """Work that runs once for all requests made while it was running before.

    An execution serves only requests made before it starts, so that files written before a request are
    always read. Cancelling a request does not stop the work.
    """

    def __init__(self, nursery: trio.Nursery, work: Callable[[], Awaitable[T]]) -> None:
        self._nursery = nursery
        self._work = work
        self._running = False
        self._next: _Execution[T] | None = None

    async def request(self) -> T:
        """Return the result of the next execution. Errors: those of the work."""
        execution = self._next
        if execution is None:
            execution = self._next = _Execution()
            if not self._running:
                self._running = True
                self._nursery.start_soon(self._execute)
        await execution.done.wait()
        if execution.error is not None:
            raise execution.error
        return execution.value

    async def _execute(self) -> None:
        while (execution := self._next) is not None:
            self._next = None
            try:
                execution.value = await self._work()
            except Exception as error:
                execution.error = error
            execution.done.set()
        self._running = False


class Reloader:
    """The runtimes of a daemon: it holds the current one and replaces it on request.

    Whenever a definition in the store changes, the current runtime gets the stored definitions.
    ``build`` builds a generation, in a thread; ``adopt`` applies a runtime's secrets and log level before it
    becomes current; ``notify`` reports the begin and the end of a reload.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        state: State,
        first: Runtime,
        *,
        build: Callable[[int], Runtime],
        adopt: Callable[[Runtime], None],
        notify: Callable[[bool], None],
        scrub: Callable[[str], str],
    ) -> None:
        self.runtimes = RuntimeHolder(first, lambda old: nursery.start_soon(_close, old))
        self.problem: str | None = None
        self._state = state
        self._build = build
        self._adopt = adopt
        self._notify = notify
        self._scrub = scrub
        self._requests = Coalesced(nursery, self._reload)
        adopt(first)
        # The current generation as it was built, from files alone.
        self._built = first
        state.watch(lambda: self.runtimes.amend(self._add_stored(self._built)), DEFINITIONS.name)

    async def request(self) -> tuple[int, list[str]]:
        """Build a new runtime; return its generation and warnings.

        Errors: ConfigInvalid and errors inside the daemon; the current runtime then remains.
        """
        return await self._requests.request()

    async def aclose(self) -> None:
        """Close the current runtime."""
        await self.runtimes.current().models.aclose()

    async def _reload(self) -> tuple[int, list[str]]:
        self._notify(True)
        try:
            runtime = await trio.to_thread.run_sync(self._build, self.runtimes.current().generation + 1)
            with trio.CancelScope(shield=True):
                await commit_reload(self._state, self._add_stored(runtime))
            self._adopt(runtime)
            self._built = runtime
            runtime = self._add_stored(runtime)
            self.runtimes.replace(runtime)
        except ConfigInvalid as refusal:
            # The message may quote a credential that was pasted in the wrong place.
            self.problem = self._scrub(refusal.message)
            log.error("the reload was refused and changed nothing: %s", self.problem)
            self._notify(False)
            raise ConfigInvalid(self.problem, field=refusal.field) from None
        except Exception:
            self.problem = "internal error; see the daemon's log"
            log.exception("the reload failed and changed nothing")
            self._notify(False)
            raise
        self.problem = None
        log.info("reloaded", extra={"generation": runtime.generation})
        self._notify(False)
        return runtime.generation, list(runtime.warnings)

    def _add_stored(self, runtime: Runtime) -> Runtime:
        """Return a runtime with the definitions in the store; without them if they cannot be read."""
        try:
            with self._state.read() as store:
                stored = [record.definition for _, record in store.scan(DEFINITIONS)]
        except (StoreDamaged, msgspec.DecodeError) as error:
            log.error("the stored definitions cannot be read: %s", error)
            stored = []
        return add_stored(runtime, stored)


async def _close(runtime: Runtime) -> None:
    with trio.CancelScope(shield=True):
        await runtime.models.aclose()
    log.debug("closed a runtime", extra={"generation": runtime.generation})
