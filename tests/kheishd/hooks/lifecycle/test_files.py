"""Files of lifecycle hooks: what is read, what is refused, and what is skipped."""

import os
from pathlib import Path

import pytest

from kheishd.hooks.lifecycle.files import (
    InvalidHooksFile,
    parse_file,
    read_operators_hooks,
    read_workspace_hooks,
)
from kheishd.kernel.lifecycle import HookSpec
from protocol.errors.daemon import ConfigInvalid
from protocol.limits.hook import MAX_HOOKS_FILE_BYTES, MAX_HOOKS_FILES

GUARD = """
[[hook]]
name = "guard"
event = "pre_tool_use"
matcher = "bash"
command = ["./guard.py", "--strict"]
failure = "closed"
timeout_s = 2
max_retries = 1
"""

SERVER = """
private_hosts = ["127.0.0.1"]

[[hook]]
name = "server"
event = "notification"
url = "http://127.0.0.1:8080/hook"
auth_ref = "env:HOOK_TOKEN"
auth_header = "x-token"
"""


def parse(text: str, *, is_operators: bool = True) -> list[HookSpec]:
    """Read a file of this text."""
    return parse_file(text.encode(), "/h/hooks/x.toml", is_operators=is_operators, directory="/h/hooks")


def test_every_key_is_read() -> None:
    """A command is a list or a line of the shell; a server has a URL and a credential."""
    (guard,) = parse(GUARD)
    assert guard == HookSpec(
        "guard",
        "pre_tool_use",
        "/h/hooks/x.toml",
        "/h/hooks",
        ("./guard.py", "--strict"),
        matcher="bash",
        policy="closed",
        timeout_s=2.0,
        max_retries=1,
    )
    (server,) = parse(SERVER)
    assert (server.url, server.auth_ref, server.auth_header) == (
        "http://127.0.0.1:8080/hook",
        "env:HOOK_TOKEN",
        "x-token",
    )
    assert server.private_hosts == ("127.0.0.1",)
    (line,) = parse('[[hook]]\nname = "a"\nevent = "stop"\ncommand = "date; true"')
    assert line.argv == ("/bin/sh", "-c", "date; true")
    assert (line.policy, line.timeout_s, line.max_retries) == ("open", 5.0, 0)
    assert parse("") == []


HEAD = '[[hook]]\nname = "a"\nevent = "stop"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[hook]]\nname = 'a'", "x.toml:1: hook[0]: the key 'event' is missing"),
        ("[[hook]]\nname = 'A b'", "x.toml:2: hook[0].name"),
        (
            "\n[[hook]]\nname = 'a'\nevent = 'stopp'\ncommand = 'x'",
            "x.toml:4: hook[0].event: expected one of",
        ),
        (f"{HEAD}comand = 'x'", "x.toml:4: hook[0].comand: unknown key; did you mean 'command'?"),
        (HEAD, "give either 'command' or 'url'"),
        (f"{HEAD}command = 'x'\nurl = 'https://e.org'", "give either 'command' or 'url'"),
        (f"{HEAD}command = []", "x.toml:4: hook[0].command"),
        (f'{HEAD}command = ["a\\u0000"]', "NUL"),
        (f'{HEAD}command = "a\\u0000"', "NUL"),
        (f"{HEAD}command = 'x'\ntimeout_s = 31", "x.toml:5: hook[0].timeout_s"),
        (f"{HEAD}command = 'x'\ntimeout_s = 0", "hook[0].timeout_s"),
        (f"{HEAD}command = 'x'\nmax_retries = 4", "hook[0].max_retries"),
        (f"{HEAD}command = 'x'\nauth_ref = 'env:X'", "only a hook with a 'url'"),
        (f"{HEAD}url = 'ftp://e.org'", "expected an http:// or https:// URL"),
        (f"{HEAD}url = 'http://e.org'", "needs https"),
        (f"{HEAD}url = 'https://a:b@e.org'", "holds no credential"),
        (f"{HEAD}url = 'https://e.org'\nauth_ref = 'sk-1234'", "hook[0].auth_ref"),
        (f"{HEAD}url = 'https://e.org'\nauth_header = 'a: b'", "hook[0].auth_header"),
        (f"{HEAD}url = 'https://e.org'\nauth_header = 'Host'", "sets this header itself"),
        (f"{HEAD}url = 'https://[::1'", "hook[0].url"),
        ("hook = 3", "hook"),
        ("[[hook]", "not TOML"),
        ("a = " + "[" * 5_000, "not TOML"),
        ("hooks = []", "did you mean 'hook'?"),
    ],
)
def test_problems_name_file_line_and_key(text: str, problem: str) -> None:
    """A file with a problem is not read at all."""
    with pytest.raises(InvalidHooksFile) as error:
        parse(text)
    assert problem in str(error.value)
    assert not error.value.may_guard


@pytest.mark.parametrize(
    "text",
    ['[[hook]]\nfailure = "closed"', "failure = closed", 'failure = "Close"', "# closed\n[["],
)
def test_a_file_that_may_hold_a_guard_is_marked(text: str) -> None:
    """Anything that may be meant as ``closed`` counts, even where the file is no TOML."""
    with pytest.raises(InvalidHooksFile) as error:
        parse(text)
    assert error.value.may_guard


def test_an_observer_cannot_fail_closed() -> None:
    """After the event there is nothing to block."""
    with pytest.raises(InvalidHooksFile, match="leave 'failure' out"):
        parse('[[hook]]\nname = "a"\nevent = "session_end"\ncommand = "x"\nfailure = "closed"')


