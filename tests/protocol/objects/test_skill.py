"""Skills on the wire."""

import msgspec
import pytest

from protocol.limits.skill import MAX_SKILL_ARGUMENTS_BYTES
from protocol.objects.session import SkillTool
from protocol.objects.skill import Skill, SkillActivate


def test_allowed_tools_null_is_everything() -> None:
    """A list that is null is left out; an empty one, which allows nothing, is shown."""
    skill = Skill(name="x", description="d", path="/x/SKILL.md", digest="0", origin="home")
    assert "allowed_tools" not in msgspec.to_builtins(skill)
    none = msgspec.structs.replace(skill, allowed_tools=[])
    assert msgspec.to_builtins(none)["allowed_tools"] == []
    assert msgspec.to_builtins(SkillTool(tool="bash", subject="git *")) == {
        "tool": "bash",
        "subject": "git *",
    }


def test_arguments_are_bounded() -> None:
    """Arguments beyond the limit are refused before anything is read."""
    params = {"session_id": "s", "name": "x", "args": "a" * (MAX_SKILL_ARGUMENTS_BYTES + 1)}
    with pytest.raises(msgspec.ValidationError, match="args"):
        msgspec.convert(params, SkillActivate)
