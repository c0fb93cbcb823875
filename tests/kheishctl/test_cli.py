"""What every command is made of."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from kheishctl import exits
from kheishctl.__main__ import ENTRIES, root
from kheishctl.cli import App, LazyGroup, command, make_group, note_next_page, use_color
from kheishctl.client import Failure, RequestRefused
from kheishctl.options import Duration, drop_unset, filter_plain_names
from protocol.rpc.catalogue import METHODS
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon

BY_CALL_ONLY = {"rpc.ping", "rpc.discover", "rpc.cancel", "journal.unsubscribe"}
"""Methods without a command of their own: they are about a connection, which a command does not keep."""

NOT_OPTIONS = {
    # Given by the command itself.
    "conversation.send": {"content", "wait", "stream", "timeout_s", "budget", "completion_requirements"},
    "session.send": {"content", "wait", "stream", "timeout_s", "budget", "completion_requirements"},
    "conversation.steer": {"content"},
    "conversation.compact": {"wait", "timeout_s"},
    "session.compact": {"wait", "timeout_s"},
    "session.steer": {"content"},
    "run.list": {"order"},
    "session.list": {"order"},
    "session.history": {"order"},
    "conversation.history": {"order"},
    "journal.read": {"order"},
    "permission.audit": {"order"},
    "permission.update": {"add"},
    "approval.resolve": {"resolutions"},
    "session.import": {"lines", "session_id", "last_hash"},
    "session.export": {"limit", "after"},
    "journal.subscribe": {"subscription"},
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
    "conversation.send": {"input_items", "reply_targets"},  # Assets and deliveries do not exist yet.
    "session.send": {"input_items"},
    "conversation.steer": {"input_items"},
    "session.steer": {"input_items"},
}


def commands(command: click.Command = root, path: str = "kheishctl") -> list[tuple[str, click.Command]]:
    """Every command there is, groups left out, with its path."""
    if not isinstance(command, click.Group):
        return [(path, command)]
    ctx = click.Context(command)
    found = []
    for name in command.list_commands(ctx):
        inner = command.get_command(ctx, name)
        assert inner is not None, name
        found += commands(inner, f"{path} {name}")
    return found


COMMANDS = commands()
OF_METHOD = {getattr(command, "method", None): command for _, command in COMMANDS}


def test_every_method_has_a_command() -> None:
    """Whatever the contract has can be done by a command, and no command stands for a method that is not."""
    assert set(OF_METHOD) - {None} == METHODS.keys() - BY_CALL_ONLY


@pytest.mark.parametrize("name", sorted(METHODS.keys() - BY_CALL_ONLY))
def test_every_param_can_be_given(name: str) -> None:
    """Each param of a method is a parameter of its command, or is given by the command."""
    fields = set(METHODS[name].params.__struct_fields__)
    parameters = {str(parameter.name) for parameter in OF_METHOD[name].params}
    excused = NOT_OPTIONS.get(name, set()) | UNREACHABLE.get(name, set())
    assert fields - parameters == excused & fields


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_explains_itself(path: str, command: click.Command) -> None:
    """Help texts for the command and all it takes; examples that the command line understands."""
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path}: {parameter.name}"
    examples = getattr(command, "examples", ())
    assert examples, "the README says that there are some"
    for example in examples:
        assert path.removeprefix("kheishctl ").split()[-1] in example or "kheishctl send" in example


def test_summaries_are_the_commands_own() -> None:
    """What the first page says of a command is what the command says of itself."""
    for rows in ENTRIES.values():
        for name, _, summary in rows:
            command = root.get_command(click.Context(root), name)
            assert command is not None
            assert (command.help or "").startswith(summary.rstrip("."))


def test_help_is_fast_to_make() -> None:
    """The first page is made without importing a command."""
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
    """Exit code 2, and the nearest ones are named."""
    result = CliRunner().invoke(root, ["statsu"])
    assert result.exit_code == exits.USAGE
    assert isinstance(root, LazyGroup)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (["statsu"], "Did you mean 'kheishctl status' or 'kheishctl task'?"),
        (["agent", "list"], "Did you mean 'kheishctl definition'?"),
        (["history"], "Did you mean 'kheishctl conversation history' or 'kheishctl session history'?"),
        (["session", "lsit"], "Did you mean 'kheishctl session list'?"),
        (["qqqq"], "No such command 'qqqq'."),
    ],
)
def test_what_may_be_meant_is_named(line: list[str], meant: str) -> None:
    """A mistyped word, another word for it, a word that belongs behind another."""
    result = CliRunner().invoke(root, line, prog_name="kheishctl")
    assert result.exit_code == exits.USAGE
    assert result.stderr.endswith(f"{meant}\n")


@pytest.mark.parametrize("line", [["statsu"], ["send", "--ass"], ["send", "default"], ["--frob"], ["run"]])
def test_a_wrong_line_is_json_where_that_is_wanted(line: list[str]) -> None:
    """Whoever asked for JSON need not read anything else; a group alone shows what it has."""
    result = CliRunner().invoke(root, [*line, "--json"], input="")
    assert result.exit_code == exits.USAGE
    if line != ["run"]:
        assert json.loads(result.stdout)["error"]["data"] == {"reason": "usage"}
        assert not result.stderr


def test_common_options_go_anywhere(daemon: Daemon) -> None:
    """--home and --json are understood before, between and after the names."""
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
    """$KHEISH_HOME is the home where no option says."""
    result = CliRunner(env={"KHEISH_HOME": str(daemon.home)}).invoke(root, ["status", "--json"])
    assert result.exit_code == 0


def run(function: Any, *line: str) -> Any:
    """Run a command made of a function."""
    return CliRunner().invoke(command(None, "x", help="x")(function), line)


def raising(error: BaseException) -> Any:
    """A command that raises."""

    def function(app: App) -> None:
        raise error

    return function


def test_failures_become_messages() -> None:
    """A failure is one line on standard error, with its hint, and its exit code."""
    refused = RequestRefused({"code": 1403, "message": "no\x1b", "data": {"hint": "ask"}})
    result = run(raising(refused))
    assert (result.exit_code, result.stdout) == (exits.FAILED, "")
    assert result.stderr == "kheishctl: no␛\n  hint: ask\n"


def test_failures_become_json() -> None:
    """With --json a failure is one document on standard output, and nothing else."""
    result = run(raising(Failure("no")), "--json")
    assert (result.exit_code, result.stderr) == (exits.FAILED, "")
    assert result.stdout == '{"error":{"code":null,"message":"no","data":{"reason":"failed"}}}\n'


def test_what_the_system_refuses_becomes_a_message(tmp_path: Path) -> None:
    """A home that cannot be made is named, without a traceback."""
    (tmp_path / "file").touch()
    result = run(raising(NotADirectoryError(20, "Not a directory", "/x/run")))
    assert (result.exit_code, result.stderr) == (exits.FAILED, "kheishctl: /x/run: Not a directory\n")
    done = Ctl(tmp_path / "file")("daemon", "start")
    assert (done.code, done.err) == (
        exits.FAILED,
        f"kheishctl: {tmp_path / 'file' / 'run'}: Not a directory\n",
    )


def test_ctrl_c_has_its_own_code() -> None:
    """Stopping a command is neither success nor failure."""
    assert run(raising(KeyboardInterrupt())).exit_code == exits.INTERRUPTED


@pytest.mark.parametrize(
    ("home", "path", "line"),
    [
        (None, None, "kheishctl send 'a b'"),
        ("/h h", None, "kheishctl --home '/h h' send 'a b'"),
        (None, "/s", "kheishctl --socket /s send 'a b'"),
    ],
)
def test_a_command_to_be_typed(home: str | None, path: str | None, line: str) -> None:
    """It goes to the same daemon, and means what it says to a shell; nothing in it acts."""
    app = App(home, path, as_json=False)
    assert app.command_line("send", "a b") == line
    assert app.command_line("send", "a\x1b\nb").endswith("send 'a␛ b'")


def test_given_leaves_out_what_was_not() -> None:
    """Only what the command line says is sent; a zero was said."""
    assert drop_unset(a=None, b=False, c=(), d="", e=0, f="x", g=[]) == {"e": 0, "f": "x"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000)]
)
def test_duration(text: str, seconds: float) -> None:
    """Numbers are seconds; a letter says another unit."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "soon", "-5s", "0", "inf", "nan", "1e999h"])
