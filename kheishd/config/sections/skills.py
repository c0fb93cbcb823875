"""``[skills]``: directories of skills."""

from typing import Annotated

from msgspec import Meta

from kheishd.config.sections.section import FilePath, Section
from protocol.limits.skill import MAX_SKILL_ROOTS


class SkillsSection(Section, frozen=True):
    """``[skills]``: directories of skills."""

    roots: Annotated[list[FilePath], Meta(max_length=MAX_SKILL_ROOTS)] = []
    """Directories of skills, searched before all others; of two skills with one name, the first counts."""

    user: bool = True
    """Also use the skills in `~/.claude/skills` and `~/.agents/skills` of the daemon's user."""
