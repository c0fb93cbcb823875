"""Git as the daemon runs it: outside of every sandbox, so that nothing in a repository is executed.

A repository's configuration names programs: hooks, a monitor of the file system, filters of contents, helpers
of transports. The configuration of the system and of the user is not read; that of the repository is
overridden where it names one. Contents are therefore not filtered: files of Git LFS stay pointers. Settings
that hide uncommitted work are overridden, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from kheishd.core.workspace import is_within
from kheishd.hooks.os.programs import find_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio.abc import ReceiveStream

MAX_GIT_SECONDS: Final = 30.0
"""How long one call may take; then it is killed with its process group."""

MAX_FILTERS: Final = 100
"""How many filters a configuration may have: three variables for each, and the environment has limits."""

MAX_OUTPUT_BYTES: Final = 20 * 1_024 * 1_024
"""The output of one call: the contents of a checkpoint, or the names of 100,000 files."""

MAX_SHOWN: Final = 500
"""The characters of git's own message in an error."""

_ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C",
    "HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_EDITOR": "false",
    # An agent may have replaced an index by a link: ``git status`` leaves it as it is.
    "GIT_OPTIONAL_LOCKS": "0",
}

_SETTINGS: Final = {
    # Programs, and the network.
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.sshCommand": "false",
    "protocol.allow": "never",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    # Uncommitted work is always seen.
    "status.showUntrackedFiles": "all",
    "core.ignoreStat": "false",
    "core.untrackedCache": "false",
    "core.excludesFile": os.devnull,
    # Nothing is derived from the names of branches.
    "worktree.guessRemote": "false",
    "branch.autoSetupMerge": "false",
}

_FILTER_OR_INCLUDE: Final = r"^(filter\..*\.(clean|smudge|process|required)|include(if\..*)?\.path)$"


class GitFailed(Exception):
    """Git could not be run, or has failed; the message says why."""


class GitDirectory:
    """A git directory and its working tree, on which git is called. Nothing else is searched for.

    Git starts in the directory ``start``, by default in the working tree.
    """

    def __init__(self, directory: str, tree: str, *, start: str | None = None) -> None:
        self._location = {"GIT_DIR": directory, "GIT_WORK_TREE": tree}
        self._start = start or tree
        self._overrides: dict[str, str] | None = None

    async def run(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command of git; return its output. Errors: GitFailed."""
        return (await self.read(*arguments, codes=codes)).decode(errors="surrogateescape")

    async def read(self, *arguments: str, codes: tuple[int, ...] = (0,), stdin: bytes = b"") -> bytes:
        """Run a command of git with an input; return its output as it is. Errors: GitFailed."""
        if self._overrides is None:
            arguments_of_list = ("config", "--null", "--show-origin", "--get-regexp", _FILTER_OR_INCLUDE)
            listed = os.fsdecode(await self._run(_SETTINGS, *arguments_of_list, codes=(0, 1))).split("\0")
            drivers = set()
            for origin, entry in zip(listed[::2], listed[1::2], strict=False):
                name, _, value = entry.partition("\n")
                if name.startswith("include"):
                    self._require_fixed(origin.removeprefix("file:"), value)
                else:
                    drivers.add(name.rpartition(".")[0])
            if len(drivers) > MAX_FILTERS:
                raise GitFailed(f"the repository's configuration has more than {MAX_FILTERS} filters")
            filters = {f"{driver}.{key}": "" for driver in drivers for key in ("clean", "smudge", "process")}
            required = {f"{driver}.required": "false" for driver in drivers}
            self._overrides = {**_SETTINGS, **filters, **required}
        return await self._run(self._overrides, *arguments, codes=codes, stdin=stdin)

    def _require_fixed(self, origin: str, included: str) -> None:
        """Require that a file which the configuration includes is none of the working tree.

        An agent could change it between two reads, and name a program. Errors: GitFailed.
        """
        path = os.path.realpath(os.path.join(os.path.dirname(origin), included))
        git, tree = (os.path.realpath(self._location[name]) for name in ("GIT_DIR", "GIT_WORK_TREE"))
        # That of an agent's worktree is in the git directory of the repository.
        top = git.partition("/.git/")[0].removesuffix("/.git")
        is_in_tree = is_within(path, tree) or is_within(path, top)
        if is_in_tree and not is_within(path, git) and not is_within(path, f"{top}/.git"):
            raise GitFailed(f"the repository's configuration includes {included}, which agents may change")

    async def _run(
        self, settings: Mapping[str, str], *arguments: str, codes: tuple[int, ...], stdin: bytes = b""
    ) -> bytes:
        program = find_program("git")
        if program is None:
            raise GitFailed("git is not installed in a directory of the system")
        environment = {**_ENVIRONMENT, **self._location, "GIT_CONFIG_COUNT": str(len(settings))}
        for index, (name, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{index}": name, f"GIT_CONFIG_VALUE_{index}": value}
        start = partial(
            trio.run_process,
            [program, *arguments],
            check=False,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=self._start,
            start_new_session=True,
            deliver_cancel=_kill,
        )
        output, errors = bytearray(), bytearray()

        async def collect(stream: ReceiveStream, collected: bytearray) -> None:
            async for piece in stream:
                collected += piece
                if len(collected) > MAX_OUTPUT_BYTES:
                    await _kill(process)
                    return

        problem = ""
        try:
            with trio.fail_after(MAX_GIT_SECONDS):
                try:
                    async with trio.open_nursery() as nursery:
                        process: trio.Process = await nursery.start(start)
                        assert process.stdout is not None
                        assert process.stderr is not None
                        nursery.start_soon(collect, process.stdout, output)
                        nursery.start_soon(collect, process.stderr, errors)
                except* OSError as group:
                    error = next(_leaves(group))
                    problem = (error.strerror or str(error)).lower()
        except trio.TooSlowError:
            raise GitFailed(
                f"git {arguments[0]} did not end within {MAX_GIT_SECONDS:g} s and was killed"
            ) from None
        if problem:
            raise GitFailed(f"git cannot be run: {problem}")
        if max(len(output), len(errors)) > MAX_OUTPUT_BYTES:
            raise GitFailed(f"git {arguments[0]} has more output than {MAX_OUTPUT_BYTES} bytes")
        if process.returncode not in codes:
            text = " ".join(errors.decode(errors="replace").split())
            raise GitFailed(text.removeprefix("fatal: ")[:MAX_SHOWN] or f"git {arguments[0]} failed")
        return bytes(output)


def _leaves(group: ExceptionGroup[OSError]) -> Iterator[OSError]:
    """Yield the errors of a group and of the groups in it."""
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _kill(process: trio.Process) -> None:
    """Kill a process with everything that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
