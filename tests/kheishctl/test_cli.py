"""The frame of every command."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from kheishctl import exit_codes
from kheishctl.cli import App, LazyGroup, command, make_group, note_next_page, use_color
from kheishctl.client import Failure, RequestRefused
from kheishctl.options import Duration, drop_unset, filter_plain_names
from kheishctl.program import ENTRIES, root
from protocol.rpc.catalogue import METHODS
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon

BY_CALL_ONLY = {"rpc.ping", "rpc.discover", "rpc.cancel", "journal.unsubscribe", "event.unsubscribe"}
"""Methods without a command: they are about a connection, which a command does not keep."""

NOT_OPTIONS = {
    "agent.spawn": {"budget"},
    "agent.explain": {"spawn"},
    "goal.set": {"budget"},
    "cron.create": {"target"},
    "cron.update": {"target"},
    "session.create": {"budget"},
    "session.update": {"budget"},
    # Given by the command itself.
    "conversation.send": {
        *("content", "wait", "stream", "timeout_s", "budget", "completion_requirements"),
        # The directory in which the command runs.
        "cwd",
    },
    "workspace.get": {"path"},
    "session.send": {"content", "wait", "stream", "timeout_s", "budget", "completion_requirements"},
    "conversation.steer": {"content"},
    "conversation.compact": {"wait", "timeout_s"},
    "session.compact": {"wait", "timeout_s"},
    "session.steer": {"content"},
    "persona.import": {"filename"},
    "memory.export": {"limit", "after"},
    # It writes many files, each with a request of its own.
    "memory.import": {"content", "filename", "idempotency_key"},
    "run.list": {"order"},
    "session.list": {"order"},
    "session.history": {"order"},
    "conversation.history": {"order"},
    "journal.read": {"order"},
    "permission.audit": {"order"},
    "permission.update": {"add"},
    "approval.resolve": {"resolutions"},
    "session.import": {"lines", "session_id", "last_hash", "more"},
    "session.export": {"limit", "after"},
    "journal.subscribe": {"subscription"},
    "event.subscribe": {"subscription"},
    "trigger.create": {"target"},
    # Asked for, or read from the standard input.
    "secret.put": {"value"},
    "mcp.login_complete": {"code", "state", "iss"},
    "mcp.login": {"redirect_uri"},
    # Given by the command, which prints an artifact whole.
    "run.debug": {"offset", "limit"},
    # Given by the command, which goes on where it was.
    "task.output": {"offset"},
    # Given with another name.
    "run.wait": {"timeout_s"},
    "token.create": {"expires_in_s"},
    "token.narrow": {"expires_in_s"},
    "daemon.shutdown": {"drain_s"},
}
UNREACHABLE = {
    "agent.spawn": {"input_items"},  # Ordered items are of use with assets, which do not exist yet.
    "conversation.send": {"input_items", "reply_targets"},  # Assets and deliveries do not exist yet.
    "session.send": {"input_items"},
    "conversation.steer": {"input_items"},
    "session.steer": {"input_items"},
}


def list_commands(command: click.Command = root, path: str = "kheishctl") -> list[tuple[str, click.Command]]:
    """Return every command with its path, without groups."""
    if not isinstance(command, click.Group):
        return [(path, command)]
    ctx = click.Context(command)
    leaves = []
    for name in command.list_commands(ctx):
        inner = command.get_command(ctx, name)
        assert inner is not None, name
        leaves += list_commands(inner, f"{path} {name}")
    return leaves


COMMANDS = list_commands()
OF_METHOD = {getattr(command, "method", None): command for _, command in COMMANDS}


def test_every_method_has_a_command() -> None:
    """Every method has a command, and every command's method exists."""
    assert set(OF_METHOD) - {None} == METHODS.keys() - BY_CALL_ONLY


