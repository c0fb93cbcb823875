"""The shell tool as a run uses it: its result, its limits, and that nothing of a command remains."""

import os
import re
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import msgspec
import pytest
import trio
from msgspec.structs import replace

from kheishd.config.sections.tools import LimitsSection
from kheishd.hooks.os.shell.output import OutputCollector, Spool
from kheishd.hooks.os.shell.process import ZYGOTE, CommandEnd
from kheishd.hooks.os.shell.scan import Scan
from kheishd.hooks.os.shell.tools import (
    Bash,
    BashArguments,
    _create_task,
    explain_refusals,
    outcome_of,
    result_of,
)
from kheishd.hooks.os.shell.watch import tree
from kheishd.hooks.os.shell.workdir import open_workdir
from kheishd.kernel.hook import Invocation, Outcome, Stale, ToolError
from kheishd.kernel.state import State
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import SESSIONS
from kheishd.store.writer import Store
from protocol.events.session import SessionCreated
from protocol.events.task import TaskCreated
from protocol.limits.call import (
    MAX_EVIDENCE_BYTES,
    MAX_PREVIEW_BYTES,
    MAX_TOOL_OUTPUT_BYTES,
    MAX_TOOL_TEXT_BYTES,
)
from protocol.limits.shell import MAX_COMMAND_BYTES, MAX_COMMAND_LIVE_BYTES, MAX_SESSION_SHELLS
from protocol.limits.units import KIB, MIB
from protocol.objects.approval import Preview
from tests.support.commands import Shell, context_at, running_with, wait_ended, wait_for_processes
from tests.support.histories import task_created
from tests.support.stores import update

ROOT = Path(__file__).parents[3]

READ_ONLY = "read-only for commands, because other programs execute or obey them"


async def test_what_a_command_gives(shell: Shell, workspace: Path) -> None:
    """The result has exit code, output and errors; a failure by exit code is not the tool's."""
    outcome = await shell.outcome("echo out; echo err >&2; exit 3")
    assert not outcome.is_error
    assert outcome.full_output is None
    result = msgspec.json.decode(outcome.text)
    assert result == {
        "command": "echo out; echo err >&2; exit 3",
        "workdir": str(workspace),
        "exit_code": 3,
        "success": False,
        "timed_out": False,
        "sandboxed": shell.context.sandbox == "required",
        "stdout": "out\n",
        "stderr": "err\n",
        "stdout_truncated": False,
        "stderr_truncated": False,
    }


async def test_success(shell: Shell) -> None:
    """Exit code 0 is success."""
    assert (await shell.run("true"))["success"]


async def test_death_by_a_signal(shell: Shell) -> None:
    """A command that a signal ended has 128 and its number, as in shells."""
    assert (await shell.run("kill -9 $$"))["exit_code"] == 128 + 9


async def test_there_is_nothing_to_read(shell: Shell) -> None:
    """A prompt reads the end of its input at once."""
    assert (await shell.run("cat; read -r line || echo nothing"))["stdout"] == "nothing\n"


async def test_it_begins_in_a_directory_of_the_workspace(shell: Shell, workspace: Path) -> None:
    """``workdir`` is inside the workspace; the command may leave it."""
    (workspace / "sub").mkdir()
    result = await shell.run("pwd; cd /; pwd", workdir="sub")
    assert result["workdir"] == str(workspace / "sub")
    assert result["stdout"] == f"{workspace}/sub\n/\n"


async def test_no_workdir_outside_of_the_workspace(shell: Shell, workspace: Path) -> None:
    """A workdir outside is rejected, by name or by link, already in the preview."""
    (workspace / "out").symlink_to("/usr")
    for workdir in ("..", "/usr", "out"):
        for refused in (shell.bash.dispatch, shell.bash.preview, shell.bash.evidence):
            with pytest.raises(ToolError, match=r"leads out of the workspace|links are not followed"):
                await refused(shell.use("pwd", workdir=workdir))


