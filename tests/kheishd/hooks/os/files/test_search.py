"""Listing and finding, within what a model reads at once."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheishd.hooks.files.arguments import ListFiles, Pattern
from kheishd.hooks.os.files.confinement import open_root
from kheishd.hooks.os.files.search import Match, around, glob_search, list_files, literal_search
from kheishd.kernel.hook import ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.files import MAX_EDIT_BYTES, MAX_MATCH_BYTES, MAX_MATCHES


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Some files."""
    for path in ("b/x.py", "b/c/y.py", "a/z.c", "top.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"this is {path}\nwith a.b in it\n")
    return tmp_path


def listed(workspace: Path, **asked: Any) -> Any:
    """What list_files tells."""
    with open_root(str(workspace)) as root:
        return msgspec.json.decode(list_files(root, ListFiles(**asked)))


def globbed(workspace: Path, pattern: str, **asked: Any) -> Any:
    """What glob_search tells."""
    with open_root(str(workspace)) as root:
        return msgspec.json.decode(glob_search(root, Pattern(pattern=pattern, **asked)))


def searched(workspace: Path, pattern: str, **asked: Any) -> Any:
    """What grep_search tells without ripgrep."""
    with open_root(str(workspace)) as root:
        return msgspec.json.decode(literal_search(root, Pattern(pattern=pattern, **asked)))


def test_list_files(tree: Path) -> None:
    """Nearest first, directories marked."""
    assert listed(tree) == {
        "base": ".",
        "paths": ["a/", "b/", "top.py", "a/z.c", "b/c/", "b/x.py", "b/c/y.py"],
        "truncated": False,
    }
    assert listed(tree, base="b/c/..")["paths"] == ["b/c/", "b/x.py", "b/c/y.py"]


def test_glob_search(tree: Path) -> None:
    """The pattern is about paths below the base; those told are from the workspace, and files only."""
    assert globbed(tree, "**/*.py")["paths"] == ["top.py", "b/x.py", "b/c/y.py"]
    assert globbed(tree, "*.py", base="b") == {
        "base": "b",
        "pattern": "*.py",
        "paths": ["b/x.py"],
        "truncated": False,
    }
    assert globbed(tree, "*")["paths"] == ["top.py"]


def test_limits(tree: Path) -> None:
    """Fewer, if that is said; never more than there may be; never more than a model reads at once."""
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
    """So that nobody takes a directory for empty."""
    (tree / "a" / "new\nline").touch()
    assert (listed(tree, base="a")["paths"], listed(tree, base="a")["unnamed"]) == (["a/z.c"], 1)


def test_literal_search(tree: Path) -> None:
    """A text as it is, no pattern; each line once, with its number."""
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
    """Binary files, large files, links."""
    (tree / "binary").write_bytes(b"needle\0")
    (tree / "large").write_bytes(b"needle\n" + b"x" * MAX_EDIT_BYTES)
    (tree / "latin").write_bytes(b"needle \xff\r\n")
    (tree / "link").symlink_to("latin")
    assert searched(tree, "needle")["matches"] == [{"path": "latin", "line": 1, "text": "needle \ufffd"}]


def test_of_a_long_line_the_part_around_the_match_is_told() -> None:
    """At its beginning, in its middle, at its end."""
    line = b"x" * 5_000 + b"needle" + b"y" * 5_000
    for place in (0, 5_000, 10_000):
        text = around(line, place)
        assert len(text) == MAX_MATCH_BYTES
    assert "xneedley" in around(line, 5_000)
    assert around(b"short\r\n", 0) == "short"


def test_matches_fit_what_a_model_reads(tree: Path) -> None:
    """However long the lines are, and whatever they take as JSON."""
    (tree / "a" / "z.c").write_bytes(b"\x01" * 600 + b"\n" * 1 + (b"\x01" * 600 + b"\n") * 300)
    with open_root(str(tree)) as root:
        text = literal_search(root, Pattern(pattern="\x01"))
    assert len(text.encode()) <= MAX_TOOL_TEXT_BYTES
    found = msgspec.json.decode(text)
    assert found["truncated"] is True
    assert Match(**found["matches"][0]).text == "\x01" * MAX_MATCH_BYTES


def test_a_search_begins_inside(tree: Path) -> None:
    """Errors of the base are told for all three."""
    with pytest.raises(ToolError, match="out of the workspace"):
        listed(tree, base="..")
    with pytest.raises(ToolError, match="there is no such file or directory"):
        globbed(tree, "*", base="gone")
    with pytest.raises(ToolError, match="not a directory"):
        searched(tree, "x", base="top.py")
