"""From a command line to a running daemon: the home, its lock, the configuration, then the loop."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kheishd.home import Home, HomeHeld, HomeUnusable, Lock, find_home, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from kheishd.logs import Format

STOPPED: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNUSABLE: Final = 3
HELD: Final = 4
STORE_REFUSED: Final = 5

EXIT_MEANINGS: Final = (
    (STOPPED, "stopped as asked or done"),
    (FAILED, "failed, or the doctor found something"),
    (USAGE, "the command line is wrong"),
    (UNUSABLE, "the configuration or the home cannot be used"),
    (HELD, "another daemon holds the home"),
    (STORE_REFUSED, "the store or the backup cannot be opened"),
)
"""Every exit code with its meaning, for help texts, man pages and units."""

HELD_BACK: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Exit(Exception):
    """End the program with a message for people and a code for programs."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Options(Struct, frozen=True):
    """What the command line says."""

    home: str | None = None
    config: str | None = None
    log_format: "Format | None" = None
    log_level: str | None = None


def launch(options: Options, environ: MutableMapping[str, str]) -> int:
    """Run a daemon until it is stopped; the exit code. Errors: Exit."""
    # Signals wait until the loop can hear them: one that comes early is obeyed, not died of.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    os.umask(0o077)
    home = usable_home(options.home, environ)
    with locked(home):
        return _run(options, home, environ)


def usable_home(option: str | None, environ: MutableMapping[str, str]) -> Home:
    """The home that is meant, made ready. Errors: Exit."""
    try:
        home = find_home(option, environ)
        prepare(home)
    except HomeUnusable as error:
        raise Exit(UNUSABLE, str(error)) from None
    return home


def locked(home: Home) -> Lock:
    """The home's lock, ours until released. Errors: Exit if another process has it."""
    try:
        return Lock.take(home)
    except HomeHeld as error:
        raise Exit(HELD, str(error)) from None
    except HomeUnusable as error:
        raise Exit(UNUSABLE, str(error)) from None


def _run(options: Options, home: Home, environ: MutableMapping[str, str]) -> int:
    # Importing makes many objects and no garbage: looking for some costs a tenth of the start.
    gc.disable()
    # Imported here, after the lock: a second daemon says so at once, and offline commands need no loop.
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
    _tune()
    logs = Logs(
        options.log_format or config.log.format, options.log_level or config.log.level, environ=environ
    )
    try:
        trio.run(Daemon(source, config, logs, environ, options.log_level).live)
    except BaseException as error:
        raise explain(error) from None
    finally:
        logs.close()
    return STOPPED


def explain(error: BaseException) -> Exit:
    """How the program ends because of an error: what can be foreseen in words of its own.

    Everything else is a fault in the program. It is logged whole, and scrubbed, like all that is logged.
    """
    import logging

    from kheishd.server.listeners import SocketInUse
    from kheishd.store.opening import StoreUnusable
    from protocol.errors.daemon import ConfigInvalid
    from protocol.errors.refusal import Refusal

    # Several tasks can learn of one failure, each in its own words: the first will do.
    alike = {type(leaf) for leaf in _leaves(error)}
    if len(alike) == 1:
        error = next(_leaves(error))
    match error:
        case StoreUnusable():
            return Exit(STORE_REFUSED, str(error))
        case ConfigInvalid():
            return Exit(UNUSABLE, error.message)
        case SocketInUse():
            return Exit(HELD, str(error))
        case Refusal():
            return Exit(FAILED, error.message)
        case OSError():
            return Exit(FAILED, str(error))
        case _:
            logging.getLogger("kheishd").critical("the daemon failed", exc_info=error)
            return Exit(FAILED, f"failed: {type(error).__name__}; the log above has the details")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside groups of groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _tune() -> None:
    """Settings of the process, each measured or explained."""
    # Every connection is a descriptor, and the usual soft limit is 1,024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The writer thread and the loop take turns: with the default of 5 ms one commit's functions could
    # hold every connection up for that long, and a busy loop every commit.
    sys.setswitchinterval(0.0005)
    # What was imported lives as long as the process: the collector need not look at it again.
    gc.freeze()
    gc.enable()