async def test_no_credential_reaches_a_command(
    home: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the command nor its keeper has the daemon's variables."""
    monkeypatch.setenv("OPENAI_API_KEY", "canary-1")
    monkeypatch.setenv("BASH_ENV", "canary-2")
    monkeypatch.setenv("SSH_AUTH_SOCK", "canary-3")
    use = shell.use("env; cat /proc/self/environ /proc/$PPID/environ /proc/$$/environ | tr '\\0' '\\n'")
    result = msgspec.json.decode((await shell.bash.dispatch(use)).text)
    assert "canary" not in result["stdout"]
    [mark] = set(re.findall("KHEISH_CALL=.*", result["stdout"]))
    assert mark.endswith(f".{use.key}")


async def test_the_middle_of_long_output_is_left_out(shell: Shell) -> None:
    """The model reads both ends within the limit; the full output is stored."""
    outcome = await shell.outcome("seq 100000; echo the end >&2")
    result = msgspec.json.decode(outcome.text)
    assert len(outcome.text.encode()) <= MAX_TOOL_TEXT_BYTES
    assert len(outcome.text.encode()) > MAX_TOOL_TEXT_BYTES - 200
    assert re.fullmatch(
        r"1\n2\n3\n.*\n\[\.\.\. \d+ bytes left out \.\.\.\]\n.*\n99999\n100000\n", result["stdout"], re.DOTALL
    )
    assert (result["stdout_truncated"], result["stderr_truncated"]) == (True, False)
    assert result["stderr"] == "the end\n"
    assert outcome.full_output is not None
    assert len(outcome.full_output) == len("the end\n") + sum(len(str(n)) + 1 for n in range(1, 100_001))


async def test_one_line_without_end(shell: Shell) -> None:
    """A line of a megabyte is handled like any other output."""
    outcome = await shell.outcome("head -c 1048576 /dev/zero | tr '\\0' x")
    assert len(outcome.text.encode()) <= MAX_TOOL_TEXT_BYTES
    assert outcome.full_output == b"x" * MIB


async def test_output_that_is_no_text(shell: Shell) -> None:
    """Invalid bytes are replaced; control characters are kept."""
    result = await shell.run(r"printf 'a\xffb\000\033[31m'")
    assert result["stdout"] == "a\ufffdb\0\x1b[31m"


async def test_a_flood(shell: Shell) -> None:
    """Output beyond the limit is counted and dropped; memory stays bounded and the loop responsive."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        outcome = await shell.outcome("head -c 50331648 /dev/zero; echo the end")
        nursery.cancel_scope.cancel()
    result = msgspec.json.decode(outcome.text)
    assert outcome.full_output == bytes(MAX_TOOL_OUTPUT_BYTES)
    assert result["stdout"].endswith("the end\n")
    lost = 48 * MIB + len("the end\n") - MAX_TOOL_OUTPUT_BYTES
    assert result["note"] == f"{lost} bytes of the output are lost: more than 16 MiB; write it to a file"
    assert turns > 48 * MIB / (64 * KIB), "others have their turn at least once a read"
    assert sum(map(len, shell.streamed)) < MAX_COMMAND_LIVE_BYTES + 65 * KIB
    assert shell.streamed[-1].endswith("[there is more output; it is not shown while the command runs]\n")


async def test_output_is_shown_as_it_comes(shell: Shell) -> None:
    """Output is streamed while the command runs; a split character arrives complete."""
    use = shell.use(r"printf 'gr\303'; read -t 0.05 <>/dev/null; printf '\274n'; sleep 600")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.bash.dispatch, use)
            while "".join(shell.streamed) != "grün":
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert scope.cancelled_caught


LINGERING = {
    "in the background": "sleep {word} & echo started",
    "with its output closed": "(exec >/dev/null 2>&1; sleep {word}) & echo started",
    "in a session of its own": "setsid sleep {word} & echo started",
    "with parents that are gone": "setsid sh -c 'setsid sh -c \"sleep {word} & exit\" & exit' & echo started",
    "without its environment": "env -i setsid sleep {word} & echo started",
    "deaf": "trap '' TERM HUP; setsid sleep {word} & echo started",
    "many": "for n in 1 2 3 4 5 6 7 8; do for m in 1 2 3; do setsid sleep {word} & done; done; echo started",
}


@pytest.mark.parametrize("way", LINGERING)
async def test_nothing_lingers(shell: Shell, way: str) -> None:
    """When the shell has ended, all processes it started are gone, however they hid."""
    word = f"{5000 + os.getpid()}.{list(LINGERING).index(way)}"
    result = await shell.run(LINGERING[way].format(word=word))
    assert result["stdout"] == "started\n"
    assert result["success"]
    assert running_with(word) == []


async def test_what_breeds_is_gone(shell: Shell, workspace: Path) -> None:
    """A process that keeps replacing itself is stopped with the rest."""
    await shell.run("true")
    (workspace / "breed").write_text("setsid sh breed breeding & exit\n")
    result = await shell.run(
        "sh breed breeding & sh breed breeding & sh breed breeding & sleep 600", timeout_s=0.4
    )
    assert result["timed_out"]
    assert running_with("breeding") == []


async def test_a_crowd_is_gone(shell: Shell, workspace: Path) -> None:
    """A tree of processes in their own sessions that still grows is stopped."""
    await shell.run("true")
    grow = "[ $1 = 0 ] || for n in 1 2; do setsid sh grow $(($1 - 1)) crowding & done; read x <fifo"
    (workspace / "grow").write_text(grow)
    result = await shell.run("mkfifo fifo; exec sh grow 6 crowding", timeout_s=0.2)
    assert result["timed_out"]
    assert running_with("crowding") == []


async def test_a_command_that_takes_too_long(shell: Shell) -> None:
    """A command that takes too long is stopped; the error has its output so far."""
    # The start counts, and the first one takes longer.
    await shell.run("true")
    outcome = await shell.outcome("echo before; sleep 6001.1; echo after", timeout_s=0.2)
    result = msgspec.json.decode(outcome.text)
    assert outcome.is_error
    assert result["timed_out"]
    assert not result["success"]
    assert result["exit_code"] is None
    assert result["stdout"] == "before\n"
    assert result["note"].startswith("stopped after 0.2 s")
    assert running_with("6001.1") == []


async def test_it_is_asked_before_it_is_killed(shell: Shell) -> None:
    """A command can clean up on SIGTERM."""
    command = "trap 'echo in order; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    await shell.run("true")
    result = await shell.run(command, timeout_s=0.3)
    assert result["stdout"] == "ready\nin order\n"


async def test_who_does_not_listen_is_killed(shell: Shell) -> None:
    """A command that ignores SIGTERM is killed after half a second."""
    await shell.run("true")
    command = "trap '' TERM INT HUP; setsid sh -c 'sleep 6002.1; sleep 6002.1' & sleep 6002.1; sleep 6002.1"
    began = trio.current_time()
    assert (await shell.run(command, timeout_s=0.2))["timed_out"]
    assert trio.current_time() - began < 4
    assert running_with("6002.1") == []


async def test_a_start_that_takes_too_long(
    shell: Shell, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a command includes its start, here with a suspended zygote; it does not run later."""
    await shell.run("true")
    # The spare keeper has the same arguments, and is below it.
    suspended = [pid for pid in tree(os.getpid()) if pid in running_with(ZYGOTE)]
    for pid in suspended:
        os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr("kheishd.hooks.os.shell.process.MAX_KILL_SECONDS", 0.1)
    with pytest.raises(ToolError, match=r"the command's start took longer than 0\.1 s, so it was stopped"):
        await shell.run("touch ran", timeout_s=0.1)
    for pid in suspended:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert (await shell.run("ls"))["stdout"] == ""


async def test_the_longest_time_is_the_operators(home: Path, workspace: Path) -> None:
    """A model may request less time than the configured maximum, not more."""
    await Shell(Bash(home), context_at(workspace)).run("true")
    shell = Shell(Bash(home, max_timeout_s=0.2), context_at(workspace))
    assert (await shell.run("sleep 600", timeout_s=3600))["timed_out"]
    assert (await shell.run("sleep 600"))["timed_out"]
    assert shell.bash.tools[0].timeout_s > 0.2, "its own timeout comes before any other"


async def test_cancelled_it_has_stopped(shell: Shell) -> None:
    """When a cancelled call has ended, nothing of it runs."""
    use = shell.use("setsid sleep 6003.1 & echo ready; sleep 6003.1")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.bash.dispatch, use)
            while not shell.streamed:
                await trio.lowlevel.checkpoint()
            wait_for_processes("6003.1", 2)
            scope.cancel()
    assert scope.cancelled_caught
    assert running_with("6003.1") == []


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4, 6, 8, 12, 50, 200])
async def test_cancelled_while_it_starts(shell: Shell, home: Path, turns: int) -> None:
    """A cancellation at any time leaves no process and no file."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.bash.dispatch, shell.use("sleep 6004.1"))
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert running_with("6004.1") == []
    assert list((home / "run").glob("calls/*")) == []


async def test_what_cannot_be_journaled_does_not_run_on(shell: Shell) -> None:
    """A failure to journal the start reaches the caller, and ends the command."""

    async def observe(evidence: object) -> None:
        raise RuntimeError("the disk is full")

    use = replace(shell.use("sleep 6005.1"), observe=observe)
    with pytest.raises(ExceptionGroup) as caught:
        await shell.bash.dispatch(use)
    assert "the disk is full" in "".join(traceback.format_exception(caught.value))
    assert running_with("6005.1") == []


async def test_it_is_noted_which_process_it_is(bare: Shell) -> None:
    """The pid and start of the process are journaled once it has begun."""
    result = await bare.run("echo $$; cut -d' ' -f22 /proc/$$/stat")
    pid, started = map(int, result["stdout"].split())
    assert bare.observed == [{"pid": pid, "started": started}]


async def test_a_quick_command_is_journaled_with_its_result(bare: Shell) -> None:
    """The process of a quick command is in its outcome, and that of a longer one is journaled as it runs."""
    observed = []

    async def observe(evidence: Mapping[str, Any]) -> None:
        observed.append(dict(evidence))

    with patch("kheishd.hooks.os.shell.tools.QUICK_SECONDS", 60.0):
        quick = await bare.bash.dispatch(replace(bare.use("echo $$"), observe=observe))
    assert observed == []
    assert quick.evidence is not None
    assert quick.evidence["pid"] == int(msgspec.json.decode(quick.text)["stdout"])
    with patch("kheishd.hooks.os.shell.tools.QUICK_SECONDS", 0.0):
        longer = await bare.bash.dispatch(replace(bare.use("echo $$; sleep 0.05"), observe=observe))
    assert [evidence["pid"] for evidence in observed] == [int(msgspec.json.decode(longer.text)["stdout"])]
    assert longer.evidence is None


async def test_many_at_once(shell: Shell) -> None:
    """Concurrent calls do not affect one another."""
    results: dict[int, str] = {}

    async def one(number: int) -> None:
        results[number] = (await shell.run(f"seq {number} 20000 | tail -n +1 | head -n 1"))["stdout"]

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(one, number)
    assert results == {number: f"{number}\n" for number in range(8)}


async def test_a_command_that_kills_its_keeper(bare: Shell) -> None:
    """Without a sandbox a command can kill its keeper: the outcome is unknown, and nothing remains."""
    with pytest.raises(ToolError, match="the exit code of the command is unknown"):
        await bare.run("setsid sleep 6006.1 & setsid sleep 6006.1 & kill -9 $PPID; sleep 6006.1")
    assert running_with("6006.1") == []


async def test_there_is_no_keeper_to_kill_in_a_sandbox(boxed: Shell) -> None:
    """In a sandbox only the command's own processes are visible."""
    result = await boxed.run("ls -d /proc/[0-9]* | wc -l")
    # Only now: without a process namespace, the next command would kill all processes of the machine's user.
    assert int(result["stdout"]) < 6
    assert (await boxed.run("kill -9 -1; kill -9 $PPID; kill -9 1; echo here"))["stdout"] in ("here\n", "")


