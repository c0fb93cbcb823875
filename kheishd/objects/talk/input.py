"""The content of a request: input items, their size and the session's input contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kheishd.core.contract import ContractViolation, parse_value
from kheishd.core.trust import join_origins
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.contract import schema_text
from kheishd.store.tables import RUNS
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputContractViolated
from protocol.errors.token import InputOriginForbidden
from protocol.limits.names import MAX_SOURCE_BYTES
from protocol.limits.session import MAX_INPUT_BYTES
from protocol.transcript import Text, text_of

if TYPE_CHECKING:
    from kheishd.kernel.call import Call
    from kheishd.store.environment import Snapshot
    from protocol.objects.run import SendParams, SteerParams
    from protocol.objects.session import Session
    from protocol.transcript import InputItem, InputOrigin


def input_field(params: SendParams | SteerParams) -> str:
    """Return the name of the field that holds the content."""
    return "$.params.input_items" if params.input_items else "$.params.content"


def declared_origin(call: Call, params: SendParams | SteerParams) -> InputOrigin:
    """Return the origin of a request's content: as the caller's token fixes it, else as declared.

    Errors: InputOriginForbidden for another origin than the token's; InvalidParams for a source that is not
    printable.
    """
    if not params.source.isprintable() or len(params.source.encode()) > MAX_SOURCE_BYTES:
        text = f"a source is at most {MAX_SOURCE_BYTES} bytes of printable text"
        raise InvalidParams(text, field="$.params.source")
    fixed = call.caller.origin
    if fixed is not None and params.origin not in (None, fixed):
        text = f"everything that this token sends has the origin '{fixed}'; leave 'origin' out"
        raise InputOriginForbidden(text, field="$.params.origin")
    return fixed or params.origin or "person"


def origins_read(store: Snapshot, session: Session) -> list[InputOrigin]:
    """Return the origins of everything that a session's model has read, with its run in flight.

    A text that the session passes on to another one, such as a child's task, has these origins, too.
    """
    run = store.need(RUNS, session.open_runs[0]) if session.open_runs else None
    return join_origins(session.origins, run.origins if run is not None and run.starts else ())


def read_items(params: SendParams | SteerParams, max_bytes: int = MAX_INPUT_BYTES) -> list[InputItem]:
    """Return the content of a request as items.

    Errors: InvalidParams unless exactly one of ``content`` and ``input_items`` holds something;
    InputTooLarge.
    """
    field = input_field(params)
    if params.content and params.input_items:
        text = "give either 'content' or 'input_items', not both"
        raise InvalidParams(text, field="$.params.content")
    items = list(params.input_items or ([Text(params.content)] if params.content else []))
    if not items or any(isinstance(item, Text) and not item.text for item in items):
        raise InvalidParams("there is nothing to send: the content is empty", field=field)
    if not all(isinstance(item, Text) for item in items):
        text = "this version takes only items of kind 'text'; put the file's text there"
        raise InvalidParams(text, field=field)
    require_storable(items, max_bytes, "input", field)
    return items


def apply_input_contract(
    store: Snapshot, session: Session, items: list[InputItem], field: str
) -> list[InputItem]:
    """Return items as the session's input contract demands: their texts replaced by canonical JSON.

    Shape:  the items themselves without a contract; else one text in place of all, where the first was.
    Errors: InputContractViolated.
    """
    if session.input_contract is None:
        return items
    verdict = parse_value(msgspec.json.decode(schema_text(store, session.input_contract)), text_of(items))
    if isinstance(verdict, ContractViolation):
        text = f"the input does not match the session's input contract: {verdict.problem}"
        raise InputContractViolated(text, field=field)
    first = next(index for index, item in enumerate(items) if isinstance(item, Text))
    others = [item for item in items if not isinstance(item, Text)]
    return [*others[:first], Text(verdict.text), *others[first:]]
