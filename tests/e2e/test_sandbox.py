"""The sandbox of commands in a real daemon: its state, and the way out of it."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kheishctl import exit_codes
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home, until
from tests.support.waiting_runs import order

ALLOW = """
[permissions]
mode = "bypassPermissions"

[[permissions.rules]]
tool = "bash"
decision = "allow"
"""

pytestmark = pytest.mark.usefixtures("bubblewrap")


@pytest.fixture
def home() -> Iterator[Path]:
    """Provide a home."""
    with short_home() as home:
        home.mkdir()
        yield home


def configure(home: Path, permissions: str, workspace: str = "") -> None:
    """Write the configuration: permissions and settings of the workspace."""
    (home / "config.toml").write_text(f"[workspace]\n{workspace}\n{permissions}")


def state(daemon: Daemon) -> dict[str, Any]:
    """Return the state of the sandbox in the daemon's status."""
    sandbox: dict[str, Any] = daemon.call("daemon.status")["sandbox"]
    return sandbox


def asks(daemon: Daemon, command: str, **arguments: Any) -> dict[str, Any]:
    """Send a command; return the approval that waits for a person."""
    before = len(daemon.call("approval.list")["approvals"])
    daemon.call("conversation.send", content=order("bash", command=command, **arguments), sender=command)
    until(lambda: len(daemon.call("approval.list")["approvals"]) > before, "a person is asked")
    approval: dict[str, Any] = daemon.call("approval.list")["approvals"][-1]
    return approval


def answer(daemon: Daemon, approval: dict[str, Any], **how: str) -> None:
    """Allow a command."""
    resolution = {"approval_id": approval["approval_id"], "decision": "allow", **how}
    daemon.call("approval.resolve", resolutions=[resolution])


def test_leaving_the_sandbox_needs_a_person(home: Path) -> None:
    """The status and the log show the state; once it is off, no rule, mode or grant allows a command."""
    with Daemon(home) as daemon:
        until(lambda: state(daemon)["state"] == "works", "the sandbox was tried")
        approval = asks(daemon, "echo granted")
        assert approval["preview"]["facts"]["sandbox"] == "bubblewrap"
        answer(daemon, approval, remember="session")
        assert (
            '"sandboxed":true'
            in daemon.say(order("bash", command="echo granted"), sender="echo granted")["output"]
        )
        configure(home, ALLOW)
        daemon.call("daemon.reload")
        assert '"sandboxed":true' in daemon.say(order("bash", command="echo in"))["output"]
        assert "works (mode auto); network closed" in Ctl(home)("status").out
        assert "the state of the sandbox of commands is 'works'" in daemon.read_log()

        configure(home, ALLOW, 'sandbox = "off"')
        daemon.call("daemon.reload")
        until(lambda: "the state of the sandbox of commands is 'off'" in daemon.read_log(), "it is logged")
        assert state(daemon)["state"] == "off"
        (warning,) = daemon.call("daemon.status")["warnings"]
        assert "workspace.sandbox is off: commands ran in a sandbox before" in warning

        # The grant was for the sandbox.
        assert "this one would run without it" in asks(daemon, "echo granted")["note"]
        for arguments in ({}, {"run_in_background": True}):
            approval = asks(daemon, f"echo out >>out{len(arguments)}", **arguments)
            assert "this one would run without it" in approval["note"]
            assert "without a sandbox" in approval["preview"]["text"]
            assert approval["preview"]["facts"]["sandbox"] == "none"
            answer(daemon, approval)
            until((home / "workspace" / f"out{len(arguments)}").exists, "the approved command ran")

        configure(home, ALLOW, 'sandbox = "off"\nunsandboxed = "allow"')
        daemon.call("daemon.reload")
        assert daemon.call("daemon.status")["warnings"] == []
        assert '"sandboxed":false' in daemon.say(order("bash", command="echo accepted"), sender="x")["output"]


def test_a_sandbox_that_fails_later(home: Path, tmp_path: Path) -> None:
    """Where the sandbox has worked, a later daemon without bubblewrap runs no command, and says so."""
    configure(home, ALLOW)
    with Daemon(home) as daemon:
        until(lambda: state(daemon)["state"] == "works", "the sandbox was tried")
        daemon.stop()
        broken = tmp_path / "bwrap"
        broken.write_text("#!/bin/sh\necho 'no namespaces here' >&2; exit 1\n")
        broken.chmod(0o755)
    unshare = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
    mount = ("sh", "-c", 'mount --bind "$0" /usr/bin/bwrap && exec "$@"', str(broken))
    with Daemon(home, before=(*unshare, *mount)) as daemon:
        until(lambda: state(daemon)["state"] == "required", "the sandbox was tried")
        problem = state(daemon)["problem"]
        # Mapped to root, the daemon does not trust directories of an owner that it cannot see.
        assert problem == "no namespaces here" or os.geteuid() != 0
        result = daemon.say(order("bash", command="touch escaped"))
        assert f"it does not work now: {problem}" in json.dumps(result)
        assert not (home / "workspace" / "escaped").exists()
        done = Ctl(home)("status")
        assert done.code == exit_codes.OK
        assert f"does not work, so no command runs (mode auto): {problem}" in done.out
        (home / ".sandbox").unlink()
        until(lambda: state(daemon)["state"] == "unavailable", "the operator removed the mark")


