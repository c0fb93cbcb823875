"""Only hooks, the table of profiles and their tests know the names of tools."""

import ast
import re
from pathlib import Path

from tests.house.sources import sources, tree

HOOKS = Path("kheishd/hooks")
PROFILES = Path("kheishd/core/profiles.py")
"""A profile is a statement about tools."""
SKILLS = Path("kheishd/core/skill.py")
"""The table of the ecosystem's names of tools."""
SOURCES_OF_OUTPUTS = {"emit_output"}
"""Names of tools that are values of the protocol, too."""


def tool_names() -> set[str]:
    """Return the name in every ``@tool`` decorator."""
    names = set()
    for path in sources():
        for node in ast.walk(tree(path)) if path.is_relative_to(HOOKS) else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tool":
                (name,) = (arg.value for arg in node.args if isinstance(arg, ast.Constant))
                assert isinstance(name, str)
                names.add(name)
    return names


def test_only_hooks_name_tools() -> None:
    """No string outside the hooks contains the name of a tool, but for examples in the help of kheishctl.

    Names of one word, such as ``bash``, are also words for other things and are not checked.
    """
    names = sorted(name for name in tool_names() - SOURCES_OF_OUTPUTS if "_" in name)
    assert len(names) > 5
    pattern = re.compile(rf"\b({'|'.join(names)})\b")
    hits = []
    for path in sources():
        if path.is_relative_to(HOOKS) or path in (PROFILES, SKILLS):
            continue
        search = pattern.fullmatch if path.is_relative_to("kheishctl") else pattern.search
        hits += [
            f"{path}:{node.lineno}: {match[0]}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if (match := search(node.value))
        ]
    assert not hits, "\n".join(hits)
