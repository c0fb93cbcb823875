"""Searching by ripgrep: what it finds is told once it was read here, and it ends when nobody waits."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from kheishd.hooks.files.arguments import Pattern
from kheishd.hooks.files.ripgrep import Lines, regex_search
from kheishd.kernel.hook import ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.files import MAX_EDIT_BYTES, MAX_GREP_LINE_BYTES, MAX_GREP_OUTPUT_BYTES, MAX_MATCHES
from tests.support.workspaces import swapping

RIPGREP = shutil.which("rg")
needs_ripgrep = pytest.mark.skipif(RIPGREP is None, reason="ripgrep is not installed here")


async def text_of(workspace: Path, pattern: str, *, program: str | None = None, **asked: Any) -> str:
    """What a search tells."""
    search = Pattern(pattern=pattern, **asked)
    return await regex_search(program or RIPGREP or "rg", str(workspace), search, trio.to_thread.run_sync)


async def searched(workspace: Path, pattern: str, **asked: Any) -> Any:
    """It, decoded."""
    return msgspec.json.decode(await text_of(workspace, pattern, **asked))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Some files, and one outside."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.py").write_text("needle: secret\n")
    for path in ("ws/b/x.py", "ws/b/c/y.py", "ws/a/z.c", "ws/.hidden", "ws/.git/config"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"this is {path}\nneedle: 12\n")
    return tmp_path / "ws"


@needs_ripgrep
async def test_a_regular_expression(tree: Path) -> None:
    """In order of paths; hidden files too, a repository's own not."""
    found = await searched(tree, r"needle: \d+$")
    paths = [".hidden", "a/z.c", "b/c/y.py", "b/x.py"]
    assert found == {
        "matches": [{"path": path, "line": 2, "text": "needle: 12"} for path in paths],
        "truncated": False,
        "engine": "ripgrep",
    }
    below = await searched(tree, "needle", base="b")
    assert [match["path"] for match in below["matches"]] == ["b/c/y.py", "b/x.py"]
    assert (await searched(tree, "nothing like it"))["matches"] == []


@needs_ripgrep
async def test_a_pattern_is_never_an_option(tree: Path) -> None:
    """Whatever it begins with."""
    (tree / "a" / "z.c").write_text("--files\n-e\n")
    assert len((await searched(tree, "--files"))["matches"]) == 1
    assert len((await searched(tree, "-e"))["matches"]) == 1


@needs_ripgrep
@pytest.mark.parametrize("pattern", ["o(", "[", "a{2", "\ud800", "a\0b", "a\nb"])
async def test_a_pattern_that_is_none(tree: Path, pattern: str) -> None:
    """It is told what is wrong with it."""
    with pytest.raises(ToolError, match=r"the search cannot be done|the pattern holds"):
        await searched(tree, pattern)


@needs_ripgrep
async def test_what_is_not_searched(tree: Path) -> None:
    """Binary files, large files, links; what is not UTF-8 is told as well as it can be."""
    (tree / "binary").write_bytes(b"\0\0\nneedles\n")
    (tree / "large").write_bytes(b"needles\n" + b"x" * MAX_EDIT_BYTES)
    (tree / "latin").write_bytes(b"needles \xff\r\n")
    (tree / "utf16").write_text("needles\n", encoding="utf-16")
    (tree / "link").symlink_to("latin")
    (tree / "out").symlink_to(tree.parent / "outside")
    os.mkfifo(tree / "pipe")
    (tree / os.fsdecode(b"\xff")).write_text("needles\n")
    found = await searched(tree, "needles|secret")
    assert found["matches"] == [{"path": "latin", "line": 1, "text": "needles \ufffd"}]


@needs_ripgrep
async def test_limits(tree: Path) -> None:
    """Fewer, if that is said; never more than there may be, nor than a model reads at once."""
    assert len((await searched(tree, "needle", limit=2))["matches"]) == 2
    assert (await searched(tree, "needle", limit=2))["truncated"] is True
    assert (await searched(tree, "needle", limit=4))["truncated"] is False
    (tree / "a" / "z.c").write_text("needle\n" * 10_000)
    many = await searched(tree, "needle", base="a")
    assert (len(many["matches"]), many["matches"][-1]["line"], many["truncated"]) == (
        MAX_MATCHES,
        MAX_MATCHES,
        True,
    )
    (tree / "a" / "z.c").write_text(f"{'x' * 5_000}needle{'y' * 5_000}\n" * 200)
    text = await text_of(tree, "needle", base="a")
    assert len(text.encode()) <= MAX_TOOL_TEXT_BYTES
    assert msgspec.json.decode(text)["truncated"] is True
    assert "xneedley" in text