@pytest.mark.usefixtures("bubblewrap")
async def test_the_sandbox_hides_keys(home: Path, workspace: Path, tmp_path: Path) -> None:
    """The master key and the credentials are hidden also where their directory is readable."""
    keys = tmp_path / "keys"
    (keys / "credentials").mkdir(parents=True)
    for path in ("master.key", "credentials/master", "other"):
        (keys / path).write_text("canary\n")
    environ = {
        "PATH": "/usr/bin:/bin",
        "KHEISH_MASTER_KEY_FILE": f"{keys}/master.key",
        "CREDENTIALS_DIRECTORY": f"{keys}/credentials",
    }
    shell = Shell(Bash(home, readable=[str(keys)], environ=environ), context_at(workspace, "required"))
    result = await shell.run(f"cat {keys}/other {keys}/master.key {keys}/credentials/master; env")
    assert result["stdout"].count("canary") == 1
    assert "KHEISH_MASTER" not in result["stdout"]


async def test_the_sandbox_shows_little(boxed: Shell, home: Path, workspace: Path) -> None:
    """The daemon's home is invisible, and only changes of the workspace outlive the call."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "run" / "kheishd.sock"))
        look = f"ls {home} {home}/run/kheishd.sock"
        result = await boxed.run(
            f"{look}; touch /usr/x /etc/x /x /dev/x; touch {home}-x /tmp/x kept; ls /tmp"
        )
    assert result["stderr"].count("No such file or directory") == 2
    assert result["stderr"].count("Read-only file system") == 4
    assert "x" in result["stdout"].split()
    assert (workspace / "kept").exists()
    assert not home.with_name("home-x").exists()
    assert "x" not in (await boxed.run("ls /tmp"))["stdout"].split()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo \0", "NUL"),
        ("x" * (MAX_COMMAND_BYTES + 1), "write a longer script to a file"),
        ("ü" * (MAX_COMMAND_BYTES // 2 + 1), "write a longer script to a file"),
    ],
)
async def test_commands_that_are_not_run(bare: Shell, command: str, reason: str) -> None:
    """A command that cannot be run or shown completely is rejected with the alternative."""
    with pytest.raises(ToolError, match=reason):
        await bare.run(command)
    with pytest.raises(ToolError, match=reason):
        await bare.bash.preview(bare.use(command))


async def preview_of(bash: Bash, call: Invocation) -> Preview:
    """Return the preview of a call."""
    preview = await bash.preview(call)
    assert preview is not None
    return preview


async def test_the_longest_command(shell: Shell) -> None:
    """The longest command runs, and its preview and evidence stay within their limits."""
    use = shell.use(":".ljust(MAX_COMMAND_BYTES, "\x01"))
    assert not (await shell.bash.dispatch(use)).is_error
    assert len((await preview_of(shell.bash, use)).text.encode()) <= MAX_PREVIEW_BYTES
    assert len(msgspec.json.encode(await shell.bash.evidence(use))) < MAX_EVIDENCE_BYTES


async def test_what_a_person_is_shown(shell: Shell, workspace: Path) -> None:
    """The preview begins with the directory and the confinement, in a line of our own."""
    (workspace / "sub").mkdir()
    use = shell.use("make\n# in /safe", workdir="sub")
    preview = await preview_of(shell.bash, use)
    assert preview.kind == "command"
    manner = "without a sandbox, thus with the machine's whole network"
    if shell.context.sandbox == "required":
        manner = "in a sandbox, connecting only to hosts that rules allow"
    assert preview.text == f"in {workspace}/sub, {manner}:\nmake\n# in /safe"
    assert shell.bash.subject(use) == "make\n# in /safe"


async def test_an_approval_holds_for_where_it_would_run(
    home: Path, workspace: Path, bubblewrap: None
) -> None:
    """An approval holds only for the same directory and the same confinement."""
    bash = Bash(home)
    display = await preview_of(bash, Shell(bash, context_at(workspace, "auto")).use("pwd"))
    same = Shell(bash, context_at(workspace, "required")).use("pwd", binding=display.binding)
    assert not (await bash.dispatch(same)).is_error
    (workspace / "sub").mkdir()
    elsewhere = Shell(bash, context_at(workspace, "auto")).use("pwd", binding=display.binding, workdir="sub")
    unconfined = Shell(bash, context_at(workspace, "off")).use("pwd", binding=display.binding)
    for use in (elsewhere, unconfined):
        with pytest.raises(Stale):
            await bash.dispatch(use)


async def test_evidence(shell: Shell, workspace: Path) -> None:
    """The evidence has the command, its directory and its confinement."""
    (workspace / "sub").mkdir()
    evidence = await shell.bash.evidence(shell.use("make", workdir="sub"))
    assert evidence["argv"][-2:] == ["--", "make"]
    assert evidence["cwd"] == str(workspace / "sub")
    assert evidence["sandboxed"] is (shell.context.sandbox == "required")


async def test_without_bubblewrap(home: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` runs without a sandbox and says so; ``required`` refuses before a person is asked."""
    monkeypatch.setattr("kheishd.hooks.os.shell.sandbox.find_program", lambda name: None)
    bash = Bash(home, environ={"PATH": "/usr/bin:/bin"})
    assert not (await Shell(bash, context_at(workspace, "auto")).run("true"))["sandboxed"]
    required = Shell(bash, context_at(workspace, "required"))
    for refused in (required.bash.dispatch, required.bash.preview):
        with pytest.raises(ToolError, match="bwrap\\) is not installed"):
            await refused(required.use("true"))


