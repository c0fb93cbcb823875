"""The sandbox: what is visible in it, for any user of the daemon and any place of its home."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from kheishd.config.sections.tools import LimitsSection
from kheishd.config.sections.workspace import WorkspaceSection
from kheishd.hooks.os.programs import PACKAGES
from kheishd.hooks.os.shell.health import MARK_NAME, SandboxHealth
from kheishd.hooks.os.shell.sandbox import Sandbox
from kheishd.hooks.os.shell.scan import PathRules, scan_workspace
from kheishd.hooks.os.shell.seccomp import MACHINES
from kheishd.hooks.os.shell.workdir import Workdir, open_workdir
from kheishd.kernel.hook import ToolError

SHELL = ("/bin/sh", "-c")
ROOT = os.geteuid() == 0


@contextmanager
def opened(workspace: Path, workdir: str = ".") -> Iterator[Workdir]:
    """Provide a workdir."""
    target = open_workdir(str(workspace), workdir)
    yield target
    target.close()


async def inside(
    sandbox: Sandbox, workspace: Path, command: str, *original: str, closed: tuple[str, ...] = ()
) -> str:
    """Run a command in a sandbox and return its output and errors."""
    assert await sandbox.choose("required")
    with opened(workspace) as workdir:
        scan = scan_workspace(str(workspace), str(workspace), PathRules(closed=closed))
        boxed = sandbox.confine(workdir, [*SHELL, command], LimitsSection(), scan)
        try:
            return said([*original, *boxed.argv], *boxed.descriptors)
        finally:
            boxed.close()


def said(argv: list[str], *passed: int) -> str:
    """Run a program and return its output and errors."""
    environ = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        argv, stdout=-1, stderr=subprocess.STDOUT, env=environ, timeout=60, check=False, pass_fds=passed
    )
    return done.stdout.decode()


@pytest.mark.usefixtures("bubblewrap")
async def test_the_workspace_is_all_that_can_be_written(home: Path, workspace: Path) -> None:
    """The workspace is writable, and the system is readable."""
    sandbox = Sandbox([str(home)])
    text = await inside(
        sandbox,
        workspace,
        "echo here >f; cat f; for d in / /usr /etc /dev /run /proc/sys; do touch $d/x; done",
    )
    assert text.startswith("here\n")
    assert text.count("cannot touch") == 6
    assert (workspace / "f").read_text() == "here\n"


@pytest.mark.usefixtures("bubblewrap")
async def test_scratch_is_private(home: Path, workspace: Path) -> None:
    """Files in /tmp are private to the command and deleted with it."""
    sandbox = Sandbox([str(home)])
    assert (
        await inside(sandbox, workspace, "for d in /tmp /var/tmp /dev/shm; do echo x >$d/x && cat $d/x; done")
        == "x\nx\nx\n"
    )
    assert "No such file" in await inside(sandbox, workspace, "cat /tmp/x")
    assert not await trio.Path("/tmp/x").exists()


@pytest.mark.usefixtures("bubblewrap")
async def test_other_peoples_things_are_not_there(home: Path, workspace: Path) -> None:
    """Homes, sockets and variable data are invisible: the sandbox is an allowlist."""
    text = await inside(
        Sandbox([str(home)]), workspace, f"ls -A {Path.home()} {home} /run /var/lib /srv /mnt /media /sys"
    )
    assert text.count("No such file or directory") >= 6
    assert "kheish" not in text.replace(str(home), "")


@pytest.mark.usefixtures("bubblewrap")
async def test_no_other_process_can_be_seen(home: Path, workspace: Path) -> None:
    """Other processes are invisible and cannot be signalled."""
    assert str(os.getpid()) not in (await inside(Sandbox([str(home)]), workspace, "ls /proc")).split()


@pytest.mark.usefixtures("bubblewrap")
async def test_no_capability_is_left(home: Path, workspace: Path) -> None:
    """No capability remains, not even root's, and none can be acquired."""
    text = await inside(
        Sandbox([str(home)]), workspace, "grep -E 'CapPrm|CapEff|NoNewPrivs' /proc/self/status"
    )
    assert text.split() == ["CapPrm:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1"]


