"""The daemon's life: the order of starting, and the reverse order of stopping.

    lock -> configuration -> store -> runtime -> workers -> connections -> listeners -> READY

Each lives in a nursery or context inside the previous one. Stopping goes from the inside out: the listeners
close, active runs may finish until a deadline, connections are answered and closed, and the workers are
cancelled. Their work is committed, so nothing is lost; background commands are stopped, and their tasks
record it. The last commit records the stop, and the store closes last.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import ExitStack, asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

import trio
from msgspec.structs import replace

from kheishd import __version__
from kheishd.build.handlers import handlers
from kheishd.build.listeners import ListenOptions, build_listen_options
from kheishd.build.runtime import Source, build_runtime
from kheishd.build.stored import read_stored_routes
from kheishd.config.reader import make_refusal
from kheishd.config.sections.listen import split_address
from kheishd.control import DaemonControl, Stopper, Vitals
from kheishd.core.text.learned import LearnedSecrets
from kheishd.core.text.scrub import Scrubber
from kheishd.debug.captures import CaptureService
from kheishd.debug.files import CaptureFiles
from kheishd.events import commit_start, commit_stop
from kheishd.hooks.os.shell.cgroup import GROUPS
from kheishd.hooks.os.shell.health import SandboxHealth
from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.kernel.cooldowns import Cooldowns
from kheishd.kernel.credentials import find_secrets, identify_key, resolve_credential
from kheishd.kernel.lifecycle import Lifecycle
from kheishd.kernel.live import Live
from kheishd.kernel.mcp import NoMcp, servers_of
from kheishd.kernel.reserve import RESERVE
from kheishd.kernel.secrets import Vault
from kheishd.kernel.services import Services
from kheishd.kernel.state import State, open_state
from kheishd.objects.node.metrics import collect_metrics, format_metrics
from kheishd.providers.caller import ProviderCaller
from kheishd.reload import Reloader
from kheishd.restored import finish_restore
from kheishd.server.dispatch import Dispatcher
from kheishd.server.listeners import (
    Listener,
    ListenerUnusable,
    TcpListen,
    check_listeners,
    open_listeners,
)
from kheishd.server.server import Server, open_server
from kheishd.store.checkup import expect_check
from kheishd.store.environment import DATA
from kheishd.store.tables import RUNS_CANCELLED, RUNS_READY, SHELLS_LIVE
from kheishd.store.upgrades import expect_upgrade
from kheishd.systemd import Notifier, read_watchdog_seconds
from kheishd.toolbox import Toolbox
from kheishd.workers.expiry import ExpiryWorker, RetentionWorker
from kheishd.workers.runs.worker import RunWorker
from kheishd.workers.shells import ShellWorker
from kheishd.workers.titles import TitleWorker
from protocol.errors.mcp import McpLoginFailed
from protocol.errors.store import StorageFailed, StorageFull, StoreDamaged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, MutableMapping, Sequence

    from kheishd.config.sections.config import Config
    from kheishd.config.sections.runs import RunsSection
    from kheishd.hooks.os.shell.starter import Starter
    from kheishd.kernel.mcp import McpHolder
    from kheishd.kernel.runtime import Runtime
    from kheishd.logs import Logs
    from kheishd.mcp.pool import McpPool
    from kheishd.workers.worker import Worker

log = logging.getLogger("kheishd.daemon")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SIGNALS: Final = (*STOP_SIGNALS, signal.SIGHUP)

LISTEN_CHANGED: Final = "[listen] changed; restart the daemon to apply it"

# The time for answering and closing connections, after the active runs have ended or been suspended.
CLOSE_SECONDS: Final = 2.0

# The time for MCP servers to end, all of them at once (see ``kheishd/mcp/transport.py``).
SERVERS_SECONDS: Final = 4.0

# The time between attempts to mark the work of a restored store while the disk is full.
RESTORE_RETRY_SECONDS: Final = 5.0

WORK: Final = (
    "kheishd.build.skills",
    "kheishd.core.commands.readings",
    "kheishd.core.judge",
    "kheishd.debug.capture",
    "kheishd.debug.recorder",
    "kheishd.hooks.agents.delegation",
    "kheishd.hooks.agents.mail",
    "kheishd.hooks.ask_user",
    "kheishd.hooks.composite",
    "kheishd.hooks.events",
    "kheishd.hooks.cron",
    "kheishd.hooks.events",
    "kheishd.hooks.goals",
    "kheishd.hooks.memory",
    "kheishd.hooks.lifecycle.part",
    "kheishd.hooks.mcp",
    "kheishd.hooks.memory",
    "kheishd.hooks.network.http",
    "kheishd.hooks.os.files.tools",
    "kheishd.hooks.os.shell.starter",
    "kheishd.hooks.os.shell.tools",
    "kheishd.hooks.output",
    "kheishd.hooks.plan",
    "kheishd.hooks.results",
    "kheishd.hooks.skills",
    "kheishd.hooks.tasks",
    "kheishd.hooks.web.tools",
    "kheishd.providers.adaptation",
    "kheishd.providers.anthropic",
    "kheishd.providers.certificates",
    "kheishd.providers.exchange",
    "kheishd.providers.google",
    "kheishd.providers.http",
    "kheishd.providers.offline",
    "kheishd.providers.openai",
    "kheishd.providers.responses",
    "kheishd.workers.agents",
    "kheishd.workers.bus",
    "kheishd.workers.completion",
    "kheishd.workers.cron",
    "kheishd.workers.goals",
    "kheishd.workers.hooks",
    "kheishd.workers.mail",
    "kheishd.workers.runs.executor",
)
"""Modules that execute runs, call models and tools, and start shells. An idle start waits for none.

