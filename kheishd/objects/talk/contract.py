"""Contracts in the store: a schema is checked when somebody gives it, and kept once, by its digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from kheishd.core.contract import Checked, Violates, read, schema_problems
from kheishd.store.blobs import blob_name, put_chunk, read_blob
from protocol.contract import BoundContract, InputContract, OutputContract
from protocol.errors.session import ContractInvalid, InputContractViolated, InputTooLarge
from protocol.limits.output import MAX_CONTRACT_BYTES
from protocol.transcript import InputItem, Text, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.run import Run
    from protocol.objects.session import Session, SessionCreate, SessionUpdate


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that a contract may have, as it is kept. Its keys stay in the order they were given in."""

    content: bytes

    @property
    def digest(self) -> str:
        """What it is called."""
        return blob_name(self.content)

    def keep(self, tx: Transaction) -> str:
        """Keep it, unless it is there; gives its digest."""
        put_chunk(tx, self.digest, 0, self.content)
        return self.digest


def schema_of(schema: dict[str, Any], field: str) -> Schema:
    """A schema that somebody gives, checked. Errors: InputTooLarge, ContractInvalid."""
    try:
        content = msgspec.json.encode(schema)
    except (OverflowError, RecursionError):
        raise ContractInvalid("a schema holds no numbers and nests a few levels", field=field) from None
    if len(content) > MAX_CONTRACT_BYTES:
        text = f"the schema takes {len(content)} bytes as JSON; the limit is {MAX_CONTRACT_BYTES}"
        raise InputTooLarge(text, field=field)
    problems = schema_problems(schema)
    if problems:
        raise ContractInvalid("; ".join(problems), field=field)
    return Schema(content)


@dataclass(frozen=True, slots=True)
class Contracts:
    """The contracts that somebody gives a session, by the names of its record, and the schemas to be kept."""

    named: dict[str, Any]
    schemas: tuple[Schema, ...]

    def keep(self, tx: Transaction) -> dict[str, Any]:
        """Keep the schemas; gives what the record has of them."""
        for schema in self.schemas:
            schema.keep(tx)
        return self.named


def contracts_of(params: SessionCreate | SessionUpdate) -> Contracts:
    """The contracts in some params; null is one that is cleared. Errors: InputTooLarge, ContractInvalid."""
    named: dict[str, Any] = {}
    schemas: list[Schema] = []
    wanted, promised = params.input_contract, params.output_contract
    if isinstance(wanted, InputContract):
        schemas.append(schema_of(wanted.schema, "$.params.input_contract.schema"))
        named["input_contract"] = schemas[-1].digest
    if isinstance(promised, OutputContract):
        schemas.append(schema_of(promised.schema, "$.params.output_contract.schema"))
        named["output_contract"] = bound_to(promised, schemas[-1])
    cleared = (("input_contract", wanted), ("output_contract", promised))
    return Contracts(named | {name: None for name, given in cleared if given is None}, tuple(schemas))


def bound_to(contract: OutputContract, schema: Schema) -> BoundContract:
    """An output contract as it is pinned and kept."""
    return BoundContract(digest=schema.digest, max_repairs=contract.max_repairs)


def schema_text(store: Snapshot, digest: str) -> str:
    """A schema that is kept. Errors: AssertionError if it is not: what refers to it is damaged."""
    content = read_blob(store, digest)
    assert content is not None, "a contract's schema is kept"
    return content.decode()


def schema_shown(store: Snapshot, digest: str | None) -> dict[str, Any] | None:
    """A schema as people see it."""
    if digest is None:
        return None
    shown: dict[str, Any] = msgspec.json.decode(schema_text(store, digest))
    return shown


def bound_input(store: Snapshot, session: Session, items: Sequence[InputItem]) -> list[InputItem]:
    """What is said to a session, as its input contract wants it: JSON, written in one way.

    Shape:  the items themselves without a contract; else the texts are one, where the first of them was.
    Errors: InputContractViolated.
    """
    if session.input_contract is None:
        return list(items)
    found = read(msgspec.json.decode(schema_text(store, session.input_contract)), text_of(list(items)))
    if isinstance(found, Violates):
        raise InputContractViolated(
            f"what was sent does not fit the session's input contract: {found.problem}",
            field="$.params.content",
        )
    whole: list[InputItem] = []
    for item in items:
        if not isinstance(item, Text):
            whole.append(item)
        elif not any(isinstance(each, Text) for each in whole):
            whole.append(Text(found.text))
    return whole


def checked(store: Snapshot, run: Run, text: str) -> Checked | None:
    """What is found out about a run's answer: how it fits the contract that the run pinned.

    Shape:  None where no contract binds the answer: there is none, or something that fits was emitted.
    """
    bound = run.pinned.output_contract
    if bound is None or run.output_cursors:
        return None
    schema = schema_text(store, bound.digest)
    found = read(msgspec.json.decode(schema), text)
    return Checked(schema, found.problem if isinstance(found, Violates) else None)