@pytest.mark.usefixtures("bubblewrap")
async def test_a_home_inside_of_the_workspace(workspace: Path) -> None:
    """The daemon's home inside a workspace is hidden and read-only; its neighbours are visible."""
    home = workspace / ".kheish"
    (home / "run").mkdir(parents=True)
    (home / "config.toml").touch()
    text = await inside(Sandbox([str(home)]), workspace, "ls -A . .kheish; touch .kheish/x beside")
    assert text.splitlines()[:4] == [".:", ".kheish", "", ".kheish:"]
    assert "cannot touch '.kheish/x'" in text
    assert sorted(os.listdir(home)) == ["config.toml", "run"]
    assert (workspace / "beside").exists()


@pytest.mark.usefixtures("bubblewrap")
async def test_a_workspace_inside_of_the_home(home: Path) -> None:
    """A workspace inside the daemon's home is visible, and the rest of the home is not."""
    workspace = home / "work" / "one"
    workspace.mkdir(parents=True)
    for sandbox in (Sandbox([str(home)]), Sandbox([str(home)], readable=[str(home.parent)])):
        text = await inside(sandbox, workspace, f"touch here; ls -A {home} {home}/work; touch {home}/x")
        assert text.split()[:4] == [f"{home}:", "work", f"{home}/work:", "one"]
        (workspace / "here").unlink()
    assert sorted(os.listdir(home)) == ["config.toml", "run", "state", "work"]


@pytest.mark.usefixtures("bubblewrap")
async def test_what_may_be_read_besides(home: Path, workspace: Path, tmp_path: Path) -> None:
    """Configured directories are readable; missing ones are ignored."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "tool").write_text("a tool\n")
    sandbox = Sandbox([str(home)], readable=[str(tmp_path / "tools"), str(tmp_path / "missing")])
    text = await inside(sandbox, workspace, f"cat {tmp_path}/tools/tool; touch {tmp_path}/tools/x")
    assert text.startswith("a tool\n")
    assert "Read-only file system" in text


@pytest.mark.usefixtures("bubblewrap")
async def test_credentials_in_the_workspace_are_covered(
    home: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the workspace is the user's home directory, keys and tokens are hidden."""
    monkeypatch.setenv("HOME", str(workspace))
    (workspace / ".ssh").mkdir()
    (workspace / ".ssh" / "id_ed25519").write_text("canary")
    (workspace / ".netrc").write_text("canary")
    (workspace / ".aws").mkdir()
    (workspace / ".aws" / "config").write_text("canary")
    (workspace / "project").write_text("visible\n")
    # Some of them are protected, too.
    scan = scan_workspace(str(workspace), str(workspace), PathRules())
    assert set(scan.protected) == {".netrc", ".ssh", ".aws/config"}
    command = "cat .ssh/* .netrc .aws/config project; ls -A .ssh"
    text = await inside(Sandbox([str(home)]), workspace, command)
    assert "canary" not in text
    assert text.endswith("visible\n")


@pytest.mark.usefixtures("bubblewrap")
async def test_a_user_that_is_only_a_number(
    home: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without a home directory has no credentials in it."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME")
    assert await inside(Sandbox([str(home)]), workspace, "echo here") == "here\n"


@pytest.mark.usefixtures("bubblewrap")
async def test_links_lead_nowhere(home: Path, workspace: Path) -> None:
    """A link out of the workspace leads to a path of the sandbox, where there is nothing."""
    (workspace / "link").symlink_to(home)
    (workspace / "config").symlink_to(home / "config.toml")
    text = await inside(Sandbox([str(home)]), workspace, "cat config link/config.toml; echo x >link/x")
    assert "of the daemon" not in text
    assert not (home / "x").exists()


