"""The skills of a runtime that has none."""

import pytest

from kheishd.kernel.skills import NoSkills
from protocol.errors.skill import SkillNotFound
from protocol.objects.skill import Skill


async def test_no_skills() -> None:
    """The catalogue is empty, and no skill can be read."""
    skills = NoSkills()
    await skills.refresh()
    assert not skills.catalogue(fresh=True).skills
    assert not skills.reload().skills
    assert skills.warnings == ()
    with pytest.raises(SkillNotFound):
        skills.read(Skill(name="x", description="d", path="/x", digest="", origin="home"))
