"""The sandbox of commands: Bubblewrap, and what a command sees of the machine in it.

What is there is listed, so whatever is not listed is not there: other people's files, the user's own home,
the daemon's home with its socket and its store, and ``/run`` with everybody's sockets.

- The system (``/usr``, ``/etc``, ``/opt`` and what belongs to them) to read.
- The workspace, at its own path, to write.
- ``/tmp``, ``/dev``, ``/proc`` of its own, gone with the command.
- Its own processes only; when the first of them is killed, the kernel kills all.
- The network as it is: fetching packages is what shells are asked for. That includes whatever listens on
  this machine for anybody, and abstract Unix sockets. The daemon's own sockets are files, and not there.

Where one thing is inside another, the inner one wins: a workspace inside the daemon's home is there, and the
daemon's home inside a workspace is not.

Root is special. It has no capabilities inside, but is the owner of many things that others may not touch.
So what only root may read below ``/etc`` is covered, and ``/proc`` is read-only: the kernel lets root write
into ``/proc/sys`` without any capability, and what stands there names programs that it runs outside.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from kheishd.kernel.hook import ToolError
from protocol.limits.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kheishd.config.sections.workspace import SandboxMode
    from kheishd.hooks.workdir import Workdir

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt"),
    *("/nix", "/gnu", "/snap", "/var/lib/ca-certificates"),
)
"""What is there to read, as far as it exists."""

CREDENTIALS = (
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".password-store", ".mozilla"),
    *(".config/gcloud", ".config/gh", ".config/google-chrome", ".config/chromium", ".local/share/keyrings"),
    *(".netrc", ".git-credentials", ".pgpass", ".npmrc", ".pypirc", ".cargo/credentials.toml"),
)
"""What is not there even where the user's home is in the workspace."""

SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")
# They are memory. Compilers and package managers use some hundred megabytes.
MAX_SCRATCH_BYTES = 512 * MIB

# Starting it takes five milliseconds; on a machine that is very busy, a thousand times that.
MAX_PROBE_SECONDS = 10.0


