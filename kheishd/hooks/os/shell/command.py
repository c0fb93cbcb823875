"""The preparation of a command: its shell, its environment and its confinement."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kheishd.hooks.network.proxy import PORT, proxy_variables
from kheishd.hooks.os.shell.cgroup import GROUPS
from kheishd.hooks.os.shell.limits import PROCESS_MARGIN, write_limits
from kheishd.hooks.os.shell.process import Command
from kheishd.kernel.reserve import RESERVE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kheishd.config.sections.tools import LimitsSection
    from kheishd.hooks.os.shell.sandbox import Sandbox
    from kheishd.hooks.os.shell.scan import Scan
    from kheishd.hooks.os.shell.workdir import Workdir


# A list of the variables that pass, not of those that do not: people put credentials into variables of any
# name.
PASSED_VARIABLES = frozenset(("PATH", "LANG", "LANGUAGE", "TZ"))
PASSED_PREFIX = "LC_"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def clean_environment(environ: Mapping[str, str], workspace: str) -> dict[str, str]:
    """Return the environment of a command that works in a workspace, from the daemon's own.

    ``~`` is the workspace: the user's home directory is not a command's business. Nobody can page through
    output or type a password, so programs that would ask are configured not to.
    """
    passed = {
        name: value
        for name, value in environ.items()
        if name in PASSED_VARIABLES or name.startswith(PASSED_PREFIX)
    }
    return {
        "PATH": DEFAULT_PATH,
        "LANG": "C.UTF-8",
        **passed,
        "HOME": workspace,
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
    }


def shell_argv() -> tuple[str, ...]:
    """Return the shell, without its startup files: some of them are in the workspace.

    After ``--``, a line that begins with a dash is no option.
    """
    if os.path.exists("/bin/bash"):
        return ("/bin/bash", "--noprofile", "--norc", "-c", "--")
    return ("/bin/sh", "-c", "--")


def prepare_command(
    line: str,
    workdir: Workdir,
    environ: Mapping[str, str],
    mark: str,
    sandbox: Sandbox | None,
    limits: LimitsSection,
    scan: Scan | None = None,
    variables: Mapping[str, str] | None = None,
) -> Command:
    """Prepare a command line that works in a directory; without a sandbox, it is not confined.

    ``scan`` names the special paths of the workspace for the sandbox. ``environ`` is the daemon's own
    environment, of which little passes; ``variables`` are added to it. Reads the file system.
    Errors: ToolError if the workspace cannot be confined to.
    """
    argv = [*shell_argv(), line]
    boxed = None
    if sandbox is not None:
        boxed = sandbox.confine(workdir, [*limit_processes(limits), *argv], limits, scan)
    environment = {**clean_environment(environ, workdir.workspace), **(variables or {})}
    port = 0
    if sandbox is not None and sandbox.network == "closed":
        environment |= proxy_variables()
        port = PORT
    return Command(
        tuple(argv if boxed is None else boxed.argv),
        environment,
        workdir.inner,
        mark,
        boxed is not None,
        () if boxed is None else boxed.descriptors,
        write_limits(limits, reserve_bytes=RESERVE.get_bytes(workdir.workspace), group=GROUPS.name(mark)),
        workdir.workspace,
        port,
    )


def limit_processes(limits: LimitsSection) -> list[str]:
    """Return the beginning of an argv that limits the processes of an ordinary user inside the sandbox.

    The kernel counts a user's processes in each user namespace, so this must happen inside: outside, all that
    the user runs would count. Root is never limited this way, nor does it have a namespace.
    """
    shell, *options = shell_argv()
    if os.geteuid() == 0 or not shell.endswith("bash"):
        return []
    script = f'ulimit -u {limits.max_processes + PROCESS_MARGIN} 2>/dev/null; exec "$@"'
    return [shell, *options, script, shell]
