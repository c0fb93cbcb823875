"""Reloads: a new runtime is built beside the current one and replaces it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from kheishd.build.stored import TABLES, add_stored
from kheishd.events import commit_reload
from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.lifecycle import HookSubject, find_hooks
from protocol.errors.daemon import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kheishd.core.hook import HookVerdict
    from kheishd.kernel.lifecycle import HookSpec
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

    When a table of ``kheishd/build/stored.py`` changes, the current runtime gets the stored objects.
    ``build`` builds a generation, in a thread; ``adopt`` applies its log level and its reserve before it
    becomes current, and ``learn`` the credentials of its routes; ``notify`` reports the begin and the end of
    a reload. ``decide`` runs the hooks that may block one.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        state: State,
        first: Runtime,
        *,
        build: Callable[[int], Runtime],
        adopt: Callable[[Runtime], None],
        learn: Callable[[Runtime], None],
        notify: Callable[[bool], None],
        scrub: Callable[[str], str],
        decide: Callable[[Sequence[HookSpec], HookSubject], Awaitable[HookVerdict]] | None = None,
    ) -> None:
        self.runtimes = RuntimeHolder(first, lambda old: nursery.start_soon(_close, old))
        self.problem: str | None = None
        self._state = state
        self._build = build
        self._adopt = adopt
        self._learn = learn
        self._notify = notify
        self._scrub = scrub
        self._decide = decide
        self._requests = Coalesced(nursery, self._reload)
        adopt(first)
        # The current generation as it was built, from files alone.
        self._built = first
        state.watch(self._amend, *TABLES)

    async def request(self) -> tuple[int, list[str]]:
        """Build a new runtime; return its generation and warnings.

        Errors: ConfigInvalid and errors inside the daemon; the current runtime then remains.
        """
        return await self._requests.request()

    def _amend(self) -> None:
        """Give the current runtime the objects of the store."""
        runtime = add_stored(self._built, self._state)
        self._learn(runtime)
        self.runtimes.amend(runtime)

    async def _require_consent(self, runtime: Runtime) -> None:
        """Require that no hook of the current runtime blocks the next one. Errors: ConfigInvalid."""
        hooks = find_hooks(self.runtimes.current().lifecycle, "config_change", "reload")
        if not hooks or self._decide is None:
            return
        key = f"{self._state.epoch}.{runtime.generation}.config_change"
        payload = {"generation": runtime.generation, "warnings": list(runtime.warnings)}
        verdict = await self._decide(hooks, HookSubject("config_change", "reload", key, payload))
        if verdict.block is not None:
            raise ConfigInvalid(f"the new configuration must not take effect: {verdict.block}")

    async def aclose(self) -> None:
        """Close the current runtime."""
        await self.runtimes.current().models.aclose()

    async def _reload(self) -> tuple[int, list[str]]:
        self._notify(True)
        try:
            runtime = await trio.to_thread.run_sync(self._build, self.runtimes.current().generation + 1)
            await self._require_consent(runtime)
            with trio.CancelScope(shield=True):
                await commit_reload(self._state, add_stored(runtime, self._state))
            self._adopt(runtime)
            self._built = runtime
            runtime = add_stored(runtime, self._state)
            self._learn(runtime)
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


async def _close(runtime: Runtime) -> None:
    with trio.CancelScope(shield=True):
        await runtime.models.aclose()
    log.debug("closed a runtime", extra={"generation": runtime.generation})
