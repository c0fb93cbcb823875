"""The daemon's life: what starts in which order, and stops in the reverse.

    lock -> configuration -> store -> runtime -> workers -> connections -> listeners -> READY

Each lives in a nursery or context inside the one before it. Stopping goes inward out: the listeners
close, runs in flight may finish until a deadline, connections are answered and closed, the workers are
cancelled (what they do is committed, so nothing is lost; commands in the background are stopped, and their
tasks say so), the last commit says that we stopped, and the store closes last of all.
"""

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from kheishd import __version__
from kheishd.build.handlers import handlers
from kheishd.build.listeners import listen_options
from kheishd.build.runtime import Source, build_runtime
from kheishd.config.sections.config import Config
from kheishd.config.sections.runs import RunsSection
from kheishd.control import DaemonControl, Stopper, Vitals
from kheishd.core.text.scrub import Scrubber
from kheishd.debug.captures import CaptureService
from kheishd.debug.files import CaptureFiles
from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.hooks.os.shell.starter import Starter
from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.live import Live
from kheishd.kernel.runtime import Runtime
from kheishd.kernel.services import Services
from kheishd.kernel.state import State, open_state
from kheishd.logs import Logs
from kheishd.providers.caller import ProviderCaller
from kheishd.providers.credentials import find_secrets
from kheishd.reloading import Coalesced
from kheishd.server.dispatch import Dispatcher
from kheishd.server.listeners import open_listeners
from kheishd.server.server import Server, open_server
from kheishd.store.environment import Transaction
from kheishd.store.tables import META
from kheishd.systemd import Notifier, watchdog_seconds
from kheishd.toolbox import Toolbox
from kheishd.workers.expiry import ExpiryWorker, RetentionWorker
from kheishd.workers.runs.worker import RunWorker
from kheishd.workers.shells import ShellWorker
from kheishd.workers.titles import TitleWorker
from protocol.errors.daemon import ConfigInvalid
from protocol.errors.store import StorageFailed, StorageFull
from protocol.events.daemon import DaemonReloaded, DaemonStarted, DaemonStopped
from protocol.journal.envelope import DAEMON_STREAM

if TYPE_CHECKING:
    from kheishd.workers.worker import Worker

log = logging.getLogger("kheishd.daemon")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SIGNALS: Final = (*STOP_SIGNALS, signal.SIGHUP)

CLEAN: Final = "clean"
"""The META row that an orderly stop leaves and a start takes away."""

LISTEN_CHANGED: Final = "[listen] was changed; what is listened on changes when the daemon is started again"

# What connections get to be answered in, once the runs in flight have ended or were put down.
CLOSE_SECONDS: Final = 2.0


