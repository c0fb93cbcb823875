"""Data that providers attach: its origin, its pieces, and its limit."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kheishd.providers.attachments import Attachments, is_origin, measure_fields, origin_of, own_fields
from protocol.limits.model import MAX_PROVIDER_DATA_BYTES
from protocol.limits.rpc import MAX_NESTING
from protocol.objects.run import Pinned
from protocol.transcript import Message, ProviderData, ToolCall


def pin(**changes: Any) -> Pinned:
    """Return the pinned values of a route."""
    values: dict[str, Any] = {"route": "main", "driver": "openai", "model": "gpt", **changes}
    return Pinned(**values)


def join(*pieces: Any) -> Any:
    """Return the pieces of one field, joined."""
    attached = Attachments()
    for piece in pieces:
        attached.add("field", piece)
    return attached.take(MAX_PROVIDER_DATA_BYTES).get("field")


def test_the_origin_is_driver_host_and_model() -> None:
    """A path, a user or upper case in the URL is no other origin; each of the three parts is."""
    origin = origin_of(pin(), "https://API.test:8443/v1")
    assert origin == "openai api.test:8443 gpt"
    assert origin == origin_of(pin(route="other"), "https://user:pass@api.test:8443/v1/")
    others = [
        origin_of(pin(driver="anthropic"), "https://api.test:8443"),
        origin_of(pin(model="gpt-2"), "https://api.test:8443"),
        origin_of(pin(), "https://api.test"),
        origin_of(pin(), "https://other.test:8443"),
    ]
    assert len({origin, *others}) == 5


def test_only_the_origin_gets_fields() -> None:
    """Another origin gets no fields of a message or a call, and neither has a message without data."""
    data = ProviderData("a", fields={"x": 1})
    call = ToolCall("c", "t", {}, provider_data=data)
    for holder in (Message("assistant", [call], provider_data=data), call):
        assert own_fields(holder, "a") == {"x": 1}
        assert own_fields(holder, "b") == {}
    assert own_fields(Message("assistant", []), "a") == {}
    assert (is_origin(data, "a"), is_origin(data, "b"), is_origin(None, "a")) == (True, False, False)


def test_texts_of_one_element_are_joined() -> None:
    """Pieces of one thought become one element, with the signature that ends it."""
    first = {"type": "reasoning.text", "text": "Let me ", "signature": None, "index": 0, "format": "x"}
    assert join(
        [first],
        [{"type": "reasoning.text", "text": "see.", "index": 0}],
        [{"type": "reasoning.text", "signature": "sig", "index": 0, "text": ""}],
    ) == [{"type": "reasoning.text", "text": "Let me see.", "signature": "sig", "index": 0, "format": "x"}]
    assert first["text"] == "Let me "


def test_other_elements_stay_apart() -> None:
    """Another kind, index or id begins an element; encrypted data and texts after a signature do, too."""
    elements: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "thinking", "thinking": "b"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "redacted_thinking", "data": "y"},
        {"type": "reasoning.text", "text": "c", "index": 0},
        {"type": "reasoning.text", "text": "d", "index": 1},
        {"type": "reasoning.text", "text": "e", "index": 1, "id": "r1"},
        {"type": "reasoning.text", "text": "f", "index": 1, "id": "r2"},
    ]
    joined = [*elements[:5], {**elements[6], "text": "de"}, elements[7]]
    assert join(*([element] for element in elements)) == joined


def test_objects_and_other_values() -> None:
    """Objects are merged by name, lists extended; every other value replaces the earlier one."""
    assert join(
        {"a": 1, "list": ["x"], "b": {"c": "d"}}, {"a": 2, "list": ["y"], "b": {"e": None, "f": 1}}
    ) == {
        "a": 2,
        "list": ["x", "y"],
        "b": {"c": "d", "f": 1},
    }
    assert join("opaque", "other") == "other"
    assert join(None) is None


def test_fields_that_do_not_fit_are_dropped_whole() -> None:
    """No part of fields beyond the room or the limit is kept."""
    attached = Attachments()
    attached.add("signature", "x" * 100)
    size = measure_fields(attached.fields)
    assert attached.take(size) == {"signature": "x" * 100}
    assert attached.take(size - 1) == {}
    for _ in range(MAX_PROVIDER_DATA_BYTES // 100):
        attached.add("signature", "x" * 100)
    attached.add("more", "y")
    assert attached.fields == {}
    assert attached.take(MAX_PROVIDER_DATA_BYTES) == {}


def test_fields_that_cannot_be_stored_are_dropped() -> None:
    """The journal takes no infinite numbers, and no values that are nested too deeply."""
    nested: Any = "x"
    for _ in range(MAX_NESTING + 1):
        nested = [nested]
    assert join({"nested": nested}) is None
    assert join({"nested": nested[0][0][0]}) is not None


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["type", "text", "index", "data", "signature"]), st.text(max_size=5))
    )
)
def test_any_elements_are_kept(elements: list[dict[str, str]]) -> None:
    """No text of any stream of elements is lost, and the joined value is JSON."""
    joined = join(elements) or []
    assert msgspec.json.decode(msgspec.json.encode(joined)) == joined
    for name in ("text", "data"):
        pieces = "".join(element.get(name, "") for element in elements)
        assert "".join(element.get(name, "") for element in joined) == pieces
