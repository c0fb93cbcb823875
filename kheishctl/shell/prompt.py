"""The chat's terminal: a prompt at the bottom, a live area above it, finished text in the scrollback.

The prompt stays while answers arrive, so that the next message can be typed. Text that must stay on the
screen goes through :meth:`ChatPrompt.print`; text that may change is drawn in the live area. The terminal is
never queried (no cursor position reports), so nothing waits for its reply.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.cursor_shapes import DynamicCursorShapeConfig, ModalCursorShapeConfig
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import vi_navigation_mode
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.defaults import create_input
from prompt_toolkit.input.typeahead import get_typeahead
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from kheishctl.render.layout import fit, paint
from kheishctl.shell.keys import ESCAPE_SECONDS, SEQUENCE_SECONDS, KeyOwner, LineKeys, edit_text
from kheishctl.shell.slash_commands import COMMANDS
from protocol.text import one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

    from kheishctl.shell.mentions import MentionFinder

# Twenty drawings per second look fluent. Slow drawings are less frequent: they take at most a fifth of the
# time, so that the person and the daemon are served in the rest.
REDRAW_SECONDS = 0.05
REDRAW_REST = 4

# Lines of the screen that the live area leaves to the prompt and the line in it.
PROMPT_LINES = 6

# Sequences of xterm, which other terminals ignore. A multiplexer has titles of its own, one for each window.
SAVE_TITLE, RESTORE_TITLE = "\x1b[22;2t", "\x1b[23;2t"
REPORT_FOCUS, IGNORE_FOCUS = "\x1b[?1004h", "\x1b[?1004l"

# Lines of the list of commands that appears while a person types one.
MAX_MENU_LINES = 8

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


class PromptOwner(KeyOwner, Protocol):
    """The owner of a prompt: it provides the texts and handles the keys."""

    def prompt_label(self) -> str:
        """Return the label in front of the line."""
        ...

    def live_area(self, max_lines: int) -> str:
        """Return the text above the prompt."""
        ...

    @property
    def mention_finder(self) -> MentionFinder | None:
        """The finder of what ``@`` can mention; None while the line is no message."""
        ...


class ChatPrompt:
    """A prompt with a live area above it."""

    # A line that was sent is erased.
    last_line: str | None = None

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
        self._title = ""
        # Finished text that waits until another program gives the terminal back; None while none has it.
        self._held: list[str] | None = None
        keyboard, output = terminal or (create_input(), create_output())
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False
        self._output = output
        self._session: PromptSession[str] = PromptSession(
            self._format_prompt,
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: " " * width,
            history=history,
            completer=SlashCompleter(),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            reserve_space_for_menu=0,
            erase_when_done=True,
            # The cursor's shape tells the modes of vi; with the keys of emacs, it stays as it is.
            cursor=DynamicCursorShapeConfig(lambda: ModalCursorShapeConfig() if self.is_vi else None),
            input=keyboard,
            output=output,
        )
        self._keys = LineKeys(owner)
        self._session.key_bindings = self._keys.bind(self._session.default_buffer)
        self._session.app.ttimeoutlen, self._session.app.timeoutlen = ESCAPE_SECONDS, SEQUENCE_SECONDS

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

    @property
    def is_vi(self) -> bool:
        """Whether the line is edited with the keys of vi; else with those of emacs."""
        return self._session.editing_mode == EditingMode.VI

    @is_vi.setter
    def is_vi(self, on: bool) -> None:
        self._session.editing_mode = EditingMode.VI if on else EditingMode.EMACS

    async def edit_line(self) -> None:
        """Edit the line in the person's editor. Errors: ValueError if that is impossible."""
        async with self._lend_terminal():
            loop = asyncio.get_running_loop()
            line = self._keys.pastes.expand(self._session.default_buffer.text)
            text = await loop.run_in_executor(None, edit_text, line)
        self.set_text(text)

    @asynccontextmanager
    async def _lend_terminal(self) -> AsyncIterator[None]:
        """Give the terminal to another program; finished text appears when it is given back."""
        # Ctrl-C is meant for the other program, which is in the same group of processes.
        handler = signal.signal(signal.SIGINT, lambda *_: None)
        self.write(IGNORE_FOCUS)
        self._held = []
        try:
            async with in_terminal():
                yield
        finally:
            signal.signal(signal.SIGINT, handler)
            held, self._held = self._held, None
            self.write(REPORT_FOCUS)
            self.print("".join(held))

    async def view(self, text: str, load: Callable[[], Awaitable[str]]) -> None:
        """Show a text full screen until the person closes it; ``load`` returns the text before it."""
        # Imported here, because most chats need no viewer.
        from kheishctl.shell.viewer import ConversationViewer

        async with self._lend_terminal():
            await ConversationViewer(text, load, self._session.input, self._output).run()
        if self._session.app.is_running:
            # Keys that were typed behind the one that closed the viewer.
            self._session.app.key_processor.feed_multiple(get_typeahead(self._session.input))
            self._session.app.key_processor.process_keys()

    async def suspend(self) -> None:
        """Stop the process until the shell continues it."""
        async with self._lend_terminal():
            os.kill(0, signal.SIGTSTP)

    def write(self, sequence: str) -> None:
        """Write a sequence that changes nothing on the screen, such as the bell or a notice."""
        if sequence and self._held is None:
            self._output.write_raw(sequence)
            self._output.flush()

    def set_title(self, title: str) -> None:
        """Set the title of the terminal; an empty one leaves it."""
        if title and title != self._title and self._held is None:
            self._title = title
            # Not prompt-toolkit's way, which ends the title with the bell: the bell is for requests.
            self.write(f"\x1b]2;{one_line(title)}\x1b\\")

    @contextmanager
    def hold_terminal(self) -> Iterator[None]:
        """Have the terminal report whether it is in front, and restore that and its title at the end."""
        self.write(SAVE_TITLE + REPORT_FOCUS)
        try:
            yield
        finally:
            self.write(IGNORE_FOCUS + (RESTORE_TITLE if self._title else ""))

    def copy(self, text: str) -> None:
        """Put a text into the clipboard of the terminal, also over ssh, where the terminal allows it.

        Source: OSC 52, xterm's control sequences.
        """
        encoded = base64.b64encode(text.encode()).decode()
        self._output.write_raw(f"\x1b]52;c;{encoded}\x07")
        self._output.flush()

    async def read(self, text: str = "") -> str:
        """Read the next message or command; ``text`` is on the line already.

        Errors: EOFError when the person leaves.
        """
        if self._has_left:
            raise EOFError
        return await self._session.prompt_async(default=text, handle_sigint=False)

    def print(self, text: str) -> None:
        """Write finished text above the prompt; the text ends with its own newline."""
        if not text:
            return
        if self._held is not None:
            self._held.append(text)
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
        menu = self._format_menu(max_lines - 1)
        live = self._owner.live_area(max_lines - len(menu))
        self._redraw_pause_s = max(REDRAW_SECONDS, REDRAW_REST * (time.perf_counter() - start_s))
        label = paint(f"{self._owner.prompt_label()} >", "green", self._color)
        return ANSI("\n".join([*([live] if live else []), *menu, f"{label} "]))

    def _format_menu(self, max_lines: int) -> list[str]:
        """Return the commands that the line may become, or the mentions that its last word may become."""
        document = self._session.default_buffer.document
        height = min(MAX_MENU_LINES, max_lines)
        if "@" in document.text or self._keys.mentions is not None:
            if mentions := self._format_mentions(document, height):
                return mentions
        choices = list(SlashCompleter().get_completions(document, CompleteEvent()))
        rows = choices if len(choices) <= height else choices[: max(0, height - 1)]
        longest = max((len(choice.text) for choice in rows), default=0)
        lines = [f"  {choice.text:<{longest}}  {choice.display_meta_text}" for choice in rows]
        if rows and len(rows) < len(choices):
            lines.append(f"  … and {len(choices) - len(rows)} more")
        return [paint(fit(line, self.columns - 1), "dim", self._color) for line in lines]

    def _format_mentions(self, document: Document, height: int) -> list[str]:
        """Return the list of files and agents for the word at the cursor."""
        if self._keys.mentions is None:
            # Imported here, because most chats mention nothing.
            from kheishctl.shell.mentions import MentionMenu

            self._keys.mentions = MentionMenu()
        finder = None if vi_navigation_mode() else self._owner.mention_finder
        self._keys.mentions.update(document, finder)
        is_complete = finder is None or finder.is_complete
        return self._keys.mentions.format(height, self.columns, is_complete=is_complete, color=self._color)


class SlashCompleter(Completer):
    """Completer of slash commands."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield the commands that continue the text of the only line."""
        text = document.text
        if text.startswith("/") and " " not in text and "\n" not in text:
            for name, row in COMMANDS.items():
                if f"/{name}".startswith(text):
                    yield Completion(f"/{name}", -len(text), display_meta=row.summary)
