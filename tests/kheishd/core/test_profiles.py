"""The table of profiles."""

from typing import get_args

from kheishd.core.profiles import PROFILES
from kheishd.core.scope import EVERY_MCP_TOOL
from protocol.objects.session import ProfileName
from tests.house.test_tools import tool_names

PLANNED = {"web_search", "list_skills", "use_skill", "get_goal", "create_goal", "update_goal"} | {
    *("request_parent_clarification", "spawn_agent", "delegate", "list_agents", "get_agent"),
    *("message_agent", "wait_agent", "close_agent", "answer_agent"),
}
"""Tools that this version does not have everywhere."""


def test_profiles_name_tools_that_exist() -> None:
    """A misspelt tool would be missing in a profile, or be allowed in spite of its denial."""
    for profile in PROFILES.values():
        names = {*profile.tools, *profile.denied} - {EVERY_MCP_TOOL}
        assert names - tool_names() <= PLANNED
        assert not set(profile.tools) & set(profile.denied)
        assert len(set(profile.tools)) == len(profile.tools)


def test_every_profile_can_be_requested() -> None:
    """The protocol names exactly the profiles of the table."""
    assert set(PROFILES) == set(get_args(ProfileName))


def test_only_the_default_profile_edits_and_only_the_coordinator_delegates() -> None:
    """The surfaces differ as their roles do."""
    editors = {name for name, profile in PROFILES.items() if "write_file" in profile.tools}
    spawners = {name for name, profile in PROFILES.items() if "spawn_agent" in profile.tools}
    assert (editors, spawners) == ({"default"}, {"coordinator"})
    assert {name for name, profile in PROFILES.items() if not profile.prompt} == {"default"}
