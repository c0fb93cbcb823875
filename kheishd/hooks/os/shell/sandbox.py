"""The sandbox of commands: Bubblewrap, and the part of the machine that a command sees in it.

The sandbox is an allowlist. Everything else does not exist for the command: other people's files, the user's
home directory, the daemon's home with its socket and its store, and ``/run`` with everybody's sockets.

- The system (``/usr``, ``/etc``, ``/opt`` and the like), read-only.
- The workspace, at its own path, writable. If it is the worktree of an agent, also parts of its repository
  (see ``repository``).
- A private ``/tmp``, ``/dev`` and ``/proc``, which end with the command.
- Its own processes only; when the first of them is killed, the kernel kills all.
- A network of its own, without the machine's interfaces: one port leads to the daemon's proxy, which connects
  to the hosts that the rules allow (see ``network.proxy``). So services on the machine's loopback interface,
  abstract Unix sockets and name servers are out of reach, and other people's sockets in the workspace are
  covered (see ``sockets``). With ``network = "open"``, all of these are in
  reach.

If one path is inside another, the inner one wins: a workspace inside the daemon's home is visible, and the
daemon's home inside a workspace is hidden.

Root is special. It has no capabilities inside, but owns many files that others may not read. So files below
``/etc`` that only root may read are hidden, and ``/proc`` is read-only: the kernel lets root write into
``/proc/sys`` without any capability, and files there name programs that it runs outside.
"""

from __future__ import annotations

import os
import posixpath
import stat
import subprocess
from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from kheishd.config.sections.tools import LimitsSection
from kheishd.hooks.os.files.confinement import Root, explain_errors
from kheishd.hooks.os.programs import INSTALLATION, find_program
from kheishd.hooks.os.shell.private import PRIVATE_FILES
from kheishd.hooks.os.shell.repository import bind_repository
from kheishd.hooks.os.shell.scan import MAX_PROTECTED_MOUNTS, Scan, find_homes, identity_of, lies_in
from kheishd.hooks.os.shell.seccomp import open_filter
from kheishd.hooks.os.shell.sockets import find_sockets
from kheishd.kernel.hook import ToolError
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kheishd.config.sections.workspace import NetworkMode, SandboxMode
    from kheishd.hooks.os.shell.health import SandboxHealth
    from kheishd.hooks.os.shell.workdir import Workdir

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt"),
    *("/nix", "/gnu", "/snap", "/var/lib/ca-certificates"),
)
"""The readable directories of the system, if they exist."""

CREDENTIALS = (
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".password-store", ".mozilla"),
    *(".config/gcloud", ".config/gh", ".config/google-chrome", ".config/chromium", ".local/share/keyrings"),
    *(".netrc", ".git-credentials", ".pgpass", ".npmrc", ".pypirc", ".cargo/credentials.toml"),
)
"""Files that stay hidden even if the user's home directory is in the workspace."""

MAX_MASKS = 500

Mounts = dict[str, tuple[str, ...]]
"""Options of Bubblewrap by the path of the mount."""

SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")

# Starting Bubblewrap takes five milliseconds; on a very busy machine, a thousand times that.
MAX_PROBE_SECONDS = 10.0


