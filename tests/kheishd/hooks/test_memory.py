"""The tools for notes: their scope, their origins, and the protection of archives."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.memory import MemoryTools
from kheishd.objects.agents.notes import find_note, write_note
from kheishd.records.writer import BY_DAEMON
from kheishd.store.tables import NOTES
from protocol.objects.memory import Note, NoteProperties
from protocol.transcript import ToolCall, ToolResult
from tests.support.desk import Desk, gives, open_desk, says, working
from tests.support.household import agent

if TYPE_CHECKING:
    from kheishd.kernel.services import Services

AGENTS = {
    "default": agent("default"),
    "critic": agent("critic", "memory: [critic, default]"),
    "reader": agent("reader", "memory: [default]"),
    "none": agent("none", "memory: []"),
}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Provide a desk with the tools for notes."""
    services: list[Services] = []
    hooks = CompositeHook((MemoryTools(lambda: services[0]),))
    async with open_desk(tmp_path, hooks=hooks, definitions=AGENTS) as desk:
        services.append(desk.services)
        async with working(desk):
            yield desk


async def call(desk: Desk, tool: str, arguments: dict[str, Any], **params: Any) -> str:
    """Return the result of a call in a run."""
    desk.models.answers = [lambda request: gives(ToolCall("c1", tool, arguments)), lambda request: says("ok")]
    await desk.ask("go", **params)
    (result,) = desk.models.requests[-1].messages[-1].items
    assert isinstance(result, ToolResult)
    return result.text


def find(desk: Desk, name: str, agent: str = "default") -> Note | None:
    """Return a note."""
    with desk.state.read() as store:
        return find_note(store, agent, name)


async def archive(desk: Desk, sender: str | None) -> None:
    """Write an archive of a conversation."""
    properties = NoteProperties(
        agent="default", name="archive-1", content="Talk of lentils.", kind="archive", sender=sender
    )
    await desk.state.update(lambda tx: write_note(tx, properties, BY_DAEMON))


async def test_an_agent_remembers_recalls_and_forgets(desk: Desk) -> None:
    """A note outlives its conversation, and is the agent's own in all of its conversations."""
    written = {"name": "Lunch", "content": "Ann likes lentils.", "aliases": ["food"]}
    assert await call(desk, "remember", written) == "The note 'Lunch' is kept."
    text = await call(desk, "recall", {"query": "what does Ann like? lentils"}, sender="bob")
    assert text == "## Lunch (note; also called food)\nAnn likes lentils."
    assert "was replaced" in await call(desk, "remember", {"name": "lunch", "content": "Soup."})
    assert cast("Note", find(desk, "food")).content == "Soup."
    assert await call(desk, "forget", {"name": "Food"}) == "The note 'lunch' is forgotten."
    assert "No note fits" in await call(desk, "recall", {"query": "lunch"})
    assert "there is no note" in await call(desk, "forget", {"name": "lunch"})


async def test_a_note_carries_the_origins_of_its_author(desk: Desk) -> None:
    """A run that recalls a note has read data of its origins, and the text says so."""
    await call(desk, "remember", {"name": "n", "content": "x"}, origin="connector")
    note = cast("Note", find(desk, "n"))
    assert note.origins == ["connector"]
    assert note.session_id is not None
    assert "had read data of connector" in await call(desk, "recall", {"query": "n"}, sender="bob")
    session_id = (await desk.ask("more", sender="bob")).session_id
    assert "connector" in desk.session(session_id).origins


async def test_aliases_keep_their_origins(desk: Desk) -> None:
    """A note whose aliases stay is their author's, too; one that is wholly replaced is not."""
    await call(desk, "remember", {"name": "n", "content": "x", "aliases": ["a"]}, origin="connector")
    await call(desk, "remember", {"name": "n", "content": "y"}, sender="bob")
    assert cast("Note", find(desk, "n")).origins == ["person", "connector"]
    await call(desk, "remember", {"name": "n", "content": "y", "aliases": []}, sender="cy")
    assert cast("Note", find(desk, "n")).origins == ["person"]
    await call(desk, "remember", {"name": "n", "content": "z"}, sender="dan")
    assert cast("Note", find(desk, "n")).origins == ["person"]


async def test_no_tool_takes_the_name_of_an_archive(desk: Desk) -> None:
    """An agent cannot keep a later archive from being written."""
    assert "those of archives" in await call(desk, "remember", {"name": "archive-9", "content": "x"})
    assert find(desk, "archive-9") is None


async def test_archives_are_protected_and_private(desk: Desk) -> None:
    """No tool changes or deletes an archive, and only its own sender's conversations recall it."""
    await archive(desk, "ann")
    assert "is an archive" in await call(desk, "remember", {"name": "archive-1", "content": "x"})
    assert "only an operator" in await call(desk, "forget", {"name": "archive-1"})
    assert "Talk of lentils." in await call(desk, "recall", {"query": "lentils"}, sender="ann")
    for query in ("lentils", "archive-1"):
        assert "No note fits" in await call(desk, "recall", {"query": query}, sender="bob")
    assert "No note fits" in await call(desk, "recall", {"query": "lentils"}, sender="ann", agent="critic")


async def test_another_agents_notes_must_be_named(desk: Desk) -> None:
    """An agent reads the notes of agents that its definition names, and writes only its own."""
    await call(desk, "remember", {"name": "n", "content": "of default"})
    await call(desk, "remember", {"name": "n", "content": "of critic"}, agent="critic")
    text = await call(desk, "recall", {"query": "n"}, agent="critic")
    assert "of critic" in text
    assert "of the agent default" in text
    assert "critic" not in await call(desk, "recall", {"query": "n"})
    assert cast("Note", find(desk, "n")).content == "of default"


async def test_the_definition_limits_the_tools(desk: Desk) -> None:
    """An agent without a memory has none of the tools; one that only reads others' notes writes none."""
    for name, tools in (("none", []), ("reader", ["recall"]), ("critic", ["remember", "recall", "forget"])):
        await desk.ask("hello", agent=name)
        assert [tool.name for tool in desk.models.requests[-1].tools] == tools
    assert "no longer" not in await call(desk, "recall", {"query": "n"}, agent="reader")


async def test_refusals_are_for_the_model(desk: Desk) -> None:
    """A bad name or a long text is a result that says what to do."""
    assert "one line" in await call(desk, "remember", {"name": "a\nb", "content": "x"})
    assert "split it" in await call(desk, "remember", {"name": "a", "content": "\x01" * 9_000})
    assert desk.count(NOTES) == 0


async def test_long_notes_are_excerpts(desk: Desk) -> None:
    """A result has as many whole notes as fit, and excerpts of the others."""
    for number in range(4):
        await call(desk, "remember", {"name": f"n{number}", "content": "word " * 2_000})
    text = await call(desk, "recall", {"query": "word"})
    assert text.count("[an excerpt; recall ") == 2
    assert len(text.encode()) < 32 * 1024
