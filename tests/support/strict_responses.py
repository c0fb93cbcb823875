"""A server of the Responses API that stores nothing, and rejects its own items if they are changed.

An answer with calls has encrypted reasoning before each of its two calls, a hosted search and a note. The
server rejects, as OpenAI does:

* a request that asks it to store, or that does not ask for encrypted reasoning;
* unknown fields, of the request and of its items;
* an item of this model that is changed, alone, or in another order: for example reasoning without the item
  that follows from it, or a call without its reasoning;
* a call of this model without its items, and any item of another model;
* a result without its call, a call without its result, results in another order, and repeated ids.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.support.model_wire import Say, Stop, Think
from tests.support.responses_wire import Responses
from tests.support.strict_google import OTHER_MODEL, require, sign

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = {
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "store",
    "include",
    "stream",
    "max_output_tokens",
    "reasoning",
}
PLAIN_FIELDS = {
    "message": {"type", "role", "content"},
    "function_call": {"type", "call_id", "name", "arguments"},
    "function_call_output": {"type", "call_id", "output"},
}
"""The fields of items that are no output of this model."""

TOOL_FIELDS = {"type", "name", "description", "parameters", "strict"}
MAX_CALL_ID_CHARACTERS = 64


def make_call_id(number: int) -> str:
    """Return the id of the n-th call."""
    return f"call_responses_{number}"


def make_output(model: str, number: int) -> list[dict[str, Any]]:
    """Return the items of an answer with the calls of this number and the next, as they must come back."""
    text = {"type": "output_text", "annotations": [], "logprobs": [], "text": f"I look for {number}."}
    return [
        _make_reasoning(model, number, "I think", "I think again"),
        {
            "id": f"ws_{number}",
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": "look"},
        },
        {
            "id": f"msg_{number}",
            "type": "message",
            "status": "completed",
            "content": [text],
            "phase": "commentary",
            "role": "assistant",
        },
        _make_call(number, '{"path":"/a"}'),
        _make_reasoning(model, number + 1),
        _make_call(number + 1, '{"path": "/b"}'),
    ]


def _make_reasoning(model: str, number: int, *summary: str) -> dict[str, Any]:
    parts = [{"type": "summary_text", "text": f"{text} of {number}."} for text in summary]
    sealed = sign(model, f"reasoning {number}")
    return {"id": f"rs_{number}", "type": "reasoning", "encrypted_content": sealed, "summary": parts}


def _make_call(number: int, arguments: str) -> dict[str, Any]:
    return {
        "id": f"fc_{number}",
        "type": "function_call",
        "status": "completed",
        "arguments": arguments,
        "call_id": make_call_id(number),
        "name": "look",
    }


def write_calls(model: str, number: int) -> bytes:
    """Return the events of an answer with calls, from its first item on."""
    wire = Responses()
    written = b"".join(wire.item(item) for item in make_output(model, number))
    return written + wire.move(model, Stop("tool_calls"))


def write_end(model: str, text: str) -> bytes:
    """Return the events of an answer without calls: reasoning and a text, in pieces."""
    wire = Responses()
    return b"".join(wire.move(model, move) for move in (Think("Hm."), Say(text[:3]), Say(text[3:]), Stop()))


def check_responses(model: str, body: Mapping[str, Any]) -> None:
    """Reject what the server rejects. Errors: Rejected."""
    require(body.keys() <= FIELDS, f"unknown fields: {sorted(body.keys() - FIELDS)}")
    require(body.get("store") is False, "items are not stored")
    require(body.get("include") == ["reasoning.encrypted_content"], "encrypted reasoning is not included")
    for tool in body.get("tools", ()):
        require(tool.keys() == TOOL_FIELDS, f"fields of a tool: {sorted(tool)}")
    items = body["input"]
    position = 0
    calls: list[str] = []
    used: set[str] = set()
    while position < len(items):
        item = items[position]
        if item["type"] == "function_call_output":
            require(
                item.keys() == PLAIN_FIELDS["function_call_output"], f"fields of a result: {sorted(item)}"
            )
            require(calls and calls.pop(0) == item["call_id"], f"no call for the result of {item['call_id']}")
            position += 1
            continue
        is_own = "id" in item
        made = _check_own(model, items, position) if is_own else [_check_plain(model, item)]
        call_ids = [item["call_id"] for item in made if item["type"] == "function_call"]
        is_answer = is_own or call_ids or item["role"] == "assistant"
        require(not calls or is_answer, f"the calls {calls} have no results")
        require(used.isdisjoint(call_ids), f"repeated ids: {call_ids}")
        used.update(call_ids)
        calls += call_ids
        position += len(made)
    require(not calls, f"the calls {calls} have no results")


def _check_own(model: str, items: list[dict[str, Any]], position: int) -> list[dict[str, Any]]:
    """Return the items of one answer of this model, which begins here. Errors: Rejected."""
    item_id = items[position]["id"]
    number = int(re.findall(r"\d+", item_id)[-1])
    if number < 2:
        # An answer without calls, whose items the wire numbers.
        made = items[position : position + 2]
        require([item["type"] for item in made] == ["reasoning", "message"], f"{item_id} is alone")
        require(all("encrypted_content" in item or "content" in item for item in made), "items were changed")
        return made
    require((number > OTHER_MODEL) == (":" in model), f"the item {item_id} is of another model")
    expected = make_output(model, number)
    require(items[position : position + len(expected)] == expected, f"{item_id} is alone, or was changed")
    return expected


def _check_plain(model: str, item: dict[str, Any]) -> dict[str, Any]:
    """Return an item that is no output of this model. Errors: Rejected."""
    fields = PLAIN_FIELDS.get(item["type"])
    require(item.keys() == fields, f"fields of a {item['type']}: {sorted(item)}")
    if item["type"] == "message":
        require(isinstance(item["content"], str), "a message without text")
        return item
    call_id = item["call_id"]
    require(len(call_id) <= MAX_CALL_ID_CHARACTERS, f"the id {call_id} is too long")
    numbers = re.findall(r"^call_responses_(\d+)$", call_id)
    is_own = bool(numbers) and (int(numbers[0]) > OTHER_MODEL) == (":" in model)
    require(not is_own, f"the items of {call_id} were lost")
    return item
