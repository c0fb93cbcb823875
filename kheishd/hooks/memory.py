"""The tools with which an agent keeps notes beyond its conversations: remember, recall and forget.

A note is written in the transaction that commits the call's result. It carries the origins of everything that
its author had read, and a run that recalls it has read those, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from kheishd.core.trust import join_origins
from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, ToolError, tool
from kheishd.objects.agents.notes import (
    add_snippets,
    find_note,
    forget_note,
    readable_notebooks,
    require_valid,
    search_notes,
    write_note,
)
from kheishd.objects.talk.input import origins_read
from kheishd.records.writer import Origin
from kheishd.store.tables import SESSIONS
from protocol.errors.refusal import Refusal
from protocol.limits.memory import MAX_HITS, MAX_NOTE_BYTES
from protocol.limits.units import KIB
from protocol.objects.memory import NoteAliases, NoteName, NoteProperties, QueryText

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.kernel.services import Services
    from kheishd.store.environment import Transaction
    from protocol.objects.memory import Note, NoteHit
    from protocol.objects.session import Session

# Of the notes that a search returns, so many bytes are whole notes; the others are excerpts.
MAX_WHOLE_BYTES = 24 * KIB

NO_NOTES = "No note fits. Other words may find one; recall searches names, aliases and contents."


class Remember(Arguments, frozen=True):
    """Arguments of ``remember``."""

    name: NoteName
    content: Annotated[str, Meta(min_length=1, max_length=MAX_NOTE_BYTES)]
    aliases: NoteAliases | None = None


class Recall(Arguments, frozen=True):
    """Arguments of ``recall``."""

    query: QueryText
    limit: Annotated[int, Meta(ge=1, le=MAX_HITS)] = 5


class Forget(Arguments, frozen=True):
    """Arguments of ``forget``."""

    name: NoteName


class MemoryTools(SubHook):
    """The tools for an agent's notes."""

    name = "memory"

    def __init__(self, services: Callable[[], Services]) -> None:
        self._services = services

    @tool(
        "remember",
        description="Keep a note beyond this conversation, under a short name: a fact, a preference, a "
        "decision. A note of the same name is replaced, so give all of it. All conversations of this agent "
        "share its notes; keep no secrets in them.",
        kind="coordinate",
        repeatable=True,
        timeout_s=10.0,
    )
    async def remember(self, call: Invocation, arguments: Remember) -> Outcome:
        """Write a note of the session's agent. Errors: ToolError."""
        context = call.context
        session_id = context.session.session_id

        def decide(tx: Transaction) -> Outcome:
            session = tx.need(SESSIONS, session_id)
            properties = NoteProperties(
                agent=session.agent,
                name=arguments.name,
                content=arguments.content,
                aliases=arguments.aliases or [],
                origins=origins_read(tx, session),
            )
            try:
                require_valid(properties)
                note = write_note(
                    tx,
                    properties,
                    _origin(context),
                    session_id=session_id,
                    keeps_aliases=arguments.aliases is None,
                )
            except Refusal as refusal:
                raise ToolError(refusal.message) from None
            verb = "is kept" if note.version == 1 else "was replaced"
            return Outcome(f"The note '{note.name}' {verb}.")

        return Outcome("", decide=decide)

    @tool(
        "recall",
        description="Search the notes that were kept beyond conversations, and the archives of this one, by "
        "words. The name of a note returns that note first.",
        kind="coordinate",
        repeatable=True,
        parallel=True,
        in_plan=True,
        droppable=True,
        timeout_s=10.0,
    )
    async def recall(self, call: Invocation, arguments: Recall) -> Outcome:
        """Search the notes that the session's agent may read."""
        session = call.context.session
        with call.context.state.read() as store:
            agents = readable_notebooks(store, self._services().runtimes.current(), session)
            hits = search_notes(
                store,
                agents,
                arguments.query,
                arguments.limit,
                lambda note: note.kind == "note" or _is_own_archive(note, session),
            )
        if not hits:
            return Outcome(NO_NOTES)
        texts, room = [], MAX_WHOLE_BYTES
        for note, hit in await add_snippets(hits, arguments.query):
            room -= len(note.content.encode())
            texts.append(_format_note(note, hit, session.agent, is_whole=room >= 0))
        origins = join_origins(*(note.origins for note, _ in hits))
        return Outcome("\n\n---\n\n".join(texts), origins=origins)

    @tool(
        "forget",
        description="Delete a note by its name.",
        kind="coordinate",
        repeatable=True,
        timeout_s=10.0,
    )
    async def forget(self, call: Invocation, arguments: Forget) -> Outcome:
        """Delete a note of the session's agent, but no archive. Errors: ToolError."""
        context = call.context
        agent = context.session.agent

        def decide(tx: Transaction) -> Outcome:
            note = find_note(tx, agent, arguments.name)
            if note is None:
                raise ToolError(f"there is no note '{arguments.name}'; recall searches the notes")
            if note.kind == "archive":
                raise ToolError(f"'{note.name}' is an archive of a conversation; only an operator deletes it")
            forget_note(tx, note, _origin(context))
            return Outcome(f"The note '{note.name}' is forgotten.")

        return Outcome("", decide=decide)


def _is_own_archive(note: Note, session: Session) -> bool:
    """Whether an archive is of the session's own conversation: no sender reads the words of another one."""
    return (note.agent, note.sender) == (session.agent, session.sender)


def _origin(context: RunContext) -> Origin:
    """Return the origin of an event that an agent's call causes."""
    return Origin(f"agent:{context.session.session_id}")


def _format_note(note: Note, hit: NoteHit, agent: str, *, is_whole: bool) -> str:
    """Return a note as the model reads it: its names, its kind and its origins, then its text."""
    facts: list[str] = [note.kind]
    if note.agent != agent:
        facts.append(f"of the agent {note.agent}")
    if note.aliases:
        facts.append(f"also called {', '.join(note.aliases)}")
    foreign = [origin for origin in note.origins if origin not in ("person", "program")]
    if foreign:
        facts.append(f"its author had read data of {', '.join(foreign)}")
    text = note.content if is_whole else f"{hit.snippet}\n[an excerpt; recall '{note.name}' shows all of it]"
    return f"## {note.name} ({'; '.join(facts)})\n{text}"