class Sandbox:
    """How commands are confined. ``hidden`` is there in no case, ``readable`` is there besides the system."""

    def __init__(self, hidden: Sequence[str], readable: Sequence[str] = ()) -> None:
        self._hidden = tuple(hidden)
        self._readable = tuple(readable)
        self._bubblewrap: Bubblewrap | None = None

    async def chosen(self, wanted: SandboxMode) -> bool:
        """Whether a command is confined. Errors: ToolError if it must be and cannot."""
        if wanted == "off":
            return False
        problem = await self.problem()
        if problem is not None and wanted == "required":
            raise ToolError(
                f"commands must run in a sandbox here, and it does not work: {problem}. "
                "Do without the shell, or ask the operator to install bubblewrap"
            )
        return problem is None

    async def problem(self) -> str | None:
        """Why the sandbox does not work here; None if it does, which is found out by trying, once.

        That it does not is found out anew each time: it may have been a bad moment, and it is cheap.
        """
        if self._bubblewrap is not None:
            return None
        path = shutil.which("bwrap")
        if path is None:
            return "bubblewrap (bwrap) is not installed"
        try:
            bubblewrap = await _met(path)
            options = await trio.to_thread.run_sync(lambda: list(self._options(bubblewrap, None)))
            await _said([path, *options, "--", "/bin/sh", "-c", ":"])
        except _Unusable as problem:
            return str(problem)
        self._bubblewrap = bubblewrap
        return None

    def argv(self, workdir: Workdir, command: Sequence[str]) -> list[str]:
        """What runs a command in the sandbox, once ``chosen`` said so. Looks at the file system.

        ``workdir.outer`` is to be open, under this number, in the process that becomes this.
        Errors: ToolError if the workspace cannot be confined to.
        """
        assert self._bubblewrap is not None, "chosen before"
        where = workdir.workspace
        if where == "/" or where in map(os.path.realpath, self._hidden):
            raise ToolError(
                f"the workspace {where} cannot be confined to; ask the operator for one of its own"
            )
        options = self._options(self._bubblewrap, workdir)
        return [self._bubblewrap.path, *options, "--chdir", workdir.path, "--", *command]

    def _options(self, bubblewrap: Bubblewrap, workdir: Workdir | None) -> Iterator[str]:
        yield from ("--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session")
        yield from ("--cap-drop", "ALL")
        for path in SYSTEM:
            yield from _system(path)
        yield from _resolver()
        yield from ("--proc", "/proc", "--dev", "/dev", "--dir", "/run")
        for path in SCRATCH:
            yield from (*bubblewrap.scratch, "--tmpfs", path)
        yield from self._nested({} if workdir is None else {workdir.workspace: bubblewrap.bind(workdir)})
        for path in ("/dev", "/proc", "/") if os.geteuid() == 0 else ("/dev", "/"):
            yield from ("--remount-ro", path)

    def _nested(self, there: dict[str, tuple[str, ...]]) -> Iterator[str]:
        """What may be inside one another, the inner after the outer."""
        for path in map(os.path.realpath, self._readable):
            there.setdefault(path, ("--ro-bind-try", path, path))
        covers = dict(self._covers((*there, *SYSTEM)))
        for path in sorted(there.keys() | covers.keys(), key=lambda path: path.count("/")):
            yield from there.get(path) or covers[path]
        # Only now: what is there may have to be put inside of what is covered.
        for path, (how, *_) in covers.items():
            if how == "--tmpfs" and path not in there:
                yield from ("--remount-ro", path)

    def _covers(self, there: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What would be there and is not to be, and what hides it: something empty."""
        private = _roots_own("/etc") if os.geteuid() == 0 else ()
        for path in map(os.path.realpath, (*self._hidden, *_credentials(), *private)):
            if _is_inside(path, there) and os.path.exists(path):
                is_directory = os.path.isdir(path)
                yield path, ("--tmpfs", path) if is_directory else ("--ro-bind", os.devnull, path)


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """The program, and which of its newer options it has."""

    path: str
    options: frozenset[str]

    @property
    def scratch(self) -> tuple[str, ...]:
        """How scratch is limited; before 0.7 it has half of the machine's memory."""
        return ("--size", str(MAX_SCRATCH_BYTES)) if "--size" in self.options else ()

    def bind(self, workdir: Workdir) -> tuple[str, ...]:
        """How the workspace gets there: as the directory that was opened; before 0.10, by its path.

        An agent may be able to exchange another's workspace for a link, if that is in its own.
        """
        if "--bind-fd" in self.options:
            return ("--bind-fd", str(workdir.outer), workdir.workspace)
        return ("--bind", workdir.workspace, workdir.workspace)


def _is_inside(path: str, directories: Iterable[str]) -> bool:
    return any(path.startswith(f"{directory}/") for directory in directories)


def _system(path: str) -> tuple[str, ...]:
    """A part of the system as it is, which for ``/bin`` may be a link to ``usr/bin``."""
    if os.path.islink(path):
        return ("--symlink", os.readlink(path), path)
    return ("--ro-bind", path, path) if os.path.isdir(path) else ()


def _resolver() -> tuple[str, ...]:
    """Where it is written which name servers to ask, often below ``/run``: that file alone."""
    path = os.path.realpath("/etc/resolv.conf")
    return () if _is_inside(path, SYSTEM) else ("--ro-bind-try", path, path)


def _credentials() -> list[str]:
    homes = {os.path.expanduser("~")}
    # In a container a user may be a number and nothing else.
    with suppress(KeyError):
        homes.add(pwd.getpwuid(os.geteuid()).pw_dir)
    return [os.path.join(home, name) for home in homes for name in CREDENTIALS if os.path.isabs(home)]


def _roots_own(directory: str) -> Iterator[str]:
    """What below a directory others than root may not read."""
    for entry in _entries(directory):
        if not entry.is_symlink() and not entry.stat().st_mode & stat.S_IROTH:
            yield entry.path
        elif entry.is_dir(follow_symlinks=False):
            yield from _roots_own(entry.path)


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []


class _Unusable(Exception):
    """Bubblewrap does not work here; the message says why."""


async def _met(path: str) -> Bubblewrap:
    """What a Bubblewrap can do. Errors: _Unusable."""
    return Bubblewrap(path, frozenset((await _said([path, "--help"])).split()))


async def _said(argv: list[str]) -> str:
    """What a program says. Errors: _Unusable unless it ends well."""
    with trio.move_on_after(MAX_PROBE_SECONDS):
        try:
            done = await trio.run_process(
                argv,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                env={},
            )
        except OSError as error:
            raise _Unusable(error.strerror or str(error)) from None
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
        said = done.stderr.decode(errors="replace").strip()
        raise _Unusable(said or f"bwrap ended with {done.returncode}")
    raise _Unusable(f"bwrap did not answer within {MAX_PROBE_SECONDS:g} s")
