"""The installed ``kheishctl``: pipes, terminals, shells, manual pages, and the modules that it loads."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import kheishd
from kheishctl import exit_codes
from protocol import __version__
from tests.support.daemons import PATIENCE_S, Daemon
from tests.support.programs import BIN, ROOT, environment
from tests.support.terminal import Terminal

CTL = [sys.executable, "-m", "kheishctl"]
COMPLETIONS = ROOT / "contrib" / "completions"


Completed = subprocess.CompletedProcess[str]


def run(command: list[str], *, stdin: str = "", environ: dict[str, str] | None = None) -> Completed:
    """Run a command to its end, in a pipe."""
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment() if environ is None else environ,
        cwd=ROOT,
        check=False,
    )


def ctl(home: Path, *arguments: str, stdin: str = "") -> Completed:
    """Run the program on a home, in a pipe."""
    return run([*CTL, "--home", str(home), *arguments], stdin=stdin)


def test_versions_agree() -> None:
    """The client and the daemon print the same version."""
    assert __version__ == kheishd.__version__
    assert run([*CTL, "--version"]).stdout == f"kheishctl {__version__}\n"


def test_generated_files_are_up_to_date() -> None:
    """Man pages and completion scripts agree with the help texts."""
    done = run([sys.executable, str(ROOT / "contrib" / "generate"), "--check"])
    assert done.returncode == 0, f"run contrib/generate:\n{done.stdout}{done.stderr}"


def test_man_pages_are_sound() -> None:
    """The formatter reports nothing, and examples and options are shown as a user types them."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    pages = {}
    for page in sorted((ROOT / "contrib" / "man").iterdir()):
        done = run(["groff", "-man", "-Tutf8", "-ww", "-P-cbou", str(page)])
        assert (done.returncode, done.stderr) == (0, ""), page
        pages[page.name] = done.stdout
    assert "git diff | kheishctl send reviewer 'Look for races'" in pages["kheishctl-send.1"]
    assert "--idempotency-key KEY" in pages["kheishctl-send.1"]


LAZY = ("msgspec", "trio", "asyncio", "rich", "prompt_toolkit", "httpx2", "lmdb", "subprocess", "ssl", "yaml")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["status"], ["run", "list"], ["send", "default", "hi"], ["session", "--help"]],
    ids=" ".join,
)
def test_one_shot_commands_load_little(shared_daemon: Daemon, arguments: list[str]) -> None:
    """A one-shot command does not import the costly modules."""
    done = run([sys.executable, "-X", "importtime", *CTL[1:], "--home", str(shared_daemon.home), *arguments])
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip() for line in lines}
    assert done.returncode == 0
    assert "kheishctl.cli" in loaded
    assert not loaded & set(LAZY)


# Pipes.


def test_a_result_that_cannot_be_written(shared_daemon: Daemon) -> None:
    """On a full disk, a command says that its output cannot be written, and ends with 1."""
    for option in ((), ("--json",)):
        command = [sys.executable, "-m", "kheishctl", "--home", str(shared_daemon.home), *option, "status"]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == exit_codes.FAILED
        assert done.stderr == "kheishctl: cannot write the output: No space left on device\n"