@pytest.mark.parametrize("name", sorted(METHODS.keys() - BY_CALL_ONLY))
def test_every_param_can_be_given(name: str) -> None:
    """Every param of a method is an option or argument of its command, or set by it."""
    fields = set(METHODS[name].params.__struct_fields__)
    parameters = {str(parameter.name) for parameter in OF_METHOD[name].params}
    excused = NOT_OPTIONS.get(name, set()) | UNREACHABLE.get(name, set())
    assert fields - parameters == excused & fields


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_explains_itself(path: str, command: click.Command) -> None:
    """Every command and parameter has a help text, and every command has examples."""
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path}: {parameter.name}"
    examples = getattr(command, "examples", ())
    assert examples, "the README says that there are some"
    for example in examples:
        assert path.removeprefix("kheishctl ").split()[-1] in example or "kheishctl send" in example


def test_summaries_are_the_commands_own() -> None:
    """The summaries on the first page equal the first sentences of the commands' help."""
    for rows in ENTRIES.values():
        for name, _, summary in rows:
            command = root.get_command(click.Context(root), name)
            assert command is not None
            assert (command.help or "").startswith(summary.rstrip("."))


def test_first_page_imports_no_command() -> None:
    """The first page of help shows every command without importing one."""
    result = CliRunner().invoke(root, ["--help"])
    assert result.exit_code == 0
    for rows in ENTRIES.values():
        for name, _, summary in rows:
            assert name in result.output
            assert summary in result.output
    assert "124  timed out waiting" in result.output


@pytest.mark.parametrize("noun", ["session", "run", "conversation", "definition", "route"])
def test_get_is_a_hidden_alias_of_show(noun: str) -> None:
    """The former name of a command still works, and no help mentions it."""
    group = root.get_command(click.Context(root), noun)
    assert isinstance(group, click.Group)
    ctx = click.Context(group)
    assert group.get_command(ctx, "get") is group.get_command(ctx, "show")
    assert "get" not in group.list_commands(ctx)


def test_an_unknown_command_is_a_usage_error() -> None:
    """An unknown command exits with the code for usage errors."""
    result = CliRunner().invoke(root, ["statsu"])
    assert result.exit_code == exit_codes.USAGE
    assert isinstance(root, LazyGroup)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (["statsu"], "Did you mean 'kheishctl status' or 'kheishctl task'?"),
        (["agents", "list"], "Did you mean 'kheishctl agent list'?"),
        (["history"], "Did you mean 'kheishctl conversation history' or 'kheishctl session history'?"),
        (["conv", "list"], "Did you mean 'kheishctl conversation'?"),
        (["session", "lsit"], "Did you mean 'kheishctl session list'?"),
        (["qqqq"], "No such command 'qqqq'."),
    ],
)
def test_suggestions(line: list[str], meant: str) -> None:
    """A mistyped word, a synonym and a misplaced word each lead to a suggestion."""
    result = CliRunner().invoke(root, line, prog_name="kheishctl")
    assert result.exit_code == exit_codes.USAGE
    assert result.stderr.endswith(f"{meant}\n")


@pytest.mark.parametrize("line", [["statsu"], ["send", "--ass"], ["send", "default"], ["--frob"], ["run"]])
def test_usage_errors_as_json(line: list[str]) -> None:
    """With --json, a usage error is a JSON document; a group alone shows its help."""
    result = CliRunner().invoke(root, [*line, "--json"], input="")
    assert result.exit_code == exit_codes.USAGE
    if line != ["run"]:
        assert json.loads(result.stdout)["error"]["data"] == {"reason": "usage"}
        assert not result.stderr


def test_common_options_go_anywhere(daemon: Daemon) -> None:
    """Common options are accepted before, between and after the names."""
    home = str(daemon.home)
    for line in (
        ["--home", home, "--json", "run", "list"],
        ["run", "--home", home, "list", "--json"],
        ["run", "--json", "list", "--home", home],
        ["run", "--json", "list", "--socket", str(daemon.socket)],
    ):
        result = CliRunner().invoke(root, line)
        assert (result.exit_code, result.output[:8]) == (0, '{"runs":'), result.output


