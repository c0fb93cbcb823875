"""Contracts: schemas are validated when a caller sends them, and stored once, by their digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kheishd.core.contract import AnswerCheck, ContractViolation, find_schema_problems, parse_value
from kheishd.store.blobs import blob_name, put_chunk, read_blob
from protocol.contract import BoundContract, InputContract, OutputContract
from protocol.errors.session import ContractInvalid, InputTooLarge
from protocol.limits.output import MAX_CONTRACT_BYTES
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.run import Pinned
    from protocol.objects.session import SessionSettings


class StoredSchema(Value, frozen=True):
    """A valid schema as stored. Its keys keep the order in which they were sent."""

    content: bytes

    @classmethod
    def of(cls, schema: dict[str, Any], field: str) -> StoredSchema:
        """Validate a schema. Errors: InputTooLarge, ContractInvalid."""
        try:
            content = msgspec.json.encode(schema)
        except (OverflowError, RecursionError):
            text = "a schema holds no numbers and nests only a few levels"
            raise ContractInvalid(text, field=field) from None
        if len(content) > MAX_CONTRACT_BYTES:
            text = f"the schema takes {len(content)} bytes as JSON; the limit is {MAX_CONTRACT_BYTES}"
            raise InputTooLarge(text, field=field)
        problems = list(find_schema_problems(schema))
        if problems:
            raise ContractInvalid("; ".join(problems), field=field)
        return cls(content)

    @property
    def digest(self) -> str:
        """The SHA-256 of the schema, in hex."""
        return blob_name(self.content)

    def store(self, tx: Transaction) -> None:
        """Store the schema unless it is stored already."""
        put_chunk(tx, self.digest, 0, self.content)


class Contracts(Value, frozen=True):
    """The contracts that params set: the properties of the session, by name, and the schemas to store."""

    properties: dict[str, Any]
    schemas: tuple[StoredSchema, ...]


def read_contracts(params: SessionSettings) -> Contracts:
    """Return the contracts that params set; null unsets one. Errors: InputTooLarge, ContractInvalid."""
    properties: dict[str, Any] = {}
    schemas: list[StoredSchema] = []
    if isinstance(params.input_contract, InputContract):
        schemas.append(StoredSchema.of(params.input_contract.schema, "$.params.input_contract.schema"))
        properties["input_contract"] = schemas[-1].digest
    elif params.input_contract is None:
        properties["input_contract"] = None
    if isinstance(params.output_contract, OutputContract):
        schemas.append(StoredSchema.of(params.output_contract.schema, "$.params.output_contract.schema"))
        properties["output_contract"] = bind_output(params.output_contract, schemas[-1])
    elif params.output_contract is None:
        properties["output_contract"] = None
    return Contracts(properties, tuple(schemas))


def bind_output(contract: OutputContract, schema: StoredSchema) -> BoundContract:
    """Return an output contract as stored and pinned."""
    return BoundContract(digest=schema.digest, max_repairs=contract.max_repairs)


def schema_text(store: Snapshot, digest: str) -> str:
    """Return a stored schema. Errors: AssertionError if it is missing, because its reference is damaged."""
    content = read_blob(store, digest)
    assert content is not None, f"the schema {digest} of a contract is missing"
    return content.decode()


def read_schema(store: Snapshot, digest: str | None) -> dict[str, Any] | None:
    """Return a stored schema as JSON; None without a digest."""
    if digest is None:
        return None
    schema: dict[str, Any] = msgspec.json.decode(schema_text(store, digest))
    return schema


def check_answer(store: Snapshot, run: RunRecord, pinned: Pinned, text: str) -> AnswerCheck | None:
    """Check a run's answer against the output contract that the run pinned.

    Shape:  None if no contract binds the answer: the run pinned none, or a tool call has emitted an output.
    """
    contract = pinned.output_contract
    if contract is None or run.output_cursors:
        return None
    schema = schema_text(store, contract.digest)
    verdict = parse_value(msgspec.json.decode(schema), text)
    return AnswerCheck(schema, verdict.problem if isinstance(verdict, ContractViolation) else None)
