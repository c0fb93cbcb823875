"""Skills in a run: the list of those available, the texts of those active, and the tools that use them.

Both sections stay the same during a conversation, because a provider caches the prompt from its beginning. A
skill that the model activates is the result of its call: the text joins the section only once the result was
compacted, which changes the prompt in any case. What changes, the names of the active skills, is part of the
situation. The list changes when skills are added to or removed from the roots.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from kheishd.core.skill import SkillError, active_skills, format_available, matches_query, render
from kheishd.hooks.agents.delegation import OUTPUT_SHARE_BYTES, Delegation, describe, report_on
from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, Tool, ToolError, tool
from kheishd.objects.agents.skill import (
    activation_of,
    find_visible,
    freeze_skills,
    make_activation,
    needs_fork,
    require_room,
)
from kheishd.objects.agents.tree import snapshot_of
from kheishd.objects.talk.input import origins_read
from kheishd.objects.talk.workspace import list_trusted_directories
from kheishd.records.writer import SessionWriter
from kheishd.store.blobs import read_blob
from kheishd.store.tables import SESSIONS
from protocol.errors.skill import SkillNotFound, SkillNotInline, SkillsTooLarge, SkillUnusable
from protocol.events.skill import DefaultSkillsResolved
from protocol.limits.agent import MAX_WAIT_FOR_AGENTS_SECONDS
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.session import MAX_INPUT_BYTES
from protocol.limits.skill import (
    MAX_LISTED_SKILL_CHARACTERS,
    MAX_LISTED_SKILLS_CHARACTERS,
    MAX_SKILL_ARGUMENTS_BYTES,
    MAX_SKILL_NAME_BYTES,
)
from protocol.limits.units import KIB
from protocol.objects.agent import SpawnRequest
from protocol.text import truncate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.core.skill import ParsedSkill
    from kheishd.kernel.services import Services
    from kheishd.kernel.skills import Catalogue, Skills
    from kheishd.objects.agents.skill import Activation
    from kheishd.store.environment import Transaction
    from protocol.objects.agent import ManagedAgent
    from protocol.objects.session import ActiveSkill, ProfileName
    from protocol.objects.skill import Skill

log = logging.getLogger("kheishd.skills")

AVAILABLE: Final = (
    "Skills are instructions for certain work. If one of these fits the task, call use_skill with its name "
    "before you begin, and follow what it returns:"
)

ACTIVE: Final = "The following skill is active: follow it where it applies."

# A list of skills as a result. A text of a skill beyond the result's limit would be cut in the middle; the
# section then shows it instead.
MAX_LIST_CHARACTERS: Final = 16 * KIB
MAX_RESULT_BYTES: Final = MAX_TOOL_TEXT_BYTES - KIB

# Lists of skills and directories of sessions that are kept; beyond, all of them are made again.
MAX_KEPT: Final = 256
MAX_KEPT_SESSIONS: Final = 4_096


class ListSkills(Arguments, frozen=True):
    """Arguments of ``list_skills``."""

    query: Annotated[str, Meta(max_length=256, description="A text in the name or the description.")] = ""


class UseSkill(Arguments, frozen=True):
    """Arguments of ``use_skill``."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_SKILL_NAME_BYTES)]
    args: Annotated[str, Meta(max_length=MAX_SKILL_ARGUMENTS_BYTES, description="Data for the skill.")] = ""
    context: (
        Annotated[
            Literal["inline", "fork"],
            Meta(description="inline: follow it yourself; fork: a new agent does. By default as it says."),
        ]
        | None
    ) = None
    reason: Annotated[str, Meta(max_length=512, description="Why the skill is used.")] = ""
    wait: Annotated[bool, Meta(description="Wait for the result of a fork.")] = True
    timeout_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_FOR_AGENTS_SECONDS * 1000)] = 60_000


class ActiveSkills(SubHook):
    """The texts of the active skills."""

    name = "active_skills"

    def sections(self, context: RunContext) -> Sequence[str]:
        """Return the texts of the active skills that the transcript does not hold."""
        active = _active_in(context)
        compacted = context.session.compacted_cursor
        shown = [skill for skill in active if not skill.by_call or skill.activated_cursor <= compacted]
        if not shown:
            return ()
        with context.state.read() as store:
            texts = [read_blob(store, skill.text) for skill in shown]
        return [f"{ACTIVE}\n\n{text.decode()}" for text in texts if text is not None]

    def situation(self, context: RunContext) -> Sequence[str]:
        """Name the active skills: others, whose texts may be in the transcript, no longer apply."""
        active = _active_in(context)
        if not active:
            return ()
        names = ", ".join(skill.name for skill in active)
        return [f"Active skills: {names}. Instructions of other skills in this conversation do not apply."]


