"""The terminal of the chat, on prompt-toolkit's own pipes."""

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

from kheishctl.shell.screen import Screen, SlashCompleter, history_file, open_history
from kheishctl.shell.slash import SUMMARIES
from tests.support.daemons import PATIENCE_S
from tests.support.paper import Paper


class Desk:
    """A screen on pipes: what is typed, what is seen, and what was heard of the keys."""

    def __init__(self, typed: PipeInput, *, runs: bool = False) -> None:
        self.typed = typed
        self.seen = Paper()
        self.live = ""
        self.interrupts = 0
        self.runs = runs
        self.meant: set[str] = set()
        self.keys: list[str] = []
        self.left: dict[str, str] = {}
        self._drawn = asyncio.Event()
        output = Vt100_Output(self.seen, lambda: Size(24, 80), term="xterm")
        self.screen = Screen(
            lambda: "ada",
            self._live,
            self,
            color=False,
            history=InMemoryHistory(),
            terminal=(typed, output),
        )

    def _live(self, lines: int) -> str:
        self._drawn.set()
        return self.live

    async def drawn(self) -> None:
        """Wait until the screen is drawn."""
        self._drawn.clear()
        await self._drawn.wait()

    def interrupted(self) -> bool:
        """Count it."""
        self.interrupts += 1
        return self.runs

    def pressed(self, key: str) -> bool:
        """Keep it, if it means something."""
        self.keys += [key] if key in self.meant else []
        return key in self.meant

    def line(self, text: str) -> str | None:
        """Take the lines that are expected."""
        return self.left.get(text)


def sit(body: Callable[[Desk], Awaitable[None]], *, runs: bool = False) -> Desk:
    """Run a body at a desk."""

    async def run(typed: PipeInput) -> Desk:
        desk = Desk(typed, runs=runs)
        async with asyncio.timeout(PATIENCE_S):
            await body(desk)
        return desk

    with create_pipe_input() as typed:
        return asyncio.run(run(typed))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("\x1b[200~one\ntwo\n\x1b[201~\r", "one\ntwo\n"),
        ("\r \r\x7fx\r", "x"),
        ("/sta\t\r", "/status"),
    ],
    ids=["enter", "alt-enter", "paste", "nothing is not sent", "tab"],
)
def test_keys(keys: str, text: str) -> None:
    """Enter sends, Alt-Enter and a paste keep lines, nothing is not sent, Tab completes commands."""

    async def body(desk: Desk) -> None:
        desk.typed.send_text(keys)
        assert await desk.screen.ask() == text

    sit(body)


def test_keys_that_mean_something() -> None:
    """Where nothing is typed they are told; within a text, and with more behind them, they are text."""

    async def body(desk: Desk) -> None:
        desk.meant = {"a", "2", "enter", " "}
        asked = asyncio.ensure_future(desk.screen.ask())
        await desk.seen.sees("ada >")
        for keys in ("a", "2", "\r", "d", "a", "\x7f", "\x7f", "  ", "aa"):
            desk.typed.send_text(keys)
            await desk.drawn()
        assert desk.keys == ["a", "2", "enter", " ", " "]
        assert not desk.screen.empty
        desk.typed.send_text("\r")
        assert await asked == "aa"

    sit(body)


def test_a_line_that_is_for_something_else() -> None:
    """It is not said; what is left of it stays in the prompt, and is not remembered as said."""

    async def body(desk: Desk) -> None:
        desk.left = {"taken": "", "wrong": "wrong", "": ""}
        asked = asyncio.ensure_future(desk.screen.ask())
        desk.typed.send_text("taken\r\rwrong\r!\r")
        assert await asked == "wrong!"

    sit(body)


def test_a_text_is_put_into_the_prompt() -> None:
    """It can be changed and sent."""

    async def body(desk: Desk) -> None:
        asked = asyncio.ensure_future(desk.screen.ask())
        await desk.seen.sees("ada >")
        assert desk.screen.empty
        desk.screen.put("put")
        desk.typed.send_text("!\r")
        assert await asked == "put!"

    sit(body)


def test_the_bell() -> None:
    """It reaches the terminal at once."""

    async def body(desk: Desk) -> None:
        desk.screen.bell()
        assert desk.seen.getvalue().endswith("\a")

    sit(body)


