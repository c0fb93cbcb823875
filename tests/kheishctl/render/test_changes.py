"""The changes of a session's display."""

from inspect import getmembers, isclass
from typing import get_args

import pytest

from kheishctl.render import changes
from kheishctl.values import ClientValue


def test_the_union_is_complete() -> None:
    """The union holds every class of change."""
    kinds = {kind for _, kind in getmembers(changes, isclass) if kind.__module__ == changes.__name__}
    assert set(get_args(changes.DisplayChange)) == kinds


@pytest.mark.parametrize("kind", get_args(changes.DisplayChange), ids=lambda kind: kind.__name__)
def test_a_piece_is_a_value(kind: type) -> None:
    """A change is frozen, compares by value, and prints its class."""
    assert issubclass(kind, ClientValue)
    same = [kind(**dict.fromkeys(kind.__match_args__, "x")) for _ in range(2)]
    assert same[0] == same[1]
    assert repr(same[0]).startswith(kind.__name__)