@needs_ripgrep
async def test_the_environment_is_not_its_own(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its configuration nor anything else of the daemon's reaches it."""
    (tree.parent / "rc").write_text("--files-without-match\n")
    monkeypatch.setenv("RIPGREP_CONFIG_PATH", str(tree.parent / "rc"))
    assert len((await searched(tree, "needle"))["matches"]) == 4


@needs_ripgrep
async def test_a_directory_swapped_for_a_link(tree: Path) -> None:
    """Between ripgrep's looking and its opening: what lies outside is never told."""
    with swapping(tree / "b", tree.parent / "outside"):
        for _ in range(20):
            assert "secret" not in await text_of(tree, "needle")
            try:
                assert "secret" not in await text_of(tree, "needle", base="b")
            except ToolError:
                continue


def program(directory: Path, lines: list[str], end: str = "") -> str:
    """A program that says these lines and ends so."""
    path = directory / "rg"
    said = "\n".join(["#!/bin/sh", "cat <<'END'", *lines, "END", end, ""])
    path.write_text(said)
    path.chmod(0o755)
    return str(path)


def claim(path: str, text: str, offset: int = 0) -> str:
    """A match, as ripgrep would tell it."""
    data = {
        "path": {"text": path},
        "lines": {"text": text},
        "line_number": 1,
        "absolute_offset": offset,
        "submatches": [{"match": {"text": text}, "start": 0, "end": 1}],
    }
    return msgspec.json.encode({"type": "match", "data": data}).decode()


async def test_only_what_is_there_is_told(tree: Path) -> None:
    """Whatever the program says: other text, another place, a file outside, a link, no file."""
    (tree / "link").symlink_to(tree.parent / "outside" / "x.py")
    (tree / "out").symlink_to(tree.parent / "outside")
    lines = [
        claim("./a/z.c", "needle: secret\n"),
        claim("./a/z.c", "this is ws/a/z.c\n", 5),
        claim("../outside/x.py", "needle: secret\n"),
        claim("./link", "needle: secret\n"),
        claim("./out/x.py", "needle: secret\n"),
        claim("./gone", "needle: secret\n"),
        '{"type":"summary","data":{}}',
        claim("./a/z.c", "this is ws/a/z.c\n"),
    ]
    found = await searched(tree, "x", program=program(tree.parent, lines))
    assert found["matches"] == [{"path": "a/z.c", "line": 1, "text": "this is ws/a/z.c"}]


async def test_a_search_that_is_not_waited_for_ends(tree: Path) -> None:
    """The program is killed at once, however it takes that, and is no more."""
    pid_file = tree.parent / "pid"
    stubborn = program(
        tree.parent,
        [],
        f"trap '' TERM; echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec tail -f /dev/null",
    )
    with trio.fail_after(10), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_once, pid_file.exists, scope)
            await searched(tree, "x", program=stubborn)
    assert scope.cancelled_caught
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


async def _cancel_once(condition: Callable[[], bool], scope: trio.CancelScope) -> None:
    while not condition():
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_program_that_is_gone(tree: Path) -> None:
    """Whoever asks is told, and sees to it."""
    with pytest.raises(FileNotFoundError):
        await searched(tree, "x", program=str(tree / "gone"))


def test_lines_in_pieces() -> None:
    """However they are cut; what is no JSON is a complaint."""
    text = b'{"a":1}\n{"b":2}\nerror: one\n\n{"c":3}'
    for cut in range(len(text) + 1):
        lines = Lines()
        found = lines.take(text[:cut]) if cut else []
        found += lines.take(text[cut:]) if cut < len(text) else []
        assert [*found, *lines.take(b"")] == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
        assert (lines.complaint, lines.cut, lines.skipped) == ("error: one", False, False)


def test_a_line_that_is_too_long_is_skipped() -> None:
    """The next ones are not, and it is not held meanwhile."""
    lines = Lines()
    assert lines.take(b'{"a":1}\n{"' + b"x" * MAX_GREP_LINE_BYTES) == [b'{"a":1}']
    for _ in range(3):
        assert lines.take(b"x" * MAX_GREP_LINE_BYTES) == []
    assert lines.take(b'"}\n{"b":2}\n') == [b'{"b":2}']
    assert lines.skipped
    assert not lines.cut


def test_endless_output_is_cut() -> None:
    """Line by line it is all well, together it is too much."""
    lines = Lines()
    piece = b'{"a":"' + b"x" * 10_000 + b'"}\n'
    for _ in range(MAX_GREP_OUTPUT_BYTES // len(piece) + 1):
        assert not lines.cut
        lines.take(piece)
    assert lines.cut
