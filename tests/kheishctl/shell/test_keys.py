"""Tests of the keys of the prompt."""

import asyncio
from pathlib import Path

import pytest

from kheishctl.shell.keys import MAX_PASTED_CHARACTERS, MAX_PASTED_LINES, PasteShelf, edit_text
from tests.support.prompts import BLOCK_CURSOR, FakeOwner, run_prompt


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("\x1b[200~one\ntwo\n\x1b[201~\r", "one\ntwo\n"),
        ("\r \r\x7fx\r", "x"),
        ("/sta\t\r", "/status"),
    ],
    ids=["enter", "alt-enter", "paste", "blank", "tab"],
)
def test_keys(keys: str, text: str) -> None:
    """Enter sends a line with text, Alt-Enter and pastes keep line breaks, Tab completes commands."""

    async def body(owner: FakeOwner) -> None:
        owner.keyboard.send_text(keys)
        assert await owner.prompt.read() == text

    run_prompt(body)


def test_meaningful_keys() -> None:
    """The owner handles a key on an empty line; within a text, or with more input behind it, it is text."""

    async def body(owner: FakeOwner) -> None:
        owner.meaningful_keys = {"a", "2", "enter", " "}
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        for keys in ("a", "2", "\r", "d", "a", "\x7f", "\x7f", "  ", "aa"):
            owner.keyboard.send_text(keys)
            await owner.wait_for_drawing()
        assert owner.keys == ["a", "2", "enter", " ", " "]
        assert not owner.prompt.is_empty
        owner.keyboard.send_text("\r")
        assert await line == "aa"

    run_prompt(body)


def test_line_for_the_owner() -> None:
    """A line that the owner takes is not sent and not remembered; its rest stays in the prompt."""

    async def body(owner: FakeOwner) -> None:
        owner.rests = {"taken": "", "wrong": "wrong", "": ""}
        line = asyncio.ensure_future(owner.prompt.read())
        owner.keyboard.send_text("taken\r\rwrong\r!\r")
        assert await line == "wrong!"

    run_prompt(body)


@pytest.mark.parametrize(("key", "text", "interrupts"), [("\x03", "more", 1), ("\x1b", "typedmore", 2)])
def test_interrupt(key: str, text: str, interrupts: int) -> None:
    """Ctrl-C clears a draft and interrupts on an empty line only; Esc interrupts and keeps the draft."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        await owner.press(key)
        owner.keyboard.send_text("typed")
        await owner.press(key)
        owner.keyboard.send_text("more\r")
        assert await line == text
        assert owner.interrupts == interrupts
        # Without an answer to stop, Ctrl-C names the key that leaves.
        assert owner.acts == (["Ctrl-D leaves"] if key == "\x03" else [])

    run_prompt(body)


@pytest.mark.parametrize("key", ["\x03", "\x1b"])
def test_line_for_an_approval_is_abandoned(key: str) -> None:
    """Ctrl-C and Esc abandon the line for an approval, with its text, and interrupt nothing."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.has_line = True
        owner.keyboard.send_text("typed")
        await owner.press(key)
        owner.keyboard.send_text("more\r")
        assert await line == "more"
        assert (owner.has_line, owner.interrupts) == (False, 0)

    run_prompt(body)


def test_keys_of_a_list(tmp_path: Path) -> None:
    """Up and Down select a mention, Enter inserts it, Esc closes the list; a command keeps its Enter."""
    directory = tmp_path / "work"
    directory.mkdir()
    for name in ("one.py", "three.py"):
        (directory / name).touch()

    async def body(owner: FakeOwner) -> None:
        owner.offer_mentions(directory).definitions = []
        line = asyncio.ensure_future(owner.prompt.read())
        owner.keyboard.send_text("@")
        await owner.paper.sees("one.py")
        owner.keyboard.send_text("\x1b[A\x1b[B\x1b[B\rx\r")
        assert await line == "three.py x"
        for text, keys in (("@thr", "\x1b"), ("!cat @thr", "")):
            start = len(owner.paper.getvalue())
            line = asyncio.ensure_future(owner.prompt.read())
            owner.keyboard.send_text(text)
            await owner.paper.sees("three.py", start)
            if keys:
                owner.keyboard.send_text(keys)
                await owner.press(keys)
            owner.keyboard.send_text("\r")
            assert await line == text
        assert owner.interrupts == 1

    run_prompt(body)