def test_the_home_of_the_environment(daemon: Daemon) -> None:
    """Without --home, $KHEISH_HOME is the home."""
    result = CliRunner(env={"KHEISH_HOME": str(daemon.home)}).invoke(root, ["status", "--json"])
    assert result.exit_code == 0


def run(function: Any, *line: str) -> Any:
    """Run a command made from a function."""
    return CliRunner().invoke(command(None, "x", help="x")(function), line)


def raising(error: BaseException) -> Any:
    """Return a command that raises an error."""

    def function(app: App) -> None:
        raise error

    return function


def test_failures_become_messages() -> None:
    """A failure prints one line with its hint on standard error and exits with its code."""
    refused = RequestRefused({"code": 1403, "message": "no\x1b", "data": {"hint": "ask"}})
    result = run(raising(refused))
    assert (result.exit_code, result.stdout) == (exit_codes.FAILED, "")
    assert result.stderr == "kheishctl: no␛\n  hint: ask\n"


def test_failures_become_json() -> None:
    """With --json, a failure prints one JSON document on standard output and nothing else."""
    result = run(raising(Failure("no")), "--json")
    assert (result.exit_code, result.stderr) == (exit_codes.FAILED, "")
    assert result.stdout == '{"error":{"code":null,"message":"no","data":{"reason":"failed"}}}\n'


def test_system_errors_become_messages(tmp_path: Path) -> None:
    """An error of the operating system names the file, without a traceback."""
    (tmp_path / "file").touch()
    result = run(raising(NotADirectoryError(20, "Not a directory", "/x/run")))
    assert (result.exit_code, result.stderr) == (exit_codes.FAILED, "kheishctl: /x/run: Not a directory\n")
    done = Ctl(tmp_path / "file")("daemon", "start")
    assert (done.code, done.err) == (
        exit_codes.FAILED,
        f"kheishctl: {tmp_path / 'file' / 'run'}: Not a directory\n",
    )


def test_ctrl_c_has_its_own_code() -> None:
    """Ctrl-C has an exit code of its own."""
    assert run(raising(KeyboardInterrupt())).exit_code == exit_codes.INTERRUPTED


@pytest.mark.parametrize(
    ("home", "path", "line"),
    [
        (None, None, "kheishctl send 'a b'"),
        ("/h h", None, "kheishctl --home '/h h' send 'a b'"),
        (None, "/s", "kheishctl --socket /s send 'a b'"),
    ],
)
def test_command_line(home: str | None, path: str | None, line: str) -> None:
    """A command line addresses the same daemon and is quoted and sanitized."""
    app = App(home, path, as_json=False)
    assert app.command_line("send", "a b") == line
    assert app.command_line("send", "a\x1b\nb").endswith("send 'a␛ b'")


