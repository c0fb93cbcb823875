"""Tests of the prompt of plain lines on a pseudo terminal."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from kheishctl.client import Failure
from kheishctl.shell.plain_prompt import DEFAULT_COLUMNS, MAX_LINE_BYTES, PlainPrompt
from tests.support.daemons import PATIENCE_S
from tests.support.paper import Paper


class PlainFake:
    """The owner of a plain prompt on a pseudo terminal."""

    def __init__(self) -> None:
        self._terminal, self._end = os.openpty()
        self.paper = Paper()
        self.awaits_line = True
        self.has_line = self.is_running = False
        self.due: list[str] = []
        self.notes: list[str] = []
        self.answers: list[str] = []
        self.prompt = PlainPrompt(self, (self._end, self._end))
        asyncio.get_running_loop().add_reader(self._terminal, self._read)

    def _read(self) -> None:
        self.paper.write(os.read(self._terminal, 65_536).decode().replace("\r\n", "\n"))

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._terminal, text.encode())

    def close(self) -> None:
        """Close the terminal."""
        asyncio.get_running_loop().remove_reader(self._terminal)
        for descriptor in (self._terminal, self._end):
            os.close(descriptor)

    def prompt_label(self) -> str:
        """Return the label."""
        return "ada"

    def take_due_text(self) -> str:
        """Return the next text."""
        return self.due.pop(0) if self.due else ""

    def take_line(self, text: str) -> str | None:
        """Take the word for an approval."""
        self.answers += [text] if text == "allow" else []
        return "" if text == "allow" else None

    def cancel_line(self) -> bool:
        """Abandon the line for an approval."""
        return self.has_line

    def interrupt(self) -> bool:
        """Return whether a run is running."""
        self.notes.append("interrupt")
        return self.is_running

    def note(self, text: str, style: str = "dim") -> None:
        """Record a note, and print it."""
        self.notes.append(text)
        self.prompt.print(f"· {text}\n")


def run_plain(body: Callable[[PlainFake], Awaitable[None]]) -> str:
    """Run a body with a prompt; return the text of the terminal."""

    async def main() -> str:
        owner = PlainFake()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await body(owner)
        finally:
            owner.close()
        return owner.paper.getvalue()

    return asyncio.run(main())


def test_line() -> None:
    """A line that is typed at the prompt is a message; text is appended below it, harmless."""

    async def body(owner: PlainFake) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada> ")
        owner.type("hello\n")
        assert await line == "hello"
        assert owner.prompt.last_line == "hello"
        owner.prompt.print("one\x1b[2J\n")
        assert owner.prompt.last_line is None
        owner.prompt.print("two\n")
        await owner.paper.sees("two\nada> ")

    assert run_plain(body) == "ada> hello\none␛[2J\ntwo\nada> "


def test_prompt_appears_at_the_turn() -> None:
    """Without a turn, there is no prompt, but a line is read; text that is due precedes the prompt."""

    async def body(owner: PlainFake) -> None:
        owner.awaits_line = False
        line = asyncio.ensure_future(owner.prompt.read())
        owner.prompt.print("working\n")
        owner.type("early\n")
        assert await line == "early"
        owner.awaits_line, owner.due = True, ["? bash needs your approval\n"]
        owner.prompt.redraw()
        await owner.paper.sees("approval\nada> ")
        owner.due = ["type: allow\n"]
        owner.prompt.redraw()
        await owner.paper.sees("ada> \ntype: allow\nada> ")

    assert run_plain(body).count("ada>") == 2


def test_lines_for_the_owner() -> None:
    """A line that the owner takes, and an empty one, are no messages; one of a rejected text repeats it."""

    async def body(owner: PlainFake) -> None:
        owner.type("allow\n\nhello\n")
        assert await owner.prompt.read() == "hello"
        assert owner.answers == ["allow"]
        owner.type("\n")
        assert await owner.prompt.read("/xyzzy") == "/xyzzy"

    run_plain(body)


def test_a_cut_line_is_discarded() -> None:
    """A line that the terminal may have cut is no message."""

    async def body(owner: PlainFake) -> None:
        # The terminal cuts it, as it does with one that is typed.
        owner.type("x" * (MAX_LINE_BYTES + 10))
        owner.type("\nshort\n")
        assert await owner.prompt.read() == "short"
        assert "discarded" in owner.notes[0]

    run_plain(body)


def test_ctrl_d_leaves() -> None:
    """Ctrl-D on an empty line ends the prompt; what was typed before it is discarded on a second one."""

    async def body(owner: PlainFake) -> None:
        owner.type("half\x04\x04")
        with pytest.raises(EOFError):
            await owner.prompt.read()
        with pytest.raises(EOFError):
            await owner.prompt.read()

    run_plain(body)


def test_leave() -> None:
    """Leaving ends the open prompt, and the next one, on a new line."""

    async def body(owner: PlainFake) -> None:
        with owner.prompt.hold_terminal():
            line = asyncio.ensure_future(owner.prompt.read())
            await owner.paper.sees("ada> ")
            owner.prompt.leave()
            with pytest.raises(EOFError):
                await line
        owner.prompt.print("bye\n")
        await owner.paper.sees("ada> \nbye\n")

    run_plain(body)


def test_ctrl_c_interrupts() -> None:
    """Ctrl-C abandons the line for an approval, else stops the run; else a note says how to leave."""

    async def body(owner: PlainFake) -> None:
        loop = asyncio.get_running_loop()
        with owner.prompt.hold_terminal():
            owner.has_line = True
            loop.call_soon(os.kill, os.getpid(), 2)
            await owner.paper.sees("\nada> ")
            assert owner.notes == []
            owner.has_line, owner.is_running = False, True
            loop.call_soon(os.kill, os.getpid(), 2)
            await owner.paper.sees("ada> \nada> ")
            assert owner.notes == ["interrupt"]
            owner.is_running = False
            loop.call_soon(os.kill, os.getpid(), 2)
            await owner.paper.sees("· nothing is running; Ctrl-D leaves\nada> ")

    run_plain(body)


def test_no_sequences() -> None:
    """The bell rings; titles, notices and the clipboard are left alone, and long texts are printed."""

    async def body(owner: PlainFake) -> None:
        owner.awaits_line = False
        owner.prompt.write("\a")
        owner.prompt.write("\x1b]9;notice\a")
        owner.prompt.set_title("title")
        with pytest.raises(Failure, match="/export"):
            owner.prompt.copy("text")
        with pytest.raises(Failure, match="vi"):
            owner.prompt.is_vi = True
        owner.prompt.is_vi = False
        assert not owner.prompt.is_vi

        async def load() -> str:
            return ""

        await owner.prompt.view("transcript", load)
        owner.prompt.set_text("to change")
        owner.prompt.print("")
        await owner.paper.sees("change")

    assert run_plain(body).rstrip() == "\atranscript\n\nto change"


def test_columns() -> None:
    """A terminal without a size has the usual width."""

    async def body(owner: PlainFake) -> None:
        assert owner.prompt.columns == DEFAULT_COLUMNS
        reader, writer = os.pipe()
        assert PlainPrompt(owner, (reader, writer)).columns == DEFAULT_COLUMNS
        for descriptor in (reader, writer):
            os.close(descriptor)

    run_plain(body)