class Daemon:
    """One daemon on one home, from its configuration to its last commit."""

    def __init__(
        self, source: Source, config: Config, logs: Logs, environ: MutableMapping[str, str], level: str | None
    ) -> None:
        self._source = source
        self._first_config = config
        self._logs = logs
        self._level = level
        self._environ = environ
        self._scrubber = Scrubber()
        self._live = Live()
        self._captures = CaptureService(CaptureFiles(source.home.debug))
        self._shells = ShellFiles(source.home.shells)
        self._toolbox = Toolbox(source.home, self._shells)
        self._notifier = Notifier(environ)
        self._watchdog_s = watchdog_seconds(environ)
        self._stopper = Stopper(self._drain_seconds)
        self._state: State
        self._holder: RuntimeHolder
        self._vitals: Vitals
        self._reloads: Coalesced[tuple[int, list[str]]]

    async def live(self) -> str:
        """Run until asked to stop; gives the reason. Errors: those of opening the store or the sockets."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            # Held back since the process began, so that none arrived before somebody could hear it.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            async with open_state(self._source.home.state, version=__version__) as self._state:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._captures.serve)
                    await self._prepare(nursery)
                    nursery.start_soon(self._heed, signals)
                    if self._watchdog_s is not None:
                        nursery.start_soon(self._feed_watchdog, self._watchdog_s)
                    nursery.start_soon(self._watch_store)
                    try:
                        await self._work()
                    finally:
                        with trio.CancelScope(shield=True):
                            await self._say_stopped()
                            await self._holder.current().models.aclose()
                    nursery.cancel_scope.cancel()
        return self._stopper.reason

    async def _prepare(self, nursery: trio.Nursery) -> None:
        """The runtime, and the first commit."""
        runtime = build_runtime(
            self._source,
            1,
            self._models,
            self._toolbox.hooks,
            config=self._first_config,
            skip_bad_agents=True,
        )
        self._holder = RuntimeHolder(runtime, lambda old: nursery.start_soon(self._retire, old))
        self._reloads = Coalesced(nursery, self._reload)
        self._keep_secret(runtime)
        after_crash = await self._started_after_crash()
        self._vitals = Vitals(
            version=__version__,
            home=self._source.home.path,
            schema=self._state.store.schema,
            started_at_ms=self._state.now_ms(),
            after_crash=after_crash,
        )
        for warning in runtime.warnings:
            log.warning("%s", warning)
        if after_crash:
            log.warning("the daemon before this one ended without stopping; its work is taken up again")

    async def _work(self) -> None:
        """Workers, connections, listeners; returns when all of them have ended."""
        services = Services(self._state, self._live, self._holder, self._captures, self._shells)
        starter = Starter(self._source.home.path, self._environ)
        titles = TitleWorker(services)
        runs = RunWorker(services, on_release=titles.consider)
        # The shell worker starts before any run: it ends the shells of the previous daemon.
        workers: tuple[Worker, ...] = (
            ShellWorker(services, self._shells, starter),
            titles,
            runs,
            ExpiryWorker(services),
            RetentionWorker(services),
        )
        self._vitals.runs_active = lambda: runs.active
        control = DaemonControl(
            services, self._vitals, self._stopper, self._reloads, lambda: self._source.config_path
        )
        dispatcher = Dispatcher(handlers(), services, control)
        async with trio.open_nursery() as nursery:
            for worker in workers:
                await nursery.start(worker.serve)
            async with open_server(dispatcher) as server:
                self._vitals.server = server
                async with self._listening(server):
                    where = {"home": self._source.home.path, "listeners": self._vitals.listeners}
                    log.info("ready", extra={**where, "pid": os.getpid()})
                    self._say_ready()
                    await self._stopper.wait()
                    left_s = self._stopper.scope.deadline - trio.current_time()
                    left_s += CLOSE_SECONDS + sum(worker.max_stop_s for worker in workers)
                    self._notifier.stopping("Waiting for runs in flight", left_s)
                    log.info("stopping", extra={"reason": self._stopper.reason})
                with self._stopper.scope:
                    for worker in workers:
                        await worker.drain()
                await server.drain(CLOSE_SECONDS)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _listening(self, server: Server) -> AsyncIterator[None]:
        options = listen_options(self._first_config.listen, self._source.home)
        run_dir = self._source.home.run
        with open_listeners(
            options.rpc, options.shared, options.tcp, run_dir=run_dir, environ=self._environ
        ) as listeners:
            self._vitals.listeners = [listener.name for listener in listeners]
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    await nursery.start(server.listen, listener)
                yield
                nursery.cancel_scope.cancel()

    # The first and the last commit.

    async def _started_after_crash(self) -> bool:
        """Write down that we started; whether the daemon before us ended without saying so."""
        with self._state.read() as store:
            after_crash = store.last_cursor > 0 and store.get(META, CLEAN) is None
        schema = self._state.store.schema
        event = DaemonStarted(version=__version__, pid=os.getpid(), schema=schema, after_crash=after_crash)

        def started(tx: Transaction) -> None:
            tx.delete(META, CLEAN)
            tx.append(DAEMON_STREAM, event)

        await self._write_down(started)
        return after_crash

    async def _write_down(self, change: Callable[[Transaction], object]) -> None:
        """Commit an event of the daemon's own. On a full disk the daemon goes on without it."""
        try:
            await self._state.update(change)
        except StorageFull as refusal:
            log.error("an event of the daemon could not be written down: %s", refusal)

    async def _say_stopped(self) -> None:
        def stopped(tx: Transaction) -> None:
            tx.append(DAEMON_STREAM, DaemonStopped(note=self._stopper.reason))
            tx.put(META, CLEAN, value=b"1")

        # Where even this cannot be written, the next start takes it for a crash, and that does no harm.
        with suppress(StorageFailed):
            await self._write_down(stopped)
        log.info("stopped", extra={"reason": self._stopper.reason})

    async def _watch_store(self) -> None:
        """Errors: StorageFailed once the disk refused a write that could not be taken back."""
        await self._state.failed.wait()
        raise StorageFailed(f"{self._state.store.failure}; what was acknowledged before is on the disk")

    # Signals and the service manager.

    async def _heed(self, signals: AsyncIterator[int]) -> None:
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if number == signal.SIGHUP:
                    nursery.start_soon(self._reload_for_signal)
                else:
                    self._stopper.ask(signal.Signals(number).name)

    async def _reload_for_signal(self) -> None:
        # Nobody waits for an answer, and what went wrong is in the log and the status.
        with suppress(Exception):
            await self._reloads.request()

    def _say_ready(self) -> None:
        self._notifier.ready(f"Serving {', '.join(self._vitals.listeners)}")

    async def _feed_watchdog(self, interval_s: float) -> None:
        """A sign of life, as often as systemd advises, while the loop turns and the writer answers."""
        while True:
            with suppress(StorageFull):
                await self._state.update(_nothing)
            self._notifier.alive()
            await trio.sleep(interval_s / 2)

    # Reloading.

    async def _reload(self) -> tuple[int, list[str]]:
        """Build a new runtime beside the old; any error leaves the old in place. Errors: ConfigInvalid."""
        self._notifier.reloading()
        try:
            runtime = await self._change_over()
        except ConfigInvalid as refusal:
            # A key in the wrong place is quoted by what complains of it.
            message = self._scrubber.scrub_text(refusal.message)
            self._vitals.reload_problem = message
            log.error("the reload was refused and changed nothing: %s", message)
            self._say_ready()
            raise ConfigInvalid(message, field=refusal.field) from None
        except Exception:
            self._vitals.reload_problem = "something failed inside the daemon; its log has the details"
            log.exception("the reload failed and changed nothing")
            self._say_ready()
            raise
        self._vitals.reload_problem = None
        log.info("reloaded", extra={"generation": runtime.generation})
        self._say_ready()
        return runtime.generation, list(runtime.warnings)

    async def _change_over(self) -> Runtime:
        generation = self._holder.current().generation + 1
        runtime = await trio.to_thread.run_sync(self._build, generation)
        event = DaemonReloaded(generation=generation, warnings=list(runtime.warnings))
        with trio.CancelScope(shield=True):
            await self._write_down(lambda tx: tx.append(DAEMON_STREAM, event))
        self._keep_secret(runtime)
        self._holder.replace(runtime)
        return runtime

    def _build(self, generation: int) -> Runtime:
        runtime = build_runtime(
            self._source, generation, self._models, self._toolbox.hooks, skip_bad_agents=False
        )
        if runtime.config.listen == self._first_config.listen:
            return runtime
        return replace(runtime, warnings=(*runtime.warnings, LISTEN_CHANGED))

    def _models(self, limits: RunsSection) -> ProviderCaller:
        return ProviderCaller(limits, environ=self._environ, learned=self._learn, captures=self._captures)

    async def _retire(self, old: Runtime) -> None:
        with trio.CancelScope(shield=True):
            await old.models.aclose()
        log.debug("closed a runtime", extra={"generation": old.generation})

    def _keep_secret(self, runtime: Runtime) -> None:
        """Let nothing that leaves from here on hold a credential of this runtime."""
        self._learn(*find_secrets(runtime.routes.values(), self._environ))
        self._logs.level(self._level or runtime.config.log.level)

    def _learn(self, *secrets: str) -> None:
        """Let nothing that is journaled, logged or sent from here on hold these: one may be new any time."""
        if all(secret in self._scrubber.secrets for secret in secrets):
            return
        self._scrubber = self._scrubber.with_more(secrets)
        self._state.store.set_scrub(self._scrubber.scrub_journal_line)
        self._logs.scrub(self._scrubber)
        self._live.scrub(self._scrubber)
        self._captures.scrub(self._scrubber)

    def _drain_seconds(self) -> float:
        return self._holder.current().config.daemon.drain_s


def _nothing(tx: Transaction) -> None:
    """An update that asks only whether the writer answers."""