Left out is what imports ``httpcore2``, which only fetches of pages and routes through a proxy need.
"""

OPEN_WORK: Final = (RUNS_READY, RUNS_CANCELLED, SHELLS_LIVE)
"""The lists of work that an earlier daemon left."""


class InstallationDamaged(Exception):
    """Code of kheish that cannot be imported: no work is begun, and all of it waits for a repair."""


class Daemon:
    """One daemon on one home, from its configuration to its last commit."""

    def __init__(
        self, source: Source, config: Config, logs: Logs, environ: MutableMapping[str, str], level: str | None
    ) -> None:
        self._source = source
        self._config = config
        self._logs = logs
        self._level = level
        self._environ = environ
        self._learned = LearnedSecrets()
        self._credentials: list[str] = []
        self._scrubber = Scrubber()
        self._live = Live()
        self._captures = CaptureService(CaptureFiles(source.home.debug))
        self._shells = ShellFiles(source.home.shells)
        self._vault = Vault(source.home.path, environ, self._learn)
        self._sandbox = SandboxHealth(source.home.path)
        self._toolbox = Toolbox(source.home, self._shells, self._sandbox)
        self._reloaded = trio.Event()
        self._work_loaded = trio.Event()
        self._notifier = Notifier(environ)
        self._watchdog_s = read_watchdog_seconds(environ)
        self._vitals = Vitals(version=__version__, home=source.home.path, sandbox=self._sandbox.describe)
        self._lifecycle = Lifecycle(
            lambda: self._toolbox.load_lifecycle(self._read_credential, self._environ)
        )
        self._server: Server | None = None
        self._listeners: list[Listener] = []
        self._state: State
        self.reloader: Reloader

    async def run(self) -> str:
        """Run until asked to stop; return the reason. Errors: those of opening the store or the sockets."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            # Blocked since the process began, so that no signal arrived before the receiver was open.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            seconds = expect_check(self._source.home.state / DATA)
            if seconds is not None:
                log.info("checking the store, because it was not closed in order")
                self._notifier.starting("Checking the store", seconds)
            seconds = expect_upgrade(self._source.home.state / DATA)
            if seconds is not None:
                log.info("upgrading the store of an older version; everything is read before the first write")
                self._notifier.starting("Upgrading the store", seconds)
            async with open_state(self._source.home.state, version=__version__) as self._state:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._captures.serve)
                    self.reloader = await self._start(nursery)
                    stopper = Stopper(lambda: self.reloader.runtimes.current().config.daemon.drain_s)
                    nursery.start_soon(self._handle_signals, signals, stopper)
                    if self._watchdog_s is not None:
                        nursery.start_soon(self._feed_watchdog, self._watchdog_s)
                    nursery.start_soon(self._watch_store)
                    try:
                        await self._serve(stopper)
                    finally:
                        with trio.CancelScope(shield=True):
                            await commit_stop(self._state, stopper.reason)
                            log.info("stopped", extra={"reason": stopper.reason})
                            await self.reloader.aclose()
                    nursery.cancel_scope.cancel()
        return stopper.reason

    async def _start(self, nursery: trio.Nursery) -> Reloader:
        """Open the secret slots, build the first runtime and commit the start."""
        self._vault.open(self._state)
        runtime = build_runtime(
            self._source,
            1,
            self._make_models,
            self._toolbox.hooks,
            self._toolbox.skills,
            config=self._config,
            stored_routes=read_stored_routes(self._state),
            skip_bad_agents=True,
        )
        reloader = Reloader(
            nursery,
            self._state,
            runtime,
            build=self._rebuild,
            adopt=self._adopt,
            learn=self._learn_credentials,
            notify=self._notify_reload,
            scrub=lambda text: self._scrubber.scrub_text(text),
            decide=lambda hooks, subject: self._lifecycle.runner.decide(hooks, subject),
        )
        self._vitals.schema = self._state.store.schema
        self._vitals.started_at_ms = self._state.now_ms()
        self._vitals.after_crash = await commit_start(self._state)
        for warning in runtime.warnings:
            log.warning("%s", warning)
        if self._vitals.after_crash:
            log.warning("the previous daemon did not shut down cleanly; its unfinished work is resumed")
        return reloader

    async def _serve(self, stopper: Stopper) -> None:
        """Run workers, connections and listeners until all of them have ended."""
        runtimes = self.reloader.runtimes
        services = Services(
            self._state,
            self._live,
            runtimes,
            self._captures,
            self._shells,
            lifecycle=self._lifecycle,
            mcp=self._toolbox.mcp,
            secrets=self._vault,
            cooldowns=Cooldowns(
                lambda route_id, key: identify_key(
                    runtimes.current().routes.get(route_id), key, self._vault, self._environ
                )
            ),
        )
        self._toolbox.services = services
        await trio.to_thread.run_sync(GROUPS.prepare)
        titles = TitleWorker(services)
        runs = RunWorker(services, on_release=titles.consider)
        # The shell worker starts before any run: it ends the shells of the previous daemon.
        workers: tuple[Worker, ...] = (
            ShellWorker(services, self._shells, self._make_starter, own_ports=self._toolbox.own_ports),
            titles,
            runs,
            ExpiryWorker(services),
            RetentionWorker(services),
        )
        self._vitals.active_runs = lambda: runs.active
        control = DaemonControl(
            services, self._vitals, stopper, self.reloader, lambda: self._source.config_path
        )
        dispatcher = Dispatcher(handlers(), services, control)
        async with trio.open_nursery() as nursery:
            services.mcp.expect()
            nursery.start_soon(self._follow_servers, services.mcp)
            await self._start_workers(nursery, workers)
            async with open_server(dispatcher) as server:
                self._vitals.server = server
                await self._listen_for_collectors(nursery, services, control)
                async with self._listen(server):
                    fields = {"home": self._source.home.path, "listeners": self._vitals.listeners}
                    log.info("ready", extra={**fields, "pid": os.getpid()})
                    nursery.start_soon(self._prepare_work)
                    await stopper.wait()
                    remaining_s = stopper.scope.deadline - trio.current_time()
                    remaining_s += CLOSE_SECONDS + sum(worker.max_stop_s for worker in workers)
                    remaining_s += 0.0 if isinstance(services.mcp.current, NoMcp) else SERVERS_SECONDS
                    self._notifier.stopping("Waiting for active runs", remaining_s)
                    log.info("stopping", extra={"reason": stopper.reason})
                with stopper.scope:
                    for worker in workers if self._state.store.damage is None else ():
                        await worker.drain()
                await server.drain(CLOSE_SECONDS)
            nursery.cancel_scope.cancel()

    async def _work(
        self, worker: Worker, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run a worker until it is cancelled, or until damage of the store is found."""

        async def stop_if_damaged() -> None:
            await self._state.damaged.wait()
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop_if_damaged)
                await worker.serve(task_status=task_status)
                nursery.cancel_scope.cancel()
        except* StoreDamaged:
            log.error("%s ended, because the store is damaged", worker.name)
            # The worker may have read the damage before it was ready.
            with suppress(RuntimeError):
                task_status.started()

    async def _start_workers(self, nursery: trio.Nursery, workers: Sequence[Worker]) -> None:
        """Start the workers, once the open work of a restored store is marked: none of it may run again.

        With a damaged store only reads are served.
        """
        if self._state.store.damage is not None:
            return
        try:
            self._vitals.restored = await finish_restore(self._state)
        except StoreDamaged:
            return
        except StorageFull:
            log.warning("the restored store cannot be marked on a full disk; no work is done until it is")
            nursery.start_soon(self._start_workers_later, nursery, workers)
            return
        with self._state.read() as store:
            is_idle = not any(store.count(table) for table in OPEN_WORK)
        if is_idle:
            # The daemon is ready before the code of runs is imported: messages are accepted, and wait.
            nursery.start_soon(self._start_loaded, nursery, workers)
        else:
            await self._load_work()
            await self._start_loaded(nursery, workers)

    async def _start_loaded(self, nursery: trio.Nursery, workers: Sequence[Worker]) -> None:
        """Start the workers once their code is imported: no run fails because kheish is half installed."""
        await self._work_loaded.wait()
        # Their code is part of the code of runs.
        from kheishd.workers.agents import AgentWorker
        from kheishd.workers.bus import BusWorker
        from kheishd.workers.cron import CronWorker
        from kheishd.workers.goals import GoalWorker
        from kheishd.workers.hooks import HookWorker
        from kheishd.workers.mail import MailWorker

        services = cast("Services", self._toolbox.services)
        loaded = (MailWorker, GoalWorker, AgentWorker, BusWorker, CronWorker, HookWorker)
        for worker in (*workers, *(make(services) for make in loaded)):
            await nursery.start(self._work, worker, name=worker.name)

    async def _follow_servers(self, holder: McpHolder) -> None:
        """Supervise the MCP servers of the current configuration, once the daemon is ready.

        Without any server, nothing of this is imported.
        """
        runtimes = self.reloader.runtimes
        pool: McpPool | None = None
        await self._work_loaded.wait()
        async with trio.open_nursery() as nursery:
            while True:
                changed, specs = runtimes.changed, servers_of(runtimes.current())
                if specs and pool is None:
                    from kheishd.mcp.pool import McpPool

                    pool = McpPool(
                        self._source.home.path,
                        self._environ,
                        self._read_credential,
                        self._state.now_ms,
                        self._vault,
                        self._save_tokens,
                        lambda content: self._scrubber.scrub_cut(content),
                    )
                    await nursery.start(pool.serve)
                    holder.current = pool
                if pool is not None:
                    pool.adopt(specs)
                holder.adopted.set()
                await changed.wait()

    def _read_credential(self, reference: str) -> str:
        """Return the credential of a reference, which is redacted from now on. Errors: CredentialMissing."""
        credential = resolve_credential(reference, self._vault, self._environ)
        assert credential is not None, "there is a reference"
        self._learn((credential,))
        return credential

    async def _save_tokens(self, slot_id: str, value: str) -> None:
        """Store the tokens of a login in a slot; they are redacted from now on.

        Errors: McpLoginFailed, MasterKeyUnusable, SecretLimit, SecretUnreadable, StorageFull.
        """
        from kheishd.core.text.vocabulary import find_collision
        from kheishd.kernel.secrets import list_redacted

        texts = list_redacted(value)
        runtime = self.reloader.runtimes.current()
        word = find_collision(texts, (slot_id, *runtime.definitions, *runtime.routes, *servers_of(runtime)))
        if word is not None:
            raise McpLoginFailed(f"a token occurs in '{word}', a word of the daemon: it cannot be redacted")
        self._vault.require_room(slot_id, texts)
        self._learn(texts)
        self._vault.prepare(slot_id)
        await self._state.update(lambda tx: self._vault.put_slot(tx, slot_id, value, "oauth"), is_firm=True)

    async def _start_workers_later(self, nursery: trio.Nursery, workers: Sequence[Worker]) -> None:
        await trio.sleep(RESTORE_RETRY_SECONDS)
        await self._start_workers(nursery, workers)

    @asynccontextmanager
    async def _listen(self, server: Server) -> AsyncIterator[None]:
        """Serve clients of all listeners while the block runs. Errors: SocketInUse, ConfigInvalid."""
        options = self._build_listen_options(self._config)
        self._server = server
        run_dir = self._source.home.run
        with ExitStack() as stack:
            try:
                listeners = stack.enter_context(
                    open_listeners(
                        options.rpc, options.shared, options.tcp, run_dir=run_dir, environ=self._environ
                    )
                )
            except ListenerUnusable as error:
                raise make_refusal(self._source.config_path, error.key, str(error)) from None
            self._listeners = listeners
            self._vitals.listeners = [listener.name for listener in listeners]
            if self._vitals.collector is not None:
                self._vitals.listeners.append(self._vitals.collector)
            self._toolbox.own_ports.update(
                listener.socket.getsockname()[1]
                for listener in listeners
                if isinstance(listener.spec, TcpListen)
            )
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    await nursery.start(server.listen, listener)
                yield
                nursery.cancel_scope.cancel()

    async def _listen_for_collectors(
        self, nursery: trio.Nursery, services: Services, control: DaemonControl
    ) -> None:
        """Serve the metrics, if they have an address. Errors: ConfigInvalid."""
        address = self._config.metrics.listen
        if address is None:
            return
        from kheishd.server.metrics import serve_metrics

        host, port = split_address(address)
        try:
            port = await nursery.start(
                serve_metrics,
                host,
                port,
                lambda: format_metrics(collect_metrics(services, control.status())),
            )
        except* OSError as group:
            problem = group.exceptions[0]
            text = f"cannot listen on {address}: {getattr(problem, 'strerror', None) or problem}"
            raise make_refusal(self._source.config_path, ("metrics", "listen"), text) from None
        self._vitals.collector = f"http://{host}:{port}/metrics"

    def _build_listen_options(self, config: Config) -> ListenOptions:
        """Return the options of the listeners. Errors: ConfigInvalid, also for an unusable certificate."""
        try:
            options = build_listen_options(config.listen, self._source.home, self._environ)
            if options.tcp is not None and options.tcp.certificate is not None:
                # TLS is needed by few daemons, and its import takes a while.
                from kheishd.server.websocket import load_certificate

                load_certificate(options.tcp)
        except ListenerUnusable as error:
            raise make_refusal(self._source.config_path, error.key, str(error)) from None
        return options

    async def _watch_store(self) -> None:
        """Errors: StorageFailed once the disk refuses a write that cannot be rolled back."""
        await self._state.failed.wait()
        raise StorageFailed(f"{self._state.store.failure}; everything acknowledged before is on the disk")

    async def _prepare_work(self) -> None:
        """Import the code of runs; then try the sandbox. Errors: InstallationDamaged."""
        await self._load_work()
        self._vitals.starting = False
        self._notify_ready()
        # In a thread, so that nobody waits for 2,000 skills; a damaged directory is a warning.
        await trio.to_thread.run_sync(lambda: self.reloader.runtimes.current().skills.reload())
        await self._watch_sandbox()

    async def _load_work(self) -> None:
        """Import the code of runs, in a thread. Errors: InstallationDamaged.

        Otherwise the first run would import it while all connections wait, and from the files of another
        version if kheish was upgraded meanwhile.
        """
        try:
            await trio.to_thread.run_sync(lambda: [import_module(name) for name in WORK])
        except Exception as error:
            log.exception("the code of runs cannot be imported")
            raise InstallationDamaged(
                f"the installation is damaged ({type(error).__name__}: {error}); "
                "install kheish again, then start the daemon: no run was touched"
            ) from None
        self._work_loaded.set()

    async def _watch_sandbox(self) -> None:
        """Try the sandbox of commands now and after each reload, so that the status and the log show it."""
        while True:
            reloaded = self._reloaded
            await self._toolbox.try_sandbox(self.reloader.runtimes.current().config.workspace)
            await reloaded.wait()

    # Signals and the service manager.

    async def _handle_signals(self, signals: AsyncIterator[int], stopper: Stopper) -> None:
        async def reload() -> None:
            # No caller waits for the result; the log and the status have the problem.
            with suppress(Exception):
                await self.reloader.request()

        async with trio.open_nursery() as nursery:
            async for number in signals:
                if number == signal.SIGHUP:
                    nursery.start_soon(reload)
                else:
                    stopper.request(signal.Signals(number).name)

    async def _feed_watchdog(self, interval_s: float) -> None:
        """Notify systemd twice per interval, as long as both the loop and the writer respond."""
        while True:
            with suppress(StorageFull, StoreDamaged):
                await self._state.update(lambda tx: None)
            self._notifier.alive()
            await trio.sleep(interval_s / 2)

    def _notify_reload(self, begins: bool) -> None:
        if begins:
            self._notifier.reloading()
        else:
            self._reloaded.set()
            self._reloaded = trio.Event()
            self._notify_ready()

    def _notify_ready(self) -> None:
        self._notifier.ready(f"Serving {', '.join(self._vitals.listeners)}")

    # Runtimes and secrets.

    def _make_starter(self) -> Starter:
        from kheishd.hooks.os.shell.starter import Starter

        return Starter(self._source.home.path, self._environ, self._sandbox)

    def _rebuild(self, generation: int) -> Runtime:
        runtime = build_runtime(
            self._source,
            generation,
            self._make_models,
            self._toolbox.hooks,
            self._toolbox.skills,
            stored_routes=read_stored_routes(self._state),
            skip_bad_agents=False,
        )
        # The next start must not fail because of a value that this reload accepted.
        options = self._build_listen_options(runtime.config)
        if runtime.config.listen == self._config.listen:
            return runtime
        try:
            check_listeners([spec for spec in (options.shared, options.tcp) if spec], self._listeners)
        except ListenerUnusable as error:
            raise make_refusal(self._source.config_path, error.key, str(error)) from None
        return replace(runtime, warnings=(*runtime.warnings, LISTEN_CHANGED))

    def _make_models(self, limits: RunsSection) -> ProviderCaller:
        return ProviderCaller(
            limits,
            environ=self._environ,
            learned=lambda secret: self._learn((secret,)),
            captures=self._captures,
            slots=self._vault,
            routes=lambda: self.reloader.runtimes.current().routes,
        )

    def _adopt(self, runtime: Runtime) -> None:
        """Read the master key again, keep the reserve of a runtime on the disk, and log at its level."""
        self._vault.reload_keys()
        RESERVE.keep(self._source.home.state, runtime.config.daemon.reserve_bytes)
        self._logs.set_level(self._level or runtime.config.log.level)
        if self._server is not None:
            try:
                self._server.renew_certificates()
            except ListenerUnusable as error:
                # It was usable a moment ago, when the runtime was built.
                log.warning("connections still use the previous certificate: %s", error)

    def _learn_credentials(self, runtime: Runtime) -> None:
        self._credentials = find_secrets(runtime.routes.values(), self._vault, self._environ)
        self._learn(self._credentials)

    def _learn(self, secrets: Iterable[str]) -> None:
        """Scrub secrets from everything that is journaled, logged, streamed or captured from now on."""
        if not self._learned.learn(secrets, (*self._credentials, *self._vault.values())):
            return
        self._scrubber = Scrubber(self._learned, self._scrubber)
        self._state.store.set_scrub(self._scrubber.scrub_journal_line)
        self._logs.scrub(self._scrubber)
        self._live.scrub(self._scrubber)
        self._captures.scrub(self._scrubber)
