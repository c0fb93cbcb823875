"""Tests of splitting and rendering markdown."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.layout import count_columns, strip_styles
from kheishctl.shell.markdown import (
    MAX_RENDER_CHARACTERS,
    BlockSplitter,
    fold_end,
    is_light,
    keep_line_breaks,
    make_renderer,
    preload,
)
from protocol.text import sanitize

LINES = ("a line\n", "\n", "```\n", "~~~~\n", "- item\n", "  more\n", "    code\n", "# head\n", "x")
PIECES = st.lists(st.sampled_from(LINES))


def split(*pieces: str) -> tuple[list[str], str]:
    """Return the finished blocks of a text that arrives in pieces, and the rest."""
    splitter = BlockSplitter()
    finished = [block for piece in pieces for block in splitter.feed(piece)]
    return finished, splitter.rest


@given(PIECES)
def test_blocks_lose_nothing(pieces: list[str]) -> None:
    """The blocks and the rest are the text, except for blank lines between them."""
    text = "".join(pieces)
    finished, rest = split(text)
    assert "".join([*finished, rest]).replace("\n", "") == text.replace("\n", "")
    assert all(block.strip() for block in finished)


@given(PIECES, st.lists(st.integers(0, 60)))
def test_blocks_do_not_depend_on_the_pieces(pieces: list[str], cuts: list[int]) -> None:
    """However a text is cut in transit, its blocks are the same, because a finished block never changes."""
    text = "".join(pieces)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert split(*(text[a:b] for a, b in itertools.pairwise(edges))) == split(text)


@pytest.mark.parametrize(
    ("text", "blocks", "rest"),
    [
        ("one\ntwo\n\nthree", ["one\ntwo\n"], "three"),
        ("one\n\n", [], "one\n\n"),
        ("- a\n\n  still a\n\nb", ["- a\n\n  still a\n"], "b"),
        ("```py\nx\n\ny\n```\n\nafter", ["```py\nx\n\ny\n```\n"], "after"),
        ("```\nopen\n\nstill", [], "```\nopen\n\nstill"),
        ("~~~\n```\n\n~~~\n\nafter", ["~~~\n```\n\n~~~\n"], "after"),
        ("````\n```\n\n````\n\nafter", ["````\n```\n\n````\n"], "after"),
        ("\n\nfirst\n\nsecond", ["first\n"], "second"),
    ],
)
def test_blocks(text: str, blocks: list[str], rest: str) -> None:
    """A block ends at a blank line, except within a code fence and before an indented line."""
    assert split(text) == (blocks, rest)


def test_keep_line_breaks() -> None:
    """Every line break is kept; code is unchanged."""
    assert keep_line_breaks("a\nb\n\n```\nc\n```") == "a  \nb  \n\n```\nc\n```"


def test_render_keeps_lines() -> None:
    """Line breaks survive rendering, and long lines are wrapped."""
    render = make_renderer(color=False)
    assert render("one\ntwo\n", 80) == "one\ntwo"
    assert all(count_columns(line) <= 30 for line in render("word " * 50, 30).split("\n"))


def test_very_long_block() -> None:
    """A block that takes too long to render is sanitized only."""
    text = "**x**\x1b " * MAX_RENDER_CHARACTERS
    assert make_renderer(color=True)(text, 80) == sanitize(text)


def test_render_styles() -> None:
    """Styles are rendered with color, and removed without."""
    assert "\x1b[1m" in make_renderer(color=True)("**b**", 80)
    assert make_renderer(color=False)("**b** `c`", 80) == "b c"


def test_links_are_written_out() -> None:
    """A link shows the address that it opens, and is not a terminal hyperlink."""
    assert "http://evil.example" in make_renderer(color=True)("[bank](http://evil.example)", 80)
    assert "\x1b]8" not in make_renderer(color=True)("[bank](http://evil.example)", 80)


SGR = re.compile(r"\x1b\[[0-9;]*m")
SMUGGLED = (
    "\x1b[2J",
    "\x9b",
    "&#x1b;[2J",
    "&#x202e;",
    "&#155;",
    "`\x07`",
    "\x1b]0;t\x07",
    "**",
    "\n",
    "a ",
    "| b |",
)


@given(st.lists(st.sampled_from(SMUGGLED)).map("".join))
def test_only_styles_reach_the_terminal(text: str) -> None:
    """Control characters in a text, literal or as entities, never reach the terminal."""
    plain = SGR.sub("", make_renderer(color=True)(text, 40))
    assert sanitize(plain) == plain


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(2, 40), st.integers(1, 10))
def test_fold_end(text: str, columns: int, lines: int) -> None:
    """The end of a text has at most the requested lines and columns."""
    end = fold_end(text, columns, lines).split("\n")
    assert len(end) <= lines
    assert all(count_columns(line) <= columns for line in end)


def test_preload() -> None:
    """The modules for rendering can be imported in advance."""
    preload()


def test_code_is_tight() -> None:
    """One blank line is between a paragraph and the code below it, and headings are at the left."""
    text = "# Title\n\nbefore\n\n```python\ndef f():\n    return 1\n```\n\nafter"
    lines = [line.rstrip() for line in make_renderer(color=False)(text, 60).split("\n")]
    assert lines == ["Title", "", "before", "", " def f():", "     return 1", "", "after"]


def test_colors_of_code() -> None:
    """Code has colors, which differ on a light background."""
    dark, light = (
        make_renderer(color=True, light=light)("```python\nreturn 1\n```", 60) for light in (False, True)
    )
    assert "\x1b[94mreturn\x1b[0m" in dark
    assert dark != light
    assert strip_styles(dark) == strip_styles(light)


@pytest.mark.parametrize(
    ("theme", "colors", "light"),
    [
        ("auto", "", False),
        ("auto", "0;15", True),
        ("auto", "15;default;0", False),
        ("light", "15;0", True),
        ("dark", "0;15", False),
    ],
)
def test_background(theme: str, colors: str, light: bool) -> None:
    """The setting decides, else the colors that the terminal reports in its environment."""
    assert is_light(theme, {"COLORFGBG": colors}) is light
