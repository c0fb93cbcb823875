"""Decoders and patterns that are built at their first use."""

import re
from typing import Any

import msgspec
import pytest

from protocol.lazy import LazyDecoder, lazy_pattern


class Point(msgspec.Struct):
    """A point."""

    x: int


def test_a_decoder_is_built_once() -> None:
    """A decoder decodes as msgspec does, and its first call replaces it by msgspec's."""
    points: LazyDecoder[Point] = LazyDecoder(Point)
    assert points.decode(b'{"x":1}') == Point(1)
    assert points.decode == points.decode
    assert type(points.decode) is type(msgspec.json.Decoder().decode)
    assert points.decode(memoryview(b'{"x":2}')) == Point(2)


def test_a_decoder_refuses_from_its_first_call() -> None:
    """Errors are those of msgspec."""
    points: LazyDecoder[Point] = LazyDecoder(Point)
    for _ in range(2):
        with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
            points.decode(b'{"x":"1"}')


def test_a_pattern_is_compiled_at_its_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern has the methods of a compiled one, each looked up once."""
    compiled: list[tuple[Any, ...]] = []
    real = re.compile

    def compile_pattern(*source: Any) -> Any:
        compiled.append(source)
        return real(*source)

    monkeypatch.setattr(re, "compile", compile_pattern)
    pattern = lazy_pattern(r"a(b)", re.IGNORECASE)
    assert compiled == []
    match = pattern.fullmatch("AB")
    assert match is not None
    assert match[1] == "B"
    assert pattern.fullmatch("no") is None
    assert pattern.sub("-", "xabx") == "x-x"
    assert pattern.pattern == r"a(b)"
    assert len(compiled) == 3


def test_a_wrong_pattern_fails_at_its_first_use() -> None:
    """A mistake in a pattern is an error when the pattern is used."""
    pattern = lazy_pattern("(")
    with pytest.raises(re.error):
        pattern.search("")