def test_ctrl_d_leaves() -> None:
    """The prompt ends as if the person had gone."""

    async def body(desk: Desk) -> None:
        desk.typed.send_text("\x04")
        with pytest.raises(EOFError):
            await desk.screen.ask()

    sit(body)


@pytest.mark.parametrize(("runs", "text"), [(True, "typedmore"), (False, "more")])
def test_ctrl_c(runs: bool, text: str) -> None:
    """It stops what runs and leaves what was typed alone; where nothing runs it clears what was typed."""

    async def body(desk: Desk) -> None:
        desk.typed.send_text("typed\x03more\r")
        assert await desk.screen.ask() == text
        assert desk.interrupts == 1

    sit(body, runs=runs)


def test_leave_ends_the_prompt() -> None:
    """A signal, say, ends the chat in order; twice does no harm."""

    async def body(desk: Desk) -> None:
        asked = asyncio.ensure_future(desk.screen.ask())
        asyncio.get_running_loop().call_later(0.01, desk.screen.leave)
        asyncio.get_running_loop().call_later(0.01, desk.screen.leave)
        with pytest.raises(EOFError):
            await asked
        desk.screen.leave()

    sit(body)


def test_print_goes_above_the_prompt() -> None:
    """Finished text is written as it is, whether there is a prompt or not, and the prompt comes back."""

    async def body(desk: Desk) -> None:
        desk.screen.print("before\n")
        desk.screen.print("")
        asked = asyncio.ensure_future(desk.screen.ask())
        await desk.seen.sees("ada >")
        desk.screen.print("\x1b[1mmeanwhile\x1b[0m\nmore\n")
        seen = len(desk.seen.getvalue())
        await desk.seen.sees("ada >", seen)
        desk.typed.send_text("x\r")
        await asked

    text = sit(body).seen.getvalue()
    assert "before\r\n" in text
    assert "\x1b[1mmeanwhile\x1b[0m\r\nmore\r\n" in text
    assert "\x1b[6n" not in text, "nothing may be asked of the terminal"


def test_the_live_area_is_drawn_anew() -> None:
    """It is drawn above the prompt, soon after it changed, and gone when the prompt is."""

    async def body(desk: Desk) -> None:
        asked = asyncio.ensure_future(desk.screen.ask())
        await desk.seen.sees("ada >")
        desk.live = "growing"
        desk.screen.redraw()
        desk.screen.redraw()
        await desk.seen.sees("growing")
        desk.typed.send_text("x\r")
        await asked

    text = sit(body).seen.getvalue()
    assert "\x1b[J" in text[text.rindex("growing") :]


def test_an_earlier_drawing_wins() -> None:
    """What is to be drawn later does not put off what is to be drawn now, and the reverse."""

    async def body(desk: Desk) -> None:
        asked = asyncio.ensure_future(desk.screen.ask())
        await desk.seen.sees("ada >")
        for live, delays in (("first", (1000.0, 0.0)), ("then", (0.0, 1000.0))):
            desk.live = live
            for delay in delays:
                desk.screen.redraw(delay)
            await desk.seen.sees(live)
        desk.typed.send_text("x\r")
        await asked

    sit(body)


def test_columns() -> None:
    """The width is the terminal's."""

    async def body(desk: Desk) -> None:
        assert desk.screen.columns == 80

    sit(body)


def test_history_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$XDG_STATE_HOME, else under the person's home; readable by them only."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert history_file() == str(tmp_path / "state" / "kheish" / "history")
    history = open_history(history_file())
    assert isinstance(history, FileHistory)
    assert (tmp_path / "state" / "kheish" / "history").stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == str(tmp_path / ".local" / "state" / "kheish" / "history")


def test_history_without_a_file(tmp_path: Path) -> None:
    """Where it cannot be kept, it is kept in memory."""
    (tmp_path / "file").touch()
    assert isinstance(open_history(str(tmp_path / "file" / "history")), InMemoryHistory)


def test_slash_completer() -> None:
    """Commands complete at the start of the only line."""

    def offered(text: str) -> list[str]:
        return [each.text for each in SlashCompleter().get_completions(Document(text), CompleteEvent())]

    assert offered("/") == [f"/{name}" for name in SUMMARIES]
    assert offered("/sta") == ["/status"]
    assert offered("x /st") == offered("/st x") == offered("a\n/st") == []
