"""Rules for commands, and approvals that are remembered, in a real daemon that runs real commands."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemon, short_home
from tests.support.waiting_runs import order

CONFIG = """
[workspace]
sandbox = "off"
unsandboxed = "allow"

[permissions]
rules = [
    {tool = "bash", subject = "printf *", decision = "allow"},
    {tool = "bash", subject = "test *", decision = "allow"},
    {tool = "bash", subject = "git *", decision = "allow"},
    {tool = "bash", subject = "find *", decision = "allow"},
    {tool = "bash", subject = "cat *", decision = "allow"},
    {tool = "bash", subject = "touch forbidden*", decision = "deny"},
    {tool = "bash", subject = "git push*", decision = "deny"},
    {tool = "bash", subject = "for f in a b; do touch $f; done", decision = "allow"},
]
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon with rules for commands."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(CONFIG)
        with Daemon(home) as daemon:
            (home / "workspace").mkdir(exist_ok=True)
            yield daemon


@pytest.fixture
def workspace(daemon: Daemon) -> Path:
    """Provide the agent's workspace."""
    return daemon.home / "workspace"


def start(daemon: Daemon, sender: str, command: str, **arguments: Any) -> dict[str, Any]:
    """Let the agent run a command; return the result of the send."""
    sent: dict[str, Any] = daemon.say(order("bash", command=command, **arguments), sender=sender)
    return sent


def test_the_process_of_each_command_is_in_the_journal(daemon: Daemon) -> None:
    """A command's process is journaled between its begin and its result, however short it is."""
    session_id = start(daemon, "quick", "printf quick")["session_id"]
    lines = daemon.call("session.export", session_id=session_id)["lines"]
    types = [json.loads(line)["event"]["type"] for line in lines if '"tool_' in line]
    assert [name for name in types if name.startswith("tool_")] == [
        "tool_called",
        "tool_observed",
        "tool_returned",
    ]


def pending_of(daemon: Daemon, sent: dict[str, Any]) -> dict[str, Any] | None:
    """Return the approval that a run waits for, or None."""
    approvals = daemon.call("approval.list", run_id=sent["run_id"])["approvals"]
    return approvals[0] if approvals else None


def answer(daemon: Daemon, sent: dict[str, Any], **resolution: Any) -> None:
    """Answer the approval of a run, and wait for its end."""
    pending = pending_of(daemon, sent)
    assert pending is not None
    daemon.call("approval.resolve", resolutions=[{"approval_id": pending["approval_id"], **resolution}])
    daemon.call("run.wait", run_id=sent["run_id"])


@pytest.mark.parametrize(
    "command",
    [
        "printf -v 'a[$'$'\\x28''touch ran)]' %s x",
        "printf -v 'a[0]' x && touch ran",
        "printf %s $(touch ran)",
        'printf %s "`touch ran`"',
        "printf x > ran",
        "printf x; touch ran",
        "printf x\ntouch ran",
        "printf x & touch ran",
        "test -v 'a[$(touch ran)]'",
        "test x || touch ran",
        "git -c alias.x='!touch ran' x",
        "git -c core.pager='touch ran' -p version",
        "find . -maxdepth 0 -exec touch ran ;",
        "find . -maxdepth 0 -fprint ran",
        "cat <(touch ran)",
        "cat <<< $(touch ran)",
        "cat notes\u3164; touch ran",
        "PATH=. cat x",
        "eval 'touch ran'",
        "{ touch ran; }",
        "! touch ran",
        "if true; then touch ran; fi",
        "for f in a; do touch ran; done",
        "cat *",
    ],
)
def test_a_rule_for_one_command_allows_no_other(daemon: Daemon, workspace: Path, command: str) -> None:
    """A line that runs, or may run, more than its rules name is asked about, and nothing has run."""
    sent = start(daemon, "careful", command)
    assert pending_of(daemon, sent) is not None
    answer(daemon, sent, decision="deny")
    assert not (workspace / "ran").exists()


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("printf '%s-%s' a 'b c'", "a-b c"),
        ("test -d . && printf yes | cat -u 2>/dev/null", "yes"),
        ("timeout 10 env LC_ALL=C printf ok", "ok"),
        ("git  'version'", "git version"),
        ("find . -maxdepth 0 -name .", "."),
        ("for f in a b; do touch $f; done", '"exit_code":0'),
    ],
)
def test_a_line_of_allowed_commands_runs(daemon: Daemon, command: str, output: str) -> None:
    """A line whose commands are all allowed runs at once, and so does a line that a rule has in full."""
    sent = start(daemon, "busy", command)
    assert pending_of(daemon, sent) is None
    assert output in sent["output"].replace("\\n", "")


