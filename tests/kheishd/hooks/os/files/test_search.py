"""Listing, finding and searching files, within the limits of a result."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from kheishd.core.permissions.judge import is_path_closed
from kheishd.hooks.os.files.confinement import open_root
from kheishd.hooks.os.files.search import (
    ListFiles,
    RipgrepLines,
    SearchFiles,
    TextMatch,
    excerpt_around,
    glob_search,
    list_files,
    literal_search,
    regex_search,
)
from kheishd.kernel.hook import ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.files import (
    MAX_EDIT_BYTES,
    MAX_GREP_LINE_BYTES,
    MAX_GREP_OUTPUT_BYTES,
    MAX_MATCH_BYTES,
    MAX_MATCHES,
)
from tests.support.workspaces import swapping


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with some files."""
    for path in ("b/x.py", "b/c/y.py", "a/z.c", "top.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"this is {path}\nwith a.b in it\n")
    return tmp_path


def listed(workspace: Path, **request: Any) -> Any:
    """Return the decoded result of list_files."""
    with open_root(str(workspace)) as root:
        return msgspec.json.decode(list_files(root, ListFiles(**request)))


def globbed(workspace: Path, pattern: str, **request: Any) -> Any:
    """Return the decoded result of glob_search."""
    with open_root(str(workspace)) as root:
        return msgspec.json.decode(glob_search(root, SearchFiles(pattern=pattern, **request)))


def searched(workspace: Path, pattern: str, **request: Any) -> Any:
    """Return the decoded result of grep_search without ripgrep."""
    with open_root(str(workspace)) as root:
        return msgspec.json.decode(literal_search(root, SearchFiles(pattern=pattern, **request)))


def test_list_files(tree: Path) -> None:
    """Entries come nearest first, with directories marked."""
    assert listed(tree) == {
        "base": ".",
        "paths": ["a/", "b/", "top.py", "a/z.c", "b/c/", "b/x.py", "b/c/y.py"],
        "truncated": False,
    }
    assert listed(tree, base="b/c/..")["paths"] == ["b/c/", "b/x.py", "b/c/y.py"]


def test_glob_search(tree: Path) -> None:
    """The pattern applies to paths below the base; results are relative to the workspace, files only."""
    assert globbed(tree, "**/*.py")["paths"] == ["top.py", "b/x.py", "b/c/y.py"]
    assert globbed(tree, "*.py", base="b") == {
        "base": "b",
        "pattern": "*.py",
        "paths": ["b/x.py"],
        "truncated": False,
    }
    assert globbed(tree, "*")["paths"] == ["top.py"]


def test_limits(tree: Path) -> None:
    """The limit is the requested one, the maximum, and the size of a result."""
    assert listed(tree, limit=2) == {"base": ".", "paths": ["a/", "b/"], "truncated": True}
    assert listed(tree, limit=7)["truncated"] is False
    for number in range(MAX_MATCHES + 10):
        (tree / "a" / f"{number:03}").touch()
    many = listed(tree, base="a", limit=10_000)
    assert (len(many["paths"]), many["paths"][0], many["truncated"]) == (MAX_MATCHES, "a/000", True)
    for number in range(200):
        (tree / "b" / f"{number:03}{'ü' * 120}").touch()
    with open_root(str(tree)) as root:
        text = list_files(root, ListFiles(base="b"))
    assert len(text.encode()) <= MAX_TOOL_TEXT_BYTES
    assert msgspec.json.decode(text)["truncated"] is True


def test_names_that_cannot_be_told_are_counted(tree: Path) -> None:
    """Entries with unprintable names are counted, so that the directory does not seem empty."""
    (tree / "a" / "new\nline").touch()
    assert (listed(tree, base="a")["paths"], listed(tree, base="a")["unnamed"]) == (["a/z.c"], 1)


def test_literal_search(tree: Path) -> None:
    """The text is literal, and each line is returned once, with its number."""
    assert searched(tree, "a.b", base="b") == {
        "matches": [
            {"path": "b/x.py", "line": 2, "text": "with a.b in it"},
            {"path": "b/c/y.py", "line": 2, "text": "with a.b in it"},
        ],
        "truncated": False,
        "engine": "literal",
    }
    assert searched(tree, "a.*b")["matches"] == []
    assert searched(tree, "is", limit=1)["truncated"] is True


def test_what_is_not_searched(tree: Path) -> None:
    """Binary files, large files and links are not searched."""
    (tree / "binary").write_bytes(b"needle\0")
    (tree / "large").write_bytes(b"needle\n" + b"x" * MAX_EDIT_BYTES)
    (tree / "latin").write_bytes(b"needle \xff\r\n")
    (tree / "link").symlink_to("latin")
    assert searched(tree, "needle")["matches"] == [{"path": "latin", "line": 1, "text": "needle \ufffd"}]


def test_of_a_long_line_the_part_around_the_match_is_told() -> None:
    """Of a long line, the part around the match is returned."""
    line = b"x" * 5_000 + b"needle" + b"y" * 5_000
    for start in (0, 5_000, 10_000):
        text = excerpt_around(line, start)
        assert len(text) == MAX_MATCH_BYTES
    assert "xneedley" in excerpt_around(line, 5_000)
    assert excerpt_around(b"short\r\n", 0) == "short"


def test_matches_fit_what_a_model_reads(tree: Path) -> None:
    """Matches fit a result, however long the lines are and however much they take as JSON."""
    (tree / "a" / "z.c").write_bytes(b"\x01" * 600 + b"\n" * 1 + (b"\x01" * 600 + b"\n") * 300)
    with open_root(str(tree)) as root:
        text = literal_search(root, SearchFiles(pattern="\x01"))
    assert len(text.encode()) <= MAX_TOOL_TEXT_BYTES
    answer = msgspec.json.decode(text)
    assert answer["truncated"] is True
    assert TextMatch(**answer["matches"][0]).text == "\x01" * MAX_MATCH_BYTES


def test_a_search_begins_inside(tree: Path) -> None:
    """An invalid base is an error in all three tools."""
    with pytest.raises(ToolError, match="out of the workspace"):
        listed(tree, base="..")
    with pytest.raises(ToolError, match="there is no such file or directory"):
        globbed(tree, "*", base="gone")
    with pytest.raises(ToolError, match="not a directory"):
        searched(tree, "x", base="top.py")


# Searching with ripgrep.


RIPGREP = shutil.which("rg")
needs_ripgrep = pytest.mark.skipif(RIPGREP is None, reason="ripgrep is not installed here")


async def text_of(workspace: Path, pattern: str, *, program: str | None = None, **request: Any) -> str:
    """Return the text of a search's result."""
    search = SearchFiles(pattern=pattern, **request)
    return await regex_search(program or RIPGREP or "rg", str(workspace), search, trio.to_thread.run_sync)


async def regex_matches(workspace: Path, pattern: str, **request: Any) -> Any:
    """Return the decoded result of a search."""
    return msgspec.json.decode(await text_of(workspace, pattern, **request))


@pytest.fixture
def forest(tmp_path: Path) -> Path:
    """Return a directory with some files, and one file outside."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.py").write_text("needle: secret\n")
    for path in ("ws/b/x.py", "ws/b/c/y.py", "ws/a/z.c", "ws/.hidden", "ws/.git/config"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"this is {path}\nneedle: 12\n")
    return tmp_path / "ws"


@needs_ripgrep
async def test_a_regular_expression(forest: Path) -> None:
    """Files come in order of paths, with hidden files, without those of .git."""
    answer = await regex_matches(forest, r"needle: \d+$")
    paths = [".hidden", "a/z.c", "b/c/y.py", "b/x.py"]
    assert answer == {
        "matches": [{"path": path, "line": 2, "text": "needle: 12"} for path in paths],
        "truncated": False,
        "engine": "ripgrep",
    }
    below = await regex_matches(forest, "needle", base="b")
    assert [match["path"] for match in below["matches"]] == ["b/c/y.py", "b/x.py"]
    assert (await regex_matches(forest, "nothing like it"))["matches"] == []


@needs_ripgrep
async def test_a_pattern_is_never_an_option(forest: Path) -> None:
    """A pattern that begins with a dash is still a pattern."""
    (forest / "a" / "z.c").write_text("--files\n-e\n")
    assert len((await regex_matches(forest, "--files"))["matches"]) == 1
    assert len((await regex_matches(forest, "-e"))["matches"]) == 1


@needs_ripgrep
@pytest.mark.parametrize("pattern", ["o(", "[", "a{2", "\ud800", "a\0b", "a\nb"])
async def test_a_pattern_that_is_none(forest: Path, pattern: str) -> None:
    """An invalid pattern is an error with the reason."""
    with pytest.raises(ToolError, match=r"the search failed|the pattern contains"):
        await regex_matches(forest, pattern)


@needs_ripgrep
async def test_what_ripgrep_does_not_search(forest: Path) -> None:
    """Binary files, large files and links are not searched; invalid UTF-8 is replaced."""
    (forest / "binary").write_bytes(b"\0\0\nneedles\n")
    (forest / "large").write_bytes(b"needles\n" + b"x" * MAX_EDIT_BYTES)
    (forest / "latin").write_bytes(b"needles \xff\r\n")
    (forest / "utf16").write_text("needles\n", encoding="utf-16")
    (forest / "link").symlink_to("latin")
    (forest / "out").symlink_to(forest.parent / "outside")
    os.mkfifo(forest / "pipe")
    (forest / os.fsdecode(b"\xff")).write_text("needles\n")
    answer = await regex_matches(forest, "needles|secret")
    assert answer["matches"] == [{"path": "latin", "line": 1, "text": "needles \ufffd"}]
    # The one in UTF-16, and the one whose name is no text.
    assert answer["unread_files"] == 2


@needs_ripgrep
async def test_line_ends_and_marks_are_no_part_of_a_line(forest: Path) -> None:
    """``$`` matches before CR LF, and ``^`` after a byte order mark, also in later lines of that file."""
    (forest / "dos").write_bytes(b"foo();\r\nbar();\r\n")
    (forest / "mark").write_bytes(b"\xef\xbb\xbffirst line\nfirst again\n")
    assert (await regex_matches(forest, r"foo\(\);$"))["matches"] == [
        {"path": "dos", "line": 1, "text": "foo();"}
    ]
    assert [match["line"] for match in (await regex_matches(forest, "^first"))["matches"]] == [1, 2]


@needs_ripgrep
@pytest.mark.parametrize("base", [".", "b"])
async def test_closed_files_are_counted_and_not_read(forest: Path, base: str) -> None:
    """A search reads no file that the rules close, and no field of its result depends on their content."""
    patterns = ("*.py", "b/dir [1]/*", "*\udcff")
    for name in ("dir [1]/x", "dir [1]/sub/y", "dir 1/open"):
        (forest / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (forest / "b" / name).write_text(
            f"{'x' * MAX_GREP_LINE_BYTES}needle\n" if "[" in name else "needle\n"
        )
    (forest / "b" / os.fsdecode(b"\xff")).write_text("a needle\n")
    answers = []
    for pattern in ("needle", "this is|needle", "needles"):
        search = SearchFiles(pattern=pattern, base=base)
        is_closed = partial(is_path_closed, patterns=patterns)
        text = await regex_search(RIPGREP or "rg", str(forest), search, trio.to_thread.run_sync, is_closed)
        answers.append(msgspec.json.decode(text))
        with open_root(str(forest)) as root:
            answers.append(msgspec.json.decode(literal_search(root, search, is_closed=is_closed)))
    paths = {"b/dir 1/open", *((".hidden", "a/z.c") if base == "." else ())}
    assert {match["path"] for match in answers[0]["matches"]} == paths
    for answer in answers:
        assert {match["path"] for match in answer.pop("matches")} <= paths
        answer.pop("engine")
    assert answers == [{"truncated": False, "denied_files": 4}] * 6


@needs_ripgrep
async def test_too_many_closed_files(forest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More closed files than ripgrep takes as arguments are refused, and not read."""
    monkeypatch.setattr("kheishd.hooks.os.files.search.MAX_EXCLUDED_CHARACTERS", 20)
    search = SearchFiles(pattern="needle")
    with pytest.raises(ToolError, match="close too many files"):
        await regex_search(RIPGREP or "rg", str(forest), search, trio.to_thread.run_sync, lambda path: True)


@needs_ripgrep
@needs_ripgrep
async def test_a_pipe_as_a_list_of_ignored_files(forest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that waits for the writer of a pipe fails and names it; without one it goes on."""
    monkeypatch.setattr("kheishd.hooks.os.files.search.MAX_SILENCE_SECONDS", 0.0)
    assert (await regex_matches(forest, "no such text"))["matches"] == []
    (forest / ".ignore").symlink_to("missing")
    os.mkfifo(forest / "b/.gitignore")
    with pytest.raises(ToolError, match=r"^b/\.gitignore is no ordinary file"):
        await regex_matches(forest, "no such text")


async def test_limits_of_a_regex_search(forest: Path) -> None:
    """The limit is the requested one, the maximum, and the size of a result."""
    assert len((await regex_matches(forest, "needle", limit=2))["matches"]) == 2
    assert (await regex_matches(forest, "needle", limit=2))["truncated"] is True
    assert (await regex_matches(forest, "needle", limit=4))["truncated"] is False
    (forest / "a" / "z.c").write_text("needle\n" * 10_000)
    many = await regex_matches(forest, "needle", base="a")
    assert (len(many["matches"]), many["matches"][-1]["line"], many["truncated"]) == (
        MAX_MATCHES,
        MAX_MATCHES,
        True,
    )
    (forest / "a" / "z.c").write_text(f"{'x' * 5_000}needle{'y' * 5_000}\n" * 200)
    text = await text_of(forest, "needle", base="a")
    assert len(text.encode()) <= MAX_TOOL_TEXT_BYTES
    assert msgspec.json.decode(text)["truncated"] is True
    assert "xneedley" in text


@needs_ripgrep
async def test_the_environment_is_not_its_own(forest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program gets neither its configuration nor the daemon's environment."""
    (forest.parent / "rc").write_text("--files-without-match\n")
    monkeypatch.setenv("RIPGREP_CONFIG_PATH", str(forest.parent / "rc"))
    assert len((await regex_matches(forest, "needle"))["matches"]) == 4


@needs_ripgrep
async def test_a_directory_swapped_for_a_link(forest: Path) -> None:
    """A directory that becomes a link between ripgrep's check and open reveals nothing outside."""
    with swapping(forest / "b", forest.parent / "outside"):
        for _ in range(20):
            assert "secret" not in await text_of(forest, "needle")
            try:
                assert "secret" not in await text_of(forest, "needle", base="b")
            except ToolError:
                continue


def program(directory: Path, lines: list[str], end: str = "") -> str:
    """Return a program that prints these lines and exits with this code."""
    path = directory / "rg"
    message = "\n".join(["#!/bin/sh", "cat <<'END'", *lines, "END", end, ""])
    path.write_text(message)
    path.chmod(0o755)
    return str(path)


def claim(path: str, text: str, offset: int = 0) -> str:
    """Return a match in ripgrep's format."""
    data = {
        "path": {"text": path},
        "lines": {"text": text},
        "line_number": 1,
        "absolute_offset": offset,
        "submatches": [{"match": {"text": text}, "start": 0, "end": 1}],
    }
    return msgspec.json.encode({"type": "match", "data": data}).decode()


async def test_only_what_is_there_is_told(forest: Path) -> None:
    """A match is returned only if a second read confirms it, whatever the program prints."""
    (forest / "link").symlink_to(forest.parent / "outside" / "x.py")
    (forest / "out").symlink_to(forest.parent / "outside")
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
    answer = await regex_matches(forest, "x", program=program(forest.parent, lines))
    assert answer["matches"] == [{"path": "a/z.c", "line": 1, "text": "this is ws/a/z.c"}]


async def test_a_search_that_is_not_waited_for_ends(forest: Path) -> None:
    """A cancelled search kills its program at once."""
    pid_file = forest.parent / "pid"
    stubborn = program(
        forest.parent,
        [],
        f"trap '' TERM; echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec tail -f /dev/null",
    )
    with trio.fail_after(10), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_once, pid_file.exists, scope)
            await regex_matches(forest, "x", program=stubborn)
    assert scope.cancelled_caught
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


async def _cancel_once(condition: Callable[[], bool], scope: trio.CancelScope) -> None:
    while not condition():
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_program_that_is_gone(forest: Path) -> None:
    """A missing program is an error for the caller."""
    with pytest.raises(FileNotFoundError):
        await regex_matches(forest, "x", program=str(forest / "gone"))


def test_lines_in_pieces() -> None:
    """Lines are split at any boundary of pieces; other output is a complaint."""
    text = b'{"a":1}\n{"b":2}\nerror: one\n\n{"c":3}'
    for cut in range(len(text) + 1):
        lines = RipgrepLines()
        answer = lines.feed(text[:cut]) if cut else []
        answer += lines.feed(text[cut:]) if cut < len(text) else []
        assert [*answer, *lines.feed(b"")] == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
        assert (lines.complaint, lines.truncated, lines.skipped) == ("error: one", False, False)


def test_a_line_that_is_too_long_is_skipped() -> None:
    """A line that is too long is skipped without being held, and the next ones are read."""
    lines = RipgrepLines()
    assert lines.feed(b'{"a":1}\n{"' + b"x" * MAX_GREP_LINE_BYTES) == [b'{"a":1}']
    for _ in range(3):
        assert lines.feed(b"x" * MAX_GREP_LINE_BYTES) == []
    assert lines.feed(b'"}\n{"b":2}\n') == [b'{"b":2}']
    assert lines.skipped
    assert not lines.truncated


def test_endless_output_is_cut() -> None:
    """The total output is limited, even if each line is short."""
    lines = RipgrepLines()
    piece = b'{"a":"' + b"x" * 10_000 + b'"}\n'
    for _ in range(MAX_GREP_OUTPUT_BYTES // len(piece) + 1):
        assert not lines.truncated
        lines.feed(piece)
    assert lines.truncated
