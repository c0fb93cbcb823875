"""Memory over the socket: every outcome of the methods."""

from typing import Any

import pytest

from kheishd.objects.agents import notes
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.memory import NotebookFull, NoteInvalid, NoteNameTaken, NoteNotFound, NoteProtected
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge
from protocol.limits.memory import MAX_NOTE_BYTES
from tests.support.household import Household, pages, refusal_of

BUILD: dict[str, Any] = {"agent": "default", "name": "Build steps", "content": "Run make, then make test."}
ARCHIVE = '---\nname: "archive-1"\nkind: "archive"\nsender: "ann"\n---\nThey talked of lentils.\n'


async def remember(house: Household, **params: Any) -> Any:
    """Write a note."""
    return await house.call("memory.remember", **(BUILD | params))


async def add_archive(house: Household, **params: Any) -> Any:
    """Write an archive, as only an import can."""
    file = {"agent": "default", "content": ARCHIVE, "filename": "a.md"}
    return await house.call("memory.import", **(file | params))


async def require_agent_forbidden(house: Household, method: str, **params: Any) -> None:
    """Require that the method refuses tokens that cover another agent, or only some senders."""
    for grant in ({"agents": ["critic"]}, {"senders": ["ann"]}):
        client = await house.connect_limited(scopes=["read", "operate"], **grant)
        refusal = await refusal_of(client, method, agent="default", **params)
        assert (type(refusal), refusal.field) == (AgentForbidden, "$.params.agent")


# memory.remember


async def test_memory_remember_ok(idle: Household) -> None:
    """A note is replaced by its name in any spelling, keeps its aliases, and has events of its own."""
    first = await remember(idle, aliases=["make"])
    second = await remember(idle, name="BUILD  steps", content="Run ninja.")
    assert (second["number"], second["version"], second["aliases"]) == (first["number"], 2, ["make"])
    assert (await remember(idle, name="Build steps", content="Run ninja.", aliases=[]))["version"] == 3
    assert (await remember(idle, name="Build steps", content="Run ninja.", aliases=[]))["version"] == 3
    assert await idle.kinds() == ["note_written", "notebook_changed"] * 3


async def test_memory_remember_agent_forbidden(idle: Household) -> None:
    """A token must cover the agent and all of its senders."""
    await require_agent_forbidden(idle, "memory.remember", name="n", content="x")


async def test_memory_remember_agent_not_found(idle: Household) -> None:
    """Only agents that are defined get notes."""
    assert isinstance(await idle.refusal_of("memory.remember", **(BUILD | {"agent": "no"})), AgentNotFound)


async def test_memory_remember_note_name_taken(idle: Household) -> None:
    """A name or an alias means one note of an agent; another agent's do not count."""
    await remember(idle, aliases=["make"])
    refusal = await idle.refusal_of("memory.remember", **(BUILD | {"name": "Make"}))
    assert (type(refusal), refusal.field) == (NoteNameTaken, "$.params.name")
    other = BUILD | {"name": "Other", "aliases": ["x", "MAKE"]}
    refusal = await idle.refusal_of("memory.remember", **other)
    assert (type(refusal), refusal.field) == (NoteNameTaken, "$.params.aliases[1]")
    assert (await remember(idle, agent="critic", name="make"))["version"] == 1


async def test_memory_remember_note_protected(idle: Household) -> None:
    """An archive is never replaced by a note."""
    await add_archive(idle)
    refusal = await idle.refusal_of("memory.remember", **(BUILD | {"name": "archive-1"}))
    assert (type(refusal), refusal.field) == (NoteProtected, "$.params.name")


async def test_the_names_of_archives_are_reserved(idle: Household) -> None:
    """No note takes the name of an archive before it is written."""
    for names, field in (({"name": "ARCHIVE-7"}, "name"), ({"aliases": ["x", "archive-7"]}, "aliases[1]")):
        refusal = await idle.refusal_of("memory.remember", **(BUILD | names))
        assert (type(refusal), refusal.field) == (NoteProtected, f"$.params.{field}")
    params = {"agent": "default", "content": "# archive-7", "filename": "x.md"}
    assert isinstance(await idle.refusal_of("memory.import", **params), NoteProtected)