@pytest.mark.usefixtures("bubblewrap")
async def test_it_holds_the_workspace_that_was_opened(home: Path, workspace: Path, tmp_path: Path) -> None:
    """Replacing the workspace by a link after it was opened has no effect."""
    sandbox = Sandbox([str(home)])
    if not await sandbox.choose("required") or "--bind-fd" not in said(
        [shutil.which("bwrap") or "bwrap", "--help"]
    ):
        pytest.skip("this bubblewrap cannot be given an open directory")
    (workspace / "here").touch()
    with opened(workspace) as workdir:
        command = [*SHELL, f"ls {workspace}; cd {workspace} && touch new"]
        boxed = sandbox.confine(workdir, command, LimitsSection())
        await trio.Path(workspace).rename(tmp_path / "moved")
        await trio.Path(workspace).symlink_to(home)
        assert said(list(boxed.argv), *boxed.descriptors) == "here\n"
        boxed.close()
    assert sorted(os.listdir(tmp_path / "moved")) == ["here", "new"]


@pytest.mark.usefixtures("bubblewrap")
async def test_no_open_directory_leads_out(home: Path, workspace: Path) -> None:
    """No descriptor is inherited inside: ``..`` of it would be outside."""
    text = await inside(
        Sandbox([str(home)]), workspace, "for d in /proc/[0-9]*/fd/*; do ls -d $d/.. ; done 2>&1"
    )
    assert "home" not in text
    assert text.count("Not a directory") + text.count("No such file") == len(text.splitlines())


@pytest.mark.usefixtures("bubblewrap")
async def test_files_that_others_execute_are_read_only(home: Path, workspace: Path) -> None:
    """Protected files, and the hooks and configuration of git, cannot be changed, renamed or replaced."""
    said(["git", "init", "-q", str(workspace)])
    for path in (".envrc", "sub/.vscode/tasks.json", "sub/AGENTS.md"):
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text("before\n")
    original = (workspace / ".git/config").read_bytes()
    text = await inside(
        Sandbox([str(home)]),
        workspace,
        "for f in .envrc sub/AGENTS.md sub/.vscode/tasks.json sub/.vscode/new .git/config"
        " .git/hooks/pre-commit; do"
        " echo x >$f && echo written; rm -f $f; mv $f moved; ln $f link && echo linked; done;"
        " mv .git g; mv .git/hooks h; mv sub/.vscode v; touch sub/fine .git/fine",
    )
    assert "written" not in text
    assert "linked" not in text
    assert (workspace / ".envrc").read_text() == "before\n"
    assert (workspace / "sub/AGENTS.md").read_text() == "before\n"
    assert os.listdir(workspace / "sub/.vscode") == ["tasks.json"]
    assert (workspace / ".git/config").read_bytes() == original
    assert not (workspace / ".git/hooks/pre-commit").exists()
    assert (workspace / "sub/fine").exists()
    assert (workspace / ".git/fine").exists()
    # What ``mv`` made are copies.
    assert {".envrc", ".git", "sub"} <= set(os.listdir(workspace))
    assert (workspace / ".git/hooks").is_dir()


@pytest.mark.usefixtures("bubblewrap")
async def test_the_daemons_own_code_is_read_only(home: Path) -> None:
    """A workspace that contains kheish's installation does not make it writable."""
    text = await inside(
        Sandbox([str(home)]),
        PACKAGES,
        f"test -w . && echo above; test -w kheishd || echo code; test -w {sys.prefix} || echo environment",
    )
    assert text.split() == ["above", "code", "environment"]


