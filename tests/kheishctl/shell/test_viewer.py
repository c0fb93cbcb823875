"""Tests of the full-screen view on the pipes of prompt-toolkit."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from kheishctl.shell.viewer import ConversationViewer
from tests.support.daemons import PATIENCE_S
from tests.support.paper import Paper

TEXT = "\n".join(f"line-{number}" for number in range(100))


def run(body: Callable[[PipeInput, Paper], Awaitable[None]], *pages: str) -> str:
    """Run a body with an open viewer, which the body closes; return the output."""
    earlier = list(pages)

    async def load() -> str:
        return earlier.pop(0) if earlier else ""

    async def main(keyboard: PipeInput) -> str:
        paper = Paper()
        output = Vt100_Output(paper, lambda: Size(24, 80), term="xterm")
        viewer = ConversationViewer(TEXT, load, keyboard, output)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(viewer.run(), body(keyboard, paper))
        return paper.getvalue()

    with create_pipe_input() as keyboard:
        return asyncio.run(main(keyboard))


@pytest.mark.parametrize("key", ["q", "\x0f", "\x03", "\x04", "\x1b"])
def test_close(key: str) -> None:
    """The view begins at the end of the text, and each of these keys closes it."""

    async def body(keyboard: PipeInput, paper: Paper) -> None:
        await paper.sees("line-99")
        keyboard.send_text(key)

    assert "line-9\x1b" not in run(body)


def test_search() -> None:
    """A slash searches; Enter ends the search, and n continues it."""

    async def body(keyboard: PipeInput, paper: Paper) -> None:
        await paper.sees("line-99")
        keyboard.send_text("g/line-42\r")
        await paper.sees("42")
        keyboard.send_text("nNq")

    run(body)


def test_scrolling() -> None:
    """The keys of less scroll, by lines, by pages and to the ends."""

    async def body(keyboard: PipeInput, paper: Paper) -> None:
        await paper.sees("line-99")
        for keys, line in (("\x1b[5~\x1b[5~", "line-55"), ("gjk", "line-0"), ("G", "line-99")):
            length = len(paper.getvalue())
            keyboard.send_text(keys)
            await paper.sees(line[5:], length)
        keyboard.send_text("q")

    run(body)


def test_earlier_messages() -> None:
    """Going up from the start loads the text before it, page by page, until there is none."""

    async def body(keyboard: PipeInput, paper: Paper) -> None:
        await paper.sees("line-99")
        keyboard.send_text("gg")
        await paper.sees("MMMM")
        keyboard.send_text("g")
        await paper.sees("WWWW")
        keyboard.send_text("ggq")

    # No character is the same as in the text that it replaces, because those would not be drawn again.
    run(body, "MMMM", "WWWW")