async def test_a_sandbox_that_breaks(home: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose sandbox failed has not run: that is not its exit code."""
    fake = home / "bwrap"
    fake.write_text('#!/bin/sh\ncase "$*" in *" --bind "*) echo no luck >&2; exit 1;; esac\n')
    fake.chmod(0o700)
    monkeypatch.setattr("kheishd.hooks.os.shell.sandbox.find_program", lambda name: str(fake))
    with pytest.raises(
        ToolError, match="the command did not run, because its sandbox could not be set up: no luck"
    ):
        await Shell(Bash(home), context_at(workspace, "auto")).run("true")


async def test_what_it_says_is_spooled(bare: Shell, home: Path) -> None:
    """While a command runs, its output is in a private file, which is removed afterwards."""
    calls = f"{home}/run/calls"
    use = bare.use(f"echo first; until [ -s {calls}/* ]; do :; done; stat -c '%a %n' {calls}/*")
    result = msgspec.json.decode((await bare.bash.dispatch(use)).text)
    assert result["stdout"] == f"first\n600 {calls}/{use.key}\n"
    assert list((home / "run" / "calls").iterdir()) == []


async def test_a_disk_that_is_full(bare: Shell, home: Path) -> None:
    """Without a spool a command still runs, and the lost output is reported."""
    (home / "run" / "calls").write_text("no directory")
    assert "note" not in await bare.run("true")
    outcome = await bare.outcome("seq 20000")
    assert outcome.full_output is None
    assert "bytes of the output are lost: File exists" in msgspec.json.decode(outcome.text)["note"]


DAEMON = """
import sys, trio
from pathlib import Path
from kheishd.hooks.os.shell.tools import Bash
from tests.support.commands import Shell, context_at

async def main() -> None:
    home, workspace, mode, command = sys.argv[1:]
    shell = Shell(Bash(Path(home)), context_at(Path(workspace), mode))
    use = shell.use(command)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell.bash.dispatch, use)
        while "ready" not in "".join(shell.streamed) or not shell.observed:
            await trio.lowlevel.checkpoint()
        print(shell.observed[0]["pid"], flush=True)

