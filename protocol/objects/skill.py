"""A skill: reusable instructions from a directory with a ``SKILL.md``, which an agent uses when they help.

The format is that of the public ecosystem. A skill is *inline* (its instructions become part of a session
until it is deactivated) or *fork* (an agent of its own carries it out and returns its output).
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionNotFound
from protocol.errors.skill import SkillNotActive, SkillNotFound, SkillNotInline, SkillsTooLarge, SkillUnusable
from protocol.errors.store import StorageFull
from protocol.ids import Id
from protocol.limits.names import MAX_REASON_BYTES
from protocol.limits.skill import MAX_SKILL_ARGUMENTS_BYTES, MAX_SKILL_NAME_BYTES
from protocol.objects.session import ActiveSkill, SkillTool
from protocol.rpc.method import Method, Mutation, NoParams, Page, Params

SkillContext = Literal["inline", "fork"]
SkillOrigin = Literal["config", "workspace", "home", "user"]
"""The kind of root in which a skill was found."""


class Skill(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A skill as the catalogue shows it.

    ``allowed_tools`` null: every tool; ``blocked_tools`` are refused in any case. ``agent_profile``,
    ``route``, ``model`` and ``fallback_model`` are those of the agent that carries out a fork. ``digest`` is
    the SHA-256 of the skill's path and files. ``path`` is its ``SKILL.md``.
    """

    name: str
    description: str
    path: str
    digest: str
    origin: SkillOrigin
    context: SkillContext = "inline"
    when_to_use: str = ""
    version: str = ""
    license: str = ""
    allowed_tools: list[SkillTool] | None = None
    blocked_tools: list[SkillTool] = []
    agent_profile: str | None = None
    route: str | None = None
    model: str | None = None
    fallback_model: str | None = None


class SkillView(Skill, frozen=True, kw_only=True, omit_defaults=True):
    """A skill with its instructions."""

    instructions: str


class SkillList(Struct, frozen=True):
    """A page of skills, by name."""

    skills: list[Skill]
    next: str | None


class SessionSkillList(Struct, frozen=True, kw_only=True):
    """A page of the skills that a session can use, by name, and the skills that are active in it."""

    skills: list[Skill]
    active: list[ActiveSkill]
    next: str | None


class SkillReload(Struct, frozen=True, kw_only=True):
    """The outcome of reading all skills again: their number, the problems of files, and the time it took."""

    skills: int
    warnings: list[str]
    took_ms: float


SkillName = Annotated[str, Meta(min_length=1, max_length=MAX_SKILL_NAME_BYTES)]
Query = Annotated[
    str,
    Meta(max_length=256, description="Only skills with this text in the name, description or when to use."),
]


class SkillListParams(Page, frozen=True, kw_only=True):
    """Params of ``skill.list``."""

    query: Query = ""


class SkillRef(Params, frozen=True, kw_only=True):
    """Params of ``skill.get``."""

    name: SkillName


class SessionSkills(Page, frozen=True, kw_only=True):
    """Params of ``session.skills``."""

    session_id: Id
    query: Query = ""


class SkillActivate(Mutation, frozen=True, kw_only=True):
    """Params of ``skill.activate``. ``args`` is data for the skill; ``note`` is for people."""

    session_id: Id
    name: SkillName
    args: Annotated[str, Meta(max_length=MAX_SKILL_ARGUMENTS_BYTES)] = ""
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


class SkillDeactivate(Mutation, frozen=True, kw_only=True):
    """Params of ``skill.deactivate``."""

    session_id: Id
    name: SkillName
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


LIST = Method(
    "skill.list",
    "control",
    SkillListParams,
    SkillList,
    "List the skills of this daemon, by name: of the configured roots, the home and the user.",
)
GET = Method(
    "skill.get",
    "control",
    SkillRef,
    SkillView,
    "Show one skill of this daemon with its instructions.",
    errors=(SkillNotFound, SkillUnusable),
)
RELOAD = Method(
    "skill.reload",
    "control",
    NoParams,
    SkillReload,
    "Read all skills again, also files that were changed in place.",
    scope="operate",
)
SESSION = Method(
    "session.skills",
    "control",
    SessionSkills,
    SessionSkillList,
    "List the skills that a session can use, by name, and those that are active in it.",
    errors=(SessionNotFound,),
)
ACTIVATE = Method(
    "skill.activate",
    "mutation",
    SkillActivate,
    ActiveSkill,
    "Make a skill's instructions part of a session, as they are now.",
    scope="operate",
    errors=(
        SessionNotFound,
        SessionAlreadyEnded,
        SkillNotFound,
        SkillUnusable,
        SkillNotInline,
        SkillsTooLarge,
        InputTooLarge,
        StorageFull,
    ),
)
DEACTIVATE = Method(
    "skill.deactivate",
    "mutation",
    SkillDeactivate,
    ActiveSkill,
    "End a skill in a session; the answer is the skill as it was active.",
    scope="operate",
    errors=(SessionNotFound, SessionAlreadyEnded, SkillNotActive, StorageFull),
)

METHODS = (LIST, GET, RELOAD, SESSION, ACTIVATE, DEACTIVATE)