@pytest.mark.parametrize(
    "command",
    [
        "touch forbidden",
        "/usr/bin/touch forbidden",
        "printf x && touch forbidden",
        "sh -c 'touch forbidden'",
        "echo $(touch forbidden)",
        "while touch forbidden; do break; done",
        "'tou'ch  forbidden-too",
        'A=1 touch forbidden "$B"',
        "2>/dev/null touch forbidden $B",
        "touch >/dev/null forbidden $B",
        "if A=1 touch forbidden; then :; fi",
        "coproc touch forbidden; wait",
        "$'touch' forbidden",
        "to\\\nuch forbidden",
        "git -C . push origin",
        'git --no-pager push origin "$B"',
    ],
)
def test_a_deny_holds_wherever_its_command_is(daemon: Daemon, workspace: Path, command: str) -> None:
    """A denied command is found in lists, substitutions, loops and behind wrappers."""
    sent = start(daemon, "denied", command)
    assert "This was not allowed" in sent["output"]
    assert not (workspace / "forbidden").exists()


def test_a_rule_for_git_runs_no_program_that_the_line_names(daemon: Daemon) -> None:
    """Subcommands that run a program of their line, and aliases, need a rule that names them."""
    for command in ("merge-index ./x -a", "submodule--helper foreach x", "merge -s ../x y", "some-alias"):
        explanation = daemon.call("permission.why", tool="bash", subject=f"git {command}")
        assert explanation["decision"] == "ask"
    assert daemon.call("permission.why", tool="bash", subject="git merge x")["decision"] == "allow"


def test_why_shows_how_a_line_was_read(daemon: Daemon) -> None:
    """The explanation lists each command with its words and rule, and what was not understood and where."""
    explanation = daemon.call("permission.why", tool="bash", subject="git 'log' | cat -")
    assert [(claim["words"], claim["says"]) for claim in explanation["claims"] if "words" in claim] == [
        (["git", "log"], "allow"),
        (["cat", "-"], "allow"),
    ]
    assert explanation["decision"] == "allow"
    explanation = daemon.call("permission.why", tool="bash", subject="git log $x")
    assert explanation["decision"] == "ask"
    assert explanation["claims"][0]["problem"] == "not understood: an expansion at column 9"


def test_a_grant_is_for_exactly_what_was_shown(daemon: Daemon, workspace: Path) -> None:
    """A remembered approval holds for the same command in the same place, and is asked about elsewhere."""
    (workspace / "sub").mkdir(exist_ok=True)
    for directory in (workspace, workspace / "sub"):
        (directory / "report.sh").write_text("echo reported\n")
    sent = start(daemon, "grants", "sh ./report.sh")
    pending = pending_of(daemon, sent)
    assert pending is not None
    assert pending["facts"]["workdir"] == str(workspace)
    assert "sandbox" in pending["facts"]
    answer(daemon, sent, decision="allow", remember="session")
    assert "reported" in start(daemon, "grants", "sh ./report.sh")["output"]
    for arguments in ({"workdir": "sub"}, {"run_in_background": True}, {"network": ["pypi.org"]}):
        sent = start(daemon, "grants", "sh ./report.sh", **arguments)
        assert pending_of(daemon, sent) is not None, arguments
        answer(daemon, sent, decision="deny")
    sent = start(daemon, "grants", "sh  ./report.sh")
    assert pending_of(daemon, sent) is not None
    answer(daemon, sent, decision="deny")
    session_id = daemon.call("run.get", run_id=sent["run_id"])["session_id"]
    layers = daemon.call("permission.list", session_id=session_id)["permissions"]
    (grant,) = [grant for layer in layers for grant in layer.get("grants", ())]
    assert grant["facts"]["workdir"] == str(workspace)
    explanation = daemon.call(
        "permission.why", tool="bash", subject="sh ./report.sh", session_id=session_id, facts=grant["facts"]
    )
    assert (explanation["decision"], explanation["why"]) == ("allow", f"grant {grant['grant_id']}")
    assert json.dumps(layers).count("report.sh") == 1