trio.run(main)
"""


async def test_the_daemon_is_killed(shell: Shell, home: Path, workspace: Path) -> None:
    """Commands end with the daemon; the next one reports their last output and removes the file."""
    command = "setsid sleep 6007.1 & env -i setsid sleep 6007.1 & echo ready; sleep 6007.1"
    argv = [sys.executable, "-c", DAEMON, str(home), str(workspace), shell.context.sandbox, command]
    daemon = await trio.lowlevel.open_process(argv, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert daemon.stdout is not None
        pid = int(await daemon.stdout.receive_some())
        remaining = wait_for_processes("6007.1", 3)
    finally:
        daemon.kill()
        await daemon.wait()
    assert wait_ended(remaining)
    assert running_with("6007.1") == []

    use = shell.use(command)
    finding = await shell.bash.probe(use, {"pid": pid, "started": 1})
    assert finding.outcome == "unknown"
    assert finding.note == "the command was running when the daemon ended, and was stopped with it"
    assert finding.evidence == {"output_tail": "ready\n"}
    assert list((home / "run" / "calls").iterdir()) == []


async def test_a_probe_that_finds_less(bare: Shell, home: Path) -> None:
    """A probe reports what is known, also if that is nothing."""
    use = bare.use("true")
    finding = await bare.bash.probe(use, {})
    assert finding.outcome == "unknown"
    assert "just before the command began or just after it had ended" in finding.note
    assert finding.evidence == {}
    spool = home / "run" / "calls" / use.key
    spool.parent.mkdir()
    spool.write_bytes(b"\xbc" + b"\1" * 9_000 + b"the end")
    finding = await bare.bash.probe(use, {})
    assert "about to run" in finding.note
    assert finding.evidence["output_tail"].endswith("\1the end")
    assert len(msgspec.json.encode(finding.evidence)) < MAX_EVIDENCE_BYTES


async def test_a_probe_kills_what_is_left(bare: Shell) -> None:
    """A probe kills all processes with the call's mark."""
    use = bare.use("true")
    mark = {"KHEISH_CALL": bare.bash._mark(use), "PATH": "/usr/bin:/bin"}
    remaining = await trio.lowlevel.open_process(["sleep", "6008.1"], env=mark, start_new_session=True)
    with trio.fail_after(20):
        await bare.bash.probe(use, {"pid": remaining.pid, "started": 1})
        assert await remaining.wait() == -signal.SIGKILL


