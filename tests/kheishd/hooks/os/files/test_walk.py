"""Walking a workspace: everything once, in order, and nothing outside; and patterns of paths."""

import os
import time
from pathlib import Path

import pytest

from kheishd.hooks.os.files.confinement import open_root
from kheishd.hooks.os.files.walk import CHECK_INTERVAL, Glob, Walk
from kheishd.kernel.hook import ToolError
from protocol.limits.files import MAX_WALKED_ENTRIES
from tests.support.workspaces import swapping


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return some directories beside one that is not in the workspace."""
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_text("secret")
    workspace = tmp_path / "ws"
    for path in ("b/x", "b/c/y", "a/z", "top", ".git/config", "b/.git/config", ".hidden"):
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text(path)
    return workspace


def walked(workspace: Path, base: str = ".") -> list[str]:
    """Return the paths, in order."""
    with open_root(str(workspace)) as root:
        return [entry.path for entry in Walk(root, base)]


def test_nearest_first(tree: Path) -> None:
    """Entries come by name, nearest directory first, without .git."""
    assert walked(tree) == [".hidden", "a", "b", "top", "a/z", "b/c", "b/x", "b/c/y"]
    assert walked(tree, "b") == ["b/c", "b/x", "b/c/y"]


def test_entries(tree: Path) -> None:
    """An entry has its path from the workspace and from the base, and its kind."""
    (tree / "b" / "link").symlink_to("x")
    os.mkfifo(tree / "b" / "pipe")
    with open_root(str(tree)) as root:
        result = {entry.path: (entry.below, entry.directory, entry.file) for entry in Walk(root, "b")}
    assert result["b/c"] == ("c", True, False)
    assert result["b/c/y"] == ("c/y", False, True)
    assert result["b/link"] == ("link", False, False)
    assert result["b/pipe"] == ("pipe", False, False)


def test_links_are_not_followed(tree: Path) -> None:
    """A link is an entry, but is not entered, and cannot be the base."""
    (tree / "out").symlink_to(tree.parent / "outside")
    (tree / "ring").symlink_to(".")
    assert [path for path in walked(tree) if path.startswith(("out", "ring"))] == ["out", "ring"]
    with pytest.raises(ToolError, match="out is a link to"):
        walked(tree, "out")
    with pytest.raises(ToolError, match="there is no such"):
        walked(tree, "gone")
    with pytest.raises(ToolError, match="not a directory"):
        walked(tree, "top")


def test_a_directory_swapped_for_a_link(tree: Path) -> None:
    """A directory that becomes a link before it is opened reveals nothing outside."""
    seen: set[str] = set()
    with swapping(tree / "b", tree.parent / "outside"):
        for _ in range(300):
            seen.update(walked(tree))
    assert {"a/z", "top"} <= seen
    assert not any("secret" in path or "deep" in path for path in seen)


def test_only_what_is_wanted_is_entered(tree: Path) -> None:
    """A directory in which nothing can match is not opened."""
    with open_root(str(tree)) as root:
        result = [entry.path for entry in Walk(root, ".", lambda below: below == "a")]
    assert result == [".hidden", "a", "b", "top", "a/z"]


def test_names_that_cannot_be_told(tree: Path) -> None:
    """Entries with names that are not UTF-8 or not printable are counted."""
    for name in (b"\xff", b"a\nb", b"a\xe2\x80\xaeb"):
        (tree / "a" / os.fsdecode(name)).write_text("")
    with open_root(str(tree)) as root:
        walk = Walk(root, "a")
        assert [entry.path for entry in walk] == ["a/z"]
    assert walk.unnamed == 3


def test_a_walk_is_asked_whether_it_is_wanted(tree: Path) -> None:
    """A walk checks for cancellation, also within one directory."""
    for number in range(CHECK_INTERVAL):
        (tree / "a" / str(number)).touch()

    def check() -> None:
        raise LookupError

    with open_root(str(tree)) as root, pytest.raises(LookupError):
        list(Walk(root, "a", check=check))


def test_a_walk_ends(tree: Path) -> None:
    """A walk ends at its limit and says that there is more."""
    with open_root(str(tree)) as root:
        walk = Walk(root, ".")
        walk.count = MAX_WALKED_ENTRIES - 2
        assert len(list(walk)) <= 2
        assert walk.truncated


# Patterns of paths.


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("*.py", ["a.py", ".py"], ["a.pyc", "d/a.py"]),
        ("**/*.py", ["a.py", "d/a.py", "d/e/a.py"], ["a.c"]),
        ("src/**", ["src/a", "src/d/a"], ["a", "lib/src/a"]),
        ("src/**/test_?.py", ["src/test_1.py", "src/d/e/test_2.py"], ["src/test_12.py", "test_1.py"]),
        ("**/d/**/*.c", ["d/a.c", "x/d/y/a.c"], ["a.c", "x/a.c"]),
        ("[ab].[!c]", ["a.x", "b.h"], ["c.x", "a.c"]),
        ("*.{py,c,h}", ["a.py", "a.c"], ["a.js", "a.{py,c,h}"]),
        ("{src,lib/{x,y}}/*.py", ["src/a.py", "lib/x/a.py"], ["lib/a.py", "lib/src/a.py"]),
        ("./a//b", ["a/b"], ["a"]),
        ("A", ["A"], ["a"]),
        ("a.b+(c)", ["a.b+(c)"], ["axb+(c)", "a.bb(c)"]),
        ("[", ["["], ["a"]),
        ("**a", ["ba", "a"], ["b/a"]),
        ("[*]", ["*"], ["a"]),
        ("[{]a,b[}]", ["{a,b}"], ["a", "b"]),
        (r"\*.{py,c}", ["*.py", "*.c"], ["a.py"]),
        (r"\{a,b\}", ["{a,b}"], ["a", "b"]),
        (r"{a\,b,c}", ["a,b", "c"], ["a", "b"]),
        (r"a\[1\]\?", ["a[1]?"], ["a1x", "a1?"]),
        (r"\*\*/x", ["**/x"], ["a/x", "x"]),
        (r"[\]x].[\!a]", ["].!", "x.a"], ["y.b", "].b"]),
        (r"a\\b\c", ["a\\bc"], ["abc", "a\\b\\c"]),
    ],
)
def test_matches(pattern: str, fits: list[str], others: list[str]) -> None:
    """A pattern matches whole paths: names by the shell's rules, ``**`` for any number of directories."""
    glob = Glob(pattern)
    assert [path for path in [*fits, *others] if glob.matches(path)] == fits


