"""Real bash as an oracle: the words of the commands that a line runs, none of which has any effect."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BASH = "/bin/bash"
# No command is found: builtins are off, but for return, and the directory of programs does not exist.
PRELUDE = r"""
PATH=/nonexistent
command_not_found_handle() {
    /usr/bin/printf '%s\0' "$#" "$@" >&"$RECORD"
    return "$STATUS"
}
enable -n . : [ alias bg bind break builtin caller cd command compgen complete compopt continue declare \
    dirs disown echo eval exec exit export false fc fg getopts hash help history jobs kill let local logout \
    mapfile popd printf pushd pwd read readarray readonly set shift shopt source suspend test times trap \
    true type typeset ulimit umask unalias unset wait enable
"""


def run_in_bash(line: str, directory: Path, status: int = 0) -> list[list[str]]:
    """Return the words of the commands that bash runs for a line, sorted; each ends with ``status``."""
    prelude = directory / "prelude"
    if not prelude.exists():
        prelude.write_text(PRELUDE)
        (directory / "empty").mkdir()
    reader, writer = os.pipe()
    # A number that no line of a test redirects.
    os.dup2(writer, 200)
    os.close(writer)
    os.set_inheritable(200, True)
    environment = {"BASH_ENV": str(prelude), "RECORD": "200", "STATUS": str(status), "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        [BASH, "--noprofile", "--norc", "-c", "--", line],
        cwd=directory / "empty",
        env=environment,
        pass_fds=(200,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(200)
    with os.fdopen(reader, "rb") as pipe:
        fields = pipe.read().decode().split("\0")[:-1]
    process.wait(timeout=30)
    commands: list[list[str]] = []
    while fields:
        count = int(fields[0])
        commands.append(fields[1 : count + 1])
        fields = fields[count + 1 :]
    return sorted(commands)
