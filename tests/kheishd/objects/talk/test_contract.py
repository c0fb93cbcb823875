"""Contracts in the store: validation, storage and checks of answers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.core.run.record import RunRecord
from kheishd.objects.talk.contract import (
    StoredSchema,
    check_answer,
    read_contracts,
    read_schema,
    schema_text,
)
from kheishd.store.tables import BLOBS
from protocol.contract import BoundContract, InputContract, OutputContract
from protocol.errors.session import ContractInvalid, InputTooLarge
from protocol.limits.output import MAX_CONTRACT_BYTES
from protocol.objects.session import Session, SessionCreate, SessionUpdate
from tests.support.desk import Desk, open_desk
from tests.support.machine import PINNED

FLAG: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
SESSION = Session(session_id="ses_1", agent="default", status="open", created_at_ms=0, updated_at_ms=0)
RUN = RunRecord(
    run_id="run_1",
    session_id="ses_1",
    agent="default",
    input_id="inp_1",
    status="running",
    accepted_at_ms=0,
    updated_at_ms=0,
    accepted_cursor=1,
    updated_cursor=1,
)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Open a store that holds the schema."""
    async with open_desk(tmp_path) as desk:
        await desk.state.update(StoredSchema.of(FLAG, "$").store)
        yield desk


DIGEST = StoredSchema.of(FLAG, "$").digest


async def test_a_schema_is_stored_once(desk: Desk) -> None:
    """A schema is stored by its digest with its keys in their order, in which models read them."""
    await desk.state.update(StoredSchema.of(FLAG, "$").store)
    assert desk.count(BLOBS) == 1
    with desk.state.read() as store:
        assert schema_text(store, DIGEST).startswith('{"type":"object","properties":')
        assert read_schema(store, DIGEST) == FLAG
        assert read_schema(store, None) is None
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
def test_invalid_schemas_are_refused(schema: dict[str, Any], refusal: type[Exception]) -> None:
    """The refusal names the field of the schema."""
    with pytest.raises(refusal) as caught:
        StoredSchema.of(schema, "$.params.output_contract.schema")
    assert getattr(caught.value, "field", None) == "$.params.output_contract.schema"


def test_a_schema_that_nests_too_deep_is_refused() -> None:
    """A schema that nests too deep is refused before anything else is checked."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200_000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ContractInvalid):
        StoredSchema.of(schema, "$")


async def test_read_contracts(desk: Desk) -> None:
    """A contract becomes a property and a schema to store; null unsets one, an absent one sets nothing."""
    params = SessionCreate(
        input_contract=InputContract(schema=FLAG),
        output_contract=OutputContract(schema={"type": "null"}, max_repairs=1),
    )
    contracts = read_contracts(params)
    assert contracts.properties == {
        "input_contract": DIGEST,
        "output_contract": BoundContract(digest=StoredSchema.of({"type": "null"}, "$").digest, max_repairs=1),
    }
    assert [schema.digest for schema in contracts.schemas] == [
        DIGEST,
        contracts.properties["output_contract"].digest,
    ]
    assert read_contracts(SessionUpdate(session_id="s")).properties == {}
    cleared = SessionUpdate(session_id="s", input_contract=None)
    assert read_contracts(cleared).properties == {"input_contract": None}


async def test_check_answer(desk: Desk) -> None:
    """An answer is checked against the pinned contract, unless there is none or an output was emitted."""
    bound = replace(PINNED, output_contract=BoundContract(digest=DIGEST))
    with desk.state.read() as store:
        good, bad = check_answer(store, RUN, bound, '{"ok": true}'), check_answer(store, RUN, bound, "fine")
        assert good is not None
        assert bad is not None
        assert (good.problem, good.schema) == (None, schema_text(store, DIGEST))
        assert bad.problem is not None
        assert check_answer(store, RUN, PINNED, "fine") is None
        assert check_answer(store, replace(RUN, output_cursors=[7]), bound, "fine") is None