# In the background.


async def test_a_command_for_the_background_is_not_run_by_its_call(
    shell: Shell, workspace: Path, store: Store
) -> None:
    """A background command becomes a task when its result is committed, as it was judged."""
    (workspace / "sub").mkdir()
    use = shell.use("touch begun", workdir="sub", run_in_background=True, description="A beginning")
    context = replace(use.context, state=State(store, lambda: 7))
    outcome = await shell.bash.dispatch(replace(use, context=context))
    assert outcome.events == ()
    assert outcome.decide is not None
    (event,) = update(store, outcome.decide).events
    assert isinstance(event, TaskCreated)
    assert event.shell is not None
    assert (event.title, event.shell.command) == ("A beginning", "touch begun")
    assert event.shell.workdir == str(workspace / "sub")
    assert event.shell.sandboxed == (shell.context.sandbox == "required")
    assert not (workspace / "sub" / "begun").exists()


async def test_who_approves_sees_that_it_goes_on(shell: Shell) -> None:
    """The preview says that the command runs in the background; the binding is the usual one."""
    preview = await preview_of(shell.bash, shell.use("make", run_in_background=True))
    assert "in the background until it ends:\nmake" in preview.text
    assert preview.binding == (await preview_of(shell.bash, shell.use("make"))).binding
    with pytest.raises(Stale):
        await shell.bash.dispatch(shell.use("make", run_in_background=True, binding="another"))