def test_duration_refuses(text: str) -> None:
    """What is no length of time is a usage error."""
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_pages_are_put_together(ctl: Ctl, sender: str) -> None:
    """--all goes through every page; without it one page and where to go on."""
    for number in range(3):
        ctl.json("session", "create", "--title", f"{sender}-{number}")
    one = ctl.json("session", "list", "--limit", "2")
    assert len(one["sessions"]) == 2
    assert one["next"] is not None
    every = ctl.json("session", "list", "--limit", "2", "--all")
    assert every["next"] is None
    titles = [row.get("title") for row in every["sessions"]]
    assert [title for title in titles if title and title.startswith(sender)] == [
        f"{sender}-2",
        f"{sender}-1",
        f"{sender}-0",
    ]
    after = ctl.json("session", "list", "--after", one["next"], "--limit", "1")
    assert after["sessions"][0] == every["sessions"][2]


def completions(*words: str, home: str) -> list[str]:
    """What a shell is offered for the last word."""
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
    assert completions("con", home=home) == ["conversation"]
    assert "--json" in completions("run", "list", "--js", home=home)


def test_completion_asks_the_daemon(daemon: Daemon, ctl: Ctl, sender: str) -> None:
    """Agents, senders, sessions and runs complete by what there is."""
    sent = ctl.json("send", "default", "hi", "--as", sender)
    home = str(daemon.home)
    assert completions("send", "def", home=home) == ["default"]
    assert sender in completions("send", "--as", sender[:7], home=home)
    assert completions("session", "show", sent["session_id"][:-1], home=home) == [sent["session_id"]]
    assert completions("run", "show", sent["run_id"][:-1], home=home) == [sent["run_id"]]
    assert completions("--home", home, "route", "show", "off", home="/nowhere") == ["offline"]


