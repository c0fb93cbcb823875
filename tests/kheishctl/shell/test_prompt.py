"""Tests of the prompt on the pipes of prompt-toolkit."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from kheishctl.shell.prompt import ChatPrompt, SlashCompleter, locate_history, open_history
from kheishctl.shell.slash_commands import COMMANDS
from tests.support.daemons import PATIENCE_S
from tests.support.paper import Paper


class FakeOwner:
    """The owner of a prompt on pipes. It records keys and handles the expected ones."""

    def __init__(self, keyboard: PipeInput, *, is_running: bool = False) -> None:
        self.keyboard = keyboard
        self.paper = Paper()
        self.live = ""
        self.interrupts = 0
        self.is_running = is_running
        self.meaningful_keys: set[str] = set()
        self.keys: list[str] = []
        self.rests: dict[str, str] = {}
        self._has_drawn = asyncio.Event()
        output = Vt100_Output(self.paper, lambda: Size(24, 80), term="xterm")
        self.prompt = ChatPrompt(self, color=False, history=InMemoryHistory(), terminal=(keyboard, output))

    def prompt_label(self) -> str:
        """Return the label."""
        return "ada"

    def live_area(self, max_lines: int) -> str:
        """Return the live text and record the drawing."""
        self._has_drawn.set()
        return self.live

    async def wait_for_drawing(self) -> None:
        """Wait until the prompt is drawn."""
        self._has_drawn.clear()
        await self._has_drawn.wait()

    def interrupt(self) -> bool:
        """Count an interrupt."""
        self.interrupts += 1
        return self.is_running

    def press_key(self, key: str) -> bool:
        """Record a key if it has a meaning."""
        self.keys += [key] if key in self.meaningful_keys else []
        return key in self.meaningful_keys

    def take_line(self, text: str) -> str | None:
        """Take the expected lines."""
        return self.rests.get(text)


def run(body: Callable[[FakeOwner], Awaitable[None]], *, is_running: bool = False) -> FakeOwner:
    """Run a body with a prompt."""

    async def main(keyboard: PipeInput) -> FakeOwner:
        owner = FakeOwner(keyboard, is_running=is_running)
        async with asyncio.timeout(PATIENCE_S):
            await body(owner)
        return owner

    with create_pipe_input() as keyboard:
        return asyncio.run(main(keyboard))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("\x1b[200~one\ntwo\n\x1b[201~\r", "one\ntwo\n"),
        ("\r \r\x7fx\r", "x"),
        ("/sta\t\r", "/status"),
    ],
    ids=["enter", "alt-enter", "paste", "blank", "tab"],
)
def test_keys(keys: str, text: str) -> None:
    """Enter sends a line with text, Alt-Enter and pastes keep line breaks, Tab completes commands."""

    async def body(owner: FakeOwner) -> None:
        owner.keyboard.send_text(keys)
        assert await owner.prompt.read() == text

    run(body)


def test_meaningful_keys() -> None:
    """The owner handles a key on an empty line; within a text, or with more input behind it, it is text."""

    async def body(owner: FakeOwner) -> None:
        owner.meaningful_keys = {"a", "2", "enter", " "}
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        for keys in ("a", "2", "\r", "d", "a", "\x7f", "\x7f", "  ", "aa"):
            owner.keyboard.send_text(keys)
            await owner.wait_for_drawing()
        assert owner.keys == ["a", "2", "enter", " ", " "]
        assert not owner.prompt.is_empty
        owner.keyboard.send_text("\r")
        assert await line == "aa"

    run(body)


def test_line_for_the_owner() -> None:
    """A line that the owner takes is not sent and not remembered; its rest stays in the prompt."""

    async def body(owner: FakeOwner) -> None:
        owner.rests = {"taken": "", "wrong": "wrong", "": ""}
        line = asyncio.ensure_future(owner.prompt.read())
        owner.keyboard.send_text("taken\r\rwrong\r!\r")
        assert await line == "wrong!"

    run(body)


def test_set_text() -> None:
    """A text that is put into the prompt can be edited and sent."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        assert owner.prompt.is_empty
        owner.prompt.set_text("put")
        owner.keyboard.send_text("!\r")
        assert await line == "put!"

    run(body)


def test_bell() -> None:
    """The bell reaches the terminal at once."""

    async def body(owner: FakeOwner) -> None:
        owner.prompt.ring_bell()
        assert owner.paper.getvalue().endswith("\a")

    run(body)