@pytest.mark.parametrize(
    ("pattern", "entered", "not_entered"),
    [
        ("*.py", [], ["d"]),
        ("src/*/a", ["src", "src/d"], ["lib", "src/d/e"]),
        ("src/**/a", ["src", "src/d", "src/d/e/f"], ["lib"]),
        ("{a,b}/c", ["a", "b"], ["c"]),
    ],
)
def test_directories_worth_entering(pattern: str, entered: list[str], not_entered: list[str]) -> None:
    """A directory may match below if a path in it could match."""
    glob = Glob(pattern)
    assert [path for path in [*entered, *not_entered] if glob.may_match_below(path)] == entered


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../../b", ".", "//"])
def test_a_pattern_stays_below_its_base(pattern: str) -> None:
    """A pattern that leads outside, or nowhere, is rejected."""
    with pytest.raises(ToolError, match="a pattern is relative"):
        Glob(pattern)


def test_braces_are_bounded() -> None:
    """The number of alternatives is limited, because nested braces multiply."""
    with pytest.raises(ToolError, match="more than 64 patterns"):
        Glob("{a,b}" * 20)


@pytest.mark.parametrize("pattern", ["*a" * 200 + "b", "**/a/" * 150 + "b", "**/" * 300 + "b", "[a-" * 300])
def test_no_pattern_takes_long(pattern: str) -> None:
    """No pattern takes exponential time."""
    glob = Glob(pattern)
    began = time.process_time()
    assert not glob.matches("a" * 255)
    assert not glob.matches("a/" * 100 + "a")
    assert time.process_time() - began < 1.0
