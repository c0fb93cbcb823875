"""The terminal of the chat: a prompt at the bottom, a live area above it, finished text scrolling away.

The prompt stays while answers come, so the next thing can be typed (and is queued). Everything that is to
stay on the screen goes through :meth:`Screen.print`; what may still change is drawn above the prompt anew
each time. Nothing is asked of the terminal (no cursor position reports), so nothing waits for its answer.
"""

from __future__ import annotations

import asyncio
import os
import time
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
from kheishctl.shell.slash import SUMMARIES
from kheishctl.shell.waiting import KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

# Twenty drawings a second look like a flow. Where one takes long they are fewer: drawing has a fifth of
# the time, the person and the daemon the rest.
REDRAW_SECONDS = 0.05
REDRAW_REST = 4

# Lines of the live area that are kept free for the prompt itself and what is being typed.
LINES_FOR_PROMPT = 6

HISTORY_NAME = os.path.join("kheish", "history")


def history_file() -> str:
    """Where what was typed is kept: ``$XDG_STATE_HOME/kheish/history``, else under ``~/.local/state``."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, HISTORY_NAME)


def open_history(path: str) -> History:
    """What was typed before; kept in memory only where it cannot be kept in a file of our own."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


class Keyboard(Protocol):
    """Who is told what the person does with their keys."""

    def interrupted(self) -> bool:
        """Ctrl-C: whether there was something to stop."""
        ...

    def pressed(self, key: str) -> bool:
        """One of the keys asked for, or ``enter``, where nothing is typed: whether it meant something."""
        ...

    def line(self, text: str) -> str | None:
        """A line, before it is taken as something said: what is left of it in the prompt, None: all of it."""
        ...


class Screen:
    """One prompt and what is above it. ``live`` gives the text of the live area for so many lines."""

    def __init__(
        self,
        label: Callable[[], str],
        live: Callable[[int], str],
        keyboard: Keyboard,
        *,
        color: bool,
        history: History,
        terminal: tuple[Input, Output] | None = None,
    ) -> None:
        self._label = label
        self._live = live
        self._color = color
        self._keyboard = keyboard
        self._redraw_due: asyncio.TimerHandle | None = None
        self._redraw_after = REDRAW_SECONDS
        typed, shown = terminal or (create_input(), create_output())
        if isinstance(shown, Vt100_Output):
            shown.enable_cpr = False
        self._output = shown
        self._session: PromptSession[str] = PromptSession(
            self._message,
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: " " * width,
            key_bindings=self._keys(),
            history=history,
            completer=SlashCompleter(),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            reserve_space_for_menu=0,
            enable_suspend=True,
            erase_when_done=True,
            input=typed,
            output=shown,
        )

    @property
    def columns(self) -> int:
        """The width of the terminal, now."""
        return max(20, self._output.get_size().columns)

    @property
    def empty(self) -> bool:
        """Whether nothing is typed."""
        return not self._session.default_buffer.text

    def put(self, text: str) -> None:
        """Have something typed, in place of what was."""
        self._session.default_buffer.document = Document(text)

    def bell(self) -> None:
        """Call the person."""
        self._output.bell()

    async def ask(self) -> str:
        """What the person says next. Errors: EOFError when they leave."""
        return await self._session.prompt_async(handle_sigint=False)

    def print(self, text: str) -> None:
        """Put finished text above the prompt, for good. It ends with its own newline."""
        if not text:
            return
        app = self._session.app
        if app.is_running:
            app.renderer.erase()
        self._output.write_raw(text.replace("\n", "\r\n"))
        self._output.flush()
        if app.is_running:
            app.invalidate()

    def redraw(self, after_s: float = 0.0) -> None:
        """The live area has changed, or will have by then; drawn soon, not for every piece of text."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(after_s, self._redraw_after)
        if self._redraw_due is not None:
            if self._redraw_due.when() <= when:
                return
            self._redraw_due.cancel()
        self._redraw_due = loop.call_at(when, self._draw)

    def leave(self) -> None:
        """End the prompt as if the person had left."""
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=EOFError)

    def _draw(self) -> None:
        self._redraw_due = None
        self._session.app.invalidate()

    def _message(self) -> ANSI:
        """The live area and the prompt; when the prompt is over, nothing of it may stay."""
        max_lines = max(1, self._output.get_size().rows - LINES_FOR_PROMPT)
        began = time.perf_counter()
        live = self._live(max_lines)
        self._redraw_after = max(REDRAW_SECONDS, REDRAW_REST * (time.perf_counter() - began))
        label = paint(f"{self._label()} >", "green", self._color)
        return ANSI(f"{live}\n{label} " if live else f"{label} ")

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            left = self._keyboard.line(buffer.text)
            if left is not None:
                buffer.document = Document(left)
            elif buffer.text.strip():
                buffer.validate_and_handle()
            elif not buffer.text:
                self._keyboard.pressed("enter")

        def press(event: KeyPressEvent) -> None:
            # With more right behind it, it is the beginning of something typed or pasted; but a space may be
            # held down, and answers nothing.
            begins = event.data != " " and bool(event.key_processor.input_queue)
            if begins or not self._keyboard.pressed(event.data):
                event.current_buffer.insert_text(event.data)

        for key in KEYS:
            keys.add(key, filter=has_focus(DEFAULT_BUFFER) & Condition(lambda: self.empty))(press)

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c", eager=True)
        @keys.add("<sigint>")
        def _(event: KeyPressEvent) -> None:
            # Stop what runs; where nothing does, clear what was typed.
            if not self._keyboard.interrupted():
                event.current_buffer.reset()

        return keys


class SlashCompleter(Completer):
    """Completes the chat's own commands."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Commands that go on from what was typed at the start of the only line."""
        text = document.text
        if text.startswith("/") and " " not in text and "\n" not in text:
            for name, summary in SUMMARIES.items():
                if f"/{name}".startswith(text):
                    yield Completion(f"/{name}", -len(text), display_meta=summary)