def test_completion_without_a_daemon_is_empty(tmp_path: Any) -> None:
    """Nothing is offered, nothing is said, and nothing waits."""
    assert completions("send", "d", home=str(tmp_path)) == []


def test_completion_leaves_out_names_that_shells_would_split(daemon: Daemon, ctl: Ctl, sender: str) -> None:
    """A sender with a space in it is not offered."""
    ctl.json("send", "default", "hi", "--as", f"{sender} x")
    assert completions("send", "--as", f"{sender}", home=str(daemon.home)) == []


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
    """A shell puts what it is offered on its command line as it is."""
    inside = f"a{name}b" if name != "-x" else name
    rows = [{"sender": each} for each in (name, inside, "Jürgen", "ada@x.org", "a:b-c_d,e/f+1")]
    assert list(filter_plain_names(rows, "sender", "")) == ["Jürgen", "ada@x.org", "a:b-c_d,e/f+1"]


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def test_nothing_but_styles_acts_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a daemon says, or what poses as one; a pipe gets a result as it is."""
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    app = App(None, None, as_json=False)
    app.say("\x1b[1mbold\x1b[0m \x1b]52;c;ZXZpbA==\x07 \x9b2J")
    assert out.getvalue() == "\x1b[1mbold\x1b[0m ␛]52;c;ZXZpbA==␇ \N{REPLACEMENT CHARACTER}2J\n"
    note_next_page(app, "default\n$(id)\x1b]0;x\x07")
    assert "more: --after 'default\n$(id)␛]0;x␇', or --all" in err.getvalue()
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
    app.say("\x1b[2J")
    assert pipe.getvalue() == "\x1b[2J\n"


def test_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only on a terminal that has colors, and never with NO_COLOR."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert use_color(True)
    assert not use_color(False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not use_color(True)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not use_color(True)


def test_noun_is_a_group() -> None:
    """A group shows its help when called alone."""
    group = make_group("thing", "Things.")
    result = CliRunner().invoke(group, ["--help"])
    assert "Things." in result.output
