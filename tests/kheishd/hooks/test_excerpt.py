"""Excerpts: the beginning and the end of output, within so many bytes of JSON."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.hooks.excerpt import Excerpt, clipped, ending, json_bytes


def excerpt(*pieces: bytes, half: int = 100) -> Excerpt:
    """An excerpt of what came in pieces."""
    taken = Excerpt(half)
    for piece in pieces:
        taken.take(piece)
    return taken


def test_short_output_is_whole() -> None:
    """What fits is given as it is, also where it came in pieces that cut a character."""
    assert excerpt(b"gr\xc3", b"\xbcn", half=4).text(100) == ("grün", True)
    assert excerpt().text(10) == ("", True)


def test_the_middle_is_left_out_and_counted() -> None:
    """Both ends are kept, and how much is not there is said to the byte."""
    text, whole = excerpt(b"a" * 150, b"b" * 50, b"c" * 150, half=100).text(1_000)
    assert not whole
    assert text == "a" * 100 + "\n[... 150 bytes left out ...]\n" + "c" * 100


def test_what_is_kept_may_still_be_too_long() -> None:
    """It is cut to what it may have as JSON, where a control character has six bytes."""
    text, whole = excerpt(b"\x01" * 100).text(200)
    assert not whole
    assert json_bytes(text) <= 200
    kept = text.count("\x01")
    assert f"\n[... {100 - kept} bytes left out ...]\n" in text
    assert kept == 28, "as much as fits, both ends alike"


@pytest.mark.parametrize("character", ["ü", "€", "🙂"])
def test_no_character_is_cut(character: str) -> None:
    """Where the cut falls into a character, that is left out whole."""
    for half in range(8, 16):
        text, _ = excerpt(character.encode() * 20, half=half).text(1_000)
        assert "\ufffd" not in text


def test_what_is_no_text_is_replaced() -> None:
    """Bytes that are no UTF-8 do no harm at either end, and are counted where they are left out."""
    text, _ = excerpt(b"\xff" * 10, b"a" * 10, b"\xff" * 10, half=5).text(1_000)
    assert text == "\ufffd" * 4 + "\n[... 21 bytes left out ...]\n" + "\ufffd" * 5


@given(st.lists(st.binary(max_size=50)), st.integers(1, 60), st.integers(40, 400))
def test_laws(pieces: list[bytes], half: int, max_json_bytes: int) -> None:
    """It always fits, is text, and is either all there was or says what is missing."""
    taken = excerpt(*pieces, half=half)
    text, whole = taken.text(max_json_bytes)
    joined = b"".join(pieces)
    assert taken.total == len(joined)
    assert len(msgspec.json.encode(text)) - 2 <= max_json_bytes
    if whole:
        assert text == joined.decode(errors="replace")
    else:
        assert "bytes left out" in text
    if len(joined) <= 2 * half and json_bytes(joined.decode(errors="replace")) <= max_json_bytes:
        assert whole


def test_clipped() -> None:
    """A text that is too long loses its middle."""
    assert clipped("short", 10) == "short"
    assert clipped("a" * 50 + "b" * 50, 60) == "a" * 14 + "\n[... 72 bytes left out ...]\n" + "b" * 14


def test_ending() -> None:
    """The end of some output, beginning with a whole character."""
    assert ending(b"\xbc the end", 100) == " the end"
    assert ending(b"\x01" * 50 + b"the end", 60).endswith("\x01the end")
    assert json_bytes(ending(b"\x01" * 50 + b"the end", 60)) <= 60
    assert ending(b"", 5) == ""
