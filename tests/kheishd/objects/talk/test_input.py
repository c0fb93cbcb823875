"""The content of a request, and input contracts."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.objects.talk.contract import StoredSchema
from kheishd.objects.talk.input import apply_input_contract, read_items
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputContractViolated
from protocol.objects.conversation import ConversationSend
from protocol.objects.session import Session
from protocol.transcript import AssetReference, InputItem, Text
from tests.support.desk import Desk, open_desk


def test_read_items() -> None:
    """Either ``content`` or ``input_items`` holds something; empty and unsupported items are refused."""
    assert read_items(ConversationSend(content="x")) == [Text("x")]
    assert read_items(ConversationSend(input_items=[Text("a"), Text("b")])) == [Text("a"), Text("b")]
    content, items = "$.params.content", "$.params.input_items"
    for params, field in (
        (ConversationSend(), content),
        (ConversationSend(content="x", input_items=[Text("y")]), content),
        (ConversationSend(input_items=[Text("a"), Text("")]), items),
        (ConversationSend(input_items=[Text("a"), AssetReference("ast_1")]), items),
    ):
        with pytest.raises(InvalidParams) as caught:
            read_items(params)
        assert caught.value.field == field


FIELD = "$.params.content"

FLAG: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


SESSION = Session(session_id="ses_1", agent="default", status="open", created_at_ms=0, updated_at_ms=0)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Open a store that holds the schema."""
    async with open_desk(tmp_path) as desk:
        await desk.state.update(StoredSchema.of(FLAG, "$").store)
        yield desk


DIGEST = StoredSchema.of(FLAG, "$").digest


async def test_apply_input_contract(desk: Desk) -> None:
    """Texts become one canonical JSON text in place of the first; other items keep their order."""
    picture = AssetReference("ast_1")
    items: list[InputItem] = [picture, Text('```json\n{"ok":'), picture, Text(" true}\n```")]
    bound = replace(SESSION, input_contract=DIGEST)
    with desk.state.read() as store:
        assert apply_input_contract(store, bound, items, FIELD) == [picture, Text('{"ok":true}'), picture]
        assert apply_input_contract(store, SESSION, items, FIELD) == items
        with pytest.raises(InputContractViolated, match=r"\$\.ok"):
            apply_input_contract(store, bound, [Text('{"ok": 1}')], FIELD)
        with pytest.raises(InputContractViolated):
            apply_input_contract(store, bound, [picture], FIELD)
