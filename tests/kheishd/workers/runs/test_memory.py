"""The memory of runs: the notes at their start, and the archives of compactions."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from kheishd.config.sections.context import ContextSection
from kheishd.config.sections.memory import MemorySection
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelRequest, TextDelta
from kheishd.objects.agents import notes as room
from kheishd.objects.agents.notes import find_note, forget_note, write_note
from kheishd.objects.talk import compaction
from kheishd.records.doctor import examine_whole
from kheishd.records.writer import BY_DAEMON
from kheishd.store.environment import Transaction
from kheishd.store.tables import NOTES
from protocol.events.run import NotesRecalled
from protocol.objects.conversation import ConversationCompact
from protocol.objects.memory import Note, NoteProperties
from protocol.transcript import Text, ToolCall, Usage
from tests.support.desk import Desk, Gate, Scripted, gives, open_desk, says, working
from tests.support.household import agent
from tests.support.toolbox import Toolbox

AGENTS = {
    "default": agent("default"),
    "critic": agent("critic"),
    "none": agent("none", "memory: []"),
    "untooled": agent("untooled", "tools: []"),
}


async def write(desk: Desk, name: str, content: str, **properties: Any) -> Note:
    """Write a note."""
    note = NoteProperties(**({"agent": "default", "name": name, "content": content} | properties))
    return await desk.state.update(lambda tx: write_note(tx, note, BY_DAEMON))


def recalls(desk: Desk, session_id: str) -> list[NotesRecalled]:
    """Return the recalls of a session."""
    return [event for _, event in desk.journal(session_id) if isinstance(event, NotesRecalled)]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Provide a desk with a run worker."""
    async with open_desk(tmp_path, definitions=AGENTS) as desk, working(desk):
        yield desk


async def test_a_run_is_given_the_notes_that_fit(desk: Desk) -> None:
    """The notes are in the situation, the best first, with their origins; the run has read these."""
    await write(desk, "Lunch", "Ann likes lentils.", origins=["connector"])
    await write(desk, "Tools", "Use make.")
    sent = await desk.ask("What lunch does Ann want?")
    situation = desk.models.requests[-1].situation
    assert '<note name="Lunch" read="connector">\nAnn likes lentils.\n</note>' in situation
    assert "Use make." not in situation
    assert [[note.name for note in event.notes] for event in recalls(desk, sent.session_id)] == [["Lunch"]]
    assert desk.run(sent.run_id).origins == ["person", "connector"]
    assert desk.session(sent.session_id).origins == ["person", "connector"]


async def test_a_run_without_a_fitting_note_journals_nothing(desk: Desk) -> None:
    """Without notes, or without one that fits, a run is as it was."""
    sent = await desk.ask("lunch")
    await write(desk, "Lunch", "Ann likes lentils.")
    await desk.ask("Something else?")
    assert recalls(desk, sent.session_id) == []
    assert desk.models.requests[-1].situation == ""


async def test_the_notes_stay_for_the_whole_run(tmp_path: Path) -> None:
    """All model calls of a run see the same notes, whatever changes, and also after a restart."""
    gate = Gate()
    models = Scripted([lambda request: gives(ToolCall("c1", "note", {"text": "x"})), gate])
    async with open_desk(tmp_path, models, hooks=CompositeHook((Toolbox(),))) as desk:
        await write(desk, "Lunch", "Ann likes lentils.")
        async with working(desk):
            sent = await desk.send("lunch")
            await gate.reached.wait()
        await write(desk, "Lunch", "Ann likes soup for lunch.")
        models.answers = [lambda request: says("done")]
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        first, second, last = (request.situation for request in models.requests)
        assert "lentils" in first
        assert first == second == last
        assert len(recalls(desk, sent.session_id)) == 1
        async with working(desk):
            await desk.ask("lunch")
        assert "soup" in models.requests[-1].situation


@pytest.mark.parametrize(
    ("params", "section"),
    [
        ({"agent": "none"}, MemorySection()),
        ({"agent": "untooled"}, MemorySection()),
        ({"agent": "critic"}, MemorySection()),
        ({"guest": "critic"}, MemorySection()),
        ({}, MemorySection(recall_limit=0)),
    ],
)
async def test_runs_without_a_recall(tmp_path: Path, params: dict[str, Any], section: MemorySection) -> None:
    """An agent that may not recall, another agent, and a guest are given nothing."""
    async with open_desk(tmp_path, definitions=AGENTS, memory=section) as desk, working(desk):
        for name in ("default", "none", "untooled"):
            await write(desk, "Lunch", "Ann likes lentils.", agent=name)
        sent = await desk.ask("lunch", **params)
        assert recalls(desk, sent.session_id) == []
        assert "lentils" not in desk.models.requests[-1].situation