def test_recall() -> None:
    """Up recalls earlier lines from an empty or unchanged line, and Down returns."""

    async def body(owner: FakeOwner) -> None:
        for text in ("one", "two"):
            owner.keyboard.send_text(f"{text}\r")
            await owner.prompt.read()
        owner.keyboard.send_text("\x1b[A\x1b[A\x1b[B!\x1b[A\r")
        assert await owner.prompt.read() == "two!"
        owner.keyboard.send_text("draft\x1b[A\r")
        assert await owner.prompt.read() == "draft"

    run_prompt(body)


def test_cursor_in_a_text_of_several_lines() -> None:
    """Up and Down move the cursor within a text before they recall anything."""

    async def body(owner: FakeOwner) -> None:
        owner.keyboard.send_text("earlier\r")
        await owner.prompt.read()
        owner.keyboard.send_text("one\x1b\rtwo\x1b[A!\x1b[A\x1b[B?\r")
        assert await owner.prompt.read() == "one!\ntwo?"

    run_prompt(body)


def test_search_through_the_history() -> None:
    """Ctrl-R finds an earlier line by a part of it; Enter takes it, with the cursor at that part."""

    async def body(owner: FakeOwner) -> None:
        owner.meaningful_keys = {"a"}
        for text in ("make tests", "something else"):
            owner.keyboard.send_text(f"{text}\r")
            await owner.prompt.read()
        owner.keyboard.send_text("\x12ake\r!\r")
        assert await owner.prompt.read() == "m!ake tests"
        assert not owner.keys

    run_prompt(body)


def test_pending_request_is_scrolled() -> None:
    """While a request is shown, Up and Down scroll it by lines, and PageUp and PageDown by pages."""

    async def body(owner: FakeOwner) -> None:
        owner.keyboard.send_text("earlier\r")
        await owner.prompt.read()
        owner.has_request = True
        owner.keyboard.send_text("\x1b[A\x1b[B\x1b[5~\x1b[6~draft\x1b[5~\r")
        assert await owner.prompt.read() == "draft"
        assert owner.scrolls == [(0, -1), (0, 1), (-1, 0), (1, 0), (-1, 0)]

    run_prompt(body)


def test_page_keys_without_a_request() -> None:
    """PageUp and PageDown recall nothing."""

    async def body(owner: FakeOwner) -> None:
        owner.keyboard.send_text("earlier\r")
        await owner.prompt.read()
        owner.keyboard.send_text("\x1b[5~\x1b[6~draft\r")
        assert await owner.prompt.read() == "draft"

    run_prompt(body)


def test_help_key() -> None:
    """A question mark on an empty line is a key, and text in a line."""

    async def body(owner: FakeOwner) -> None:
        owner.meaningful_keys = {"?"}
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        await owner.press("?")
        owner.keyboard.send_text("why?\r")
        assert await line == "why?"
        assert owner.keys == ["?"]

    run_prompt(body)


def test_keys_of_vi() -> None:
    """In the navigation of vi, Esc interrupts, and a letter answers a request or is a command of vi."""

    async def body(owner: FakeOwner) -> None:
        owner.prompt.is_vi = True
        owner.meaningful_keys = {"a"}
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.keyboard.send_text("\x1b")
        await owner.paper.sees(BLOCK_CURSOR)
        await owner.press("\x1b")
        assert owner.interrupts == 1
        owner.has_request = True
        await owner.press("a")
        await owner.press("d")
        assert owner.keys == ["a"]
        owner.has_request = False
        owner.keyboard.send_text("atext\r")
        assert await line == "text"

    run_prompt(body)


