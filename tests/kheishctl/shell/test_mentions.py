"""Tests of the list of files and agents that a word can mention."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document

from kheishctl.shell.mentions import MentionFinder, MentionMenu, find_word, quote
from tests.support.mentions import FakeConversation


class Person(FakeConversation):
    """A person who types lines in a conversation, and its list of mentions."""

    def __init__(self, workspace: str | None = None) -> None:
        super().__init__(workspace)
        self.finder = MentionFinder(self, self.start)
        self.menu = MentionMenu()

    def type(self, line: str) -> Document:
        """Show the list for a line, with the cursor at its end."""
        self.menu.update(Document(line), self.finder)
        return Document(line)

    async def read(self, line: str = "@") -> None:
        """Show the list for a line after all that it starts has ended."""
        self.type(line)
        await asyncio.gather(*self.tasks)
        self.type(line)

    def rows(self, *, columns: int = 60, max_lines: int = 8) -> list[str]:
        """Return the rows of the list."""
        complete = self.finder.is_complete
        return self.menu.format(max_lines, columns, is_complete=complete, color=False)


def run(body: Callable[[Person], Awaitable[None]], workspace: Path | None = None) -> None:
    """Run a body with a conversation in a directory."""

    async def main() -> None:
        await body(Person(str(workspace) if workspace else None))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("@", ""),
        ("look at @src/ma", "src/ma"),
        ("one\n@two", "two"),
        ("@my\\ file", "my\\ file"),
        ("@end\\", "end\\"),
        ("mail a@b", None),
        ("@two words", None),
        ("", None),
        ("@" + "x" * 300, None),
    ],
)
def test_word_at_the_cursor(line: str, word: str | None) -> None:
    """A word that begins with @ and ends at the cursor is a mention; an address of mail is not."""
    assert find_word(Document(line)) == word
    assert find_word(Document(f"{line}|", len(line))) is None


@pytest.mark.parametrize(
    "path",
    ["plain.py", "my file.py", "it's.py", "a\x1b[2Jb'\\c.py", "tab\t.py", "-rf", "~", "$(id).py", "é\u202e"],
)
def test_quoted_paths(path: str) -> None:
    """A shell reads the quoted path as it is; no character of it is active in a terminal."""
    text = quote(path, in_command=True)
    assert text.isprintable()
    assert quote(path).isprintable()
    read = subprocess.run(["bash", "-c", f"printf %s {text}"], capture_output=True, check=True)
    assert read.stdout.decode().removeprefix("./") == path


def test_a_message_has_backslashes_before_blanks_only() -> None:
    """The path in a message is as plain as it can be; bytes that are no UTF-8 are written as such."""
    assert quote("app/[id]/my page.tsx") == r"app/[id]/my\ page.tsx"
    assert quote("a\udcff") == r"$'a\xff'"


def test_files_and_agents(tmp_path: Path) -> None:
    """Agents at work and definitions are marked, with their summaries; files follow the first of them."""
    (tmp_path / "survey.md").touch()

    async def body(chat: Person) -> None:
        chat.session_id = "ses_1"
        chat.type("@")
        assert chat.rows() == ["  … the files of the workspace are being listed"]
        await chat.read()
        assert chat.rows() == [
            "> @survey  agent at work as reviewer, running",
            "  @reviewer  agent: Reads␛ changes.",
            "  @default  agent",
            "  survey.md",
        ]
        chat.type("ask @rv")
        assert [row[:10] for row in chat.rows()] == ["> survey.m", "  @survey ", "  @reviewe"]
        chat.type("@nothing like it")
        assert chat.rows() == []

    run(body, tmp_path)


def test_a_selected_mention_is_inserted(tmp_path: Path) -> None:
    """The selected row replaces the word; in a command, it is one word of the shell."""
    (tmp_path / "my $file").touch()

    async def body(chat: Person) -> None:
        await chat.read()
        for line, cursor, text in (
            ("see @file", 9, "see my\\ $file "),
            ("see @file now", 9, "see my\\ $file now"),
            ("!cat @file", 10, "!cat my\\ \\$file "),
        ):
            buffer = Buffer(document=Document(line, cursor))
            chat.menu.update(buffer.document, chat.finder)
            chat.menu.insert(buffer)
            assert buffer.text == text
        # A list that was not drawn for this word inserts nothing.
        buffer = Buffer(document=Document("other @file"))
        buffer.cursor_position = 11
        chat.menu.insert(buffer)
        assert buffer.text == "other @file"
        document = chat.type("@default")
        assert chat.menu.is_written(document)
        assert not chat.menu.is_open(Document("x @default"))
        assert not chat.menu.is_written(chat.type("@defaul"))

    run(body, tmp_path)


def test_the_list_scrolls(tmp_path: Path) -> None:
    """A long list shows the rows around the selected one, which stays selected after a refresh."""
    for number in range(20):
        (tmp_path / f"{number:02}.py").touch()

    async def body(chat: Person) -> None:
        await chat.read("@py")
        more = "  … more: type letters of the name, or move with Up and Down"
        assert chat.rows(max_lines=4) == ["> 00.py", "  01.py", "  02.py", more]
        chat.menu.select(-1)
        assert chat.rows(max_lines=4) == ["  17.py", "  18.py", "> 19.py", more]
        assert chat.rows(max_lines=0) == ["> 19.py", more]
        chat.finder.version += 1
        chat.type("@py")
        assert chat.rows(max_lines=4)[2] == "> 19.py"
        chat.menu.select(1)
        assert chat.rows(max_lines=2)[0] == "> 00.py"

    run(body, tmp_path)


def test_the_list_can_be_closed(tmp_path: Path) -> None:
    """A closed list stays closed for its word; another word has its own."""
    (tmp_path / "a.py").touch()

    async def body(chat: Person) -> None:
        await chat.read("@a")
        chat.menu.close()
        chat.type("@a.")
        assert chat.rows() == []
        chat.type("@a. @a")
        assert chat.rows() == ["> a.py", "  @default  agent"]
        chat.menu.close()
        chat.type("")
        chat.type("@a. @a")
        assert chat.rows() == ["> a.py", "  @default  agent"]
        chat.menu.update(Document("@a"), None)
        assert chat.rows() == []

    run(body, tmp_path)


def test_odd_file_names(tmp_path: Path) -> None:
    """Characters that are active, hidden or look like others are shown by name; long paths keep their end."""
    names = ["a\x1b[2J.md", "b\u202e.md", "c\nd\t.md", "r\u043e\u043et.md", f"{'long' * 20}.md"]
    for name in names:
        (tmp_path / name).touch()

    async def body(chat: Person) -> None:
        await chat.read("@.md")
        rows = chat.rows(columns=70)
        assert all(row.isprintable() for row in rows)
        text = "\n".join(rows)
        for shown in (
            "⟨ESCAPE⟩",
            "⟨RIGHT-TO-LEFT OVERRIDE⟩",
            "⟨LINE FEED⟩",
            "⟨TAB⟩",
            "⟨CYRILLIC SMALL LETTER O⟩",
        ):
            assert shown in text
        assert "  …" in text
        assert "longlong.md" in text

    run(body, tmp_path)


def test_changes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are listed anew when they are old or the workspace is another, and only then."""
    now = [0.0]
    monkeypatch.setattr("kheishctl.shell.mentions.time.monotonic", lambda: now[0])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").touch()

    async def body(chat: Person) -> None:
        chat.workspace, chat.is_lost = str(tmp_path / "one"), True
        await chat.read()
        assert chat.rows() == ["> one.py"]
        (tmp_path / "one" / "new.py").touch()
        await chat.read()
        assert len(chat.tasks) == 1
        now[0] = 100.0
        await chat.read()
        assert chat.rows() == ["> one.py", "  new.py"] or chat.rows() == ["  new.py", "> one.py"]
        chat.workspace, chat.directory = None, str(tmp_path / "two")
        chat.type("@")
        assert chat.rows() == ["  … the files of the workspace are being listed"]
        await chat.read()
        assert chat.rows() == ["> two.py"]
        chat.session_id = "ses_1"
        await chat.read()
        assert len(chat.tasks) == 4

    run(body)


def test_without_a_directory() -> None:
    """A conversation whose directory is unknown has agents only."""

    async def body(chat: Person) -> None:
        await chat.read()
        assert [row[2:].split()[0] for row in chat.rows()] == ["@reviewer", "@default"]

    run(body)
