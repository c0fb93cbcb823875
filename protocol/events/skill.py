"""Events of the skills that are active in a session."""

from protocol.journal.envelope import Event
from protocol.objects.session import ActiveSkill, SkillTool


class SkillActivated(Event, frozen=True, tag="skill_activated"):
    """A skill became active in the session; it replaces an active skill of the same name.

    ``text`` is the blob (SHA-256, hex) with the skill as the model reads it, its arguments put in; ``digest``
    is that of the skill's files. ``by_call``: the model activated it, and has read the text as the result.
    """

    name: str
    text: str
    text_bytes: int
    digest: str = ""
    path: str = ""
    allowed_tools: list[SkillTool] | None = None
    blocked_tools: list[SkillTool] = []
    args: str = ""
    note: str = ""
    by_call: bool = False


class DefaultSkillsResolved(Event, frozen=True, tag="default_skills_resolved"):
    """The default skills of the session's persona were read; ``problems`` are those that cannot be used."""

    skills: list[ActiveSkill]
    problems: list[str] = []


class SkillDeactivated(Event, frozen=True, tag="skill_deactivated"):
    """A skill is no longer active in the session."""

    name: str
    note: str = ""
