"""The keys of the prompt beyond the editing keys of prompt-toolkit.

Every key acts on the line alone while a search through the history is open: the search has its own keys.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Protocol

from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, emacs_mode, has_focus, vi_navigation_mode
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from kheishctl.shell.pending import KEYS

if TYPE_CHECKING:
    from prompt_toolkit.buffer import Buffer

    from kheishctl.shell.mentions import MentionMenu

# How long Esc waits for the rest of an escape sequence, and for a key that it changes (Esc Enter: Alt-Enter).
ESCAPE_SECONDS = 0.1
SEQUENCE_SECONDS = 0.4

HELP_KEY = "?"

# A paste beyond either is represented by a short text, so that the line and the status stay on the screen.
MAX_PASTED_LINES = 10
MAX_PASTED_CHARACTERS = 2_000

# Reports of the terminal, once it was asked for them, and the keys that stand for them: no keyboard has them.
FOCUS_REPORTS = {"\x1b[I": Keys.F23, "\x1b[O": Keys.F24}


class KeyOwner(Protocol):
    """The receiver of the keys' meanings."""

    @property
    def has_request(self) -> bool:
        """Whether an approval or question is shown."""
        ...

    def interrupt(self) -> bool:
        """Stop the running run; whether there was something to stop."""
        ...

    def note(self, text: str, style: str = "dim") -> None:
        """Show a note."""
        ...

    def cancel_line(self) -> bool:
        """Abandon the line for an approval; whether the line was one."""
        ...

    def press_key(self, key: str) -> bool:
        """Handle one of KEYS, ``?`` or ``enter``, on an empty line; whether it had a meaning."""
        ...

    def scroll(self, *, pages: int = 0, lines: int = 0) -> bool:
        """Scroll the shown request; whether there is one."""
        ...

    def take_line(self, text: str) -> str | None:
        """Handle a line that is no message; return the text to leave in the prompt, or None for a message."""
        ...

    def open_editor(self) -> None:
        """Open the line in the person's editor."""
        ...

    def open_transcript(self) -> None:
        """Show the conversation in full."""
        ...

    def suspend(self) -> None:
        """Suspend the chat, as Ctrl-Z does with a program."""
        ...

    def withdraw(self) -> None:
        """Take the last queued message back into the empty line."""
        ...

    def set_focus(self, is_in_front: bool) -> None:
        """Learn whether the terminal is in front."""
        ...


class PasteShelf:
    """Long pastes, each represented by a short text in the line until the line is sent."""

    def __init__(self) -> None:
        self._pastes: dict[str, str] = {}

    def add(self, text: str) -> str:
        """Return the text that represents a paste in the line: the paste itself if it is short."""
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = text.count("\n") + 1
        if lines <= MAX_PASTED_LINES and len(text) <= MAX_PASTED_CHARACTERS:
            return text
        size = f"{lines} lines" if lines > 1 else f"{len(text)} characters"
        label = f"[paste {len(self._pastes) + 1}: {size}]"
        self._pastes[label] = text
        return label

    def expand(self, line: str) -> str:
        """Return a line with its pastes in full."""
        if not self._pastes:
            return line
        labels = "|".join(map(re.escape, self._pastes))
        return re.sub(labels, lambda match: self._pastes[match.group()], line)

    def clear(self) -> None:
        """Forget the pastes, because their line was sent or cleared."""
        self._pastes.clear()


