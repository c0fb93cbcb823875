"""Tests of the prompt on the pipes of prompt-toolkit."""

import asyncio
import os
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory

from kheishctl.shell.prompt import SlashCompleter, locate_history, open_history
from kheishctl.shell.slash_commands import COMMANDS
from tests.support.prompts import BLOCK_CURSOR, FakeOwner, run_prompt


def test_set_text() -> None:
    """A text that is put into the prompt can be edited and sent."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        assert owner.prompt.is_empty
        owner.prompt.set_text("put")
        owner.keyboard.send_text("!\r")
        assert await line == "put!"

    run_prompt(body)


def test_sequences() -> None:
    """Sequences and a new title reach the terminal at once."""

    async def body(owner: FakeOwner) -> None:
        owner.prompt.write("\a")
        assert owner.paper.getvalue().endswith("\a")
        for title in ("title", "title", ""):
            owner.prompt.set_title(title)
        assert owner.paper.getvalue().count("\x1b]2;") == 1

    run_prompt(body)


def test_terminal_is_restored() -> None:
    """Reports of the focus end with the chat, and a title that was set is replaced by the previous one."""

    async def body(owner: FakeOwner) -> None:
        with owner.prompt.hold_terminal():
            assert owner.paper.getvalue().endswith("\x1b[22;2t\x1b[?1004h")
        assert owner.paper.getvalue().endswith("\x1b[?1004l")
        with owner.prompt.hold_terminal():
            owner.prompt.set_title("title")
        assert owner.paper.getvalue().endswith("\x1b[?1004l\x1b[23;2t")

    run_prompt(body)


def test_commands_are_listed_while_they_are_typed() -> None:
    """The commands that the line may become are above it with their summaries, in a few lines."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.keyboard.send_text("/")
        await owner.paper.sees("… and ")
        owner.keyboard.send_text("cos")
        await owner.paper.sees(COMMANDS["cost"].summary)
        owner.keyboard.send_text("t\r")
        assert await line == "/cost"

    run_prompt(body)


def test_mentions_are_listed_while_they_are_typed(tmp_path: Path) -> None:
    """Files that a word may mention are above the line; nothing is read before the first @."""
    (tmp_path / "deep").mkdir()
    for name in (*(f"a{number}" for number in range(10)), "deep/notes of ada.md"):
        (tmp_path / name).touch()

    async def body(owner: FakeOwner) -> None:
        conversation = owner.offer_mentions(tmp_path)
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.keyboard.send_text("read ")
        await owner.paper.sees("read")
        assert not conversation.tasks
        owner.keyboard.send_text("@")
        await owner.paper.sees("a2")
        owner.keyboard.send_text("ntsada")
        await owner.paper.sees("ada.md")
        owner.keyboard.send_text("\tnow\r")
        assert await line == "read deep/notes\\ of\\ ada.md now"
        assert len(conversation.tasks) == 1

    run_prompt(body)


def test_ctrl_d_leaves() -> None:
    """Ctrl-D on an empty line ends the prompt."""

    async def body(owner: FakeOwner) -> None:
        owner.keyboard.send_text("\x04")
        with pytest.raises(EOFError):
            await owner.prompt.read()

    run_prompt(body)


def test_leave() -> None:
    """Leaving ends the open prompt, and the next one; leaving twice does no harm."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        asyncio.get_running_loop().call_later(0.01, owner.prompt.leave)
        asyncio.get_running_loop().call_later(0.01, owner.prompt.leave)
        with pytest.raises(EOFError):
            await line
        owner.prompt.leave()
        with pytest.raises(EOFError):
            await owner.prompt.read()

    run_prompt(body)


def test_print() -> None:
    """Finished text is written unchanged above the prompt, with an open prompt or without."""

    async def body(owner: FakeOwner) -> None:
        owner.prompt.print("before\n")
        owner.prompt.print("")
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.prompt.print("\x1b[1mmeanwhile\x1b[0m\nmore\n")
        length = len(owner.paper.getvalue())
        await owner.paper.sees("ada >", length)
        owner.keyboard.send_text("x\r")
        await line

    text = run_prompt(body).paper.getvalue()
    assert "before\r\n" in text
    assert "\x1b[1mmeanwhile\x1b[0m\r\nmore\r\n" in text
    assert "\x1b[6n" not in text, "the terminal may not be queried"


def test_live_area() -> None:
    """The live area is drawn soon after a change, and erased when the prompt ends."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.live = "growing"
        owner.prompt.redraw()
        owner.prompt.redraw()
        await owner.paper.sees("growing")
        owner.keyboard.send_text("x\r")
        await line

    text = run_prompt(body).paper.getvalue()
    assert "\x1b[J" in text[text.rindex("growing") :]