def test_a_workspace_lists_no_private_hosts() -> None:
    """Only the operator opens the local network."""
    with pytest.raises(InvalidHooksFile, match="only a file of the operator"):
        parse(SERVER, is_operators=False)
    assert [hook.is_operators for hook in parse(GUARD, is_operators=False)] == [False]


def test_a_bad_file_is_skipped_and_a_bad_guard_is_refused(tmp_path: Path) -> None:
    """The order is that of the names; hidden files and others are ignored."""
    assert read_operators_hooks(tmp_path / "hooks") == ((), [])
    for name, text in (("b.toml", GUARD), ("a.toml", SERVER), (".c.toml", "["), ("d.toml~", "[")):
        (tmp_path / name).write_text(text)
    (tmp_path / "guard.py").touch(mode=0o755)
    hooks, problems = read_operators_hooks(tmp_path)
    assert ([hook.name for hook in hooks], problems) == (["server", "guard"], [])
    (tmp_path / "e.toml").write_text("[[")
    hooks, problems = read_operators_hooks(tmp_path)
    assert len(hooks) == 2
    assert problems[0].startswith("skipped the hooks in e.toml: not TOML")
    (tmp_path / "b.toml").write_text(GUARD.replace("bash", "ba\nsh"))
    with pytest.raises(ConfigInvalid, match=r"hooks/b.toml: not TOML.*fails closed, so it is not skipped"):
        read_operators_hooks(tmp_path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """They may hold a guard: a pipe, a directory, a huge file, another encoding, a file of another user."""
    path = tmp_path / "x.toml"
    os.mkfifo(path)
    with pytest.raises(ConfigInvalid, match="not a regular file"):
        read_operators_hooks(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigInvalid, match=r"x.toml: "):
        read_operators_hooks(tmp_path)
    path.rmdir()
    path.write_bytes(b"#" * (MAX_HOOKS_FILE_BYTES + 1))
    with pytest.raises(ConfigInvalid, match="larger than"):
        read_operators_hooks(tmp_path)
    path.write_bytes(b"# \n# \xff")
    with pytest.raises(ConfigInvalid, match=r"x.toml:2: not UTF-8"):
        read_operators_hooks(tmp_path)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        read_operators_hooks(tmp_path)


def test_names_are_unique_over_all_files(tmp_path: Path) -> None:
    """The second hook of a name makes its file invalid, which is refused if it has a guard."""
    (tmp_path / "a.toml").write_text(GUARD)
    (tmp_path / "b.toml").write_text('[[hook]]\nname = "guard"\nevent = "stop"\ncommand = "x"')
    hooks, problems = read_operators_hooks(tmp_path)
    assert (len(hooks), "b.toml: another hook is called 'guard'" in problems[-1]) == (1, True)
    (tmp_path / "b.toml").write_text(GUARD)
    with pytest.raises(ConfigInvalid, match="another hook is called 'guard'"):
        read_operators_hooks(tmp_path)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    """The limit is named."""
    for number in range(MAX_HOOKS_FILES + 1):
        (tmp_path / f"{number}.toml").touch()
    with pytest.raises(ConfigInvalid, match=f"the maximum is {MAX_HOOKS_FILES}"):
        read_operators_hooks(tmp_path)


def test_a_workspace_file_is_not_behind_a_link(tmp_path: Path) -> None:
    """What lies elsewhere was not trusted."""
    root = tmp_path.resolve()
    (root / "w/.kheish").mkdir(parents=True)
    (root / "w/.kheish/hooks.toml").write_text(GUARD)
    (hook,) = read_workspace_hooks(f"{root}/w")
    assert (hook.directory, hook.is_operators) == (f"{root}/w", False)
    (root / "v").mkdir()
    (root / "v/.kheish").symlink_to("../w/.kheish")
    with pytest.raises(InvalidHooksFile, match="behind one"):
        read_workspace_hooks(f"{root}/v")


def test_a_missing_program_is_a_warning(tmp_path: Path) -> None:
    """A program that cannot be run is named at a reload, and so is the effect of a guard without it."""
    (tmp_path / "a.toml").write_text(GUARD)
    (tmp_path / "b.toml").write_text('[[hook]]\nname = "b"\nevent = "stop"\ncommand = "./b.sh -v | wc"')
    (tmp_path / "c.toml").write_text('[[hook]]\nname = "c"\nevent = "stop"\ncommand = ["true"]')
    hooks, problems = read_operators_hooks(tmp_path)
    assert len(hooks) == 3
    assert problems == [
        f"the program ./guard.py of the hook 'guard' is missing or not executable, so all that it guards is "
        f"blocked; create it in {tmp_path}, or make it executable",
        f"the program ./b.sh of the hook 'b' is missing or not executable; create it in {tmp_path}, "
        "or make it executable",
    ]
    for name in ("guard.py", "b.sh"):
        (tmp_path / name).touch(mode=0o755)
    assert read_operators_hooks(tmp_path)[1] == []


@pytest.mark.parametrize("end", ["", "["])
def test_an_escape_hides_no_guard(end: str) -> None:
    """A file that may hold a guard in other letters is not skipped, whether it is TOML or not."""
    with pytest.raises(InvalidHooksFile) as error:
        parse('[[hook]]\nfailure = "\\u0063l\\u006fsed"\n' + end)
    assert error.value.may_guard
