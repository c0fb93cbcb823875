"""Lists of a server, row by row."""

from typing import Any

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest, JSONRPCResponse

from kheishd.mcp.listing import WARNINGS_KEY, ListScreen, screen_rows

GOOD = {"name": "good", "inputSchema": {"type": "object"}}


@pytest.mark.parametrize(
    ("result", "rows", "warnings"),
    [
        ({"tools": [GOOD]}, [GOOD], None),
        ({"tools": [GOOD, {"name": "b"}]}, [GOOD], ["the tool 'b' is left out: inputSchema: Field required"]),
        ({"tools": [GOOD], "_meta": {WARNINGS_KEY: 5}}, [GOOD], []),
        ({"tools": [5] * 20}, [], 17),
        ({"tools": [GOOD] * 400_000}, [GOOD] * 5_000, ["its tools beyond 5000 are left out"]),
        # Problems of the list itself are the library's.
        ({"tools": [5], "nextCursor": 5}, [5], None),
        ({"tools": 5}, 5, None),
        ({"tools": [5], "_meta": 5}, [5], None),
    ],
)
def test_rows(result: dict[str, Any], rows: Any, warnings: list[str] | int | None) -> None:
    """Invalid rows are taken out with their reasons, and a server cannot write reasons itself."""
    screen_rows("tools/list", "2025-11-25", result)
    assert result["tools"] == rows
    meta = result.get("_meta")
    reasons = meta.get(WARNINGS_KEY) if isinstance(meta, dict) else None
    assert (len(reasons) if isinstance(warnings, int) and reasons else reasons) == warnings


async def test_only_answers_to_lists_are_screened() -> None:
    """The answer to another request passes as it is, also one of the same form."""
    screen = ListScreen()
    screen.version = "2025-11-25"
    send_inner, to_server = anyio.create_memory_object_stream[SessionMessage](9)
    from_server, receive_inner = anyio.create_memory_object_stream[SessionMessage | Exception](9)
    async with to_server, from_server:
        read, write = screen.wrap((receive_inner, send_inner))
        async with read, write:
            for request_id, method in ((1, "tools/list"), (2, "tools/call")):
                request = JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method)
                await write.send(SessionMessage(request))
            for request_id in (2, 1, 1):
                response = JSONRPCResponse(jsonrpc="2.0", id=request_id, result={"tools": [GOOD, 5]})
                await from_server.send(SessionMessage(response))
            await from_server.send(ValueError())
            counts = []
            for _ in range(3):
                item = await read.receive()
                assert isinstance(item, SessionMessage)
                assert isinstance(item.message, JSONRPCResponse)
                counts.append(len(item.message.result["tools"]))
            assert counts == [2, 1, 2]
            assert isinstance(await anext(aiter(read)), ValueError)
