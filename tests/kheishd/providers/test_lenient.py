"""Lenient decoding: irregular values beside the answer cost nothing, and a broken answer is an error."""

from typing import Any

import msgspec
import pytest
from msgspec import Struct

from kheishd.providers.lenient import LenientDecoder, SideInformation, clean_json, convert, load_json


class Counts(SideInformation):
    """Counts, as the drivers declare them."""

    tokens: float | None = None


class Part(Struct):
    """A part of an answer."""

    text: str | None = None
    index: int = 0


class Renamed(Struct, rename="camel"):
    """A struct whose field has another name in JSON."""

    first_part: Part | None = None


class Answer(Struct):
    """An answer with every kind of field."""

    name: str = ""
    parts: list[Part] | None = None
    content: str | list[Part] | None = None
    fields: dict[str, Any] | None = None
    counts: Counts | None = None
    other: Any = None


DECODER = LenientDecoder(Answer)


@pytest.mark.parametrize(
    ("sent", "decoded"),
    [
        ({"name": 7}, Answer(name="7")),
        ({"name": None}, Answer()),
        (
            {"parts": [{"index": "2"}, {"index": 2.0}, {"index": None}, None]},
            Answer(parts=[Part(index=2), Part(index=2), Part()]),
        ),
        ({"name": 7, "content": [{"text": "a"}]}, Answer(name="7", content=[Part("a")])),
        ({"name": 7, "content": "a"}, Answer(name="7", content="a")),
        ({"counts": {"tokens": "12"}}, Answer(counts=Counts(12.0))),
        ({"counts": {"tokens": "many"}}, Answer(counts=Counts())),
        ({"counts": {"tokens": [1]}}, Answer(counts=Counts())),
        ({"counts": "none"}, Answer()),
        ({"name": 7, "other": [{"a": 1}], "unknown": 1}, Answer(name="7", other=[{"a": 1}])),
    ],
)
def test_irregular_values(sent: dict[str, Any], decoded: Answer) -> None:
    """Numbers as strings, ids as numbers, nulls, and unusable side information are accepted."""
    assert DECODER.decode(msgspec.json.encode(sent)) == decoded


def test_halves_of_characters() -> None:
    """A field keeps its halves, because the next piece may continue it; other values are cleaned."""
    data = b'{"name":"a\\ud83d","fields":{"\\ud83d":"\\ude00"},"other":["\\ud83d\\ude00"]}'
    assert DECODER.decode(data) == Answer(name="a\ud83d", fields={"\ufffd": "\ufffd"}, other=["😀"])


def test_numbers_that_are_no_json() -> None:
    """NaN and infinite numbers count as missing."""
    assert DECODER.decode(b'{"counts":{"tokens":NaN},"other":Infinity}') == Answer(counts=Counts())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b'"text"',
        b'{"name":"\xff"}',
        b'{"name":["a"]}',
        b'{"name":true}',
        b'{"parts":{"text":"a"}}',
        b'{"parts":["a"]}',
        b'{"parts":[{"index":"x"}]}',
        b'{"parts":[{"index":1.5}]}',
        b'{"parts":[{"index":1e999}]}',
        b'{"parts":[{"index":true}]}',
        b'{"content":7.5,"parts":7}',
        b'{"fields":"a"}',
        b"[" * 100_000,
        b'{"name":7,"other":' + b"[" * 900 + b"]" * 900 + b"}x",
    ],
)
def test_a_broken_answer_is_an_error(data: bytes) -> None:
    """Data that is no JSON, or that has the wrong kind of value in the answer, is rejected."""
    with pytest.raises(ValueError):  # noqa: PT011 - the message is for the developer.
        DECODER.decode(data)


def test_deep_values_are_an_error() -> None:
    """A value that is nested too deeply raises an error that the callers expect."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested"):
        clean_json(value)
    with pytest.raises(ValueError, match="nested"):
        load_json("[" * 100_000)
    while value:
        value = value.pop()


@pytest.mark.parametrize("name", ["firstPart", "first_part"])
def test_a_renamed_field_has_two_names(name: str) -> None:
    """A field that is renamed is read under its name in JSON and under its own; null counts as missing."""
    other = {"firstPart": None} if name == "first_part" else {}
    assert convert({name: {"index": "2"}, **other}, Renamed) == Renamed(Part(index=2))


def test_raw_values_stay_encoded() -> None:
    """A value that is decoded later stays encoded, without halves of characters."""
    assert bytes(convert({"a": ["\ud83d", 1]}, msgspec.Raw)) == '{"a":["\ufffd",1]}'.encode()
