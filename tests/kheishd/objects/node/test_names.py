"""Names in definitions that belong to nothing: shown as warnings, and never refused."""

from pathlib import Path

from kheishd.core.definition import built_in, parse
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import Arguments, Invocation, Outcome, SubHook, tool
from kheishd.objects.node.names import MAX_NAME_WARNINGS, find_unknown_names
from protocol.objects.definition import Definition
from tests.support.household import household


class NamedTools(SubHook):
    """A sub-hook with one tool."""

    name = "named"

    @tool("read_file", description="Read.", kind="read")
    async def read_file(self, call: Invocation, arguments: Arguments) -> Outcome:
        """Return nothing."""
        return Outcome("")


async def test_unknown_names_are_warnings(tmp_path: Path) -> None:
    """Each names its field and the nearest known name; tools of MCP servers may appear later."""
    text = """---
tools: [read_file, raed_file, mcp__x__y, mcp__*]
members: [defualt, quite_another, odd]
persona: crtic
permissions:
  - {tool: read_fiel, decision: ask}
  - {tool: "read_*", decision: ask}
---
x"""
    async with household(tmp_path, hooks=CompositeHook([NamedTools()])) as house:
        await house.call("persona.create", persona_id="critic", display_name="C", soul="x")
        with house.state.read() as store:
            odd = parse("odd", text.encode(), None)
            ((name, warnings),) = find_unknown_names(store, house.holder.current(), [odd, built_in()])
        read = "which does not exist now; did you mean 'read_file'?"
        expected = [
            f"the agent 'odd' names 'raed_file' in 'tools', {read}",
            f"the agent 'odd' names 'read_fiel' in 'permissions', {read}",
            "the agent 'odd' names 'defualt' in 'members', which does not exist now; did you mean 'default'?",
            "the agent 'odd' names 'quite_another' in 'members', which does not exist now",
            "the agent 'odd' names 'crtic' in 'persona', which does not exist now; did you mean 'critic'?",
        ]
        assert (name, warnings) == ("odd", expected)


async def test_the_warnings_of_a_definition_are_bounded(tmp_path: Path) -> None:
    """The last one counts the others."""
    async with household(tmp_path) as house:
        agent = Definition(
            name="a",
            instructions="",
            source="file",
            digest="",
            members=[f"x{number}" for number in range(50)],
        )
        with house.state.read() as store:
            ((name, warnings),) = find_unknown_names(store, house.holder.current(), [agent])
        assert (name, len(warnings)) == ("a", MAX_NAME_WARNINGS + 1)
        assert warnings[-1] == "the agent 'a' has 30 more unknown names"
