"""Notes in the store: totals, the largest ones, the search over several agents, and who may read."""

from pathlib import Path

import pytest
import trio

from kheishd.objects.agents.notes import (
    add_snippets,
    find_note,
    forget_note,
    readable_notebooks,
    search_notes,
    write_note,
)
from kheishd.records.doctor import examine_whole
from kheishd.records.writer import BY_DAEMON
from kheishd.store.tables import NOTE_POSTINGS, NOTEBOOKS, NOTES, NOTES_BY_KIND, NOTES_BY_NAME, SESSIONS
from protocol.limits.memory import MAX_NOTE_ALIASES, MAX_NOTE_BYTES, MAX_NOTE_NAME_BYTES
from protocol.objects.memory import Note, NoteProperties
from protocol.objects.session import Session
from tests.support.household import agent
from tests.support.runtimes import make_runtime
from tests.support.stores import open_inline, update


def note(name: str, content: str = "", agent: str = "default") -> NoteProperties:
    """Return a note."""
    return NoteProperties(agent=agent, name=name, content=content)


def test_totals_follow_every_change(store_dir: Path) -> None:
    """Totals count notes, bytes and terms, and are zero when all is forgotten; no row of an index remains."""
    store = open_inline(store_dir)
    update(store, lambda tx: write_note(tx, note("a", "one two"), BY_DAEMON))
    update(store, lambda tx: write_note(tx, note("bb", "three"), BY_DAEMON))
    update(store, lambda tx: write_note(tx, note("A", "one"), BY_DAEMON))
    with store.read() as snapshot:
        totals = snapshot.need(NOTEBOOKS, "default")
        assert (totals.notes, totals.archives, totals.content_bytes, totals.terms) == (2, 0, 8, 4)
        assert find_note(snapshot, "default", "a") == snapshot.need(NOTES, 1)
    assert examine_whole(store.read, deep=True).findings == []
    for name in ("a", "bb"):
        update(store, lambda tx, name=name: forget_note(tx, find_note(tx, "default", name), BY_DAEMON))  # type: ignore[misc,arg-type]
    with store.read() as snapshot:
        totals = snapshot.need(NOTEBOOKS, "default")
        assert (totals.notes, totals.content_bytes, totals.terms) == (0, 0, 0)
        assert [snapshot.count(table) for table in (NOTES, NOTES_BY_NAME, NOTES_BY_KIND, NOTE_POSTINGS)] == [
            0
        ] * 4
    assert examine_whole(store.read, deep=True).findings == []
    store.close()


def test_the_largest_note_fits_a_transaction(store_dir: Path) -> None:
    """A note with every limit reached is written and replaced by another one, in one transaction each."""
    store = open_inline(store_dir)
    for first in "xy":
        words = " ".join(f"{first}{number:x}" for number in range(MAX_NOTE_BYTES))[: MAX_NOTE_BYTES - 2]
        largest = NoteProperties(
            agent="a" * 128,
            name="n" * MAX_NOTE_NAME_BYTES,
            content=words,
            aliases=[f"{number}".rjust(MAX_NOTE_NAME_BYTES, first) for number in range(MAX_NOTE_ALIASES)],
        )
        update(store, lambda tx, largest=largest: write_note(tx, largest, BY_DAEMON))  # type: ignore[misc]
    with store.read() as snapshot:
        assert snapshot.need(NOTES, 1).version == 2
    store.close()


def test_a_search_over_several_agents(store_dir: Path) -> None:
    """The notes of all agents are ranked together; those that are not accepted make room for others."""
    store = open_inline(store_dir)
    for agent_name, name in (("a", "cats"), ("b", "dogs"), ("b", "birds"), ("c", "fish")):
        update(
            store,
            lambda tx, n=name, a=agent_name: write_note(tx, note(n, "pets like cats", a), BY_DAEMON),  # type: ignore[misc]
        )

    def accept(found: Note) -> bool:
        return found.name != "dogs"

    with store.read() as snapshot:
        hits = search_notes(snapshot, ["a", "b", "nobody"], "pets cats", 5, accept)
    assert sorted(hit.name for _, hit in hits) == ["birds", "cats"]
    store.close()


async def test_excerpts_let_other_tasks_run(store_dir: Path) -> None:
    """Between any two excerpts of a search, other tasks run."""
    store = open_inline(store_dir)
    for number in range(5):
        properties = note(f"n{number}", "pets")
        update(store, lambda tx, properties=properties: write_note(tx, properties, BY_DAEMON))  # type: ignore[misc]
    with store.read() as snapshot:
        hits = search_notes(snapshot, ["default"], "pets", 5, lambda note: True)
    store.close()
    turns = 0
    async with trio.open_nursery() as nursery:

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count)
        completed = await add_snippets(hits, "pets")
        nursery.cancel_scope.cancel()
    assert [hit.snippet for _, hit in completed] == ["pets"] * 5
    assert turns >= 4


READERS = {
    "default": agent("default"),
    "none": agent("none", "memory: []"),
    "other": agent("other", "memory: [default]"),
    "both": agent("both", "memory: [both, default]"),
}


@pytest.mark.parametrize(
    ("name", "parent", "agents"),
    [
        ("default", None, ["default"]),
        ("gone", None, ["gone"]),
        ("none", None, []),
        ("other", None, ["default"]),
        ("both", None, ["both", "default"]),
        ("both", "other", ["both", "default"]),
        ("both", "default", ["both", "default"]),
        ("both", "none", ["both"]),
    ],
)
def test_the_notes_that_an_agent_may_read(
    store_dir: Path, name: str, parent: str | None, agents: list[str]
) -> None:
    """By default its own; another agent's only if the definitions of all sessions above allow them, too."""
    store = open_inline(store_dir)
    runtime = make_runtime(definitions=READERS)
    parent_id = None
    if parent is not None:
        parent_id = "ses_p"
        above = Session(session_id=parent_id, agent=parent, status="open", created_at_ms=1, updated_at_ms=1)
        update(store, lambda tx: tx.put(SESSIONS, "ses_p", value=above))
    session = Session(
        session_id="ses_1",
        agent=name,
        parent_session_id=parent_id,
        status="open",
        created_at_ms=1,
        updated_at_ms=1,
    )
    with store.read() as snapshot:
        assert readable_notebooks(snapshot, runtime, session) == agents
    store.close()