async def test_a_daemon_that_died_in_such_a_call_did_nothing(bare: Shell) -> None:
    """Nothing starts before the result is committed, so the call is run again."""
    finding = await bare.bash.probe(bare.use("make", run_in_background=True), {})
    assert finding.outcome == "not_done"


# The result of a command.


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Return a spool."""
    return Spool(tmp_path / "spool")


@pytest.fixture
def capture(spool: Spool) -> OutputCollector:
    """Return a collector of no output yet."""
    return OutputCollector(spool, lambda text: None)


def outcome(
    end: CommandEnd | None,
    collector: OutputCollector,
    spool: Spool,
    command: str = "make",
    workdir: str = "/w",
) -> Outcome:
    """Return the outcome of a command that ended so."""
    result = result_of(command, workdir, False, 5.0, end, collector, spool, LimitsSection())
    return outcome_of(result, collector, spool)


def test_an_exit_code_is_an_answer(capture: OutputCollector, spool: Spool) -> None:
    """An exit code is a result, not an error."""
    for code in (0, 1, 137):
        response = outcome(CommandEnd(code), capture, spool)
        result = msgspec.json.decode(response.text)
        assert (result["exit_code"], result["success"], response.is_error) == (code, code == 0, False)
        assert "note" not in result


@pytest.mark.parametrize(
    ("output", "sentences"),
    [
        ("cat: a.env: Permission denied", ["closed by a rule, not by the files' modes: a.env"]),
        ("[Errno 13] Permission denied: 'x/keys/b'", ["closed by a rule, not by the files' modes: x/keys"]),
        ("cat: b.env: Permission denied", ["closed by a rule, not by the files' modes: d⟨LINE FEED⟩#/b.env"]),
        ("cat: aa.env: Permission denied\na.env", []),
        ("cat: a.env: No such file or directory", []),
        ("could not write config file .git/config: Device or resource busy", [f"{READ_ONLY}: .git/config"]),
        ("rm: cannot remove '.envrc': Read-only file system", []),
        (
            "mv: cannot move 'x' to 'y': Device or resource busy",
            ["keeps its name, because of protected or closed paths in it: x"],
        ),
    ],
)
def test_refusals_of_special_paths(output: str, sentences: list[str]) -> None:
    """The closed and read-only paths that an error names are explained, and no others."""
    scan = Scan()
    scan.masked = {"a.env": False, "d\n#/b.env": False, "x/keys": True}
    scan.protected = {".git/config": (1, 2, 0, 0), ".envrc": (1, 3, 0, 0)}
    scan.links = {".envrc"}
    scan.pinned = {"x"}
    assert explain_refusals(output, scan) == sentences


def test_a_timeout_is_an_error(capture: OutputCollector, spool: Spool) -> None:
    """A timeout is an error that names the time and the remedy."""
    response = outcome(None, capture, spool)
    result = msgspec.json.decode(response.text)
    assert response.is_error
    assert (result["exit_code"], result["success"], result["timed_out"]) == (None, False, True)
    assert result["note"] == "stopped after 5 s; do less at once, or give a longer timeout_s"


def test_a_command_that_never_ran(capture: OutputCollector, spool: Spool) -> None:
    """A sandbox failure is reported with Bubblewrap's message."""
    capture.stderr.feed(b"bwrap: no\n")
    with pytest.raises(ToolError, match=r"its sandbox could not be set up: bwrap: no$"):
        outcome(CommandEnd(None, unboxed=True), capture, spool)