def _active_in(context: RunContext) -> list[ActiveSkill]:
    """Return the session's active skills within its scope; a guest speaks for itself and has none."""
    if context.run.guest is not None:
        return []
    return [skill for skill in active_skills(context.session) if context.allows_skill(skill.name)]


class SkillTools(SubHook):
    """The tools with which an agent uses skills. ``load`` returns the skills of the configuration."""

    name = "skills"

    def __init__(self, load: Callable[[], Skills], services: Callable[[], Services]) -> None:
        self._load = load
        self._services = services
        # The trusted directories of sessions, the nearest first, as they were when their last runs began.
        self._directories: dict[str, list[str]] = {}
        # The visible skills of a catalogue and their list, by the names that a scope allows.
        self._visible: dict[
            tuple[int, tuple[str, ...] | None], tuple[Catalogue, tuple[list[Skill], str]]
        ] = {}

    async def begin(self, context: RunContext) -> bool:
        """Find new and removed skills, and make the default skills of the session's persona active."""
        skills, persona, state = self._load(), context.session.persona, context.state
        directories = self._look_up(context)
        await skills.refresh(directories)
        if persona is None or persona.skills is not None or not persona.default_skills:
            return False
        frozen = freeze_skills(skills, context.session, persona.default_skills, directories)
        for problem in frozen.problems:
            log.warning("a default skill of the persona %s: %s", persona.persona_id, problem)
        for text in frozen.texts:
            await state.put_blob(text)

        def freeze(tx: Transaction) -> None:
            session = tx.need(SESSIONS, context.session.session_id)
            if session.persona == persona:
                writer = SessionWriter(tx, session.session_id, session=session)
                writer.append(DefaultSkillsResolved(skills=frozen.skills, problems=frozen.problems))
                writer.write()

        await state.update(freeze)
        return True

    def offer(self, context: RunContext) -> Sequence[Tool]:
        """Offer the tools if the run can use a skill."""
        return self.tools if self._visible_in(context)[0] else ()

    def sections(self, context: RunContext) -> Sequence[str]:
        """List the skills that the run can use."""
        return [f"{AVAILABLE}\n{self._visible_in(context)[1]}"]

    def _look_up(self, context: RunContext) -> list[str]:
        """Return the trusted directories whose skills a run can use, and keep them for its prompts."""
        runtime = self._services().runtimes.current()
        with context.state.read() as store:
            directories = list_trusted_directories(store, runtime, context.workspace)
        if len(self._directories) >= MAX_KEPT_SESSIONS:
            self._directories.clear()
        self._directories[context.session.session_id] = directories
        return directories

    def _visible_in(self, context: RunContext) -> tuple[list[Skill], str]:
        """Return the skills that a run can use, and their list."""
        directories = self._directories.get(context.session.session_id)
        if directories is None:
            # After a restart, a run goes on with its calls before its next prompt.
            directories = self._look_up(context)
        catalogue = self._load().catalogue(directories)
        names = None if context.bounds is None else context.bounds.scope.skills
        key = id(catalogue), None if names is None else tuple(names)
        if key not in self._visible:
            skills = [skill for name, skill in catalogue.skills.items() if context.allows_skill(name)]
            listed = format_available(skills, MAX_LISTED_SKILL_CHARACTERS, MAX_LISTED_SKILLS_CHARACTERS)
            if len(self._visible) >= MAX_KEPT:
                self._visible.clear()
            # The catalogue is kept, too, so that no other one has its identity.
            self._visible[key] = catalogue, (skills, listed)
        return self._visible[key][1]

    @tool(
        "list_skills",
        description="Find skills: instructions for certain work. With a query, only those that mention it.",
        kind="coordinate",
        repeatable=True,
        parallel=True,
        in_plan=True,
        droppable=True,
    )
    async def list_skills(self, call: Invocation, arguments: ListSkills) -> Outcome:
        """List the skills that the run can use."""
        await self._load().refresh(self._look_up(call.context))
        skills, _ = self._visible_in(call.context)
        matching = [skill for skill in skills if matches_query(skill, arguments.query)]
        listed = format_available(matching, 2 * MAX_LISTED_SKILL_CHARACTERS, MAX_LIST_CHARACTERS)
        return Outcome(
            f"{len(matching)} of {len(skills)} skills:\n{listed}" if matching else "No skill matches."
        )

    @tool(
        "use_skill",
        description="Use a skill: its instructions are the result, and they stay in force from then on. A "
        "skill that says so is carried out by a new agent instead, whose output is the result.",
        kind="coordinate",
        repeatable=True,
        in_plan=True,
        waits=True,
        timeout_s=MAX_WAIT_FOR_AGENTS_SECONDS + 60.0,
        subject=lambda self, call, arguments: arguments.name,
    )
    async def use_skill(self, call: Invocation, arguments: UseSkill) -> Outcome:
        """Activate a skill, or let a new agent carry it out. Errors: ToolError if that is not possible."""
        # The workspace may no longer be trusted.
        self._look_up(call.context)
        try:
            skill = find_visible(self._visible_in(call.context)[0], arguments.name)
            parsed = self._load().read(skill)
            if (arguments.context or ("fork" if needs_fork(parsed.skill) else "inline")) == "fork":
                return await self._fork(call, arguments, parsed)
            activation = make_activation(parsed, arguments.args, arguments.reason, by_call=True)
        except SkillNotFound:
            raise ToolError(f"there is no skill '{arguments.name}' here; list_skills finds them") from None
        except (SkillUnusable, SkillNotInline) as refusal:
            raise ToolError(refusal.message) from None
        except SkillError as error:
            raise ToolError(error.problems[0][1]) from None
        return await _activate(call.context, activation)

    async def _fork(self, call: Invocation, arguments: UseSkill, parsed: ParsedSkill) -> Outcome:
        """Let a new agent carry out a skill, which is active in its session and limits its tools.

        Errors: ToolError; SkillError if the text is too long.
        """
        if not call.context.allows("spawn_agent"):
            raise ToolError(f"'{parsed.skill.name}' works in an agent of its own, and you may spawn none")
        skill, delegation = parsed.skill, Delegation(self._services())
        text = render(parsed, arguments.args, isolated=True)
        content = text.encode()
        await call.context.state.put_blob(content)
        is_task = len(msgspec.json.encode(text)) <= MAX_INPUT_BYTES - KIB
        event = activation_of(skill, content, arguments.args, arguments.reason, by_call=is_task)

        def activate(tx: Transaction, agent: ManagedAgent) -> None:
            session = tx.need(SESSIONS, agent.agent_id)
            if session.status == "open" and not session.active_skills:
                writer = SessionWriter(tx, agent.agent_id, session=session)
                writer.append(event)
                writer.write()

        task = text if is_task else f"Carry out the skill '{skill.name}', which your instructions contain."
        request = SpawnRequest(
            name=f"skill:{skill.name}",
            nickname=skill.name,
            description=truncate(arguments.reason or skill.description, 512),
            prompt=task,
            retention="close_on_settle",
            profile=cast("ProfileName | None", skill.agent_profile),
            route=skill.route,
            model=skill.model,
        )
        agent_id = await delegation.spawn_child(call, request, call.key, activate)
        if arguments.wait:
            await delegation.wait_for(call, [agent_id], arguments.timeout_ms / 1000)

        def report(tx: Transaction) -> Outcome:
            session = tx.need(SESSIONS, agent_id)
            if arguments.wait:
                spawned, events = report_on(tx, call, agent_id, OUTPUT_SHARE_BYTES)
            else:
                spawned, events = describe(snapshot_of(tx, session)), []
            origins = origins_read(tx, session) if arguments.wait else []
            result = {"action": "fork", "mode": "fork", "name": skill.name, "digest": skill.digest}
            text = msgspec.json.encode(result | {"spawn": spawned}).decode()
            return Outcome(text, events=tuple(events), origins=origins)

        return Outcome("", decide=report)


async def _activate(context: RunContext, activation: Activation) -> Outcome:
    """Return the outcome that makes a skill active."""
    event, text = activation.event, activation.text.decode()
    await context.state.put_blob(activation.text)
    fits = len(activation.text) <= MAX_RESULT_BYTES
    fits = fits and len(msgspec.json.encode(text)) <= 2 * MAX_RESULT_BYTES

    def activate(tx: Transaction) -> Outcome:
        try:
            require_room(tx.need(SESSIONS, context.session.session_id), event)
        except SkillsTooLarge as refusal:
            raise ToolError(refusal.message) from None
        active = f"The skill '{event.name}' is active now."
        if fits:
            return Outcome(f"{active} Follow it as long as it is:\n\n{text}", events=(event,))
        return Outcome(f"{active} Your instructions contain it.", events=(replace(event, by_call=False),))

    return Outcome("", decide=activate)