def test_ctrl_d_leaves() -> None:
    """Ctrl-D on an empty line ends the prompt."""

    async def body(owner: FakeOwner) -> None:
        owner.keyboard.send_text("\x04")
        with pytest.raises(EOFError):
            await owner.prompt.read()

    run(body)


@pytest.mark.parametrize(("is_running", "text"), [(True, "typedmore"), (False, "more")])
def test_ctrl_c(is_running: bool, text: str) -> None:
    """Ctrl-C interrupts the run and keeps the line; if nothing is running, it clears the line."""

    async def body(owner: FakeOwner) -> None:
        owner.keyboard.send_text("typed\x03more\r")
        assert await owner.prompt.read() == text
        assert owner.interrupts == 1

    run(body, is_running=is_running)


def test_leave() -> None:
    """Leaving ends the open prompt, and the next one; leaving twice does no harm."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        asyncio.get_running_loop().call_later(0.01, owner.prompt.leave)
        asyncio.get_running_loop().call_later(0.01, owner.prompt.leave)
        with pytest.raises(EOFError):
            await line
        owner.prompt.leave()
        with pytest.raises(EOFError):
            await owner.prompt.read()

    run(body)


def test_print() -> None:
    """Finished text is written unchanged above the prompt, with an open prompt or without."""

    async def body(owner: FakeOwner) -> None:
        owner.prompt.print("before\n")
        owner.prompt.print("")
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.prompt.print("\x1b[1mmeanwhile\x1b[0m\nmore\n")
        length = len(owner.paper.getvalue())
        await owner.paper.sees("ada >", length)
        owner.keyboard.send_text("x\r")
        await line

    text = run(body).paper.getvalue()
    assert "before\r\n" in text
    assert "\x1b[1mmeanwhile\x1b[0m\r\nmore\r\n" in text
    assert "\x1b[6n" not in text, "the terminal may not be queried"


def test_live_area() -> None:
    """The live area is drawn soon after a change, and erased when the prompt ends."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.live = "growing"
        owner.prompt.redraw()
        owner.prompt.redraw()
        await owner.paper.sees("growing")
        owner.keyboard.send_text("x\r")
        await line

    text = run(body).paper.getvalue()
    assert "\x1b[J" in text[text.rindex("growing") :]


def test_earlier_drawing_wins() -> None:
    """Of two scheduled drawings the earlier one takes place, whichever was requested first."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        for live, delays in (("first", (1000.0, 0.0)), ("then", (0.0, 1000.0))):
            owner.live = live
            for delay in delays:
                owner.prompt.redraw(delay)
            await owner.paper.sees(live)
        owner.keyboard.send_text("x\r")
        await line

    run(body)


def test_columns() -> None:
    """The width is that of the terminal."""

    async def body(owner: FakeOwner) -> None:
        assert owner.prompt.columns == 80

    run(body)


def test_history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The history is in $XDG_STATE_HOME, else in the person's home, and only they can read it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert locate_history() == str(tmp_path / "state" / "kheish" / "history")
    history = open_history(locate_history())
    assert isinstance(history, FileHistory)
    assert (tmp_path / "state" / "kheish" / "history").stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate_history() == str(tmp_path / ".local" / "state" / "kheish" / "history")


def test_history_without_a_file(tmp_path: Path) -> None:
    """If the file cannot be created, the history is in memory only."""
    (tmp_path / "file").touch()
    assert isinstance(open_history(str(tmp_path / "file" / "history")), InMemoryHistory)


def test_history_on_a_full_disk(tmp_path: Path) -> None:
    """A line that cannot be saved costs nothing else."""
    (tmp_path / "history").symlink_to("/dev/full")
    history = open_history(str(tmp_path / "history"))
    history.append_string("hello")
    assert history.get_strings() == ["hello"]
    (tmp_path / "history").unlink()
    (tmp_path / "history").mkdir()
    history.append_string("again")
    assert list(history.load_history_strings()) == []


def test_slash_completer() -> None:
    """Commands are completed at the start of the only line."""

    def complete(text: str) -> list[str]:
        return [
            completion.text
            for completion in SlashCompleter().get_completions(Document(text), CompleteEvent())
        ]

    assert complete("/") == [f"/{name}" for name in COMMANDS]
    assert complete("/sta") == ["/status"]
    assert complete("x /st") == complete("/st x") == complete("a\n/st") == []
