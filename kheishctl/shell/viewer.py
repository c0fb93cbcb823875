"""The full-screen view of a conversation: scrolled, and searched like a file in ``less``.

It holds pages of the history, the newest first. An earlier page is loaded when the person goes up from the
first line, so a long conversation opens as fast as a short one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.widgets import SearchToolbar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

HELP = "q closes · / ? search, n N: next, previous · g G: start, end · up from the start: earlier messages"


class ConversationViewer:
    """A viewer of a text. ``load`` returns the text before it, empty if it is complete."""

    def __init__(
        self, text: str, load: Callable[[], Awaitable[str]], keyboard: Input, output: Output
    ) -> None:
        self._load = load
        self._is_loading = False
        self._buffer = Buffer(document=Document(text, len(text)), read_only=True)
        search = SearchToolbar()
        control = BufferControl(self._buffer, search_buffer_control=search.control)
        footer = Window(FormattedTextControl(lambda: HELP), height=1, style="reverse")
        window = Window(control, wrap_lines=True)
        self._app: Application[None] = Application(
            Layout(HSplit([window, search, footer]), window),
            key_bindings=self._bind_keys(),
            full_screen=True,
            input=keyboard,
            output=output,
        )

    async def run(self) -> None:
        """Show the text until the person closes the viewer."""
        await self._app.run_async(handle_sigint=False)

    def _bind_keys(self) -> KeyBindings:
        keys = KeyBindings()
        reading = ~is_searching
        for key in ("q", "c-o", "c-c", "c-d", "escape"):
            keys.add(key, filter=reading, eager=key == "escape")(lambda event: event.app.exit())
        for key in ("up", "k"):
            keys.add(key, filter=reading)(lambda event: self._go_up(event, 1))
        keys.add("pageup", filter=reading)(lambda event: self._go_up(event, event.app.output.get_size().rows))
        for key in ("down", "j"):
            keys.add(key, filter=reading)(lambda event: event.current_buffer.cursor_down())
        keys.add("g", filter=reading)(lambda event: self._go_up(event, self._buffer.document.line_count))
        keys.add("G", filter=reading)(lambda _: self._place(len(self._buffer.text)))
        return keys

    def _place(self, position: int) -> None:
        self._buffer.cursor_position = position

    def _go_up(self, event: KeyPressEvent, lines: int) -> None:
        """Move the cursor up; from the first line, load the messages before it."""
        if self._buffer.document.cursor_position_row > 0:
            self._buffer.cursor_up(min(lines, self._buffer.document.cursor_position_row))
        elif not self._is_loading:
            self._is_loading = True
            event.app.create_background_task(self._load_earlier())

    async def _load_earlier(self) -> None:
        try:
            text = await self._load()
        finally:
            self._is_loading = False
        if text:
            # The end of the loaded text is shown, and the way up goes on from there.
            document = Document(f"{text}\n{self._buffer.text}", text.rfind("\n") + 1)
            self._buffer.set_document(document, bypass_readonly=True)
