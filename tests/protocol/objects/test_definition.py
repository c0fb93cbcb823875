"""Agent definitions as clients see them."""

import msgspec

from protocol.objects.definition import Definition, DefinitionRef
from tests.support.samples import refuse, sample, take


def test_everything_and_nothing_differ() -> None:
    """An absent list allows everything and an empty one nothing, also after encoding."""
    data = sample(Definition, full=False) | {"tools": []}
    shown = msgspec.to_builtins(msgspec.convert(data, Definition))
    assert shown["tools"] == []
    assert "skills" not in shown
    assert msgspec.convert(shown, Definition).skills is None


def test_name_is_needed() -> None:
    """A definition is requested by its name."""
    assert take(DefinitionRef, {"name": "default"}).name == "default"
    assert refuse(DefinitionRef, {}) == "$.params.name"
    assert refuse(DefinitionRef, {"name": ""}) == "$.params.name"
