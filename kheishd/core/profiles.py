"""Profiles: fixed tool surfaces for common roles, which the daemon enforces. Pure.

This is the only place outside of the hooks that names tools, because a profile is a statement about them. The
name of a tool that does not exist is harmless: a profile only removes tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Mapping


class Profile(Value, frozen=True):
    """A role: its only tools, and those that are denied whatever else allows them.

    ``tools`` may hold ``mcp__*``, which stands for the tools of MCP servers. ``prompt`` is a section of the
    model's instructions; an empty one adds nothing.
    """

    name: str
    summary: str
    tools: tuple[str, ...]
    denied: tuple[str, ...] = ()
    prompt: str = ""


def _split(*names: str) -> tuple[str, ...]:
    return tuple(" ".join(names).split())


_COMMON: Final = (
    "read_file list_files glob_search grep_search web_search web_fetch read_result emit_output list_skills "
    "get_goal request_parent_clarification"
)
_EDITS: Final = "write_file edit_file apply_patch"
_DELEGATION: Final = (
    "spawn_agent delegate list_agents get_agent message_agent wait_agent close_agent answer_agent"
)
_TASKS: Final = "task_create task_get task_list task_output task_stop task_update task_delete todo_write"

PROFILES: Final[Mapping[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile(
            "default",
            "does a piece of work itself; starts no agents and asks no person",
            _split(
                *(_COMMON, _EDITS, "mcp__* use_skill bash todo_write task_output task_stop"),
                "create_goal update_goal",
            ),
            denied=_split(_DELEGATION, "enter_plan_mode exit_plan_mode ask_user_question"),
        ),
        Profile(
            "plan",
            "explores and makes a plan; edits no files and runs no commands",
            _split(_COMMON, _TASKS, "mcp__*"),
            prompt=(
                "You plan. Explore what is there, then write a plan that another agent can carry out: the "
                "steps in order, the files that each one changes, and how to check it. Change nothing."
            ),
        ),
        Profile(
            "verification",
            "checks the work of others, also with commands; edits no files",
            _split(
                _COMMON,
                "bash get_agent message_agent wait_agent task_get task_list task_output task_update",
            ),
            denied=_split(_EDITS),
            prompt=(
                "You verify. Try to show that the work is wrong: run its tests, read its changes, try edge "
                "cases. Report the commands that you ran and their results, and separate facts from guesses. "
                "Repair nothing."
            ),
        ),
        Profile(
            "coordinator",
            "delegates work to other agents and combines their results; edits no files",
            _split(_COMMON, _DELEGATION, _TASKS, "mcp__* use_skill bash create_goal update_goal"),
            prompt=(
                "You coordinate. Split the work into parts that do not depend on each other, delegate each "
                "with all the facts that it needs, and check the results before you combine them."
            ),
        ),
    )
}
"""All profiles, by name."""
