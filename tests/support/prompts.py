"""A prompt on the pipes of prompt-toolkit, and an owner that records what its keys mean; for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prompt_toolkit.data_structures import Size
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from kheishctl.shell.mentions import MentionFinder
from kheishctl.shell.prompt import ChatPrompt
from tests.support.daemons import PATIENCE_S
from tests.support.mentions import FakeConversation
from tests.support.paper import Paper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

BLOCK_CURSOR = "\x1b[2 q"
"""The shape of the cursor in the navigation mode of vi."""


class FakeOwner:
    """The owner of a prompt on pipes. It records keys and handles the expected ones."""

    def __init__(self, keyboard: PipeInput, *, is_running: bool = False) -> None:
        self.keyboard = keyboard
        self.paper = Paper()
        self.live = ""
        self.interrupts = 0
        self.has_line = False
        self.has_request = False
        self.scrolls: list[tuple[int, int]] = []
        self.edit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_running = is_running
        self.meaningful_keys: set[str] = set()
        self.keys: list[str] = []
        self.acts: list[str] = []
        self.rests: dict[str, str] = {}
        self.mention_finder: MentionFinder | None = None
        self._has_drawn = asyncio.Event()
        self._has_acted = asyncio.Event()
        output = Vt100_Output(self.paper, lambda: Size(24, 80), term="xterm")
        self.prompt = ChatPrompt(self, color=False, history=InMemoryHistory(), terminal=(keyboard, output))

    def offer_mentions(self, directory: Path) -> FakeConversation:
        """Offer the files of a directory, and agents."""
        conversation = FakeConversation(str(directory))

        def start(work: Coroutine[Any, Any, None]) -> None:
            conversation.start(work)
            conversation.tasks[-1].add_done_callback(lambda _: self.prompt.redraw())

        self.mention_finder = MentionFinder(conversation, start)
        return conversation

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

    async def press(self, key: str) -> None:
        """Press a key that the owner handles, and wait until it has."""
        self._has_acted.clear()
        self.keyboard.send_text(key)
        await self._has_acted.wait()

    def interrupt(self) -> bool:
        """Count an interrupt."""
        self.interrupts += 1
        self._has_acted.set()
        return self.is_running

    def note(self, text: str, style: str = "dim") -> None:
        """Record a note."""
        self.acts.append(text)

    def cancel_line(self) -> bool:
        """Abandon the line for an approval."""
        had_line, self.has_line = self.has_line, False
        self._has_acted.set()
        return had_line

    def scroll(self, *, pages: int = 0, lines: int = 0) -> bool:
        """Record a scrolling of the request."""
        self.scrolls += [(pages, lines)] if self.has_request else []
        return self.has_request

    def open_editor(self) -> None:
        """Open the line in an editor."""
        task = asyncio.ensure_future(self.prompt.edit_line())
        task.add_done_callback(lambda task: self.edit.set_result(task.result()))

    def open_transcript(self) -> None:
        """Show the conversation."""
        self.acts.append("transcript")
        self._has_acted.set()

    def suspend(self) -> None:
        """Suspend the program."""
        self.acts.append("suspend")
        self._has_acted.set()

    def withdraw(self) -> None:
        """Withdraw a message."""
        self.acts.append("withdraw")
        self._has_acted.set()

    def set_focus(self, is_in_front: bool) -> None:
        """Learn whether the terminal is in front."""
        self.acts.append("front" if is_in_front else "back")
        self._has_acted.set()

    def press_key(self, key: str) -> bool:
        """Record a key if it has a meaning."""
        self.keys += [key] if key in self.meaningful_keys else []
        self._has_acted.set()
        return key in self.meaningful_keys

    def take_line(self, text: str) -> str | None:
        """Take the expected lines."""
        return self.rests.get(text)


def run_prompt(body: Callable[[FakeOwner], Awaitable[None]], *, is_running: bool = False) -> FakeOwner:
    """Run a body with a prompt."""

    async def main(keyboard: PipeInput) -> FakeOwner:
        owner = FakeOwner(keyboard, is_running=is_running)
        async with asyncio.timeout(PATIENCE_S):
            await body(owner)
        return owner

    with create_pipe_input() as keyboard:
        return asyncio.run(main(keyboard))
