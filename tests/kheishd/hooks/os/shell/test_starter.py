"""The start of a task's shell: as it was allowed, and not otherwise."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from kheishd.config.sections.config import Config
from kheishd.config.sections.workspace import SandboxMode, WorkspaceSection
from kheishd.hooks.os.shell.process import CommandEnd, KeptCommand, NotStarted, find_orphans, home_id
from kheishd.hooks.os.shell.starter import TASK_VARIABLE, Starter
from protocol.objects.task import Shell
from tests.support.commands import wait_ended
from tests.support.gates import make_gate


def asked(workspace: Path, command: str, workdir: str = "", *, mode: SandboxMode = "off") -> Shell:
    """Return the shell of a task."""
    context = str(workspace / workdir)
    return Shell(command=command, workdir=context, workspace=str(workspace), sandboxed=mode == "required")


@asynccontextmanager
async def started(home: Path, shell: Shell, readable: tuple[str, ...] = ()) -> AsyncIterator[KeptCommand]:
    """Run the shell of the task ``tsk_1``."""
    environ = {"PATH": os.environ["PATH"], "OPENAI_API_KEY": "canary"}
    config = Config(workspace=WorkspaceSection(readable=list(readable)))
    async with Starter(home, environ).running("tsk_1", shell, config, make_gate()) as command_process:
        yield command_process


async def wrote(command_process: KeptCommand) -> str:
    """Return its whole output."""
    return b"".join([bytes(piece) async for piece in command_process.stdout]).decode()


async def test_it_works_where_it_was_allowed_to(home: Path, workspace: Path, mode: SandboxMode) -> None:
    """It runs in its directory, with merged output, its task's id, and no secret of the daemon."""
    (workspace / "sub").mkdir()
    script = f"pwd; echo err >&2; echo ${TASK_VARIABLE}; env; exit 3"
    async with started(home, asked(workspace, script, "sub", mode=mode)) as command_process:
        text = await wrote(command_process)
        assert await command_process.wait() == CommandEnd(3)
    assert text.startswith(f"{workspace}/sub\nerr\ntsk_1\n")
    assert "canary" not in text
    assert command_process.stderr is None


async def test_a_sandbox_is_a_sandbox(home: Path, workspace: Path, tmp_path: Path, bubblewrap: None) -> None:
    """The configured directories are readable, and the daemon's home is invisible."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "book").write_text("words")
    shell = asked(workspace, f"cat {tmp_path}/library/book; ls {home} 2>&1; echo", mode="required")
    async with started(home, shell, (str(tmp_path / "library"),)) as command_process:
        text = await wrote(command_process)
    assert text.startswith("words")
    assert "No such file" in text


async def test_a_directory_that_is_none_any_more(home: Path, workspace: Path) -> None:
    """If the approved directory leads elsewhere now, nothing is started."""
    (workspace / "sub").mkdir()
    shell = asked(workspace, "true", "sub")
    shutil.rmtree(workspace / "sub")
    (workspace / "sub").symlink_to("/usr")
    with pytest.raises(NotStarted):
        async with started(home, shell):
            raise AssertionError("it runs")


async def test_no_sandbox_no_shell(home: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that must be confined does not run unconfined."""
    monkeypatch.setattr("kheishd.hooks.os.shell.sandbox.find_program", lambda name: None)
    with pytest.raises(NotStarted, match="bubblewrap"):
        async with started(home, asked(workspace, "true", mode="required")):
            raise AssertionError("it runs")


async def test_what_is_left_is_found_by_its_task(home: Path, workspace: Path, mode: SandboxMode) -> None:
    """Orphans are found by the mark of their home and task; those of another home are left alone."""
    shell = asked(workspace, "echo ready; exec sleep 1000", mode=mode)
    async with started(home, shell) as command_process:
        assert await command_process.stdout.receive_some() == b"ready\n"
        assert await Starter(home.parent).kill_orphans("tsk_1")
        assert await Starter(home).kill_orphans("tsk_2")
        marked = [pid for pid, _ in find_orphans(f"{home_id(home)}.tsk_1")]
        assert command_process.pid in marked
        # The keeper itself carries the mark; so what is hunted is everything.
        with trio.fail_after(20):
            assert await Starter(home).kill_orphans("tsk_1")
        assert wait_ended(marked)