def test_earlier_drawing_wins() -> None:
    """Of two scheduled drawings the earlier one takes place, whichever was requested first."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        for live, delays in (("first", (1000.0, 0.0)), ("then", (0.0, 1000.0))):
            owner.live = live
            for delay in delays:
                owner.prompt.redraw(delay)
            await owner.paper.sees(live)
        owner.keyboard.send_text("x\r")
        await line

    run_prompt(body)


def test_columns() -> None:
    """The width is that of the terminal."""

    async def body(owner: FakeOwner) -> None:
        assert owner.prompt.columns == 80

    run_prompt(body)


def test_history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The history is in $XDG_STATE_HOME, else in the person's home, and only they can read it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert locate_history() == str(tmp_path / "state" / "kheish" / "history")
    history = open_history(locate_history())
    assert isinstance(history, FileHistory)
    assert (tmp_path / "state" / "kheish" / "history").stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate_history() == str(tmp_path / ".local" / "state" / "kheish" / "history")


def test_history_without_a_file(tmp_path: Path) -> None:
    """If the file cannot be created, the history is in memory only."""
    (tmp_path / "file").touch()
    assert isinstance(open_history(str(tmp_path / "file" / "history")), InMemoryHistory)


def test_history_on_a_full_disk(tmp_path: Path) -> None:
    """A line that cannot be saved costs nothing else."""
    (tmp_path / "history").symlink_to("/dev/full")
    history = open_history(str(tmp_path / "history"))
    history.append_string("hello")
    assert history.get_strings() == ["hello"]
    (tmp_path / "history").unlink()
    (tmp_path / "history").mkdir()
    history.append_string("again")
    assert list(history.load_history_strings()) == []


def test_slash_completer() -> None:
    """Commands are completed at the start of the only line."""

    def complete(text: str) -> list[str]:
        return [
            completion.text
            for completion in SlashCompleter().get_completions(Document(text), CompleteEvent())
        ]

    assert complete("/") == [f"/{name}" for name in COMMANDS]
    assert complete("/sta") == ["/status"]
    assert complete("x /st") == complete("/st x") == complete("a\n/st") == []


def test_edit_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The person's editor changes the line; text that is finished meanwhile is printed afterwards."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nread -r line < "$0.go"\necho "$line" >> "$1"\n')
    editor.chmod(0o755)
    os.mkfifo(tmp_path / "editor.go")
    monkeypatch.setenv("VISUAL", str(editor))

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.prompt.set_text("one\n")
        edit = asyncio.ensure_future(owner.prompt.edit_line())
        # The pipe can be opened once the editor reads from it.
        pipe = await asyncio.to_thread((tmp_path / "editor.go").open, "w")
        owner.prompt.print("meanwhile\n")
        assert "meanwhile" not in owner.paper.getvalue()
        with pipe:
            pipe.write("two\n")
        await edit
        await owner.paper.sees("meanwhile")
        owner.keyboard.send_text("\r")
        assert await line == "one\ntwo"

    run_prompt(body)


def test_vi_mode() -> None:
    """In vi mode, Esc begins the navigation, in which letters are commands and the cursor is a block."""

    async def body(owner: FakeOwner) -> None:
        owner.prompt.is_vi = True
        assert owner.prompt.is_vi
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.keyboard.send_text("one two\x1b")
        await owner.paper.sees(BLOCK_CURSOR)
        owner.keyboard.send_text("bcwthree\r")
        assert await line == "one three"
        owner.prompt.is_vi = False
        assert not owner.prompt.is_vi

    run_prompt(body)
