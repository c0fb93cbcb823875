"""Mentions: the list of files and agents that appears while a person types a word that begins with ``@``.

Nothing is read before the first such word. The files are listed in the background; until they are, and after
changes, the list shows an earlier state.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from typing import TYPE_CHECKING, Any, Protocol

from kheishctl.client import Failure
from kheishctl.contract import MAX_PAGE_ROWS
from kheishctl.render.layout import fit, paint
from kheishctl.shell.file_index import FileIndex, list_files
from kheishctl.values import ClientValue
from protocol.text import one_line, reveal_line

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.document import Document

    from kheishctl.contract import Json

MAX_MENTIONS = 50
"""The rows of the list; more letters find the others."""

MAX_FIRST_AGENTS = 3
"""The agents that are listed before the files, if their names begin with the query; the others follow."""

MAX_QUERY_CHARACTERS = 200

# An earlier state is replaced after this time, and at least ten times the duration of reading it.
REFRESH_SECONDS = 5.0
REFRESH_REST = 10

_WORD = re.compile(r"(?:^|\s)@((?:[^\s\\]|\\.?)*+)$")
_BLANK = re.compile(r"[ \\]")
_NOT_SAFE_IN_SHELL = re.compile(r"[^\w@%+=:,./-]")


class Mention(ClientValue):
    """A row of the list: the path of a file or the name of an agent, its label, and an agent's summary."""

    name: str
    label: str
    summary: str = ""

    def format(self, *, in_command: bool) -> str:
        """Return the text of the mention in a line: a message, or a command for a shell."""
        return f"@{self.name}" if self.summary else quote(self.name, in_command=in_command)


