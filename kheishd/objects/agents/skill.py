"""Skills: the catalogue of the daemon, the skills that a session can use, and those that are active in it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import trio
from msgspec.structs import replace

from kheishd.core.skill import SkillError, active_skills, matches_query, render
from kheishd.kernel.call import Call, control, mutation, origin_of
from kheishd.objects.pages import page_of
from kheishd.objects.talk.address import find_session
from kheishd.objects.talk.bounds import bounds_of
from kheishd.objects.talk.workspace import list_trusted_directories, workspace_of
from kheishd.records.writer import SessionWriter
from kheishd.store.blobs import blob_name, put_chunk
from protocol.errors.refusal import Refusal
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, WorkspaceForbidden
from protocol.errors.skill import SkillNotActive, SkillNotFound, SkillNotInline, SkillsTooLarge, SkillUnusable
from protocol.events.skill import SkillActivated, SkillDeactivated
from protocol.limits.skill import (
    MAX_ACTIVE_SKILLS,
    MAX_ACTIVE_SKILLS_BYTES,
    MAX_ACTIVE_TEXT_BYTES,
    MAX_SKILL_ARGUMENTS_BYTES,
)
from protocol.objects import skill as rows
from protocol.objects.session import ActiveSkill
from protocol.objects.skill import (
    SessionSkillList,
    SessionSkills,
    Skill,
    SkillActivate,
    SkillDeactivate,
    SkillList,
    SkillListParams,
    SkillRef,
    SkillReload,
    SkillView,
)
from protocol.structs import Value, fields_of
from protocol.text import truncate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kheishd.core.skill import ParsedSkill
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.skills import Skills
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.session import PersonaBinding, Session
    from protocol.rpc.method import NoParams

SNAPSHOT: Final = ("name", "text", "text_bytes", "allowed_tools", "blocked_tools")
"""The fields that an active skill has from the event of its activation."""

FORK_FIELDS: Final = ("agent_profile", "route", "model", "fallback_model")
"""The fields of a skill that only an agent of its own can have."""

# The catalogue.


@control(rows.LIST)
async def list_skills(call: Call, params: SkillListParams) -> SkillList:
    """List the skills of the daemon, by name. New ones are read in a thread."""
    skills = call.runtime.skills
    await skills.refresh()
    return SkillList(*_page(skills.catalogue().skills.values(), params))


def _page(skills: Iterable[Skill], params: SkillListParams | SessionSkills) -> tuple[list[Skill], str | None]:
    after = params.after or ""
    keyed = (((skill.name,), skill) for skill in skills if skill.name > after)
    return page_of(keyed, params.limit, lambda skill: matches_query(skill, params.query))


@control(rows.GET)
async def get(call: Call, params: SkillRef) -> SkillView:
    """Show a skill with its instructions. Errors: SkillNotFound, SkillUnusable."""
    skills = call.runtime.skills
    await skills.refresh()
    skill = skills.catalogue().skills.get(params.name)
    if skill is None:
        raise SkillNotFound(
            f"there is no skill '{params.name}'; skill.list names the skills", field="$.params.name"
        )
    parsed = await trio.to_thread.run_sync(skills.read, skill)
    return SkillView(**fields_of(Skill, parsed.skill), instructions=parsed.instructions)


@control(rows.RELOAD)
async def reload(call: Call, params: NoParams) -> SkillReload:
    """Read all skills of the daemon again."""
    skills, began = call.runtime.skills, time.perf_counter()
    catalogue = await trio.to_thread.run_sync(skills.reload)
    took_ms = (time.perf_counter() - began) * 1000
    return SkillReload(
        skills=len(catalogue.skills), warnings=list(catalogue.warnings), took_ms=round(took_ms, 3)
    )


# The skills of a session.


def catalogue_of(
    store: Snapshot, runtime: Runtime, session: Session, *, fresh: bool = False
) -> Mapping[str, Skill]:
    """Return the skills that exist for a session, by name: those of its workspace where that is trusted."""
    return runtime.skills.catalogue(_directories_of(store, runtime, session), fresh=fresh).skills


def _directories_of(store: Snapshot, runtime: Runtime, session: Session) -> list[str]:
    """Return the trusted directories of a session's workspace, whose skills exist for it."""
    with suppress(WorkspaceForbidden):
        return list_trusted_directories(store, runtime, workspace_of(store, runtime, session))
    return []


