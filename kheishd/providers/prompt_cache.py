"""Prompt caching of the messages API: the breakpoints up to which the provider keeps a prompt.

Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching. A prompt is cached up to each
marked block; the next request reads the longest cached prefix. At most four blocks may be marked. These are
the last tool, the instructions, the end of the transcript, and the end of the previous request's transcript,
which is found again even if more than twenty blocks were added since.
"""

from __future__ import annotations

from typing import Any, Final

EPHEMERAL = {"type": "ephemeral"}

# Other blocks, such as thinking, cannot be marked.
_MARKABLE = ("text", "tool_use", "tool_result")


MAX_MARKED_MESSAGES: Final = 4
"""The messages at the end that have the last two of the user: the roles alternate."""


def mark_prompt(body: dict[str, Any], cache_control: Any) -> None:
    """Mark the blocks of a request. ``cache_control`` is that of the route's options; false for none.

    A request whose options mark a block themselves stays as it is. The body and its list of messages are
    changed, the messages are not: they are kept for the next request.
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
    messages = body["messages"]
    last = range(max(len(messages) - MAX_MARKED_MESSAGES, 0), len(messages))
    # Encoded messages come before these two.
    users = [
        index for index in last if isinstance(messages[index], dict) and messages[index]["role"] == "user"
    ]
    for index in users[-2:]:
        messages[index] = _mark(messages[index], mark)


def _mark(message: dict[str, Any], mark: Any) -> dict[str, Any]:
    """Return a message with a mark on its last block that can have one."""
    content = message["content"]
    for index in reversed(range(len(content))):
        if content[index]["type"] in _MARKABLE:
            marked = {**content[index], "cache_control": mark}
            return {**message, "content": [*content[:index], marked, *content[index + 1 :]]}
    return message