def test_a_pipeline(shared_daemon: Daemon) -> None:
    """A pipe receives only the answer, as text without escape sequences."""
    done = ctl(shared_daemon.home, "send", stdin="from a pipe\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("You say: “from a pipe”\n")
    assert "\x1b" not in done.stdout


def test_a_closed_pipe(shared_daemon: Daemon) -> None:
    """A closed pipe, as of ``| head``, ends the program without an error message."""
    for number in range(3):
        shared_daemon.say(f"turn {number}")
    line = " ".join([*CTL, "--home", str(shared_daemon.home), "journal", "read", "--all", "--limit", "1"])
    done = run(["bash", "-c", f"{line} | head -n 1"])
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["journal", "read"], ["send", "--output-format", "stream-json", "default", "hello"]]
)
def test_the_code_of_a_closed_pipe(shared_daemon: Daemon, arguments: list[str]) -> None:
    """A reader that closed the pipe is no failure: it has a code of its own."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "kheishctl", "--home", str(shared_daemon.home), *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (exit_codes.PIPE_CLOSED, b"")


def test_the_daemon_is_killed_while_a_script_waits(daemon: Daemon) -> None:
    """The restarted daemon answers the waiting script, and the input is accepted once."""
    command = [*CTL, "--home", str(daemon.home), "send", "default", "/slow 20 50\nhello"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()) as child:
        with daemon.connect() as client:
            begun = client.call("journal.subscribe", after=0, deltas=True)
            assert client.note("journal.delta")["subscription"] == begun["subscription"]
        daemon.kill()
        daemon.restart()
        out, _ = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0
    assert out.endswith("You say: “hello”\n")
    assert len(daemon.events(types=["input_received"])) == 1


def test_json_is_one_document(shared_daemon: Daemon) -> None:
    """With --json, standard output is one document and standard error is empty for every outcome."""
    shared_daemon.say("hello")
    for arguments, code in (
        (["status"], 0),
        (["session", "list"], 0),
        (["conversation", "history"], 0),
        (["send", "default", "hi"], 0),
        (["send", "default", "/fail unauthorized", "--as", "eve"], exit_codes.RUN_FAILED),
        (["session", "show", "none"], exit_codes.FAILED),
        (["send", "nobody", "hi"], exit_codes.FAILED),
    ):
        done = ctl(shared_daemon.home, *arguments, "--json")
        json.loads(done.stdout)
        assert (done.returncode, done.stderr) == (code, ""), arguments


def test_a_home_too_deep_for_a_socket(tmp_path: Path) -> None:
    """A home works although its socket path is longer than the kernel's limit."""
    home = tmp_path / ("deep" * 30)
    home.mkdir()
    try:
        assert ctl(home, "daemon", "start").returncode == 0
        assert ctl(home, "send", "default", "hi").returncode == 0
    finally:
        assert ctl(home, "daemon", "stop", "--drain", "1s").returncode == 0


# Terminals.


def terminal(home: Path, *arguments: str, **environ: str) -> Terminal:
    """Run the program on a home, in a terminal."""
    return Terminal([*CTL, "--home", str(home), *arguments], environ)


def test_send_streams_to_a_terminal(shared_daemon: Daemon) -> None:
    """A terminal shows the answer while it is written."""
    with terminal(shared_daemon.home, "send", "default", "/slow 40 50\nhello") as screen:
        assert "“hello”" not in screen.sees("This is the off")
        assert screen.ends() == 0
        assert screen.text.count("This is the offline stand-in") == 1
        assert screen.text.endswith("You say: “hello”")


def test_a_stream_over_a_killed_daemon(daemon: Daemon) -> None:
    """The stream continues after a restart, reports that it starts over, and ends complete."""
    with terminal(daemon.home, "send", "default", "/slow 30 40\nhello") as screen:
        screen.sees("This is the off")
        daemon.kill()
        daemon.restart()
        assert screen.ends() == 0
        assert "the answer starts over" in screen.text
        assert screen.text.count("You say: “hello”") == 1


def test_send_reads_from_a_terminal(shared_daemon: Daemon) -> None:
    """A prompt explains that the program reads the message from the terminal."""
    with terminal(shared_daemon.home, "send", "default") as screen:
        screen.sees("Ctrl-D sends it")
        screen.say("typed")
        screen.press("ctrl-d")
        screen.sees("You say: “typed”")
        assert screen.ends() == 0


def test_ctrl_c_leaves_the_run_alone(daemon: Daemon) -> None:
    """Ctrl-C has its own exit code and prints how to cancel the run, which continues."""
    with terminal(daemon.home, "send", "default", "/slow 1000 1000") as screen:
        screen.until(lambda _: bool(daemon.call("run.list", status="running")["runs"]), "a run")
        screen.press("ctrl-c")
        screen.sees("The run continues")
        assert screen.ends() == exit_codes.INTERRUPTED
    assert daemon.call("run.list", active=True)["runs"]


