"""Call ids in requests: verbatim to their provider, in each provider's form to all others."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.providers.call_ids import (
    MAX_OPENAI_ID_CHARACTERS,
    CallIdMap,
    IdForm,
    form_for_anthropic,
    form_for_mistral,
    form_for_openai,
)
from protocol.transcript import ProviderData, ToolCall

FORMS: dict[IdForm, re.Pattern[str]] = {
    form_for_openai: re.compile(rf".{{1,{MAX_OPENAI_ID_CHARACTERS}}}", re.DOTALL),
    form_for_anthropic: re.compile(r"[A-Za-z0-9_-]+"),
    form_for_mistral: re.compile(r"[A-Za-z0-9]{9}"),
}
"""The accepted ids of each provider."""

ORIGIN = "openai api.test gpt"


def make_call(call_id: str, provider_id: str | None = None, origin: str = ORIGIN) -> ToolCall:
    """Return a call with the provider's id beside kheish's."""
    return ToolCall(call_id, "look", {}, provider_data=ProviderData(origin, provider_id))


def map_ids(form: IdForm, *calls: ToolCall) -> list[str]:
    """Return the ids of calls in a request."""
    ids = CallIdMap(ORIGIN, form)
    assert ids.add(calls)
    return [ids[call.call_id] for call in calls]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("provider_id", ["functions.list_files:0", f"call_1__thought__{'QUJD' * 200}=", "7"])
def test_the_provider_gets_its_own_id(form: IdForm, provider_id: str) -> None:
    """An id goes back verbatim, whatever its length and characters, in the form of no driver."""
    assert map_ids(form, make_call("call_1", provider_id)) == [provider_id]


@pytest.mark.parametrize("form", FORMS)
def test_other_providers_get_kheish_s_id(form: IdForm) -> None:
    """No part of an id that another provider or another model made is sent."""
    secret = f"call_1__thought__{'QUJD' * 200}="
    (mapped,) = map_ids(form, make_call("call_1", secret, "openai other.test gpt"))
    assert mapped == form("call_1", 0)
    assert "QUJD" not in mapped


@given(
    st.sampled_from(list(FORMS)),
    st.lists(st.tuples(st.text(min_size=1, max_size=60), st.none() | st.text(max_size=12)), max_size=40),
)
def test_every_id_is_valid_and_distinct(form: IdForm, rows: list[tuple[str, str | None]]) -> None:
    """Ids from elsewhere have the provider's form, and no two calls of a request have one id."""
    rows = list({call_id: (call_id, provider_id) for call_id, provider_id in rows}.values())
    calls = [make_call(call_id, provider_id) for call_id, provider_id in rows]
    mapped = map_ids(form, *calls)
    assert len(set(mapped)) == len(calls)
    provider_ids = {provider_id for _, provider_id in rows}
    assert all(call_id in provider_ids or FORMS[form].fullmatch(call_id) for call_id in mapped)
    assert mapped == map_ids(form, *calls)


@pytest.mark.parametrize("form", FORMS)
def test_ids_stay_as_a_conversation_grows(form: IdForm) -> None:
    """Earlier ids do not change when calls are added, so the provider's cache of the prompt stays valid."""
    calls = [make_call(f"näme {n}", None) for n in range(20)]
    mapped = map_ids(form, *calls)
    assert all(map_ids(form, *calls[:count]) == mapped[:count] for count in range(20))


@given(
    st.sampled_from(list(FORMS)),
    st.lists(st.tuples(st.text("ab:é", max_size=9), st.none() | st.text("ab-2", max_size=9)), max_size=20),
    st.data(),
)
def test_calls_are_added_one_after_another(
    form: IdForm, rows: list[tuple[str, str | None]], data: st.DataObject
) -> None:
    """Ids are those of all calls at once, or the map says that earlier ones would change."""
    calls = [make_call(call_id, provider_id) for call_id, provider_id in rows]
    cut = data.draw(st.integers(0, len(calls)))
    ids = CallIdMap(ORIGIN, form)
    assert ids.add(calls[:cut])
    earlier = map_ids(form, *calls[:cut])
    assert [ids[call.call_id] for call in calls[:cut]] == earlier
    expected = map_ids(form, *calls)
    if ids.add(calls[cut:]):
        assert [ids[call.call_id] for call in calls] == expected
    elif len({call_id for call_id, _ in rows}) == len(rows):
        assert expected[:cut] != earlier


def test_a_result_before_its_call_keeps_its_id() -> None:
    """The id of a call that was not known is settled: the call cannot get another one later."""
    ids = CallIdMap(ORIGIN, form_for_openai)
    assert ids["call_1"] == "call_1"
    assert not ids.add([make_call("call_1", "own")])


def test_similar_ids_do_not_collide() -> None:
    """Ids that differ only in characters that Anthropic rejects get numbers."""
    assert map_ids(form_for_anthropic, *(make_call(call_id) for call_id in ("a.b", "a:b", "a_b"))) == [
        "a_b",
        "a_b-2",
        "a_b-3",
    ]
    similar = [make_call(chr(0x4E00 + number)) for number in range(5_000)]
    assert map_ids(form_for_anthropic, *similar)[-1] == "_-5000"


def test_a_repeated_provider_id_is_sent_once() -> None:
    """Of two calls with the same id of the provider, the first gets it; the other one gets kheish's."""
    calls = (make_call("call_0", "call_0"), make_call("call_0-2", "call_0"))
    assert map_ids(form_for_openai, *calls) == ["call_0", "call_0-2"]


def test_an_id_in_mistral_s_form_is_kept() -> None:
    """An id that Mistral accepts is not changed."""
    assert map_ids(form_for_mistral, make_call("aB3dE6gH9")) == ["aB3dE6gH9"]


def test_the_id_of_a_missing_call() -> None:
    """A result without its call still gets an id in the right form."""
    assert CallIdMap(ORIGIN, form_for_anthropic)["a.b"] == "a_b"