async def test_memory_remember_notebook_full(idle: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes of an agent and their bytes have limits; a change of a note that exists fits."""
    await remember(idle)
    monkeypatch.setattr(notes, "MAX_NOTES", 1)
    assert isinstance(await idle.refusal_of("memory.remember", **(BUILD | {"name": "x"})), NotebookFull)
    assert (await remember(idle, content="Run ninja."))["version"] == 2
    monkeypatch.setattr(notes, "MAX_NOTES", 10)
    monkeypatch.setattr(notes, "MAX_NOTEBOOK_BYTES", 20)
    assert isinstance(await idle.refusal_of("memory.remember", **(BUILD | {"name": "x"})), NotebookFull)
    await remember(idle, content="x" * 20)
    await remember(idle, agent="critic", content="x" * 20)


async def test_memory_remember_input_too_large(idle: Household) -> None:
    """The content is measured as JSON; names are one line that is not blank."""
    refusal = await idle.refusal_of(
        "memory.remember", **(BUILD | {"content": "\x01" * (MAX_NOTE_BYTES // 2)})
    )
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.content")
    for names in ({"name": " "}, {"name": "a\nb"}, {"aliases": ["a\tb"]}):
        refusal = await idle.refusal_of("memory.remember", **(BUILD | names))
        assert (type(refusal), refusal.field) == (InvalidParams, f"$.params.{next(iter(names))}")
    await remember(idle, content="猫" * (MAX_NOTE_BYTES // 3 - 1))


# memory.recall, .get, .list


async def test_memory_recall_ok(idle: Household) -> None:
    """The best note comes first, with an excerpt, but an exact name before all; archives are found, too."""
    await remember(idle, aliases=["compile"])
    await remember(idle, name="Lunch", content="Lentils. " * 50 + "Never make soup.")
    await remember(idle, agent="critic", name="Secret", content="make")
    await add_archive(idle)
    (first, second) = (await idle.call("memory.recall", agent="default", query="make?"))["notes"]
    assert (first["name"], second["name"]) == ("Build steps", "Lunch")
    assert first["score"] > second["score"]
    assert "Never make soup." in second["snippet"]
    by_name = (await idle.call("memory.recall", agent="default", query="LUNCH", limit=1))["notes"]
    assert [note["name"] for note in by_name] == ["Lunch"]
    found = (await idle.call("memory.recall", agent="default", query="lentils"))["notes"]
    assert {note["kind"] for note in found} == {"note", "archive"}
    only = (await idle.call("memory.recall", agent="default", query="lentils", kind="archive"))["notes"]
    assert [note["name"] for note in only] == ["archive-1"]
    for query in ("nothing here", "the", "?", "\x00"):
        assert (await idle.call("memory.recall", agent="default", query=query))["notes"] == []


async def test_memory_recall_agent_not_found(idle: Household) -> None:
    """An agent that never was has no notes to show, so its name is an error."""
    refusal = await idle.refusal_of("memory.recall", agent="nobody", query="x")
    assert (type(refusal), refusal.field) == (AgentNotFound, "$.params.agent")


async def test_memory_recall_agent_forbidden(idle: Household) -> None:
    """A token must cover the agent and all of its senders."""
    await require_agent_forbidden(idle, "memory.recall", query="x")


async def test_memory_get_ok(idle: Household) -> None:
    """A note is shown by its name or an alias, in any spelling."""
    note = await remember(idle, aliases=["make"])
    for name in ("Build steps", "build STEPS", "Make"):
        assert await idle.call("memory.get", agent="default", name=name) == note


async def test_memory_get_agent_forbidden(idle: Household) -> None:
    """A token must cover the agent and all of its senders."""
    await require_agent_forbidden(idle, "memory.get", name="x")


async def test_memory_get_note_not_found(idle: Household) -> None:
    """Another agent's notes are not found."""
    await remember(idle, agent="critic")
    refusal = await idle.refusal_of("memory.get", agent="default", name="Build steps")
    assert (type(refusal), refusal.field) == (NoteNotFound, "$.params.name")


async def test_memory_list_ok(idle: Household) -> None:
    """The oldest come first, page by page, and archives apart."""
    for name in ("c", "a", "b"):
        await remember(idle, name=name)
    await remember(idle, agent="critic")
    await add_archive(idle)
    notes = await pages(idle.client, "memory.list", "notes", agent="default", limit=2)
    assert [note["name"] for note in notes] == ["c", "a", "b"]
    archives = await pages(idle.client, "memory.list", "notes", agent="default", kind="archive")
    assert [note["name"] for note in archives] == ["archive-1"]
    refusal = await idle.refusal_of("memory.list", agent="default", after="x")
    assert refusal.field == "$.params.after"


async def test_memory_list_agent_not_found(idle: Household) -> None:
    """An agent that never was has no notes to show, so its name is an error."""
    refusal = await idle.refusal_of("memory.list", agent="nobody")
    assert (type(refusal), refusal.field) == (AgentNotFound, "$.params.agent")


async def test_memory_list_agent_forbidden(idle: Household) -> None:
    """A token must cover the agent and all of its senders."""
    await require_agent_forbidden(idle, "memory.list")


# memory.forget


async def test_memory_forget_ok(idle: Household) -> None:
    """A note is in no list and no search any more, its names are free, and an operator forgets archives."""
    await remember(idle, aliases=["make"])
    await idle.call("memory.forget", agent="default", name="make")
    assert (await idle.call("memory.recall", agent="default", query="make"))["notes"] == []
    assert (await idle.call("memory.list", agent="default"))["notes"] == []
    assert (await remember(idle, name="make"))["version"] == 1
    await add_archive(idle)
    await idle.call("memory.forget", agent="default", name="archive-1")
    assert (await idle.call("memory.list", agent="default", kind="archive"))["notes"] == []


async def test_memory_forget_agent_forbidden(idle: Household) -> None:
    """A token must cover the agent and all of its senders."""
    await require_agent_forbidden(idle, "memory.forget", name="x")


async def test_memory_forget_note_not_found(idle: Household) -> None:
    """A note is forgotten once."""
    await remember(idle)
    await idle.call("memory.forget", agent="default", name="Build steps")
    refusal = await idle.refusal_of("memory.forget", agent="default", name="Build steps")
    assert isinstance(refusal, NoteNotFound)


# memory.export, .import


async def test_memory_export_ok(idle: Household) -> None:
    """The files of one agent's notes give another agent the same notes, and the same files again."""
    await remember(idle, aliases=['"odd": name'], content="\n---\r\nlast line without end")
    await remember(idle, name="東京", content="")
    files = await pages(idle.client, "memory.export", "files", agent="default", limit=1)
    for file in files:
        await idle.call("memory.import", agent="critic", **file)
    assert await pages(idle.client, "memory.export", "files", agent="critic") == files
    await add_archive(idle)
    page = await idle.call("memory.export", agent="default", kind="archive")
    assert [file["content"] for file in page["files"]] == [ARCHIVE]


async def test_memory_export_agent_not_found(idle: Household) -> None:
    """An agent that never was has no notes to show, so its name is an error."""
    refusal = await idle.refusal_of("memory.export", agent="nobody")
    assert (type(refusal), refusal.field) == (AgentNotFound, "$.params.agent")


async def test_memory_export_agent_forbidden(idle: Household) -> None:
    """A token must cover the agent and all of its senders."""
    await require_agent_forbidden(idle, "memory.export")


async def test_memory_import_ok(idle: Household) -> None:
    """A file replaces a note; a second import changes nothing; a plain file is named by its heading."""
    file = {"agent": "default", "content": "# Plan\n\nDo it.", "filename": "x.md"}
    assert (await idle.call("memory.import", **file))["name"] == "Plan"
    assert (await idle.call("memory.import", **file))["version"] == 1
    changed = await idle.call("memory.import", **(file | {"content": "---\nname: plan\n---\nNo."}))
    assert (changed["version"], changed["content"]) == (2, "No.")
    assert (await add_archive(idle)) == (await add_archive(idle))


async def test_memory_import_agent_forbidden(idle: Household) -> None:
    """A token must cover the agent and all of its senders."""
    await require_agent_forbidden(idle, "memory.import", content="x", filename="x.md")


async def test_memory_import_agent_not_found(idle: Household) -> None:
    """Only agents that are defined get notes."""
    refusal = await idle.refusal_of("memory.import", agent="no", content="x", filename="x.md")
    assert isinstance(refusal, AgentNotFound)


async def test_memory_import_note_name_taken(idle: Household) -> None:
    """A file does not take another note's alias."""
    await remember(idle, aliases=["plan"])
    refusal = await idle.refusal_of("memory.import", agent="default", content="# Plan", filename="x.md")
    assert isinstance(refusal, NoteNameTaken)


async def test_memory_import_note_protected(idle: Household) -> None:
    """A file with another text does not replace an archive, and an archive no note."""
    await add_archive(idle)
    for content in (f"{ARCHIVE} more", "---\nname: archive-1\n---\nx"):
        refusal = await idle.refusal_of("memory.import", agent="default", content=content, filename="x.md")
        assert isinstance(refusal, NoteProtected)
    await remember(idle, agent="critic", name="Talk")
    named = ARCHIVE.replace("archive-1", "Talk")
    refusal = await idle.refusal_of("memory.import", agent="critic", content=named, filename="x.md")
    assert isinstance(refusal, NoteProtected)


async def test_memory_import_notebook_full(idle: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits hold for files, too."""
    await remember(idle)
    monkeypatch.setattr(notes, "MAX_NOTES", 1)
    refusal = await idle.refusal_of("memory.import", agent="default", content="x", filename="x.md")
    assert isinstance(refusal, NotebookFull)


async def test_memory_import_note_invalid(idle: Household) -> None:
    """The message names the file, the line and the problem."""
    bad = {"agent": "default", "content": "---\nname: x\ncolour: red\n---\n", "filename": "x.md"}
    refusal = await idle.refusal_of("memory.import", **bad)
    assert isinstance(refusal, NoteInvalid)
    assert refusal.message.startswith("x.md: line 3: ")


async def test_memory_import_input_too_large(idle: Household) -> None:
    """The content of a file has the limit of a note."""
    content = "x" * (MAX_NOTE_BYTES + 1)
    refusal = await idle.refusal_of("memory.import", agent="default", content=content, filename="x.md")
    assert isinstance(refusal, InputTooLarge)