@pytest.mark.usefixtures("bubblewrap")
async def test_git_can_commit(home: Path, workspace: Path) -> None:
    """In the sandbox git commits, branches and adds worktrees; only its configuration cannot be changed."""
    said(["git", "init", "-q", str(workspace)])
    (workspace / ".gitattributes").write_text("* text=auto\n")
    git = "git -c user.name=a -c user.email=b"
    text = await inside(
        Sandbox([str(home)]),
        workspace,
        f"echo x >f && git add -A && {git} commit -qm one && git checkout -q -b two &&"
        f" git worktree add -q tree && git stash list && {git} commit -q --amend -m again && git gc -q &&"
        " git log --format=%s && git config a.b c",
    )
    assert text.startswith("again\n"), text
    assert "could not write config file" in text
    assert (workspace / "tree/f").read_text() == "x\n"


@pytest.mark.usefixtures("bubblewrap")
async def test_closed_paths_cannot_be_read(home: Path, workspace: Path) -> None:
    """A path that a rule closes to tools that read is not readable by a command, nor after renaming."""
    for path in (".env", "a/.env", "keys/private", "a/b/keys/private"):
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text("canary\n")
    (workspace / "link").symlink_to(".env")
    text = await inside(
        Sandbox([str(home)]),
        workspace,
        "cat .env a/.env keys/* a/b/keys/* link; mv keys k; mv a/b/keys a/k; mv a/b c; mv a d; mv .env e;"
        " chmod 700 keys; cat k/* a/k/* c/keys/* d/b/keys/* e keys/*; rm -rf a keys .env; echo x >.env;"
        " ls keys; echo fine >new",
        closed=("*.env", "keys/*", "a/b/keys/*"),
    )
    assert "canary" not in text
    assert (workspace / "new").read_text() == "fine\n"
    for path in (".env", "a/.env", "keys/private", "a/b/keys/private"):
        assert (workspace / path).read_text() == "canary\n"


@pytest.mark.usefixtures("bubblewrap")
async def test_a_workspace_that_changes_meanwhile(home: Path, workspace: Path) -> None:
    """A protected file that was replaced after the scan is not mounted: the link would lead out."""
    sandbox = Sandbox([str(home)])
    assert await sandbox.choose("required")
    (workspace / ".vscode").mkdir()
    with opened(workspace) as workdir:
        scan = scan_workspace(str(workspace), str(workspace), PathRules())
        (workspace / ".vscode").rmdir()
        (workspace / ".vscode").symlink_to(home)
        original = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ToolError, match=r"\.vscode changed while the command was prepared"):
            sandbox.confine(workdir, SHELL, LimitsSection(), scan)
        scan.masked = {f"f{number}": False for number in range(501)}
        scan.protected = {}
        with pytest.raises(ToolError, match="close more than 500 paths"):
            sandbox.confine(workdir, SHELL, LimitsSection(), scan)
        scan.masked = {}
        scan.pinned = {f".f{number}" for number in range(257)}
        with pytest.raises(ToolError, match="rules close paths below more than 256 directories"):
            sandbox.confine(workdir, SHELL, LimitsSection(), scan)
        assert len(os.listdir("/proc/self/fd")) == original


SYSTEM_CALLS = """
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
for call in ("ptrace", "keyctl", "unshare", "mount", "setns"):
    number = {numbers}[call]
    arguments = (0x10000000,) if call == "unshare" else (0, 0, 0, 0)
    print(call, errno.errorcode[ctypes.get_errno()] if libc.syscall(number, *arguments) < 0 else "allowed")
for family in (socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK, socket.AF_UNIX, socket.AF_INET):
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
        print(family.name, "open")
    except OSError as error:
        print(family.name, errno.errorcode[error.errno])
"""


