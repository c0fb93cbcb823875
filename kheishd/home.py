"""The home directory: its location, its layout, and the lock that reserves it for one daemon.

====================  ============================================================
``config.toml``       the configuration, written by people
``agents/<name>.md``  agent definitions, written by people
``cron/crons.toml``   cron entries, written by people
``events/``           ``subscriptions.toml``: triggers, written by people
``skills/``           skills, written by people
``hooks/*.toml``      lifecycle hooks, written by people
``state/``            the store
``run/``              ``kheishd.sock``, ``kheishd.lock``, the output of shells
``debug/<run id>/``   captures of model calls
``workspace/``        the default workspace of agents
====================  ============================================================
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIVATE = 0o700
MAX_LOCK_BYTES = 32


class HomeUnusable(Exception):
    """The home directory cannot be used; the message says why and how to fix it."""


class HomeHeld(Exception):
    """Another daemon uses the home."""

    def __init__(self, home: Path, pid: int | None) -> None:
        daemon = f"the daemon (pid {pid})" if pid else "another daemon"
        super().__init__(f"{daemon} is using {home}; stop it first, or choose another home with --home")
        self.pid = pid


class Home(Struct, frozen=True):
    """The paths inside a home directory."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration file; need not exist."""
        return self.path / "config.toml"

    @property
    def agents(self) -> Path:
        """The directory of agents' files; need not exist."""
        return self.path / "agents"

    @property
    def crons(self) -> Path:
        """The file of cron entries; need not exist."""
        return self.path / "cron" / "crons.toml"

    @property
    def subscriptions(self) -> Path:
        """The file of subscriptions to events; need not exist."""
        return self.path / "events" / "subscriptions.toml"

    @property
    def hooks(self) -> Path:
        """The directory of the files of lifecycle hooks; need not exist."""
        return self.path / "hooks"

    @property
    def state(self) -> Path:
        """The directory of the store, which holds nothing else."""
        return self.path / "state"

    @property
    def run(self) -> Path:
        """The directory of the socket, the lock and the output of shells."""
        return self.path / "run"

    @property
    def debug(self) -> Path:
        """The directory of captures; created when first needed."""
        return self.path / "debug"

    @property
    def shells(self) -> Path:
        """The directory of the output of background commands, one file each."""
        return self.run / "shells"

    @property
    def workspace(self) -> Path:
        """The default workspace of agents."""
        return self.path / "workspace"

    @property
    def socket(self) -> Path:
        """The private Unix socket."""
        return self.run / "kheishd.sock"

    @property
    def lock(self) -> Path:
        """The file locked by the running daemon; it holds the daemon's pid."""
        return self.run / "kheishd.lock"

    def resolve(self, path: str) -> Path:
        """Resolve a configured path: ``~`` is the user's home, a relative path begins at this home."""
        try:
            return self.path / Path(path).expanduser()
        except RuntimeError:
            return self.path / path


def find_home(option: str | None, environ: Mapping[str, str]) -> Home:
    """Return the home: ``--home``, else ``$KHEISH_HOME``, ``$STATE_DIRECTORY`` or ``~/.kheish``.

    Errors: HomeUnusable if none is set and the user has no home directory.
    """
    # systemd separates several state directories by colons; the first one is the home.
    state_directory = environ.get("STATE_DIRECTORY", "").split(":")[0]
    path = Path(option or environ.get("KHEISH_HOME") or state_directory or "~/.kheish")
    try:
        return Home(Path(os.path.abspath(path.expanduser())))
    except RuntimeError:
        raise HomeUnusable("this user has no home directory; choose one with --home") from None


def prepare(home: Home) -> None:
    """Create missing directories and close all of them to other users.

    The default workspace is created with a new home only: if it is gone later, an empty one would hide that.

    Errors: HomeUnusable if the path is not a directory, belongs to another user, cannot be created, or holds
    files of other users or named pipes.
    """
    try:
        for directory in (home.path, home.state, home.run):
            if directory == home.state and not directory.exists():
                # Before the state: a start that ends here is the first one again.
                home.workspace.mkdir(mode=PRIVATE, exist_ok=True)
            _make_directory(directory)
            _secure(directory, home.agents if directory is home.path else directory)
        for file in (home.config, home.lock, *home.state.iterdir()):
            if file.is_fifo():
                # Opening it would wait for a writer.
                raise HomeUnusable(f"{file} is a named pipe; remove it, or choose another home with --home")
    except OSError as error:
        raise HomeUnusable(f"cannot use {error.filename or home.path} as a home: {error.strerror}") from None


def _make_directory(directory: Path) -> None:
    """Create a directory and its parents, if there are none, and sync their names: a power cut keeps them."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    for path in reversed(missing):
        # A parent that may not be read belongs to another user, and cannot be synced either.
        with suppress(PermissionError):
            descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _secure(directory: Path, *contents: Path) -> None:
    """Close a directory to other users.

    A directory that others could write to must not hold their files, neither directly nor in ``contents``:
    the daemon would obey them.
    """
    link, status = directory.lstat(), directory.stat()
    if status.st_uid != os.geteuid():
        raise HomeUnusable(
            f"{directory} belongs to the user with uid {status.st_uid}, not to this one ({os.geteuid()}); "
            "run as that user, or choose another home with --home"
        )
    if _is_foreign(link):
        raise HomeUnusable(
            f"{directory} is a link made by the user with uid {link.st_uid}; "
            "use the path of its target, or choose another home with --home"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        directory.chmod(PRIVATE)
    if mode & 0o022:
        directories = (candidate for candidate in (directory, *contents) if candidate.is_dir())
        entries = (entry for candidate in directories for entry in candidate.iterdir())
        foreign = sorted(entry for entry in entries if _is_foreign(entry.lstat()))
        if foreign:
            # Restore the mode, so that the next start refuses the directory too.
            directory.chmod(mode)
            raise HomeUnusable(
                f"other users could write to {directory}, and {foreign[0]} was made by the user with uid "
                f"{foreign[0].lstat().st_uid}; inspect it, then remove it or change its owner"
            )


def _is_foreign(status: os.stat_result) -> bool:
    """Whether a file belongs to another user than this one and root."""
    return status.st_uid not in (os.geteuid(), 0)


class Lock:
    """The lock on a home. The kernel releases it however the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, home: Home) -> Lock:
        """Lock a prepared home and record the pid. Errors: HomeHeld, HomeUnusable."""
        try:
            descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HomeUnusable(f"cannot open {home.lock}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(descriptor, MAX_LOCK_BYTES, 0).strip()
            os.close(descriptor)
            raise HomeHeld(home.path, int(pid) if pid.isdigit() else None) from None
        cls._write(descriptor, b"%d" % os.getpid())
        return cls(descriptor)

    def release(self) -> None:
        """Release the lock. The file stays: without it, two daemons could lock two files of one name."""
        self._write(self._descriptor, b"")
        os.close(self._descriptor)

    @staticmethod
    def _write(descriptor: int, pid: bytes) -> None:
        """Write the pid, in a file that keeps its length: on a full disk there is still room for it.

        A first start on a full disk has none, and works without.
        """
        with suppress(OSError):
            os.pwrite(descriptor, pid.ljust(MAX_LOCK_BYTES - 1) + b"\n", 0)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