async def refresh_skills(call: Call, session_id: str) -> None:
    """Find new and removed skills of a session, in a thread. Errors: SessionNotFound."""
    with call.state.read() as store:
        directories = _directories_of(store, call.runtime, find_session(store, call, session_id))
    await call.runtime.skills.refresh(directories)


def visible_skills(
    store: Snapshot, runtime: Runtime, session: Session, *, fresh: bool = False
) -> list[Skill]:
    """Return the skills that a session can use, by name: those of the catalogue within its bounds."""
    allowed = bounds_of(store, runtime, session).scope.skills
    skills = catalogue_of(store, runtime, session, fresh=fresh).values()
    return [skill for skill in skills if allowed is None or skill.name in allowed]


@control(rows.SESSION)
async def list_of_session(call: Call, params: SessionSkills) -> SessionSkillList:
    """List the skills that a session can use, and those that are active in it. Errors: SessionNotFound."""
    await refresh_skills(call, params.session_id)
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        skills = visible_skills(store, call.runtime, session)
        allowed = bounds_of(store, call.runtime, session).scope.skills
    page, following = _page(skills, params)
    active = [skill for skill in active_skills(session) if allowed is None or skill.name in allowed]
    return SessionSkillList(skills=page, active=active, next=following)


class Activation(Value, frozen=True):
    """A skill that is ready to become active: its event and its text."""

    event: SkillActivated
    text: bytes


def make_activation(parsed: ParsedSkill, args: str, note: str, *, by_call: bool = False) -> Activation:
    """Return the activation of an inline skill.

    Errors: SkillNotInline, also for a skill that sets what only an agent of its own can have; SkillError if
    the text is too long.
    """
    skill = parsed.skill
    if needs_fork(skill):
        own = [name for name in FORK_FIELDS if getattr(skill, name) is not None]
        why = f"sets {', '.join(own)}" if own else "says 'context: fork'"
        raise SkillNotInline(
            f"the skill '{skill.name}' {why}, which needs an agent of its own; let the session's "
            "agent use it with the context 'fork'"
        )
    text = render(parsed, args).encode()
    return Activation(activation_of(skill, text, args, note, by_call=by_call), text)


def needs_fork(skill: Skill) -> bool:
    """Whether a skill needs an agent of its own."""
    return skill.context == "fork" or any(getattr(skill, name) is not None for name in FORK_FIELDS)


def activation_of(skill: Skill, text: bytes, args: str, note: str, *, by_call: bool) -> SkillActivated:
    """Return the event of a skill's activation with a text."""
    return SkillActivated(
        name=skill.name,
        text=blob_name(text),
        text_bytes=len(text),
        digest=skill.digest,
        path=skill.path,
        allowed_tools=skill.allowed_tools,
        blocked_tools=skill.blocked_tools,
        args=args,
        note=note,
        by_call=by_call,
    )


def require_room(session: Session, event: SkillActivated) -> None:
    """Reject a skill that is one too many, or too long beside the others. Errors: SkillsTooLarge."""
    others = [skill for skill in active_skills(session) if skill.name != event.name]
    if len(others) >= MAX_ACTIVE_SKILLS:
        raise SkillsTooLarge(f"{len(others)} skills are active, which is the limit; deactivate one first")
    size = event.text_bytes + sum(skill.text_bytes for skill in others)
    if size > MAX_ACTIVE_TEXT_BYTES:
        raise SkillsTooLarge(
            f"the active skills would take {size} bytes of {MAX_ACTIVE_TEXT_BYTES}; end one first"
        )
    tools = [event.allowed_tools or [], event.blocked_tools]
    # Their texts' digests take a fixed room.
    records = [*others, event.name, *tools, "0" * 128]
    if len(msgspec.json.encode(records)) > MAX_ACTIVE_SKILLS_BYTES:
        raise SkillsTooLarge(
            f"the tools of the active skills take more than {MAX_ACTIVE_SKILLS_BYTES} bytes; end one first"
        )


class FrozenSkills(Value, frozen=True):
    """Snapshots of a persona's default skills, and their texts."""

    skills: list[ActiveSkill]
    texts: list[bytes]