class Sandbox:
    """The confinement of commands. ``hidden`` paths are never visible; ``readable`` ones always are.

    ``health`` knows whether the sandbox has worked in this home. From then on it is required: a trial that
    fails later must not let commands run outside that people allowed inside.
    """

    def __init__(
        self,
        hidden: Sequence[str],
        readable: Sequence[str] = (),
        *,
        health: SandboxHealth | None = None,
        network: NetworkMode = "closed",
    ) -> None:
        self.network = network
        self._hidden = tuple(hidden)
        self._readable = tuple(readable)
        self._health = health
        self._bubblewrap: Bubblewrap | None = None

    async def choose(self, mode: SandboxMode) -> bool:
        """Return whether a command is confined. Errors: ToolError if it must be and cannot."""
        if mode == "off":
            return False
        problem = await self.find_problem()
        if problem is None:
            return True
        if mode == "required":
            raise ToolError(
                f"commands must run in a sandbox here, and it does not work: {problem}. "
                "Work without the shell, or ask the operator to install bubblewrap"
            )
        if self._health is not None and self._health.has_worked:
            raise ToolError(
                f"commands ran in a sandbox here before, and it does not work now: {problem}. Try again "
                "later, work without the shell, or ask the operator to repair bubblewrap or to set "
                'workspace.sandbox = "off"'
            )
        return False

    def record_failure(self, problem: str) -> None:
        """Record that a command's sandbox could not be set up: the next command tries the sandbox again."""
        self._bubblewrap = None
        if self._health is not None:
            self._health.record(problem)

    async def find_problem(self) -> str | None:
        """Return why the sandbox does not work here; None if it does, as one successful trial shows.

        A failed trial is repeated each time: its cause may have been temporary, and it is cheap.
        """
        if self._bubblewrap is not None:
            return None
        problem = None
        try:
            self._bubblewrap = await self._try()
        except _Unusable as error:
            problem = str(error)
            opened = Sandbox(self._hidden, self._readable, network="open")
            is_about_networks = "loopback" in problem or "namespace" in problem
            if self.network == "closed" and is_about_networks and await opened.find_problem() is None:
                problem += (
                    '; it works with workspace.network = "open", which gives commands the machine\'s network'
                )
        if self._health is not None:
            self._health.record(problem)
        return problem

    async def _try(self) -> Bubblewrap:
        """Run nothing in a sandbox. Errors: _Unusable."""
        path = find_program("bwrap")
        if path is None:
            raise _Unusable("bubblewrap (bwrap) is not installed in a directory of the system")
        options = frozenset((await _run([path, "--help"])).split())
        bubblewrap = Bubblewrap(path, options, own_user="--disable-userns" in options and os.geteuid() != 0)
        try:
            await self._require_working(bubblewrap)
        except _Unusable:
            if not bubblewrap.own_user:
                raise
            # Where it cannot be forbidden to make further user namespaces, the filter of calls forbids it.
            bubblewrap = replace(bubblewrap, own_user=False)
            await self._require_working(bubblewrap)
        return bubblewrap

    async def _require_working(self, bubblewrap: Bubblewrap) -> None:
        """Run nothing in a sandbox with these options. Errors: _Unusable."""
        boxed = await trio.to_thread.run_sync(
            lambda: self._confine(bubblewrap, None, LimitsSection(), Scan())
        )
        try:
            await _run([*boxed.argv, "--", "/bin/sh", "-c", ":"], boxed.descriptors)
        finally:
            boxed.close()

    @property
    def hidden(self) -> tuple[str, ...]:
        """The paths that are never visible."""
        return self._hidden

    def confine(
        self, workdir: Workdir, command: Sequence[str], limits: LimitsSection, scan: Scan | None = None
    ) -> Boxed:
        """Return a command in the sandbox, after ``choose`` returned True. Reads the file system.

        ``scan`` names the paths of the workspace that are read-only, covered, or fixed.
        Errors: ToolError if the workspace cannot be confined to.
        """
        assert self._bubblewrap is not None, "choose was called"
        workspace = workdir.workspace
        if workspace == "/" or workspace in map(os.path.realpath, self._hidden):
            raise ToolError(
                f"commands cannot be confined to the workspace {workspace}; ask the operator for another one"
            )
        boxed = self._confine(self._bubblewrap, workdir, limits, scan or Scan())
        return replace(boxed, argv=(*boxed.argv, "--chdir", workdir.path, "--", *command))

    def _confine(
        self, bubblewrap: Bubblewrap, workdir: Workdir | None, limits: LimitsSection, scan: Scan
    ) -> Boxed:
        """Return the beginning of a command's argv. Errors: ToolError."""
        descriptors: list[int] = []
        try:
            binds = {} if workdir is None else workspace_binds(bubblewrap, workdir, scan, descriptors)
            covers = {} if workdir is None else workspace_covers(bubblewrap, workdir.workspace, scan)
            argv = [bubblewrap.path, *self._options(bubblewrap, binds, covers, limits)]
            if "--seccomp" in bubblewrap.options and (descriptor := open_filter()) is not None:
                descriptors.append(descriptor)
                argv += ["--seccomp", str(descriptor)]
        except BaseException:
            Boxed((), tuple(descriptors)).close()
            raise
        return Boxed(tuple(argv), tuple(descriptors))

    def _options(
        self, bubblewrap: Bubblewrap, binds: Mounts, covers: Mounts, limits: LimitsSection
    ) -> Iterator[str]:
        yield from ("--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session")
        yield from ("--cap-drop", "ALL")
        if self.network == "closed":
            yield "--unshare-net"
        if bubblewrap.own_user:
            yield from ("--unshare-user", "--disable-userns")
        for path in SYSTEM:
            # ``/bin``, for one, may be a link to ``usr/bin``.
            if os.path.islink(path):
                yield from ("--symlink", os.readlink(path), path)
            elif os.path.isdir(path):
                yield from ("--ro-bind", path, path)
        # The list of name servers is a single file, often below ``/run``.
        resolver = os.path.realpath("/etc/resolv.conf")
        if not _is_inside(resolver, SYSTEM):
            yield from ("--ro-bind-try", resolver, resolver)
        yield from ("--proc", "/proc", "--dev", "/dev", "--dir", "/run")
        for path in SCRATCH:
            yield from (*bubblewrap.scratch(limits.max_scratch_bytes), "--tmpfs", path)
        yield from self._mount_options(binds, covers)
        for path in ("/dev", "/proc", "/") if os.geteuid() == 0 else ("/dev", "/"):
            yield from ("--remount-ro", path)

    def _mount_options(self, binds: Mounts, closed: Mounts) -> Iterator[str]:
        """Yield the options for paths that may be inside one another: the inner after the outer."""
        for path in map(os.path.realpath, self._readable):
            binds.setdefault(path, ("--ro-bind-try", path, path))
        for path in map(os.path.realpath, INSTALLATION):
            if _is_inside(path, tuple(binds)):
                binds.setdefault(path, ("--ro-bind-try", path, path))
        covers = {**closed, **dict(self._covers((*binds, *SYSTEM)))}
        for path in sorted(binds.keys() | covers.keys(), key=lambda path: path.count("/")):
            yield from binds.get(path) or covers[path]
        # Only now: a visible path may have been mounted inside a hidden one.
        for path, options in covers.items():
            if "--tmpfs" in options and path not in binds:
                yield from ("--remount-ro", path)

    def _covers(self, visible: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the paths that would be visible and must not be, with the options that hide them."""
        private = PRIVATE_FILES.find() if os.geteuid() == 0 else ()
        hidden = tuple(map(os.path.realpath, self._hidden))
        sockets = find_sockets(visible, hidden) if self.network == "closed" else ()
        for path in (*hidden, *_credentials(), *private, *sockets):
            if _is_inside(path, visible) and os.path.exists(path):
                is_directory = os.path.isdir(path)
                yield path, ("--tmpfs", path) if is_directory else ("--ro-bind", os.devnull, path)


class Boxed(Value, frozen=True):
    """A command in the sandbox, and the descriptors that it inherits; they belong to it alone."""

    argv: tuple[str, ...]
    descriptors: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors, if the command is not started."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class Bubblewrap(Value, frozen=True):
    """The program, and its options, which depend on its version.

    ``own_user``: the sandbox has a user namespace of its own, below which none can be made.
    """

    path: str
    options: frozenset[str]
    own_user: bool = False

    def scratch(self, max_bytes: int) -> tuple[str, ...]:
        """Return the options that limit scratch memory; before 0.7 it is half of the machine's."""
        return ("--size", str(max_bytes)) if "--size" in self.options else ()

    def bind(self, descriptor: int, path: str, *, writable: bool = True) -> tuple[str, ...]:
        """Return the options for an opened file or directory; before 0.10, for its path.

        An agent may be able to replace a path by a link, such as another agent's workspace inside its own.
        """
        option = "--bind" if writable else "--ro-bind"
        if f"{option}-fd" in self.options:
            return (f"{option}-fd", str(descriptor), path)
        return (option, path, path)


def workspace_binds(bubblewrap: Bubblewrap, workdir: Workdir, scan: Scan, descriptors: list[int]) -> Mounts:
    """Return the mounts of a workspace: itself, its read-only paths, and directories that keep their names.

    With them are those of the repository, if the workspace is the worktree of an agent.

    What is a mount cannot be renamed or removed. The opened ``descriptors`` are added to the list.
    Errors: ToolError if the workspace has just changed.
    """

    def bind(descriptor: int, path: str, *, writable: bool = True) -> tuple[str, ...]:
        options = bubblewrap.bind(descriptor, path, writable=writable)
        if str(descriptor) in options:
            descriptors.append(descriptor)
        else:
            # Bubblewrap closes only those that it was told about: with another, a command could leave.
            os.close(descriptor)
        return options

    binds = {workdir.workspace: bind(os.dup(workdir.outer), workdir.workspace)}
    if scan.repository is not None:
        binds |= bind_repository(scan.repository, posixpath.basename(workdir.workspace), bind)
    root = Root(workdir.workspace, workdir.outer)
    mounts = scan.mounts
    if len(scan.pinned - scan.git.keys()) > MAX_PROTECTED_MOUNTS:
        raise ToolError(
            f"permission rules close paths below more than {MAX_PROTECTED_MOUNTS} directories, which is too "
            "many to keep their names; use the tools for files, or ask for a smaller workspace"
        )
    # A mount at their place would show them: they are covered.
    credentials = _credentials()
    for path, writable in mounts.items():
        if _is_inside(f"{workdir.workspace}/{path}/", credentials):
            continue
        with explain_errors(path), root.parent(path) as (directory, name):
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        status = os.fstat(descriptor)
        absolute = f"{workdir.workspace}/{path}"
        binds[absolute] = bind(descriptor, absolute, writable=writable)
        # Another content is as good as the old one.
        *expected, _ = scan.protected.get(path, identity_of(status))
        if stat.S_ISLNK(status.st_mode) or expected != list(identity_of(status)[:-1]):
            raise ToolError(f"{path} changed while the command was prepared; try again")
    return binds


def workspace_covers(bubblewrap: Bubblewrap, workspace: str, scan: Scan) -> Mounts:
    """Return the mounts that hide closed paths. Errors: ToolError if there are too many.

    Reading a closed path fails: were a directory just empty, ``git add`` would remove its files.
    """
    if len(scan.masked) > MAX_MASKS:
        raise ToolError(
            f"the permission rules close more than {MAX_MASKS} paths of the workspace, which is too many to "
            "hide from a command; use the tools for files, or ask the operator for rules about directories"
        )
    forbidding = ("--perms", "0000") if "--perms" in bubblewrap.options else ()
    return {
        f"{workspace}/{path}": (*forbidding, "--tmpfs", f"{workspace}/{path}")
        if is_directory
        else ("--ro-bind", os.devnull, f"{workspace}/{path}")
        for path, is_directory in scan.masked.items()
        if not lies_in(posixpath.dirname(path), scan.masked)
    }


def _is_inside(path: str, directories: Iterable[str]) -> bool:
    return any(path.startswith(f"{directory}/") for directory in directories)


def _credentials() -> list[str]:
    """Return the resolved paths of credentials that exist."""
    homes = [home for home in find_homes() if os.path.isabs(home)]
    paths = (os.path.join(home, name) for home in homes for name in CREDENTIALS)
    return [os.path.realpath(path) for path in paths if os.path.lexists(path)]


class _Unusable(Exception):
    """Bubblewrap does not work here; the message gives the reason."""


async def _run(argv: Sequence[str], descriptors: Sequence[int] = ()) -> str:
    """Run a program and return its output. Errors: _Unusable unless it succeeds."""
    with trio.move_on_after(MAX_PROBE_SECONDS):
        try:
            completed = await trio.run_process(
                list(argv),
                check=False,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                env={},
            )
        except OSError as error:
            raise _Unusable(error.strerror or str(error)) from None
        if completed.returncode == 0:
            return completed.stdout.decode(errors="replace")
        errors = completed.stderr.decode(errors="replace").strip()
        raise _Unusable(errors or f"bwrap exited with {completed.returncode}")
    raise _Unusable(f"bwrap did not answer within {MAX_PROBE_SECONDS:g} s")