class MentionTarget(Protocol):
    """The conversation of which files and agents are mentioned."""

    @property
    def workspace(self) -> str | None:
        """The directory of the conversation's next run, as far as it is known."""
        ...

    @property
    def directory(self) -> str | None:
        """The directory of the person."""
        ...

    @property
    def session_id(self) -> str | None:
        """The current session; None before the first message."""
        ...

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Call a method of the daemon. Errors: RequestRefused, ConnectionLost."""
        ...


class MentionFinder:
    """The finder of the files and agents of a conversation. ``start`` runs work in the background.

    ``version`` grows with each state that was read.
    """

    def __init__(
        self, conversation: MentionTarget, start: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._conversation = conversation
        self._start = start
        self._place: tuple[str | None, str | None] | None = None
        self._files: FileIndex | None = None
        self._agents: list[Mention] = []
        self._is_reading = False
        self._refresh_at_s = 0.0
        self.version = 0

    @property
    def is_complete(self) -> bool:
        """Whether the files were listed."""
        return self._files is not None

    def refresh(self) -> None:
        """Begin to read the files and agents anew if they were read long ago, or for another place."""
        directory = self._conversation.workspace or self._conversation.directory
        place = (directory, self._conversation.session_id)
        if place != self._place:
            if self._place is None or directory != self._place[0]:
                self._files = None
            self._place, self._refresh_at_s = place, 0.0
            self.version += 1
        if not self._is_reading and time.monotonic() >= self._refresh_at_s:
            self._is_reading = True
            self._start(self._read(*place))

    async def _read(self, directory: str | None, session_id: str | None) -> None:
        start_s = time.monotonic()
        try:
            self._agents = await self._list_agents(session_id)
            self.version += 1
            paths = await list_files(directory) if directory else []
            files = await asyncio.to_thread(FileIndex, paths)
        finally:
            self._is_reading = False
        if (directory, session_id) == self._place:
            end_s = time.monotonic()
            self._files = files
            self._refresh_at_s = end_s + max(REFRESH_SECONDS, REFRESH_REST * (end_s - start_s))
        self.version += 1

    async def _list_agents(self, session_id: str | None) -> list[Mention]:
        """Return the open agents below the conversation, by their paths, and the definitions."""
        mentions: dict[str, Mention] = {}
        try:
            if session_id is not None:
                page = await self._conversation.call(
                    "agent.list", {"root": session_id, "limit": MAX_PAGE_ROWS}
                )
                for row in page["agents"]:
                    if row["agent_id"] != session_id:
                        name = str(row["path"]).removeprefix(f"{session_id}/")
                        state = f"agent at work as {row['definition']}, {row['status']}".replace("_", " ")
                        mentions[name] = Mention(name, f"@{one_line(name)}", state)
            page = await self._conversation.call("definition.list", {"limit": MAX_PAGE_ROWS})
            for row in page["definitions"]:
                name, summary = str(row["name"]), str(row.get("description") or "")
                label = f"agent: {one_line(summary)}" if summary else "agent"
                mentions.setdefault(name, Mention(name, f"@{one_line(name)}", label))
        except Failure:
            pass  # Without a connection or a right, the files alone are offered.
        return list(mentions.values())

    def find(self, query: str) -> list[Mention]:
        """Return the mentions that fit some letters, the best first."""
        query = query.casefold()
        letters = re.compile("".join(f"[^{re.escape(letter)}]*+{re.escape(letter)}" for letter in query))
        agents = [agent for agent in self._agents if letters.match(agent.name.casefold())]
        first = [agent for agent in agents if agent.name.casefold().startswith(query)][:MAX_FIRST_AGENTS]
        paths = self._files.search(query, MAX_MENTIONS) if self._files is not None else []
        files = [Mention(path, reveal_line(path).replace("\t", "⟨TAB⟩")) for path in paths]
        others = [agent for agent in agents if agent not in first]
        return [*first, *files, *others][:MAX_MENTIONS]


class MentionMenu:
    """The list of mentions for the word at the cursor, of which one is selected."""

    def __init__(self) -> None:
        self._word: str | None = None
        self._start = 0
        self._version = -1
        self._mentions: list[Mention] = []
        self._selected = 0
        # Where the word begins whose list was closed.
        self._closed_start: int | None = None

    def update(self, document: Document, finder: MentionFinder | None) -> None:
        """Read the word at the cursor, and find its mentions; without a finder, there are none."""
        word = find_word(document) if finder is not None else None
        start = document.cursor_position - len(word or "")
        if word is None or start != self._closed_start:
            self._closed_start = None
        if word is None or finder is None or self._closed_start is not None:
            self._word, self._mentions = None, []
            return
        self._start = start
        finder.refresh()
        if (word, finder.version) == (self._word, self._version):
            return
        selected = self._mentions[self._selected].name if word == self._word and self._mentions else None
        self._word, self._version = word, finder.version
        self._mentions = finder.find(re.sub(r"\\(.)", r"\1", word))
        names = [mention.name for mention in self._mentions]
        self._selected = names.index(selected) if selected in names else 0

    def is_open(self, document: Document) -> bool:
        """Whether the list that was drawn last has mentions for the word at the cursor."""
        return (
            bool(self._mentions)
            and find_word(document) == self._word
            and document.cursor_position - len(self._word or "") == self._start
        )

    def is_written(self, document: Document) -> bool:
        """Whether the word at the cursor is the text of the selected mention already."""
        return self.is_open(document) and (
            self._mentions[self._selected].format(in_command=False) == f"@{self._word}"
        )

    def select(self, step: int) -> None:
        """Select the next mention, or the previous one."""
        self._selected = (self._selected + step) % len(self._mentions)

    def close(self) -> None:
        """Close the list for the word at the cursor."""
        self._closed_start, self._mentions = self._start, []

    def insert(self, buffer: Buffer) -> None:
        """Replace the word at the cursor by the selected mention and a blank."""
        if self.is_open(buffer.document):
            buffer.delete_before_cursor(len(self._word or "") + 1)
            text = self._mentions[self._selected].format(in_command=buffer.text.startswith("!"))
            buffer.insert_text(text if buffer.document.current_char.isspace() else f"{text} ")

    def format(self, max_lines: int, columns: int, *, is_complete: bool, color: bool) -> list[str]:
        """Return the lines around the selected mention, which has an angle in front of it."""
        if self._word is not None and not is_complete:
            max_lines -= 1
        count = len(self._mentions)
        height = max(1, min(count, max_lines - (count > max_lines)))
        top = max(0, min(self._selected - height // 2, count - height))
        lines = []
        for index, mention in enumerate(self._mentions[top : top + height], top):
            mark = ">" if index == self._selected else " "
            text = f"{mention.label}  {mention.summary}" if mention.summary else mention.label
            room = columns - 4
            # The end of a long path names the file.
            shown = fit(text, room) if mention.summary else fit(text[::-1], room)[::-1]
            lines.append(paint(f"{mark} {shown}", "cyan" if mark == ">" else "dim", color))
        if count > height:
            lines.append(paint("  … more: type letters of the name, or move with Up and Down", "dim", color))
        if self._word is not None and not is_complete:
            lines.append(paint("  … the files of the workspace are being listed", "dim", color))
        return lines


def find_word(document: Document) -> str | None:
    """Return the text after the ``@`` of the word that ends at the cursor; None if it has none."""
    if document.current_char and not document.current_char.isspace():
        return None
    match = _WORD.search(document.current_line_before_cursor)
    return match[1] if match is not None and len(match[1]) <= MAX_QUERY_CHARACTERS else None


def quote(path: str, *, in_command: bool = False) -> str:
    r"""Return a path for a message, with a backslash before blanks, or as a word of a shell's command.

    Hidden characters are written as bash writes them (``$'a\x1b'``): nothing in the text moves a cursor.
    """
    if path.startswith(("-", "~", "=", "+")):
        path = f"./{path}"
    if path.isprintable():
        return (_NOT_SAFE_IN_SHELL if in_command else _BLANK).sub(r"\\\g<0>", path)
    text = ""
    for character in path:
        # Neither an apostrophe nor a backslash remains, at which another shell would end the word.
        is_plain = character.isprintable() and character not in "\\'"
        text += character if is_plain else "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
    return f"$'{text}'"