def freeze_skills(skills: Skills, session: Session, persona: PersonaBinding) -> FrozenSkills:
    """Return snapshots of the default skills of a session's persona.

    They are the daemon's: an agent writes the files of its workspace. Errors: SkillUnusable.
    """
    catalogue = skills.catalogue()
    frozen = FrozenSkills([], [])
    for name in persona.default_skills:
        try:
            parsed = skills.read(find_visible([*catalogue.skills.values()], name))
            activation = make_activation(parsed, "", "")
            holder = replace(session, persona=replace(persona, skills=frozen.skills))
            require_room(holder, activation.event)
        except (Refusal, SkillError) as error:
            text = truncate(error.message if isinstance(error, Refusal) else str(error), 256)
            problem = (
                f"the skill '{name}' of the persona '{persona.persona_id}' cannot be used, and its limits "
            )
            raise SkillUnusable(f"{problem}would be missing: {text}") from None
        event = activation.event
        snapshot = {field: getattr(event, field) for field in SNAPSHOT}
        frozen.skills.append(ActiveSkill(**snapshot, activated_cursor=0))
        frozen.texts.append(activation.text)
    return frozen


def _prepare_activate(call: Call, params: SkillActivate) -> Activation:
    """Read the skill.

    Errors: SessionNotFound, SkillNotFound, SkillUnusable, SkillNotInline, InputTooLarge.
    """
    if len(params.args.encode()) > MAX_SKILL_ARGUMENTS_BYTES:
        raise InputTooLarge(
            f"the arguments of a skill take at most {MAX_SKILL_ARGUMENTS_BYTES} bytes", field="$.params.args"
        )
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        skill = find_visible(visible_skills(store, call.runtime, session, fresh=True), params.name)
    try:
        return make_activation(call.runtime.skills.read(skill), params.args, params.note)
    except SkillError as error:
        raise InputTooLarge(error.problems[0][1], field="$.params.args") from None


def find_visible(skills: Sequence[Skill], name: str) -> Skill:
    """Return the skill of a name. Errors: SkillNotFound."""
    skill = next((skill for skill in skills if skill.name == name), None)
    if skill is None:
        raise SkillNotFound(
            f"the session can use no skill '{name}'; session.skills lists those it can", field="$.params.name"
        )
    return skill


@mutation(rows.ACTIVATE, prepare=lambda call, params: (params, _prepare_activate(call, params)))
def activate(tx: Transaction, call: Call, plan: tuple[SkillActivate, Activation]) -> ActiveSkill:
    """Make a skill active; one that is active with the same text stays as it is.

    Errors: SessionNotFound, SessionAlreadyEnded, SkillNotFound, SkillsTooLarge.
    """
    params, activation = plan
    event = activation.event
    session = _find_open(tx, call, params.session_id)
    allowed = bounds_of(tx, call.runtime, session).scope.skills
    if allowed is not None and params.name not in allowed:
        raise SkillNotFound(f"the session's scope has no skill '{params.name}'", field="$.params.name")
    current = next((skill for skill in session.active_skills if skill.name == params.name), None)
    same = ("text", "allowed_tools", "blocked_tools")
    if current is not None and all(getattr(current, name) == getattr(event, name) for name in same):
        return current
    require_room(session, event)
    put_chunk(tx, event.text, 0, activation.text)
    writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    writer.append(event)
    writer.write()
    return writer.session.active_skills[-1]


def _find_open(tx: Transaction, call: Call, session_id: str) -> Session:
    session = find_session(tx, call, session_id)
    if session.status == "ended":
        raise SessionAlreadyEnded(f"the session {session_id} was ended and can no longer be changed")
    return session


@mutation(rows.DEACTIVATE)
def deactivate(tx: Transaction, call: Call, params: SkillDeactivate) -> ActiveSkill:
    """End a skill. Errors: SessionNotFound, SessionAlreadyEnded, SkillNotActive."""
    session = _find_open(tx, call, params.session_id)
    current = next((skill for skill in session.active_skills if skill.name == params.name), None)
    if current is None:
        if any(skill.name == params.name for skill in active_skills(session)):
            text = f"the skill '{params.name}' comes with the session's persona; unbind the persona to end it"
            raise SkillNotActive(text, field="$.params.name")
        names = ", ".join(skill.name for skill in session.active_skills) or "none"
        raise SkillNotActive(
            f"the skill '{params.name}' is not active in the session; active: {names}", field="$.params.name"
        )
    writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    writer.append(SkillDeactivated(name=params.name, note=params.note))
    writer.write()
    return current


HANDLERS = (list_skills, get, reload, list_of_session, activate, deactivate)