def test_programs_are_not_taken_from_the_path(home: Path) -> None:
    """A virtual environment of the workspace on ``PATH`` provides no program that the daemon executes."""
    configure(home, ALLOW)
    workspace = home / "workspace"
    programs = workspace / ".venv" / "bin"
    with Daemon(home, environ={"PATH": f"{programs}:.:{os.environ['PATH']}"}) as daemon:
        planted = (
            f"for name in bwrap rg; do printf '#!/bin/sh\\ntouch {home}/escaped' >$name; done; chmod +x *"
        )
        plant = order("bash", command=f"mkdir -p {programs}; cd {programs}; {planted}")
        assert '"exit_code":0' in daemon.say(plant)["output"]
        assert os.access(programs / "bwrap", os.X_OK)
        for _ in range(2):
            daemon.call("daemon.reload")
            assert '"sandboxed":true' in daemon.say(order("bash", command="echo in"))["output"]
            assert "touch" in daemon.say(order("grep_search", pattern="escaped", base=".venv"))["output"]
        assert not (home / "escaped").exists()


DENY = """
[[permissions.rules]]
tool = "read_file"
subject = "*.env"
decision = "deny"

[[permissions.rules]]
tool = "read_file"
subject = "keys/*"
decision = "ask"
"""


def test_files_that_a_person_replaces_while_a_command_runs(home: Path) -> None:
    """A command whose protected file is replaced is stopped; the person's file stays."""
    configure(home, ALLOW + DENY)
    workspace = home / "workspace"
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    (workspace / "a.env").write_text("canary\n")
    # The keeper looks at once, but on a busy machine the kernel may let the command run first.
    script = "cat a.env; touch started; sleep 60; cat a.env; echo evil >>.git/config"

    def replace() -> None:
        until((workspace / "started").exists, "the command runs")
        subprocess.run(["git", "-C", str(workspace), "config", "core.editor", "vi"], check=True)
        (workspace / "new").write_text("other canary\n")
        (workspace / "new").rename(workspace / "a.env")

    with Daemon(home) as daemon:
        person = threading.Thread(target=replace)
        person.start()
        result = daemon.say(order("bash", command=script))["output"]
        person.join()
        assert "stopped: another program replaced, renamed or removed a file" in result
        assert "inspect them first: .git/config" in result
        assert '"stdout":""' in result
        configuration = (workspace / ".git/config").read_text()
        assert "editor = vi" in configuration
        assert "evil" not in configuration


def test_files_that_others_obey_and_files_that_are_denied(home: Path) -> None:
    """A command cannot change a git hook, leaves no new one, and cannot read what read_file refuses."""
    configure(home, ALLOW + DENY)
    with Daemon(home) as daemon:
        workspace = home / "workspace"
        subprocess.run(["git", "init", "-q", str(workspace)], check=True)
        for path in ("a.env", "keys/private", "open"):
            (workspace / path).parent.mkdir(exist_ok=True)
            (workspace / path).write_text("canary\n")

        def run(command: str, **arguments: Any) -> str:
            return str(daemon.say(order("bash", command=command, **arguments), sender=command[:30])["output"])

        result = run("echo evil >.git/hooks/pre-commit")
        assert "Read-only file system" in result
        assert "read-only for commands, because other programs execute or obey them: .git/hooks" in result
        result = run("echo evil >.envrc; git -c user.name=a -c user.email=b commit --allow-empty -m works")
        assert "works" in result
        assert "renamed to NAME.unapproved: .envrc" in result
        assert not (workspace / ".envrc").exists()
        result = run("cat a.env keys/private; cat open | tr c C")
        assert "Canary" in result
        assert "canary" not in result
        assert result.count("Permission denied") == 2
        assert "closed by a rule, not by the files' modes: a.env, keys" in result
        assert "closed by a rule, not by the files' modes: a.env" in run("cat a.env 2>&1")
        assert "closed by a rule" not in run("cat a.environment; touch b.env /root-x")

        run("cat a.env keys/private; echo evil >.envrc", run_in_background=True)
        tasks: list[dict[str, Any]] = []

        def has_ended() -> bool:
            tasks[:] = daemon.call("task.list", status="any")["tasks"]
            return bool(tasks) and tasks[0]["status"] not in ("pending", "in_progress")

        until(has_ended, "the shell ended")
        assert "inspect them first: .envrc" in tasks[0]["shell"]["problem"]
        written = daemon.call("task.output", task_id=tasks[0]["task_id"])["text"]
        assert written.count("Permission denied") == 2
        assert "canary" not in written


