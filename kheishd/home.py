"""The home directory: where it is, how it is laid out, and the lock that keeps it one daemon's.

====================  ============================================================
``config.toml``       node configuration, written by people
``agents/<name>.md``  agent definitions, written by people
``state/``            the store
``run/``              ``kheishd.sock``, ``kheishd.lock``, what shells wrote
``debug/<run id>/``   what is captured of model calls, if it is to be
``workspace/``        where agents work, unless another place is configured
====================  ============================================================
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIVATE = 0o700
MAX_LOCK_BYTES = 32


class HomeUnusable(Exception):
    """The home directory cannot be used; the message says why and what to do."""


class HomeHeld(Exception):
    """Another daemon holds the home."""

    def __init__(self, home: Path, pid: int | None) -> None:
        who = f"the daemon with pid {pid}" if pid else "another daemon"
        super().__init__(f"{who} holds {home}; stop it first, or choose another home with --home")
        self.pid = pid


class Home(Struct, frozen=True):
    """The paths inside a home directory."""

    path: Path

    @property
    def config(self) -> Path:
        """The node configuration; need not exist."""
        return self.path / "config.toml"

    @property
    def agents(self) -> Path:
        """Where agent files are; need not exist."""
        return self.path / "agents"

    @property
    def state(self) -> Path:
        """The store's own directory; nothing else may be put there."""
        return self.path / "state"

    @property
    def run(self) -> Path:
        """What is a running daemon's own; and what its shells wrote, which stays."""
        return self.path / "run"

    @property
    def debug(self) -> Path:
        """What is captured of model calls; made when it is first needed."""
        return self.path / "debug"

    @property
    def shells(self) -> Path:
        """What commands in the background wrote, a file each."""
        return self.run / "shells"

    @property
    def workspace(self) -> Path:
        """Where agents work, unless another place is configured; made when it is first needed."""
        return self.path / "workspace"

    @property
    def socket(self) -> Path:
        """The private Unix socket."""
        return self.run / "kheishd.sock"

    def resolve(self, path: str) -> Path:
        """Resolve a configured path: ``~`` is the user's home, a relative path begins at this home."""
        try:
            return self.path / Path(path).expanduser()
        except RuntimeError:
            return self.path / path

    @property
    def lock(self) -> Path:
        """Locked by the daemon that runs; holds its pid."""
        return self.run / "kheishd.lock"


def find_home(option: str | None, environ: Mapping[str, str]) -> Home:
    """The home that is meant: ``--home``, ``$KHEISH_HOME``, ``$STATE_DIRECTORY``, else ``~/.kheish``.

    Errors: HomeUnusable if nobody says and there is no home directory to put it in.
    """
    # systemd gives several state directories separated by colons; the first is ours.
    systemd = environ.get("STATE_DIRECTORY", "").split(":")[0]
    named = option or environ.get("KHEISH_HOME") or systemd
    path = Path(named or "~/.kheish")
    try:
        return Home(Path(os.path.abspath(path.expanduser())))
    except RuntimeError:
        raise HomeUnusable("there is no home directory for this user; name one with --home") from None


def prepare(home: Home) -> None:
    """Make what is missing and see that nobody else may look in, or has left anything there.

    Errors: HomeUnusable if it is not a directory, another user's, or cannot be made.
    """
    try:
        for directory in (home.path, home.state, home.run):
            directory.mkdir(mode=PRIVATE, parents=directory is home.path, exist_ok=True)
            _secure(directory, home.agents if directory is home.path else directory)
    except OSError as error:
        raise HomeUnusable(f"cannot use {error.filename or home.path} as a home: {error.strerror}") from None


def _secure(directory: Path, *within: Path) -> None:
    """See that a directory is ours alone; one that others could write to, ``within`` it too, holds nothing of
    theirs: what they left there would be obeyed.
    """
    linked, found = directory.lstat(), directory.stat()
    if found.st_uid != os.geteuid():
        raise HomeUnusable(
            f"{directory} belongs to the user with uid {found.st_uid}, not to this one ({os.geteuid()}); "
            "run as that user, or choose another home with --home"
        )
    if _is_strangers(linked):
        raise HomeUnusable(
            f"{directory} is a link that the user with uid {linked.st_uid} made; "
            "name what it leads to, or choose another home with --home"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        directory.chmod(PRIVATE)
    if mode & 0o022 and (left := _left_by_strangers(directory, *within)):
        # As it was, so that the next start refuses it too.
        directory.chmod(mode)
        raise HomeUnusable(
            f"others could write to {directory}, and {left[0]} was left there by the user with uid "
            f"{left[0].lstat().st_uid}; look at it, and remove it or make it yours"
        )


def _is_strangers(found: os.stat_result) -> bool:
    """Whether something belongs to neither us nor root."""
    return found.st_uid not in (os.geteuid(), 0)


def _left_by_strangers(*directories: Path) -> list[Path]:
    """What in some directories, those that are there, somebody else left."""
    entries = (entry for directory in directories if directory.is_dir() for entry in directory.iterdir())
    return sorted(entry for entry in entries if _is_strangers(entry.lstat()))


class Lock:
    """The lock on a home, held while the file is open; the kernel lets go of it however we end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, home: Home) -> Lock:
        """Lock a prepared home and write down our pid. Errors: HomeHeld, HomeUnusable."""
        try:
            descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HomeUnusable(f"cannot open {home.lock}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = _pid_in(descriptor)
            os.close(descriptor)
            raise HomeHeld(home.path, pid) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let go. The file stays: removing it would let two daemons lock two files of one name."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def _pid_in(descriptor: int) -> int | None:
    text = os.pread(descriptor, MAX_LOCK_BYTES, 0).strip()
    return int(text) if text.isdigit() else None
