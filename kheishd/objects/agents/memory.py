"""Memory: the notes of agents for operators and scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core.front_matter import FrontMatterError
from kheishd.core.memory.note import format_file, parse_file
from kheishd.kernel.call import Call, control, mutation, origin_of, query
from kheishd.objects.agents.notes import (
    add_snippets,
    find_note,
    forget_note,
    require_valid,
    search_notes,
    write_note,
)
from kheishd.objects.pages import cursor_after, page_of
from kheishd.store.tables import NOTEBOOKS, NOTES, NOTES_BY_KIND
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.memory import NoteInvalid, NoteNotFound
from protocol.objects import memory as rows
from protocol.objects.memory import (
    MemoryForget,
    MemoryImport,
    MemoryListParams,
    MemoryRecall,
    MemoryRemember,
    Note,
    NoteFiles,
    NoteHits,
    NoteList,
    NoteProperties,
    NoteRef,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction


def _require_access(call: Call, agent: str) -> None:
    """Require the right to read and write an agent's notes, which come from all of its senders.

    Errors: AgentForbidden.
    """
    call.caller.require_agent(agent)
    if call.caller.senders is not None:
        text = "an agent's notes come from all of its senders, and the token covers only some"
        raise AgentForbidden(text, field="$.params.agent")


def _require_agent(call: Call, agent: str) -> None:
    """Require an agent that exists. Errors: AgentNotFound."""
    if agent not in call.runtime.definitions:
        text = f"there is no agent '{agent}'; definition.list names the agents"
        raise AgentNotFound(text, field="$.params.agent")


def _need_note(store: Snapshot, agent: str, name: str) -> Note:
    """Return a note. Errors: NoteNotFound."""
    note = find_note(store, agent, name)
    if note is None:
        raise NoteNotFound(f"the agent '{agent}' has no note '{name}'", field="$.params.name")
    return note


def _prepare(call: Call, params: MemoryRemember | MemoryImport) -> tuple[NoteProperties, bool]:
    """Return the note that params describe, and whether an existing one keeps its aliases.

    Errors: AgentForbidden, AgentNotFound, InvalidParams, InputTooLarge, NoteInvalid.
    """
    _require_access(call, params.agent)
    _require_agent(call, params.agent)
    if isinstance(params, MemoryRemember):
        properties = NoteProperties(
            agent=params.agent, name=params.name, content=params.content, aliases=params.aliases or []
        )
    else:
        try:
            matter, content = parse_file(params.content, params.filename)
        except FrontMatterError as error:
            raise NoteInvalid(f"{params.filename}: {error}", field="$.params.content") from None
        properties = NoteProperties(
            agent=params.agent,
            name=matter.name,
            content=content,
            kind=matter.kind,
            aliases=matter.aliases,
            origins=matter.origins,
            sender=matter.sender,
        )
    require_valid(properties)
    return properties, isinstance(params, MemoryRemember) and params.aliases is None


def _write(tx: Transaction, call: Call, plan: tuple[NoteProperties, bool]) -> Note:
    """Write a note, or replace the one of that name. Errors: NoteNameTaken, NoteProtected, NotebookFull."""
    properties, keeps_aliases = plan
    return write_note(tx, properties, origin_of(call), keeps_aliases=keeps_aliases)


remember, import_ = (mutation(row, prepare=_prepare)(_write) for row in (rows.REMEMBER, rows.IMPORT))


@mutation(rows.FORGET)
def forget(tx: Transaction, call: Call, params: MemoryForget) -> Note:
    """Delete a note or an archive. Errors: AgentForbidden, NoteNotFound."""
    _require_access(call, params.agent)
    note = _need_note(tx, params.agent, params.name)
    forget_note(tx, note, origin_of(call))
    return note


@control(rows.RECALL)
async def recall(call: Call, params: MemoryRecall) -> NoteHits:
    """Search the notes of an agent. Errors: AgentForbidden, AgentNotFound."""
    _require_access(call, params.agent)
    with call.state.read() as store:
        if store.get(NOTEBOOKS, params.agent) is None:
            _require_agent(call, params.agent)
        hits = search_notes(
            store,
            [params.agent],
            params.query,
            params.limit,
            lambda note: params.kind in (None, note.kind),
        )
    return NoteHits([hit for _, hit in await add_snippets(hits, params.query)])


@query(rows.GET)
def get(call: Call, params: NoteRef) -> Note:
    """Show a note. Errors: AgentForbidden, NoteNotFound."""
    _require_access(call, params.agent)
    with call.state.read() as store:
        return _need_note(store, params.agent, params.name)


def _read_page(call: Call, params: MemoryListParams) -> tuple[list[Note], str | None]:
    """Return a page of an agent's notes, the oldest first. Errors: AgentForbidden, AgentNotFound.

    The notes of an agent that was deleted can still be read.
    """
    _require_access(call, params.agent)
    last = cursor_after(params.after)
    with call.state.read() as store:
        if store.get(NOTEBOOKS, params.agent) is None:
            _require_agent(call, params.agent)

        def notes() -> Iterator[tuple[tuple[int], Note | None]]:
            after = None if last is None else (params.agent, params.kind, last)
            for key, _ in store.scan(NOTES_BY_KIND, params.agent, params.kind, after=after):
                yield (key[2],), store.get(NOTES, key[2])

        return page_of(notes(), params.limit, lambda note: True)


@query(rows.LIST)
def list_(call: Call, params: MemoryListParams) -> NoteList:
    """List the notes of an agent, the oldest first. Errors: AgentForbidden, AgentNotFound."""
    return NoteList(*_read_page(call, params))


@query(rows.EXPORT)
def export(call: Call, params: MemoryListParams) -> NoteFiles:
    """Show the notes of an agent as Markdown files, the oldest first.

    Errors: AgentForbidden, AgentNotFound.
    """
    notes, following = _read_page(call, params)
    return NoteFiles([format_file(note) for note in notes], following)


HANDLERS = (remember, recall, get, list_, forget, export, import_)
