"""Start a daemon from the command line: the home, its lock, the configuration, then the event loop."""

from __future__ import annotations

import gc
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kheishd.activation import PassedSockets
from kheishd.home import Home, HomeHeld, HomeUnusable, Lock, find_home, prepare
from kheishd.hooks.os.umask import restrict_umask

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from kheishd.logs import LogFormat

STOPPED: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNUSABLE: Final = 3
HELD: Final = 4
STORE_REFUSED: Final = 5

EXIT_MEANINGS: Final = (
    (STOPPED, "success, or stopped on request"),
    (FAILED, "failure, or findings of the doctor or of a rehearsal"),
    (USAGE, "invalid command line"),
    (UNUSABLE, "unusable configuration, home or installation"),
    (HELD, "another daemon uses the home"),
    (STORE_REFUSED, "the store or the backup cannot be opened"),
)
"""All exit codes with their meanings, for help texts, man pages and units."""

PERMANENT: Final = (UNUSABLE, HELD, STORE_REFUSED)
"""The codes of failures that a restart does not fix."""

PR_SET_DUMPABLE: Final = 4
"""Source: prctl(2)."""

BLOCKED_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Exit(Exception):
    """The end of the program, with a message for people and a code for programs."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class LaunchOptions(Struct, frozen=True):
    """The options of the command line."""

    home: str | None = None
    config: str | None = None
    log_format: "LogFormat | None" = None
    log_level: str | None = None


def launch(options: LaunchOptions, environ: MutableMapping[str, str]) -> int:
    """Run a daemon until it stops; return the exit code. Errors: Exit."""
    # The daemon unblocks them once its loop receives signals; an early one then stops it in order.
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    restrict_umask()
    passed = PassedSockets(environ)
    try:
        home = prepare_home(options.home, environ)
        with lock_home(home):
            return _run(options, home, environ)
    except Exit as end:
        if end.code in PERMANENT:
            passed.answer(str(end), lambda: _stamp_config(options, environ))
        raise
    finally:
        passed.close()


def _stamp_config(options: LaunchOptions, environ: MutableMapping[str, str]) -> object:
    """Return a value that changes with the configuration file; None without one."""
    try:
        path = find_home(options.home, environ).config if options.config is None else Path(options.config)
        status = path.stat()
    except (HomeUnusable, OSError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def prepare_home(option: str | None, environ: MutableMapping[str, str]) -> Home:
    """Find the home and create its directories. Errors: Exit."""
    try:
        home = find_home(option, environ)
        prepare(home)
    except HomeUnusable as error:
        raise Exit(UNUSABLE, str(error)) from None
    return home


def lock_home(home: Home) -> Lock:
    """Lock the home until the lock is released. Errors: Exit if another process has locked it."""
    try:
        return Lock.take(home)
    except HomeHeld as error:
        raise Exit(HELD, str(error)) from None
    except HomeUnusable as error:
        raise Exit(UNUSABLE, str(error)) from None


def protect_memory() -> None:
    """Keep processes of the same user from reading the daemon's memory and environment, and dump no core.

    Both contain credentials. Programs that the daemon starts are not affected. Root may still read.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def _run(options: LaunchOptions, home: Home, environ: MutableMapping[str, str]) -> int:
    # Importing creates many objects and no garbage; collecting would take a tenth of the start.
    gc.disable()
    # Imported after locking: a second daemon exits at once, and maintenance commands need no event loop.
    import trio

    from kheishd.build.runtime import Source
    from kheishd.daemon import Daemon
    from kheishd.logs import Logs
    from protocol.errors.daemon import ConfigInvalid

    source = Source(home, None if options.config is None else Path(options.config).absolute(), environ)
    try:
        config = source.read_config()
    except ConfigInvalid as error:
        raise Exit(UNUSABLE, error.message) from None
    protect_memory()
    _tune()
    logs = Logs(
        options.log_format or config.log.format, options.log_level or config.log.level, environ=environ
    )
    try:
        trio.run(Daemon(source, config, logs, environ, options.log_level).run)
    except BaseException as error:
        raise make_exit(error) from None
    finally:
        logs.close()
    return STOPPED


def make_exit(error: BaseException) -> Exit:
    """Return the exit for an error; an unexpected error is logged with its traceback."""
    import logging

    from kheishd.daemon import InstallationDamaged
    from kheishd.server.listeners import SocketInUse
    from kheishd.store.opening import StoreUnusable
    from protocol.errors.daemon import ConfigInvalid
    from protocol.errors.refusal import Refusal

    # Several tasks may report one failure, each with its own message; any of them will do.
    kinds = {type(leaf) for leaf in _walk_leaves(error)}
    if len(kinds) == 1:
        error = next(_walk_leaves(error))
    match error:
        case StoreUnusable():
            return Exit(STORE_REFUSED, str(error))
        case ConfigInvalid():
            return Exit(UNUSABLE, error.message)
        case InstallationDamaged():
            return Exit(UNUSABLE, str(error))
        case SocketInUse():
            return Exit(HELD, str(error))
        case Refusal():
            return Exit(FAILED, error.message)
        case OSError():
            return Exit(FAILED, str(error))
        case _:
            logging.getLogger("kheishd").critical("the daemon failed", exc_info=error)
            return Exit(FAILED, f"failed: {type(error).__name__}; the log above has the details")


def _walk_leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in nested groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _walk_leaves(inner)
    else:
        yield error


def _tune() -> None:
    """Set process-wide settings."""
    # Every connection is a file descriptor, and the usual soft limit is 1,024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The writer thread and the loop alternate. With the default of 5 ms, the functions of one commit could
    # delay every connection by that much, and a busy loop could delay every commit.
    sys.setswitchinterval(0.0005)
    # Imported objects live as long as the process: exclude them from collection.
    gc.freeze()
    gc.enable()
