"""The kinds of pieces that a follower shows."""

from dataclasses import fields, is_dataclass
from inspect import getmembers, isclass
from typing import get_args

import pytest

from kheishctl.render import pieces


def test_every_kind_is_one_of_them() -> None:
    """Whoever handles each kind of the union handles every kind there is."""
    kinds = {kind for _, kind in getmembers(pieces, isclass) if kind.__module__ == pieces.__name__}
    assert set(get_args(pieces.Piece)) == kinds


@pytest.mark.parametrize("kind", get_args(pieces.Piece), ids=lambda kind: kind.__name__)
def test_a_piece_is_a_value(kind: type) -> None:
    """What was told once does not change, and says what it is when it is printed."""
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    same = [kind(**{field.name: "x" for field in fields(kind)}) for _ in range(2)]
    assert same[0] == same[1]
    assert repr(same[0]).startswith(kind.__name__)