def test_editor_key() -> None:
    """Ctrl-G opens the editor."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.keyboard.send_text("text\x07")
        await owner.edit
        owner.keyboard.send_text("\r")
        assert await line == "text changed"

    run_prompt(body)


def test_keys_of_the_chat() -> None:
    """Alt-Up withdraws, Ctrl-Z suspends, Ctrl-O shows all; the terminal reports its focus."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        for key in ("\x1b\x1b[A", "\x1a", "\x1b[O", "\x1b[I", "\x0f"):
            await owner.press(key)
        assert owner.acts == ["withdraw", "suspend", "back", "front", "transcript"]
        owner.keyboard.send_text("text\r")
        assert await line == "text"

    run_prompt(body)


# Long pastes.

LONG = "\n".join(f"line {number}" for number in range(MAX_PASTED_LINES + 1))


def paste(text: str) -> str:
    """Return what a terminal sends for a paste."""
    return f"\x1b[200~{text}\x1b[201~"


def test_long_paste() -> None:
    """A long paste is short in the line, and sent in full; a cleared one is forgotten."""

    async def body(owner: FakeOwner) -> None:
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.keyboard.send_text("see " + paste(LONG))
        await owner.paper.sees("[paste 1: 11 lines]")
        owner.keyboard.send_text(" and " + paste("x" * (MAX_PASTED_CHARACTERS + 1)))
        await owner.paper.sees("[paste 2: 2001 characters]")
        owner.keyboard.send_text("\r")
        assert await line == f"see {LONG} and {'x' * (MAX_PASTED_CHARACTERS + 1)}"
        owner.keyboard.send_text(paste(LONG) + "\x03[paste 1: 11 lines]\r")
        assert await owner.prompt.read() == "[paste 1: 11 lines]"

    run_prompt(body)


def test_line_that_stays_keeps_its_paste() -> None:
    """A line that the owner rejects keeps the short form, and the owner sees the paste in full."""

    async def body(owner: FakeOwner) -> None:
        owner.rests = {LONG: LONG}
        line = asyncio.ensure_future(owner.prompt.read())
        await owner.paper.sees("ada >")
        owner.keyboard.send_text(paste(LONG) + "\r!\r")
        assert await line == f"{LONG}!"

    run_prompt(body)


def test_shelf() -> None:
    """Line breaks of any system are pasted; a paste that contains the form of another one stays as it is."""
    shelf = PasteShelf()
    assert shelf.add("a\r\nb\rc") == "a\nb\nc"
    first = shelf.add(LONG + "[paste 2: 11 lines]")
    second = shelf.add(LONG)
    assert shelf.expand(f"{first} {second}") == f"{LONG}[paste 2: 11 lines] {LONG}"
    shelf.clear()
    assert shelf.expand(first) == first


# The editor.


@pytest.fixture(autouse=True)
def editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Provide an editor that changes the text."""
    path = tmp_path / "editor"
    path.write_text('#!/bin/sh\nprintf "text changed\\n" > "$1"\n')
    path.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(path))
    return path


def test_no_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an editor in the environment, none is started."""
    monkeypatch.delenv("EDITOR")
    with pytest.raises(ValueError, match="EDITOR is not set"):
        edit_text("text")


def test_edit() -> None:
    """The edited text has no line break at its end that the editor added."""
    assert edit_text("text") == "text changed"


@pytest.mark.parametrize(
    ("script", "reason"),
    [("exit 1", "Editing failed"), ("printf '\\377' > \"$1\"", "not UTF-8")],
    ids=["failure", "encoding"],
)
def test_failed_edit(editor: Path, script: str, reason: str) -> None:
    """An editor that fails, or writes no text, leaves the line unchanged and names itself."""
    editor.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(ValueError, match=f"{editor}: .*{reason}"):
        edit_text("text")