@pytest.mark.usefixtures("bubblewrap")
async def test_system_calls(home: Path, workspace: Path) -> None:
    """The kernel applies the filter: dangerous calls fail, and so do unusual sockets."""
    machine = MACHINES.get(os.uname().machine)
    if machine is None:
        pytest.skip(f"there is no filter for {os.uname().machine}")
    numbers = {**machine.denied, "unshare": machine.unshare}
    (workspace / "calls.py").write_text(SYSTEM_CALLS.replace("{numbers}", repr(numbers)))
    text = await inside(Sandbox([str(home)]), workspace, "python3 calls.py")
    if "python3" in text:
        pytest.skip("the system has no python3")
    assert dict(line.split() for line in text.splitlines()) == {
        **dict.fromkeys(("ptrace", "keyctl", "unshare", "mount", "setns"), "EPERM"),
        **dict.fromkeys(("AF_NETLINK", "AF_PACKET", "AF_VSOCK"), "EAFNOSUPPORT"),
        **dict.fromkeys(("AF_UNIX", "AF_INET"), "open"),
    }


async def test_workspaces_that_cannot_be_confined_to(home: Path, bubblewrap: None) -> None:
    """The root directory and the daemon's home cannot be workspaces."""
    for workspace in (Path("/"), home):
        with pytest.raises(ToolError, match="cannot be confined to"):
            await inside(Sandbox([str(home)]), workspace, "true")


@pytest.mark.skipif(not ROOT, reason="only root may become another user")
@pytest.mark.usefixtures("bubblewrap")
async def test_as_an_ordinary_user(home: Path) -> None:
    """The same options work for an ordinary user, if users may create namespaces."""
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    # Not below pytest's directory, which only its owner may enter.
    with tempfile.TemporaryDirectory() as directory:
        workspace = Path(directory)
        await trio.Path(workspace).chmod(0o777)
        text = await inside(Sandbox([str(home)]), workspace, "id -u; touch f; touch /etc/x", *nobody)
        if "namespace" in text:
            pytest.skip(f"ordinary users may not make namespaces here: {text}")
        assert text.startswith("65534\n")
        assert "Read-only file system" in text
        assert (workspace / "f").stat().st_uid == 65534


@pytest.mark.skipif(not ROOT, reason="the files of root are nobody else's to read anyway")
@pytest.mark.usefixtures("bubblewrap")
async def test_root_inside_is_not_root_outside(home: Path, workspace: Path) -> None:
    """Root's files below /etc and the kernel's settings are out of reach."""
    pattern = "/proc/sys/kernel/core_pattern"
    # What stands there is written there, so that nothing is changed should it succeed.
    text = await inside(
        Sandbox([str(home)]),
        workspace,
        f"cat /etc/shadow; was=$(cat {pattern}); echo $was >{pattern} && echo written",
    )
    assert "root:" not in text
    assert "written" not in text


FIND_PROGRAM = "kheishd.hooks.os.shell.sandbox.find_program"


def fake(directory: Path, script: str, options: str = "--size --bind-fd") -> None:
    """Return a program called bwrap that has these options."""
    text = f'#!/bin/sh\n[ "$1" = --help ] && echo "{options}" && exit\n{script}\n'
    (directory / "bwrap").write_text(text)
    (directory / "bwrap").chmod(0o700)


