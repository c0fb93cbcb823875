"""Names in definitions that belong to nothing: most are misspelt, and the rest may appear later.

So each is a warning and no refusal. The tools of MCP servers come and go and are not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core.scope import MCP_PREFIX
from kheishd.store.tables import PERSONAS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from protocol.objects.definition import Definition

MAX_NAME_WARNINGS = 20
"""The warnings about one definition: one for each name that a line shows."""


def find_unknown_names(
    store: Snapshot, runtime: Runtime, definitions: Iterable[Definition]
) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each definition with unknown names, and a warning about each of those.

    A skill of a trusted workspace is unknown here, because it exists only there.
    """
    for definition in definitions:
        unknown = [
            _format(definition.name, field, name, known)
            for field, names, known in _checked(store, runtime, definition)
            for name in names
            if name not in known and not (name.startswith(MCP_PREFIX) and field != "members")
        ]
        if len(unknown) > MAX_NAME_WARNINGS:
            more = len(unknown) - MAX_NAME_WARNINGS
            unknown[MAX_NAME_WARNINGS:] = [f"the agent '{definition.name}' has {more} more unknown names"]
        if unknown:
            yield definition.name, unknown


def _checked(
    store: Snapshot, runtime: Runtime, definition: Definition
) -> Iterator[tuple[str, Sequence[str], Collection[str]]]:
    """Yield each field of a definition that has names, the names, and those that exist."""
    rules = [rule.tool for rule in definition.permissions if "*" not in rule.tool]
    if definition.tools or rules:
        tools = {tool.name for tool in runtime.hooks.tools()}
        yield "tools", definition.tools or [], tools
        yield "permissions", rules, tools
    if definition.members:
        yield "members", definition.members, {definition.name, *runtime.definitions}
    if definition.memory:
        yield "memory", definition.memory, {definition.name, *runtime.definitions}
    # Before the first run of an agent, nothing has read the skills.
    skills = runtime.skills.scanned if definition.skills else None
    if definition.skills and skills is not None:
        yield "skills", definition.skills, skills
    if definition.persona is not None and store.get(PERSONAS, definition.persona) is None:
        yield "persona", [definition.persona], [key[0] for key, _ in store.scan(PERSONAS)]


def _format(agent: str, field: str, name: str, known: Collection[str]) -> str:
    # Imported here: only a misspelt name pays for it.
    from difflib import get_close_matches

    near = get_close_matches(name[:128], known, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"the agent '{agent}' names '{name}' in '{field}', which does not exist now{hint}"