def test_an_end_that_nobody_saw(capture: OutputCollector, spool: Spool) -> None:
    """An unknown exit code is not invented."""
    with pytest.raises(ToolError, match="the exit code of the command is unknown"):
        outcome(CommandEnd(None), capture, spool)


def test_the_text_has_its_bound(capture: OutputCollector, spool: Spool) -> None:
    """The text is bounded, however long command, directory and output are as JSON."""
    spool.begin()
    spool.write(b"all of it")
    spool.dropped = 10**12
    for excerpt in (capture.stdout, capture.stderr):
        excerpt.feed(b"\x01" * 100_000)
    response = outcome(CommandEnd(0), capture, spool, "\x02" * MAX_COMMAND_BYTES, "/" + "\x03" * 4_000)
    assert MAX_TOOL_TEXT_BYTES - 64 <= len(response.text.encode()) <= MAX_TOOL_TEXT_BYTES
    result = msgspec.json.decode(response.text)
    assert result["stdout_truncated"]
    assert result["stderr_truncated"]
    assert response.full_output == b"all of it"
    spool.remove()


# Commands for the background.


def use(bare: Shell, store: Store) -> Invocation:
    """Return a call whose context has a store."""
    return replace(
        bare.use("make"),
        context=replace(bare.context, state=State(store, lambda: 7)),
    )


def background(bare: Shell, store: Store, workspace: Path, command: str = "make", title: str = "") -> Outcome:
    """Return the outcome of a background call."""
    workdir = open_workdir(str(workspace), ".")
    try:
        arguments = BashArguments(command=command, description=title)
        return _create_task(use(bare, store), arguments, workdir, "bubblewrap")
    finally:
        workdir.close()


def settled(value: Outcome, store: Store) -> tuple[Outcome, TaskCreated]:
    """Return the outcome that the commit decides, and the event of its task."""
    assert value.decide is not None
    final = update(store, value.decide)
    (event,) = final.events
    return final, cast("TaskCreated", event)


def test_the_task_says_what_will_run_and_where(bare: Shell, store: Store, workspace: Path) -> None:
    """The task has the judged command, directory and owner; the model gets its id."""
    value = background(bare, store, workspace, "npm run dev", "The page\nfor Ada")
    assert value.events == ()
    final, event = settled(value, store)
    assert (event.kind, event.title, event.owner) == ("shell", "The page for Ada", bare.context.run.agent)
    assert event.shell is not None
    assert (event.shell.command, event.shell.sandboxed) == ("npm run dev", True)
    assert (event.shell.workdir, event.shell.workspace) == (str(workspace), str(workspace))
    assert event.shell.call_id == "call_1"
    words = msgspec.json.decode(final.text)
    assert (words["task_id"], words["status"]) == (event.task_id, "pending")
    assert "task_output" in words["note"]


def test_a_command_is_its_own_title(bare: Shell, store: Store, workspace: Path) -> None:
    """Without a description the command is the title, on one short line."""
    _, event = settled(background(bare, store, workspace, "make \\\n  " + "x" * 5000), store)
    assert event.title.startswith("make \\ xxx")
    assert len(event.title) < 100


def test_there_may_be_no_more(bare: Shell, store: Store, workspace: Path) -> None:
    """The limit is checked at the commit, because others may have started shells meanwhile."""
    value = background(bare, store, workspace)
    session_id = bare.context.session.session_id

    def begin(tx: Transaction) -> None:
        fold = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id))
        fold.append(SessionCreated(agent="default"))
        fold.append_all([task_created(f"t{number}", shell=True) for number in range(MAX_SESSION_SHELLS)])
        fold.write()

    update(store, begin)
    assert value.decide is not None
    with pytest.raises(ToolError, match="stop some first"):
        update(store, value.decide)
