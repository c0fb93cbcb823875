"""Replace the methods that the daemon's messages name by the commands that call them."""

import re
from collections.abc import Callable

from kheishctl.contract import METHODS

COMMANDS: dict[str, str] = {
    "daemon.shutdown": "daemon stop",
    "session.memory_context": "session memory",
    "session.skills": "skill visible",
    "approval.resolve": "approval allow",
    "memory.recall": "memory search",
    "journal.subscribe": "journal follow",
    "event.subscribe": "event follow",
    "conversation.send": "send",
    "daemon.status": "status",
    "rpc.discover": "call rpc.discover",
}
"""The commands that call a method and have another name."""

_METHOD = re.compile(r"(?<![\w./-])'?(?P<method>[a-z]+\.[a-z_]+)'?(?![\w./-])")


def find_command(method: str) -> str | None:
    """Return the command of a method; None for a text that is no method, and for methods without one."""
    if method in COMMANDS:
        return COMMANDS[method]
    noun, _, verb = method.partition(".")
    return f"{noun} {'show' if verb == 'get' else verb.replace('_', '-')}" if method in METHODS else None


def name_commands(text: str, command_line: Callable[..., str] | None = None) -> str:
    """Replace the methods that a message of the daemon names by commands, which people can type.

    ``command_line`` makes a command of words; without it, the command is for the daemon of the default home.
    """

    def replace(match: re.Match[str]) -> str:
        command = find_command(match["method"])
        if command is None:
            return match[0]
        return f"'{command_line(*command.split()) if command_line else f'kheishctl {command}'}'"

    return _METHOD.sub(replace, text)