# Archives.


def counts(tokens: int) -> Callable[[ModelRequest], AsyncIterator[ModelEvent]]:
    """Answer with a usage of so many prompt tokens."""

    async def part(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        text = "fine " * 100
        yield TextDelta(text)
        yield ModelAnswer([Text(text)], Usage(tokens - 1, 1), "end", "scripted")

    return part


def long_desk(directory: Path) -> Any:
    """Provide a desk whose conversations become too long after three turns."""
    models = Scripted([counts(10), counts(10), counts(900), counts(300)])
    limits = ContextSection(compact_tokens=899, keep_messages=2, snip_tokens=200, snip_keep_messages=2)
    return open_desk(directory, models, context=limits, definitions=AGENTS)


async def talk(desk: Desk, **params: Any) -> str:
    """Talk until the conversation is compacted; return the session."""
    for number in range(4):
        sent = await desk.ask(f"{number} " + "question " * 50, **params)
    return sent.session_id


async def test_a_compaction_leaves_an_archive(tmp_path: Path) -> None:
    """The summary is an archive of the conversation, written before the compaction, in one commit."""
    async with long_desk(tmp_path) as desk, working(desk):
        session_id = await talk(desk, sender="ann", origin="connector")
        with desk.state.read() as store:
            ((_, archive),) = store.scan(NOTES)
            (compacted,) = (
                envelope.cursor
                for envelope, event in desk.journal(session_id)
                if event.__struct_config__.tag == "context_compacted"
            )
        assert (archive.kind, archive.content, archive.sender) == ("archive", "They talked.", "ann")
        assert (archive.session_id, archive.origins) == (session_id, ["connector"])
        assert archive.name == f"archive-{archive.number}"
        assert archive.number < compacted == archive.number + 2
        assert examine_whole(desk.state.read, deep=True).findings == []
        # It is in the transcript already, and no other run is given it.
        assert recalls(desk, session_id) == []


async def test_an_archive_takes_a_free_name(tmp_path: Path) -> None:
    """Archives that were imported under the next names suppress none."""
    async with long_desk(tmp_path) as desk, working(desk):
        for number in range(100):
            await write(desk, f"archive-{number}", "x", kind="archive")
        await talk(desk)
        with desk.state.read() as store:
            *_, (_, archive) = store.scan(NOTES)
        assert archive.content == "They talked."


@pytest.mark.parametrize("params", [{"agent": "none"}, {"agent": "untooled"}])
async def test_an_agent_without_memory_leaves_no_archive(tmp_path: Path, params: dict[str, Any]) -> None:
    """A conversation that cannot recall its archives has none."""
    async with long_desk(tmp_path) as desk, working(desk):
        session_id = await talk(desk, **params)
        assert "context_compacted" in desk.kinds(session_id)
        assert desk.count(NOTES) == 0


async def test_a_full_notebook_stops_no_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversation goes on without an archive."""
    async with long_desk(tmp_path) as desk, working(desk):
        await write(desk, "n", "x")
        monkeypatch.setattr(room, "MAX_NOTES", 1)
        session_id = await talk(desk)
        assert "context_compacted" in desk.kinds(session_id)
        assert desk.count(NOTES) == 1


async def test_a_manual_compaction_leaves_an_archive(tmp_path: Path) -> None:
    """So does one that a person requested; an archive that is forgotten is gone."""
    async with long_desk(tmp_path) as desk, working(desk):
        for number in range(3):
            await desk.ask(f"{number} " + "question " * 50)
        await desk.do(compaction.HANDLERS[0], ConversationCompact(wait="settled"))
        assert desk.count(NOTES) == 1

        def forget(tx: Transaction) -> None:
            ((_, archive),) = tx.scan(NOTES)
            assert find_note(tx, "default", archive.name) == archive
            forget_note(tx, archive, BY_DAEMON)

        await desk.state.update(forget)
        assert desk.count(NOTES) == 0
