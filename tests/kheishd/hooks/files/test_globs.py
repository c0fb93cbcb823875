"""Patterns of paths."""

import time

import pytest

from kheishd.hooks.files.globs import Glob
from kheishd.kernel.hook import ToolError


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
    ],
)
def test_matches(pattern: str, fits: list[str], others: list[str]) -> None:
    """Whole paths, names by the shell's rules, ``**`` for any number of directories."""
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
    """Those that something below could fit in."""
    glob = Glob(pattern)
    assert [path for path in [*entered, *not_entered] if glob.may_match_below(path)] == entered


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../../b", ".", "//"])
def test_a_pattern_stays_below_its_base(pattern: str) -> None:
    """One that would lead elsewhere, or nowhere, is refused."""
    with pytest.raises(ToolError, match="a pattern is relative"):
        Glob(pattern)


def test_braces_are_bounded() -> None:
    """What a few of them stand for grows without limit."""
    with pytest.raises(ToolError, match="more than 64 patterns"):
        Glob("{a,b}" * 20)


@pytest.mark.parametrize("pattern", ["*a" * 200 + "b", "**/a/" * 150 + "b", "**/" * 300 + "b", "[a-" * 300])
def test_no_pattern_takes_long(pattern: str) -> None:
    """What would make others go back and forth for years."""
    glob = Glob(pattern)
    began = time.process_time()
    assert not glob.matches("a" * 255)
    assert not glob.matches("a/" * 100 + "a")
    assert time.process_time() - began < 1.0
