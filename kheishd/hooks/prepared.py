"""A command line made ready to be run: its shell, its environment, and what it sees of the machine."""

import os
from collections.abc import Mapping

from kheishd.hooks.environment import cleaned
from kheishd.hooks.processes import Command
from kheishd.hooks.sandbox import Sandbox
from kheishd.hooks.workdir import Workdir


def shell() -> tuple[str, ...]:
    """The shell, which reads none of the files that would greet a person: some are in the workspace."""
    if os.path.exists("/bin/bash"):
        return ("/bin/bash", "--noprofile", "--norc", "-c")
    return ("/bin/sh", "-c")


def prepared(
    line: str,
    workdir: Workdir,
    environ: Mapping[str, str],
    mark: str,
    sandbox: Sandbox | None,
    also: Mapping[str, str] | None = None,
) -> Command:
    """A command line that works in a directory; without a sandbox, it is not confined.

    ``environ`` is the daemon's own, of which little is passed on; ``also`` is what is, besides. Looks at the
    file system. Errors: ToolError if the workspace cannot be confined to.
    """
    argv = [*shell(), line]
    if sandbox is not None:
        argv = sandbox.argv(workdir, argv)
    passed = () if sandbox is None else (workdir.outer,)
    given = {**cleaned(environ, workdir.workspace), **(also or {})}
    return Command(tuple(argv), given, workdir.inner, mark, sandbox is not None, passed)