class LineKeys:
    """The keys of one prompt."""

    def __init__(self, owner: KeyOwner) -> None:
        self._owner = owner
        self.pastes = PasteShelf()
        # The list of files and agents; None before the first ``@``.
        self.mentions: MentionMenu | None = None
        # The text that was recalled last: Up and Down continue from it until it is changed.
        self._recalled = ""

    def bind(self, buffer: Buffer) -> KeyBindings:
        """Return the bindings for a prompt with this buffer."""
        keys = KeyBindings()
        on_line = has_focus(DEFAULT_BUFFER)
        # In the navigation mode of vi, keys are commands unless they can answer something.
        has_keys = ~vi_navigation_mode | Condition(lambda: self._owner.has_request)
        on_empty_line = on_line & has_keys & Condition(lambda: not buffer.text)
        for key in (*KEYS, HELP_KEY):
            keys.add(key, filter=on_empty_line)(self._press)
        keys.add("enter", filter=on_line)(self._enter)
        has_list = Condition(lambda: self._open_list(buffer) is not None)
        keys.add("tab", filter=on_line & has_list)(
            lambda _: self.mentions.insert(buffer) if self.mentions else None
        )
        keys.add("escape", "enter", filter=on_line)(lambda event: event.current_buffer.insert_text("\n"))
        keys.add("c-c", filter=on_line, eager=True)(self._clear_or_interrupt)
        keys.add("<sigint>")(self._clear_or_interrupt)
        # In vi mode, Esc first returns to navigation.
        keys.add("escape", filter=on_line & (emacs_mode | vi_navigation_mode))(self._escape)
        keys.add("up", filter=on_line)(lambda event: self._move(event, -1))
        keys.add("down", filter=on_line)(lambda event: self._move(event, 1))
        keys.add("pageup", filter=on_line)(lambda _: self._scroll_page(-1))
        keys.add("pagedown", filter=on_line)(lambda _: self._scroll_page(1))
        keys.add("escape", "up", filter=on_empty_line)(lambda _: self._owner.withdraw())
        keys.add(Keys.BracketedPaste, filter=on_line)(
            lambda event: event.current_buffer.insert_text(self.pastes.add(event.data))
        )
        keys.add("c-o", filter=on_line)(lambda _: self._owner.open_transcript())
        keys.add("c-g", filter=on_line)(lambda _: self._owner.open_editor())
        keys.add("c-z")(lambda _: self._owner.suspend())
        ANSI_SEQUENCES.update(FOCUS_REPORTS)
        keys.add(Keys.F23)(lambda _: self._owner.set_focus(True))
        keys.add(Keys.F24)(lambda _: self._owner.set_focus(False))
        return keys

    def _open_list(self, buffer: Buffer) -> MentionMenu | None:
        """Return the list of files and agents if it is shown for the word at the cursor."""
        menu = self.mentions
        return (
            menu if menu is not None and not vi_navigation_mode() and menu.is_open(buffer.document) else None
        )

    def _press(self, event: KeyPressEvent) -> None:
        # A key with more input behind it starts a word or a paste. A space may be held down, and it answers
        # nothing.
        starts_text = event.data != " " and bool(event.key_processor.input_queue)
        if (starts_text or not self._owner.press_key(event.data)) and not vi_navigation_mode():
            event.current_buffer.insert_text(event.data)

    def _enter(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        menu = self._open_list(buffer)
        # In a command of the person, such as one with a name of npm, only Tab inserts.
        if menu is not None and not buffer.text.startswith("!") and not menu.is_written(buffer.document):
            menu.insert(buffer)
            return
        text = self.pastes.expand(buffer.text)
        rest = self._owner.take_line(text)
        if rest is not None:
            # A line that stays may be long; it keeps its short form if it is the same.
            buffer.document = Document(buffer.text if rest == text else rest)
        elif buffer.text.strip():
            self._recalled = ""
            self.pastes.clear()
            buffer.document = Document(text)
            buffer.validate_and_handle()
        elif not buffer.text:
            self._owner.press_key("enter")

    def _clear_or_interrupt(self, event: KeyPressEvent) -> None:
        """Clear the draft; if there is none, stop the running run."""
        buffer = event.app.current_buffer
        had_text = bool(buffer.text)
        buffer.reset()
        self.pastes.clear()
        if not self._owner.cancel_line() and not had_text and not self._owner.interrupt():
            self._owner.note("Ctrl-D leaves")

    def _escape(self, event: KeyPressEvent) -> None:
        """Close a list or abandon the line for an approval, else stop the running run."""
        if event.current_buffer.complete_state:
            event.current_buffer.cancel_completion()
        elif menu := self._open_list(event.current_buffer):
            menu.close()
        elif self._owner.cancel_line():
            event.current_buffer.reset()
        else:
            self._owner.interrupt()

    def _move(self, event: KeyPressEvent, step: int) -> None:
        """Move the cursor by a line; at an edge of the text, recall a line if nothing is lost by it."""
        buffer = event.current_buffer
        document = buffer.document
        if buffer.complete_state:
            (buffer.complete_previous if step < 0 else buffer.complete_next)()
        elif menu := self._open_list(buffer):
            menu.select(step)
        elif 0 <= document.cursor_position_row + step < document.line_count:
            (buffer.cursor_up if step < 0 else buffer.cursor_down)()
        elif not self._owner.scroll(lines=step) and buffer.text in ("", self._recalled):
            (buffer.history_backward if step < 0 else buffer.history_forward)()
            self._recalled = buffer.text

    def _scroll_page(self, step: int) -> None:
        self._owner.scroll(pages=step)


def edit_text(text: str) -> str:
    """Let the person edit a text in ``$VISUAL`` or ``$EDITOR``.

    Errors: ValueError with the reason if no editor can be started or the file is not UTF-8.
    """
    if not (os.environ.get("VISUAL") or os.environ.get("EDITOR")):
        # The system's own choice may be a menu.
        raise ValueError("$EDITOR is not set; the line is unchanged")
    import click

    try:
        edited = click.edit(text, extension=".md", require_save=False)
    except (click.ClickException, UnicodeDecodeError) as error:
        editor = os.environ.get("VISUAL") or os.environ["EDITOR"]
        reason = error.message if isinstance(error, click.ClickException) else "its file is not UTF-8"
        raise ValueError(f"{editor}: {reason}; the line is unchanged") from error
    # Editors end the last line, the prompt does not.
    return text if edited is None else edited.removesuffix("\n")
