"""Prompt caching of the messages API: the breakpoints up to which the provider keeps a prompt.

Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching. A prompt is cached up to each
marked block; the next request reads the longest cached prefix. At most four blocks may be marked. These are
the last tool, the instructions, the end of the transcript, and the end of the previous request's transcript,
which is found again even if more than twenty blocks were added since.
"""

from __future__ import annotations

from typing import Any

EPHEMERAL = {"type": "ephemeral"}

# Other blocks, such as thinking, cannot be marked.
_MARKABLE = ("text", "tool_use", "tool_result")


def mark_prompt(body: dict[str, Any], cache_control: Any) -> None:
    """Mark the blocks of a request. ``cache_control`` is that of the route's options; false for none.

    A request whose options mark a block themselves stays as it is.
    """
    if cache_control is False:
        return
    mark = cache_control if isinstance(cache_control, dict) else EPHEMERAL
    tools = body.get("tools") or []
    if any("cache_control" in tool for tool in tools):
        return
    if tools:
        body["tools"] = [*tools[:-1], {**tools[-1], "cache_control": mark}]
    system = body.get("system")
    if isinstance(system, str):
        body["system"] = [{"type": "text", "text": system, "cache_control": mark}]
    users = [message for message in body["messages"] if message["role"] == "user"]
    for message in users[-2:]:
        block = next((block for block in reversed(message["content"]) if block["type"] in _MARKABLE), None)
        if block is not None:
            block["cache_control"] = mark