async def test_it_is_tried_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successful trial is not repeated; a failed one is."""
    monkeypatch.setattr(FIND_PROGRAM, lambda name: f"{tmp_path}/{name}")
    sandbox = Sandbox([str(home)])
    fake(tmp_path, f"echo x >>{tmp_path}/tries; echo 'not allowed' >&2; exit 1")
    assert [await sandbox.choose("auto") for _ in range(2)] == [False, False]
    assert await sandbox.find_problem() == "not allowed"
    with pytest.raises(ToolError, match="and it does not work: not allowed"):
        await sandbox.choose("required")
    assert not await sandbox.choose("off")
    assert (tmp_path / "tries").read_text() == "x\n" * 4
    fake(tmp_path, f"echo x >>{tmp_path}/tries")
    assert [await sandbox.choose("auto") for _ in range(3)] == [True, True, True]
    assert (tmp_path / "tries").read_text() == "x\n" * 5
    assert not await sandbox.choose("off")


@pytest.mark.parametrize("options", ["--size --bind-fd", "--size", "--bind", ""])
async def test_older_ones(
    home: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """A missing option is not used: the sandbox is still better than none."""
    monkeypatch.setattr(FIND_PROGRAM, lambda name: f"{tmp_path}/{name}")
    fake(tmp_path, ":", options)
    sandbox = Sandbox([str(home)])
    assert await sandbox.choose("required")
    with opened(workspace) as workdir:
        boxed = sandbox.confine(workdir, SHELL, LimitsSection())
        boxed.close()
        argv = boxed.argv
    assert ("--size" in argv) is ("--size" in options)
    by_path = " ".join(["--bind", str(workspace), str(workspace)])
    assert (by_path in " ".join(argv)) is ("--bind-fd" not in options)
    if "--bind-fd" in options:
        assert argv[argv.index("--bind-fd") + 1] in map(str, boxed.descriptors)
        assert argv[argv.index("--bind-fd") + 2] == str(workspace)
    else:
        # One that Bubblewrap was not told about would stay open in the command.
        assert len(boxed.descriptors) == argv.count("--seccomp")


async def test_one_that_cannot_be_executed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that cannot be executed, or fails silently, is a problem with a reason."""
    monkeypatch.setattr(FIND_PROGRAM, lambda name: f"{tmp_path}/{name}")
    fake(tmp_path, "exit 3")
    assert await Sandbox([str(home)]).find_problem() == "bwrap exited with 3"
    (tmp_path / "bwrap").write_bytes(b"\0no program")
    assert await Sandbox([str(home)]).find_problem() == "Exec format error"


async def test_a_machine_without_networks(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the closed network does not work, the problem names the setting; nothing is opened."""
    monkeypatch.setattr(FIND_PROGRAM, lambda name: f"{tmp_path}/{name}")
    fake(tmp_path, 'case "$*" in *--unshare-net*) echo "loopback: Failed RTM_NEWADDR" >&2; exit 1;; esac')
    problem = await Sandbox([str(home)]).find_problem()
    assert problem is not None
    assert problem.startswith('loopback: Failed RTM_NEWADDR; it works with workspace.network = "open"')
    assert await Sandbox([str(home)], network="open").find_problem() is None
    fake(tmp_path, 'echo "no namespace" >&2; exit 1')
    assert await Sandbox([str(home)]).find_problem() == "no namespace"


async def test_a_sandbox_that_has_worked_is_required(
    home: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one success in a home, a failing trial runs nothing outside, also in a later daemon."""
    monkeypatch.setattr(FIND_PROGRAM, lambda name: f"{tmp_path}/{name}")

    def restarted() -> Sandbox:
        return Sandbox([str(home)], health=SandboxHealth(home))

    fake(tmp_path, "exit 3", "--size")
    assert not await restarted().choose("auto")
    assert not (home / MARK_NAME).exists()
    fake(tmp_path, ":", "--size")
    assert await restarted().choose("auto")
    fake(tmp_path, "exit 3", "--size")
    with pytest.raises(ToolError, match=r"ran in a sandbox here before, .*: bwrap exited with 3"):
        await restarted().choose("auto")
    assert not await restarted().choose("off")


async def test_a_sandbox_that_could_not_be_set_up_is_tried_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure of a command's own sandbox is recorded, and the next command tries the sandbox again."""
    monkeypatch.setattr(FIND_PROGRAM, lambda name: f"{tmp_path}/{name}")
    health = SandboxHealth(home)
    sandbox = Sandbox([str(home)], health=health)
    fake(tmp_path, ":", "--size")
    assert await sandbox.choose("auto")
    sandbox.record_failure("no namespaces left")
    assert health.describe(WorkspaceSection()).problem == "no namespaces left"
    assert await sandbox.choose("auto")
    assert health.describe(WorkspaceSection()).state == "works"
