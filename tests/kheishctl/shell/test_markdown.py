"""Markdown, block by block."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.layout import count_columns
from kheishctl.shell.markdown import (
    MAX_RENDER_CHARACTERS,
    Blocks,
    hard_lines,
    renderer,
    warm_up,
    wrapped,
)
from protocol.text import sanitise

LINES = ("a line\n", "\n", "```\n", "~~~~\n", "- item\n", "  more\n", "    code\n", "# head\n", "x")
PIECES = st.lists(st.sampled_from(LINES))


def split(*pieces: str) -> tuple[list[str], str]:
    """The finished blocks of a text that comes in pieces, and the rest."""
    blocks = Blocks()
    finished = [block for piece in pieces for block in blocks.feed(piece)]
    return finished, blocks.rest


@given(PIECES)
def test_blocks_lose_nothing(pieces: list[str]) -> None:
    """Blocks and rest are the text, but for blank lines between them."""
    text = "".join(pieces)
    finished, rest = split(text)
    assert "".join([*finished, rest]).replace("\n", "") == text.replace("\n", "")
    assert all(block.strip() for block in finished)


@given(PIECES, st.lists(st.integers(0, 60)))
def test_blocks_do_not_depend_on_the_pieces(pieces: list[str], cuts: list[int]) -> None:
    """However a text is cut on its way, its blocks are the same: a finished one never changes."""
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
    """At blank lines, but not within a fence and not before what is indented."""
    assert split(text) == (blocks, rest)


def test_hard_lines() -> None:
    """A line stays a line, but in code nothing is added."""
    assert hard_lines("a\nb\n\n```\nc\n```") == "a  \nb  \n\n```\nc\n```"


def test_render_keeps_lines() -> None:
    """A poem is not reflowed; long lines are."""
    render = renderer(color=False)
    assert render("one\ntwo\n", 80) == "one\ntwo"
    assert all(count_columns(line) <= 30 for line in render("word " * 50, 30).split("\n"))


def test_render_leaves_the_very_long_as_it_is() -> None:
    """A block that would take too long to render is only made harmless."""
    text = "**x**\x1b " * MAX_RENDER_CHARACTERS
    assert renderer(color=True)(text, 80) == sanitise(text)


def test_render_styles() -> None:
    """Bold is bold where there is color, and plain where there is not."""
    assert "\x1b[1m" in renderer(color=True)("**b**", 80)
    assert renderer(color=False)("**b** `c`", 80) == "b c"


def test_links_are_written_out() -> None:
    """No link shows another address than it opens."""
    assert "http://evil.example" in renderer(color=True)("[bank](http://evil.example)", 80)
    assert "\x1b]8" not in renderer(color=True)("[bank](http://evil.example)", 80)


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
def test_nothing_but_styles_acts(text: str) -> None:
    """Whatever a text smuggles in, as it is or as an entity, only styles reach the terminal."""
    plain = SGR.sub("", renderer(color=True)(text, 40))
    assert sanitise(plain) == plain


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(2, 40), st.integers(1, 10))
def test_wrapped_fits(text: str, columns: int, lines: int) -> None:
    """The end of a text, in so many lines of so many columns at most."""
    shown = wrapped(text, columns, lines).split("\n")
    assert len(shown) <= lines
    assert all(count_columns(line) <= columns for line in shown)


def test_warm_up() -> None:
    """Rendering can be made ready beforehand."""
    warm_up()