def test_no_escape_sequence_reaches_a_terminal(daemon: Daemon) -> None:
    """Escape sequences of a sender are shown as text in every command."""
    daemon.say("\x1b]0;stolen\x07\u202e", agent="default", sender="eve")
    session = daemon.call("conversation.list")["conversations"][0]["session_id"]
    daemon.call("session.rename", session_id=session, title="\x1b[2Jtitle")
    for arguments in (
        ["conversation", "history", "default", "--as", "eve"],
        ["session", "list"],
        ["session", "show", session],
        ["session", "show", session, "--json"],
        ["journal", "read"],
        ["journal", "read", "--json"],
        ["send", "default", "again\x1b[2J", "--as", "eve"],
    ):
        with terminal(daemon.home, *arguments) as screen:
            assert screen.ends() == 0
            for harmful in ("\x1b]0", "\x1b[2J", "\x07", "\u202e"):
                assert harmful not in screen.raw, (arguments, screen.raw)


def test_tables_and_colors(daemon: Daemon) -> None:
    """A terminal gets titles and colors, with NO_COLOR only titles, and a pipe neither."""
    daemon.say("hello")
    with terminal(daemon.home, "run", "list") as screen:
        assert screen.ends() == 0
        assert "\x1b[1mRUN" in screen.raw
    with terminal(daemon.home, "run", "list", NO_COLOR="1") as screen:
        assert screen.ends() == 0
        assert "\x1b" not in screen.raw
    piped = ctl(daemon.home, "run", "list")
    assert re.fullmatch(r"run_\w+\tcompleted\t.*\n", piped.stdout)


# Shells.


def shell_environment(home: Path) -> dict[str, str]:
    """Return an environment in which shells find the installed program."""
    if not (BIN / "kheishctl").exists():
        pytest.skip("kheishctl is not installed beside this Python")
    return environment(PATH=f"{BIN}:{os.environ['PATH']}", KHEISH_HOME=str(home), HOME=str(home))


def needs(shell: str) -> str:
    """Return the path of a shell; skip the test without it."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


def bash_completes(environ: dict[str, str], *words: str) -> list[str]:
    """Return bash's completions of the last word."""
    script = (
        f"source {COMPLETIONS / 'kheishctl.bash'}; COMP_WORDS=({' '.join(map(repr, words))}); "
        f"COMP_CWORD={len(words) - 1}; _kheishctl_completion kheishctl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = run([needs("bash"), "--norc", "-c", script], environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes(shared_daemon: Daemon) -> None:
    """Bash completes commands, options and names that the daemon lists."""
    environ = shell_environment(shared_daemon.home)
    assert bash_completes(environ, "kheishctl", "conv") == ["conversation"]
    assert bash_completes(environ, "kheishctl", "run", "list", "--act") == ["--active"]
    assert bash_completes(environ, "kheishctl", "send", "de") == ["default"]


def test_completion_never_hangs(tmp_path: Path) -> None:
    """Without an answering daemon, completion offers no names and does not wait."""
    environ = shell_environment(tmp_path)
    assert bash_completes(environ, "kheishctl", "send", "de") == []
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "run" / "kheishd.sock"))
        silent.listen()
        assert bash_completes(environ, "kheishctl", "send", "de") == []


def test_fish_completes(shared_daemon: Daemon) -> None:
    """Fish completes the same words, with the description of each command."""
    environ = shell_environment(shared_daemon.home)
    lines_to_complete = ("conv", "send de")
    lines = [f"complete -C 'kheishctl {words}'" for words in lines_to_complete]
    script = "; ".join([f"source {COMPLETIONS / 'kheishctl.fish'}", *lines])
    done = run([needs("fish"), "-N", "-c", script], environ=environ)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("conversation\tConversations")
    assert any(line.split("\t")[0] == "default" for line in lines)


def test_zsh_completes(shared_daemon: Daemon, tmp_path: Path) -> None:
    """Zsh completes the same words when a user presses Tab."""
    environ = shell_environment(shared_daemon.home)
    (tmp_path / ".zshrc").write_text(
        f"fpath=({COMPLETIONS} $fpath)\n"
        f"autoload -Uz compinit; compinit -u -d {tmp_path / 'dump'}\n"
        "PROMPT='ready> '\n"
    )
    with Terminal([needs("zsh"), "-i"], {**environ, "ZDOTDIR": str(tmp_path)}) as screen:
        screen.sees("ready>")
        screen.type("kheishctl conv\t")
        screen.sees("kheishctl conversation")
        screen.type("show def\t")
        screen.sees("kheishctl conversation show default")
        screen.press("ctrl-c")
        screen.press("ctrl-d")
