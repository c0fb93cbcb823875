"""Contracts in the store: what is refused, what is kept, and what is made of what somebody says."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.objects.talk.contract import (
    bound_input,
    checked,
    contracts_of,
    schema_of,
    schema_shown,
    schema_text,
)
from kheishd.store.tables import BLOBS
from protocol.contract import BoundContract, InputContract, OutputContract
from protocol.errors.session import ContractInvalid, InputContractViolated, InputTooLarge
from protocol.limits.output import MAX_CONTRACT_BYTES
from protocol.objects.run import Pinned, Run
from protocol.objects.session import Session, SessionCreate, SessionUpdate
from protocol.transcript import AssetReference, InputItem, Text
from tests.support.desk import Desk, open_desk

FLAG: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
SESSION = Session(session_id="ses_1", agent="default", status="open", created_at_ms=0, updated_at_ms=0)
RUN = Run(
    run_id="run_1",
    session_id="ses_1",
    agent="default",
    input_id="inp_1",
    status="running",
    accepted_at_ms=0,
    updated_at_ms=0,
    accepted_cursor=1,
    updated_cursor=1,
    pinned=Pinned(route="offline", driver="offline", model="offline"),
)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A store in which the schema is kept."""
    async with open_desk(tmp_path) as desk:
        await desk.state.update(schema_of(FLAG, "$").keep)
        yield desk


DIGEST = schema_of(FLAG, "$").digest


async def test_a_schema_is_kept_once_and_as_it_was_given(desk: Desk) -> None:
    """By its digest; keys stay in their order, for that is how a model reads them."""
    await desk.state.update(schema_of(FLAG, "$").keep)
    assert desk.count(BLOBS) == 1
    with desk.state.read() as store:
        assert schema_text(store, DIGEST).startswith('{"type":"object","properties":')
        assert schema_shown(store, DIGEST) == FLAG
        assert schema_shown(store, None) is None
        with pytest.raises(AssertionError):
            schema_text(store, "0" * 64)


@pytest.mark.parametrize(
    ("schema", "refusal"),
    [
        ({"type": "string", "enum": ["a"]}, ContractInvalid),
        ({"type": "string", "minLength": 2**64}, ContractInvalid),
        ({"type": "string", "description": "x" * MAX_CONTRACT_BYTES}, InputTooLarge),
    ],
)
def test_a_schema_that_is_not_kept(schema: dict[str, Any], refusal: type[Exception]) -> None:
    """The refusal names where it was given."""
    with pytest.raises(refusal) as caught:
        schema_of(schema, "$.params.output_contract.schema")
    assert getattr(caught.value, "field", None) == "$.params.output_contract.schema"


def test_a_schema_that_nests_too_deep_is_no_contract() -> None:
    """Whatever else is wrong with it."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(2_000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ContractInvalid):
        schema_of(schema, "$")


async def test_contracts_of_a_session(desk: Desk) -> None:
    """What is given is named and kept, what is null is cleared, what is absent is not there."""
    params = SessionCreate(
        input_contract=InputContract(schema=FLAG),
        output_contract=OutputContract(schema={"type": "null"}, max_repairs=1),
    )
    contracts = contracts_of(params)
    assert await desk.state.update(contracts.keep) == {
        "input_contract": DIGEST,
        "output_contract": BoundContract(digest=schema_of({"type": "null"}, "$").digest, max_repairs=1),
    }
    assert desk.count(BLOBS) == 2
    assert contracts_of(SessionUpdate(session_id="s")).named == {}
    assert contracts_of(SessionUpdate(session_id="s", input_contract=None)).named == {"input_contract": None}
    assert contracts_of(SessionCreate()).named == {"input_contract": None, "output_contract": None}


async def test_what_is_said_is_written_in_one_way(desk: Desk) -> None:
    """Texts become one, where the first of them was; what is no text stays where it is."""
    picture = AssetReference("ast_1")
    items: list[InputItem] = [picture, Text('```json\n{"ok":'), picture, Text(" true}\n```")]
    bound = replace(SESSION, input_contract=DIGEST)
    with desk.state.read() as store:
        assert bound_input(store, bound, items) == [picture, Text('{"ok":true}'), picture]
        assert bound_input(store, SESSION, items) == items
        with pytest.raises(InputContractViolated, match=r"\$\.ok"):
            bound_input(store, bound, [Text('{"ok": 1}')])
        with pytest.raises(InputContractViolated):
            bound_input(store, bound, [picture])


async def test_what_is_found_out_about_an_answer(desk: Desk) -> None:
    """Against what the run pinned; nothing where that is nothing, or where it gave something already."""
    bound = replace(RUN, pinned=replace(RUN.pinned, output_contract=BoundContract(digest=DIGEST)))
    with desk.state.read() as store:
        good, bad = checked(store, bound, '{"ok": true}'), checked(store, bound, "fine")
        assert good is not None
        assert bad is not None
        assert (good.problem, good.schema) == (None, schema_text(store, DIGEST))
        assert bad.problem is not None
        assert checked(store, RUN, "fine") is None
        assert checked(store, replace(bound, output_cursors=[7]), "fine") is None
