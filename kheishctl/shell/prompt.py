"""The chat's terminal: a prompt at the bottom, a live area above it, finished text in the scrollback.

The prompt stays while answers arrive, so that the next message can be typed. Text that must stay on the
screen goes through :meth:`ChatPrompt.print`; text that may change is drawn in the live area. The terminal is
never queried (no cursor position reports), so nothing waits for its reply.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.defaults import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from kheishctl.render.layout import paint
from kheishctl.shell.pending import KEYS
from kheishctl.shell.slash_commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

# Twenty drawings per second look fluent. Slow drawings are less frequent: they take at most a fifth of the
# time, so that the person and the daemon are served in the rest.
REDRAW_SECONDS = 0.05
REDRAW_REST = 4

# Lines of the screen that the live area leaves to the prompt and the line in it.
PROMPT_LINES = 6

HISTORY_NAME = os.path.join("kheish", "history")


def locate_history() -> str:
    """Return the history file: ``$XDG_STATE_HOME/kheish/history``, else under ``~/.local/state``."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, HISTORY_NAME)


def open_history(path: str) -> History:
    """Open the history of lines; if its file cannot be created privately, use the memory."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return LenientFileHistory(path)


class LenientFileHistory(FileHistory):
    """A history file whose errors, such as a full disk, cost its lines but not the chat."""

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines, newest first; none from a file that cannot be read."""
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        """Append a line, if that is possible."""
        with suppress(OSError):
            super().store_string(string)


class PromptOwner(Protocol):
    """The owner of a prompt: it provides the texts and handles the keys."""

    def prompt_label(self) -> str:
        """Return the label in front of the line."""
        ...

    def live_area(self, max_lines: int) -> str:
        """Return the text above the prompt."""
        ...

    def interrupt(self) -> bool:
        """Handle Ctrl-C; whether there was something to stop."""
        ...

    def press_key(self, key: str) -> bool:
        """Handle one of KEYS, or ``enter``, on an empty line; whether it had a meaning."""
        ...

    def take_line(self, text: str) -> str | None:
        """Handle a line that is no message; return the text to leave in the prompt, or None for a message."""
        ...


class ChatPrompt:
    """A prompt with a live area above it."""

    def __init__(
        self,
        owner: PromptOwner,
        *,
        color: bool,
        history: History,
        terminal: tuple[Input, Output] | None = None,
    ) -> None:
        self._owner = owner
        self._color = color
        self._redraw_timer: asyncio.TimerHandle | None = None
        self._redraw_pause_s = REDRAW_SECONDS
        self._has_left = False
        keyboard, output = terminal or (create_input(), create_output())
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False
        self._output = output
        self._session: PromptSession[str] = PromptSession(
            self._format_prompt,
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: " " * width,
            key_bindings=self._bind_keys(),
            history=history,
            completer=SlashCompleter(),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            reserve_space_for_menu=0,
            enable_suspend=True,
            erase_when_done=True,
            input=keyboard,
            output=output,
        )

    @property
    def columns(self) -> int:
        """The current width of the terminal."""
        return max(20, self._output.get_size().columns)

    @property
    def is_empty(self) -> bool:
        """Whether the line is empty."""
        return not self._session.default_buffer.text

    def set_text(self, text: str) -> None:
        """Replace the text of the line."""
        self._session.default_buffer.document = Document(text)

    def ring_bell(self) -> None:
        """Ring the bell of the terminal."""
        self._output.bell()

    async def read(self) -> str:
        """Read the next message or command. Errors: EOFError when the person leaves."""
        if self._has_left:
            raise EOFError
        return await self._session.prompt_async(handle_sigint=False)

    def print(self, text: str) -> None:
        """Write finished text above the prompt; the text ends with its own newline."""
        if not text:
            return
        app = self._session.app
        if app.is_running:
            app.renderer.erase()
        self._output.write_raw(text.replace("\n", "\r\n"))
        self._output.flush()
        if app.is_running:
            app.invalidate()

    def redraw(self, delay_s: float = 0.0) -> None:
        """Draw the live area soon, or after a delay; calls in quick succession share one drawing."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(delay_s, self._redraw_pause_s)
        if self._redraw_timer is not None:
            if self._redraw_timer.when() <= due:
                return
            self._redraw_timer.cancel()
        self._redraw_timer = loop.call_at(due, self._draw)

    def leave(self) -> None:
        """End the prompt, or the next one if none is open, as if the person had left."""
        self._has_left = True
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=EOFError)

    def _draw(self) -> None:
        self._redraw_timer = None
        self._session.app.invalidate()

    def _format_prompt(self) -> ANSI:
        """Return the live area and the label; prompt-toolkit erases both when the prompt ends."""
        max_lines = max(1, self._output.get_size().rows - PROMPT_LINES)
        start_s = time.perf_counter()
        live = self._owner.live_area(max_lines)
        self._redraw_pause_s = max(REDRAW_SECONDS, REDRAW_REST * (time.perf_counter() - start_s))
        label = paint(f"{self._owner.prompt_label()} >", "green", self._color)
        return ANSI(f"{live}\n{label} " if live else f"{label} ")

    def _bind_keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            rest = self._owner.take_line(buffer.text)
            if rest is not None:
                buffer.document = Document(rest)
            elif buffer.text.strip():
                buffer.validate_and_handle()
            elif not buffer.text:
                self._owner.press_key("enter")

        def press(event: KeyPressEvent) -> None:
            # A key with more input behind it starts a word or a paste. A space may be held down, and it
            # answers nothing.
            starts_text = event.data != " " and bool(event.key_processor.input_queue)
            if starts_text or not self._owner.press_key(event.data):
                event.current_buffer.insert_text(event.data)

        for key in KEYS:
            keys.add(key, filter=has_focus(DEFAULT_BUFFER) & Condition(lambda: self.is_empty))(press)

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c", eager=True)
        @keys.add("<sigint>")
        def _(event: KeyPressEvent) -> None:
            # Stop the running run; if there is none, clear the line.
            if not self._owner.interrupt():
                event.current_buffer.reset()

        return keys


class SlashCompleter(Completer):
    """Completer of slash commands."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield the commands that continue the text of the only line."""
        text = document.text
        if text.startswith("/") and " " not in text and "\n" not in text:
            for name, row in COMMANDS.items():
                if f"/{name}".startswith(text):
                    yield Completion(f"/{name}", -len(text), display_meta=row.summary)