def test_drop_unset() -> None:
    """Params without a value are dropped, and a zero stays."""
    assert drop_unset(a=None, b=False, c=(), d="", e=0, f="x", g=[]) == {"e": 0, "f": "x"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000)]
)
def test_duration(text: str, seconds: float) -> None:
    """A number is seconds, unless a letter gives another unit."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "soon", "-5s", "0", "inf", "nan", "1e999h"])
def test_invalid_durations(text: str) -> None:
    """Text that is not a length of time is a usage error."""
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_pages(ctl: Ctl, sender: str) -> None:
    """--all joins every page; without it, the page ends with its token."""
    for number in range(3):
        ctl.json("session", "create", "--title", f"{sender}-{number}")
    page = ctl.json("session", "list", "--limit", "2")
    assert len(page["sessions"]) == 2
    assert page["next"] is not None
    every = ctl.json("session", "list", "--limit", "2", "--all")
    assert every["next"] is None
    titles = [row.get("title") for row in every["sessions"]]
    assert [title for title in titles if title and title.startswith(sender)] == [
        f"{sender}-2",
        f"{sender}-1",
        f"{sender}-0",
    ]
    rest = ctl.json("session", "list", "--after", page["next"], "--limit", "1")
    assert rest["sessions"][0] == every["sessions"][2]


def complete(*words: str, home: str) -> list[str]:
    """Return the complete of the last word."""
    environ = {"_KHEISHCTL_COMPLETE": "bash_complete", "KHEISH_HOME": home}
    environ |= {"COMP_WORDS": " ".join(["kheishctl", *words]), "COMP_CWORD": str(len(words))}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        result = CliRunner().invoke(root, [], prog_name="kheishctl", complete_var="_KHEISHCTL_COMPLETE")
    return [line.partition(",")[2] for line in result.output.splitlines() if line]


def test_completion_of_commands(daemon: Daemon) -> None:
    """Commands and options complete."""
    home = str(daemon.home)
    assert complete("con", home=home) == ["conversation"]
    assert "--json" in complete("run", "list", "--js", home=home)


def test_completion_asks_the_daemon(daemon: Daemon, ctl: Ctl, sender: str) -> None:
    """Agents, senders, sessions and runs complete by the daemon's names."""
    sent = ctl.json("send", "default", "hi", "--as", sender)
    home = str(daemon.home)
    assert complete("send", "def", home=home) == ["default"]
    assert sender in complete("send", "--as", sender[:7], home=home)
    assert complete("session", "show", sent["session_id"][:-1], home=home) == [sent["session_id"]]
    assert complete("run", "show", sent["run_id"][:-1], home=home) == [sent["run_id"]]
    ctl.json("memory", "remember", f"{sender}-note", "x")
    assert complete("memory", "show", f"{sender}-", home=home) == [f"{sender}-note"]
    assert complete("memory", "show", "--agent", "nobody", f"{sender}-", home=home) == []
    assert complete("--home", home, "route", "show", "off", home="/nowhere") == ["offline"]


def test_completion_without_a_daemon_is_empty(tmp_path: Any) -> None:
    """Without a daemon, completion offers nothing and does not wait."""
    assert complete("send", "d", home=str(tmp_path)) == []


def test_completion_leaves_out_names_that_shells_would_split(daemon: Daemon, ctl: Ctl, sender: str) -> None:
    """A name with a space is not offered."""
    ctl.json("send", "default", "hi", "--as", f"{sender} x")
    assert complete("send", "--as", f"{sender}", home=str(daemon.home)) == []


@pytest.mark.parametrize(
    "name",
    [
        "$(id)",
        "`id`",
        "${HOME}",
        "a;id",
        "a|id",
        "a&id",
        "a>x",
        "~root",
        "-x",
        "*",
        "{a,b}",
        "!x",
        "=ls",
        "'",
        "\\",
    ],
)
def test_completion_leaves_out_names_that_mean_something_to_a_shell(name: str) -> None:
    """A name with a special meaning to a shell is not offered."""
    inside = f"a{name}b" if name != "-x" else name
    rows = [{"sender": plain} for plain in (name, inside, "Jürgen", "ada@x.org", "a:b-c_d,e/f+1")]
    assert list(filter_plain_names(rows, "sender", "")) == ["Jürgen", "ada@x.org", "a:b-c_d,e/f+1"]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_terminals_receive_sanitized_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal receives text sanitized except for styles; a pipe receives it unchanged."""
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    app = App(None, None, as_json=False)
    app.print("\x1b[1mbold\x1b[0m \x1b]52;c;ZXZpbA==\x07 \x9b2J")
    assert out.getvalue() == "\x1b[1mbold\x1b[0m ␛]52;c;ZXZpbA==␇ \N{REPLACEMENT CHARACTER}2J\n"
    note_next_page(app, "default\n$(id)\x1b]0;x\x07")
    assert "more: --after 'default\n$(id)␛]0;x␇', or --all" in err.getvalue()
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
    app.print("\x1b[2J")
    assert pipe.getvalue() == "\x1b[2J\n"


def test_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colors need a terminal with colors and no NO_COLOR."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert use_color(True)
    assert not use_color(False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not use_color(True)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not use_color(True)


def test_a_group_shows_its_help() -> None:
    """A group shows its help."""
    group = make_group("thing", "Things.")
    result = CliRunner().invoke(group, ["--help"])
    assert "Things." in result.output