DENY_DETOURS = """
[[permissions.rules]]
tool = "*"
subject = "*/config/prod.json"
decision = "deny"

[[permissions.rules]]
tool = "*"
subject = "*.env"
decision = "deny"
"""

DIG = """python3 -c '
import os
above = os.open(".", os.O_RDONLY)
for _ in range(25):
    os.mkdir("d" * 200, dir_fd=above)
    above = os.open("d" * 200, os.O_RDONLY, dir_fd=above)
os.rename("sub", "sub", dst_dir_fd=above)
'"""


def test_names_that_are_not_text(home: Path) -> None:
    """A protected file whose name is not UTF-8 is renamed and named; the command keeps its output."""
    configure(home, ALLOW)
    command = r"echo canary; touch $'a\xff.code-workspace'"
    with Daemon(home) as daemon:
        output = str(daemon.say(order("bash", command=command))["output"])
        assert "canary" in output
        assert "renamed to NAME.unapproved: a⟨U+DCFF⟩.code-workspace" in output
        daemon.say(order("bash", command=command, run_in_background=True), sender="background")
        task = daemon.call("task.list")["tasks"][0]
        until(
            lambda: daemon.call("task.get", task_id=task["task_id"])["status"] == "completed",
            "the shell ends",
        )


def test_detours(home: Path) -> None:
    """No directory that a command renames, hides or adds opens a closed or a protected path to the next."""
    configure(home, ALLOW + DENY_DETOURS)
    workspace = home / "workspace"
    with Daemon(home) as daemon:
        subprocess.run(["git", "init", "-q", str(workspace)], check=True)
        subprocess.run(["git", "config", "include.path", "extra.cfg"], cwd=workspace, check=True)
        for path in ("a/config/prod.json", "cfg/real", "sub/b.env", ".git/extra.cfg"):
            (workspace / path).parent.mkdir(parents=True, exist_ok=True)
            (workspace / path).write_text("# canary\n")
        (workspace / "a.env").symlink_to("cfg/real")

        def run(command: str) -> str:
            return str(daemon.say(order("bash", command=command))["output"])

        assert "Device or resource busy" in run("mv a/config a/cfg")
        assert "canary" not in run("cat a/cfg/prod.json a/config/prod.json a.env cfg/real")
        assert "Read-only file system" in run("echo evil >>.git/extra.cfg")
        run("for i in $(seq 130); do git init -q .a$i; done")
        assert "Read-only file system" in run("echo evil >>.git/config")
        run(DIG)
        result = run("find . -name b.env -execdir cat {} +")
        assert "cannot be searched: File name too long" in result
        assert "canary" not in result


def test_files_and_directories_that_nobody_expects(home: Path) -> None:
    """A byte in a configuration, a renamed directory and an approved name switch no protection off."""
    configure(home, ALLOW)
    workspace = home / "workspace"
    with Daemon(home) as daemon:

        def run(command: str) -> str:
            return str(daemon.say(order("bash", command=command), sender=command[:9])["output"])

        hooks = r"git init -q z; printf '[core]\nhooksPath = a\0b\n' >> z/.git/config"
        assert ".envrc, .husky, z/.git/config. " in run(
            f"echo evil > .envrc; mkdir .husky; echo evil > .husky/pre-commit; {hooks}"
        )
        assert '"exit_code":0' in run("rm -rf z .envrc* .husky*")
        # The first look at the mounts is later.
        (workspace / "pkg").mkdir()
        (workspace / "pkg/.envrc").touch()
        output = run("mv pkg pkg2; sleep 0.2; echo moved; echo evil >> pkg2/.envrc")
        assert "moved" in output
        assert "Read-only file system" in output
        (workspace / "env").mkdir()
        (workspace / ".envrc").symlink_to("env/dev")
        (workspace / "env/dev").touch()
        assert "Read-only file system" in run("echo evil >> env/dev")
        # A removed link often passes its inode on.
        assert "NAME.unapproved: .envrc. " in run("rm .envrc; echo evil > .envrc")
        daemon.say(order("write_file", path=".husky/pre-commit", content="ok"), sender="write")
        subprocess.run(["rm", "-r", ".husky"], cwd=workspace, check=True)
        assert "NAME.unapproved: .husky. " in run("mkdir .husky; echo evil > .husky/pre-commit")
