"""Refusals about skills."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, NotFound, TooLarge, Unprocessable


class SkillNotFound(NotFound, reason="skill_not_found"):
    """No skill that can be used here has that name; session.skills lists those of a session."""


class SkillUnusable(Unprocessable, reason="skill_unusable"):
    """The skill's file cannot be used as it is now."""


class SkillNotInline(Unprocessable, reason="skill_not_inline"):
    """The skill needs an agent of its own; let the session's agent use it with the context 'fork'."""


class SkillNotActive(Conflict, reason="skill_not_active"):
    """The skill is not active in the session."""


class SkillsTooLarge(TooLarge, reason="skills_too_large"):
    """The session's active skills would be too many or too long together; deactivate one first."""
