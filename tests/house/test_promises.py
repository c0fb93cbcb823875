"""What agents and skills promise, and the tests of each promise: every named test exists."""

import ast
from functools import cache

from tests.house.sources import ROOT

AGENT = "kheishd/objects/agents/test_agent.py"
AGENTS = "e2e/test_agents.py"
AGENTS_FILES = "kheishd/kernel/test_agents_files.py"
AUDIENCE = "kheishd/objects/people/test_audience.py"
BUDGET = "kheishd/objects/talk/test_budget.py"
BUILD = "kheishd/build/test_skills.py"
CLOSING = "kheishd/workers/test_agents.py"
CONTEXT = "kheishd/objects/agents/test_memory_context.py"
DELEGATION = "kheishd/hooks/agents/test_delegation.py"
DELIVERY = "kheishd/workers/test_mail.py"
HOOK = "kheishd/hooks/test_skills.py"
LAWS = "e2e/test_laws.py"
MAIL = "kheishd/hooks/agents/test_mail.py"
MAILBOX = "kheishd/objects/agents/test_mailbox.py"
PERSONA = "kheishd/objects/agents/test_persona.py"
PERSONAS = "kheishd/objects/talk/test_persona.py"
PROFILES = "kheishd/core/test_profiles.py"
GOALS = "kheishd/workers/test_goals.py"
RULES = "kheishd/objects/people/test_permission.py"
SCOPE = "kheishd/core/test_scope.py"
SESSION = "kheishd/objects/talk/test_session.py"
SKILL = "kheishd/objects/agents/test_skill.py"
SKILLS = "e2e/test_skills.py"
TEXT = "kheishd/core/test_skill.py"
TREE = "kheishd/objects/agents/test_tree.py"
WORKTREES = "kheishd/hooks/os/test_worktrees.py"
BUS = "kheishd/workers/test_bus.py"
EVENTS = "e2e/test_events.py"
EVENT_RECORDS = "kheishd/records/test_event.py"
EVENT_TOOLS = "kheishd/hooks/test_events.py"
EVENT = "kheishd/objects/wake/test_event.py"

PROMISES: dict[str, list[str]] = {
    # The tree.
    "Agents form a tree.": [f"{LAWS}::Forest", f"{TREE}::test_the_tree_is_that_of_the_sessions"],
    "Each session has one agent, which need not be the root of its tree.": [
        f"{AGENT}::test_agent_spawn_ok",
        f"{AGENT}::test_agent_get_ok",
    ],
    "An agent has an id, a context of its own, a status, a retention and perhaps a parent.": [
        f"{AGENT}::test_agent_spawn_ok",
        "kheishd/core/test_agent.py::test_the_status_is_that_of_the_first_open_run",
        "kheishd/core/test_agent.py::test_the_record_follows_its_events",
    ],
    "An agent has a mailbox.": [f"{MAILBOX}::test_mailbox_post_ok", f"{MAILBOX}::test_mailbox_list_ok"],
    "An agent has instructions and tools of its own.": [
        f"{AGENT}::test_agent_spawn_ok_with_its_own_instructions",
        f"{AGENT}::test_agent_spawn_ok_with_a_profile_and_blocked_tools",
    ],
    # Spawning.
    "Agents and clients spawn agents.": [
        f"{DELEGATION}::test_an_agent_waits_for_its_child_and_gives_its_slot_away",
        f"{AGENT}::test_agent_spawn_ok",
    ],
    "A child can have fewer tools.": [f"{AGENTS}::test_a_role_is_enforced"],
    "A child can have another route and another model.": [
        f"{AGENTS}::test_a_child_has_another_route_and_model"
    ],
    "A child can have another workspace within its parent's.": [
        f"{AGENT}::test_agent_spawn_workspace_forbidden"
    ],
    "A child can have a git worktree of its own, which is removed only when nothing in it would be lost.": [
        f"{CLOSING}::test_an_isolated_agent_works_in_a_worktree_of_its_own",
        f"{WORKTREES}::test_a_clean_worktree_is_removed_with_its_branch",
        f"{WORKTREES}::test_uncommitted_work_keeps_the_worktree",
    ],
    "A child works in the background while its parent goes on.": [
        f"{DELEGATION}::test_a_child_in_the_background_does_not_hold_its_parent_up"
    ],
    "Several children work at the same time, and their results come in order.": [
        f"{DELEGATION}::test_tasks_are_done_at_once_and_reported_in_their_order",
        f"{AGENTS}::test_a_coordinator_delegates_to_three_reviewers",
    ],
    "A child gets a copy of its parent's persona, which no later change reaches.": [
        f"{PERSONAS}::test_a_child_gets_a_copy_of_its_parents_snapshot"
    ],
    "A child begins with its parent's effective scope.": [
        f"{SCOPE}::test_inherit_scope",
        f"{AGENT}::test_agent_spawn_scope_would_widen",
    ],
    "Without a credential scope in the request, a child keeps the routes and gets no other credential.": [
        f"{SCOPE}::test_a_child_without_a_credential_scope_keeps_routes_only",
        f"{AGENT}::test_agent_spawn_ok_with_a_profile_and_blocked_tools",
    ],
    "A child has at most its parent's permission mode; a wider one is refused.": [
        f"{SCOPE}::test_the_matrix_of_modes",
        f"{AGENT}::test_agent_spawn_scope_would_widen",
    ],
    "The permission rules of a session apply to the sessions below it.": [
        f"{AGENTS}::test_a_child_obeys_the_rules_of_its_parents_session",
        f"{RULES}::test_a_child_session_has_no_rights_of_its_own",
    ],
    "A task is a text or ordered items; items that this version does not have are refused by their place.": [
        f"{AGENT}::test_agent_spawn_ok_with_ordered_items"
    ],
    "A request that is repeated, also after a crash, spawns one agent.": [
        f"{AGENT}::test_agent_spawn_ok_once_for_each_request",
        f"{DELEGATION}::test_a_call_that_a_restart_interrupted_finds_its_agents",
        f"{AGENTS}::test_a_killed_daemon_loses_no_agent",
    ],
    # Rights.
    "A profile is a tool surface that the daemon enforces.": [
        f"{PROFILES}::test_only_the_default_profile_edits_and_only_the_coordinator_delegates",
        f"{AGENTS}::test_a_role_is_enforced",
    ],
    "Scopes narrow the surface of a profile.": [
        f"{SCOPE}::test_allowed_tools_restrict",
        f"{SCOPE}::test_bounds_allow_exactly_what_every_link_allows",
    ],
    "A credential may be out of reach although the tool is visible.": [
        f"{AGENT}::test_agent_spawn_route_forbidden",
        "kheishd/objects/talk/test_send.py::test_conversation_send_route_forbidden",
    ],
    "No chain of requests gives an agent a right that its root lacks.": [
        f"{LAWS}::Forest",
        f"{SCOPE}::test_no_chain_of_spawns_widens",
    ],
    "A session shows its persona, its scopes and its effective scopes.": [
        f"{SESSION}::test_session_get_and_list_ok_show_effective_scopes",
        f"{PERSONA}::test_persona_bind_ok",
    ],
    "Each cause that hides a tool or a skill can be asked for.": [
        f"{RULES}::test_permission_why_ok_names_every_link"
    ],
    # Mail.
    "Agents of one tree send each other messages.": [
        f"{MAIL}::test_a_message_is_read_by_its_recipient",
        f"{MAIL}::test_messages_stay_in_the_tree",
    ],
    "A child asks its parent, and waits without a deadlock.": [
        f"{MAIL}::test_a_parent_answers_its_child",
        f"{MAIL}::test_a_waiting_parent_gets_the_question",
    ],
    "The end of a child's work reaches its parent once, in order.": [
        f"{DELIVERY}::test_a_child_reports_each_run_once",
        f"{LAWS}::test_a_restart_at_any_point_changes_nothing",
    ],
    "One run reads all pending mail.": [f"{DELIVERY}::test_one_run_takes_all_pending_mail"],
    "Mail survives restarts, and is neither lost nor repeated.": [
        f"{DELIVERY}::test_a_restart_neither_loses_nor_repeats"
    ],
    "A message has a type and any JSON as its payload.": [f"{MAILBOX}::test_mailbox_post_ok"],
    # Closing.
    "An agent can close by itself once it has settled.": [
        f"{CLOSING}::test_an_agent_that_closes_by_itself_is_closed_once_it_has_settled"
    ],
    "A closed agent can be read by its id; lists leave it and its session out.": [
        f"{AGENT}::test_agent_close_ok",
        f"{AGENT}::test_agent_list_ok",
        f"{SESSION}::test_session_list_ok_children",
    ],
    "The end of a parent's run closes the agents that depend on it.": [
        f"{CLOSING}::test_agents_of_a_failed_run_have_failed",
        f"{CLOSING}::test_agents_of_a_cancelled_run_are_closed",
    ],
    # Skills.
    "Skills are found in configured roots, trusted workspaces, the home and the user's directories.": [
        f"{BUILD}::test_roots_and_precedence",
        f"{HOOK}::test_skills_of_a_workspace_need_its_trust",
    ],
    "A skill is a SKILL.md with optional metadata: tools, context, profile, route and model.": [
        f"{TEXT}::test_all_fields",
        f"{BUILD}::test_a_public_collection_loads_unchanged",
    ],
    "An inline skill becomes part of the session, and stays across restarts.": [
        f"{HOOK}::test_use_skill_returns_the_instructions",
        f"{SKILLS}::test_an_agent_uses_an_inline_skill",
    ],
    "A fork skill is carried out by a child.": [f"{HOOK}::test_a_fork_returns_the_output_of_a_new_agent"],
    "The result of a fork has the child's ids, its first run, its state and its final output.": [
        f"{HOOK}::test_a_fork_returns_the_output_of_a_new_agent"
    ],
    "A persona's default skills are frozen in the binding, and are active beside the session's own.": [
        f"{HOOK}::test_default_skills_of_a_persona",
        f"{HOOK}::test_the_sessions_own_skill_replaces_a_default",
    ],
    "A changed or deleted persona reaches no session that is bound.": [
        f"{PERSONA}::test_persona_update_ok",
        f"{PERSONA}::test_persona_delete_ok",
    ],
    "Skills of a session change no persona.": [f"{HOOK}::test_the_sessions_own_skill_replaces_a_default"],
    "The effective scope hides skills from the prompt, the tools, and the active ones.": [
        f"{HOOK}::test_the_scope_filters_everything",
        f"{SKILL}::test_session_skills_ok",
    ],
    "The context of a session lists the skills that it sees.": [f"{CONTEXT}::test_session_memory_context_ok"],
    "The prompt lists the skills that can be used, and has the text of active ones.": [
        f"{HOOK}::test_available_skills_are_listed",
        f"{HOOK}::test_a_clients_activation_is_in_the_instructions",
    ],
    "Agents find and use skills by tools.": [
        f"{HOOK}::test_list_skills",
        f"{HOOK}::test_use_skill_returns_the_instructions",
    ],
    "The daemon's catalogue and a session's skills are two lists.": [
        f"{SKILL}::test_skill_list_ok",
        f"{SKILL}::test_session_skills_ok",
    ],
    "A skill can limit tools, and its limits are enforced.": [
        f"{HOOK}::test_the_tools_of_active_skills_are_enforced",
        f"{SKILLS}::test_patterns_of_a_skill_are_enforced",
    ],
    # Bad input and bad days.
    "No session is its own ancestor; roles and agents that do not exist are refused by their field.": [
        f"{AGENTS}::test_bad_requests_name_their_field",
        "kheishd/objects/talk/test_bounds.py::test_an_unknown_profile_has_no_tools",
    ],
    "An agent of another tree does not exist for an agent.": [
        f"{TREE}::test_an_agent_reaches_its_own_tree_only",
        f"{DELEGATION}::test_agents_of_another_tree_and_above_are_out_of_reach",
    ],
    "A worktree overwrites nothing, and follows no link in its place.": [
        f"{WORKTREES}::test_nothing_is_overwritten",
        f"{WORKTREES}::test_a_link_in_place_of_the_directory_is_not_followed",
    ],
    "Allowed tools that the parent lacks are refused.": [
        f"{AGENTS}::test_bad_requests_name_their_field",
        f"{SCOPE}::test_a_child_that_requests_more_is_refused",
    ],
    "Bad skills are warnings with file and line, and the others are used.": [
        f"{BUILD}::test_a_bad_file_is_one_warning",
        f"{BUILD}::test_limits_of_a_scan",
        f"{TEXT}::test_bad_files",
    ],
    "Mail to a closed agent is refused, and so is mail that a full mailbox cannot hold.": [
        f"{MAILBOX}::test_mailbox_post_agent_already_closed",
        f"{MAILBOX}::test_mailbox_post_mailbox_full",
    ],
    "An AGENTS.md is read up to a limit, and never from outside the trusted root.": [
        f"{AGENTS_FILES}::test_a_huge_file_is_cut_visibly",
        f"{AGENTS_FILES}::test_a_link_out_of_the_root_is_not_read",
    ],
    "A goal whose judge never says done ends.": [
        f"{GOALS}::test_a_judge_that_never_says_done_ends_by_max_continuations",
        f"{GOALS}::test_the_token_budget_ends_it",
    ],
    "A daemon that dies between a child's end and its report reports it once.": [
        f"{LAWS}::test_a_restart_at_any_point_changes_nothing",
        f"{DELIVERY}::test_a_restart_neither_loses_nor_repeats",
    ],
    "Two clients that vote at once are one after the other.": [
        f"{AUDIENCE}::test_two_clients_that_vote_at_once_are_one_after_the_other"
    ],
    "What is used and reserved below a session is at most what it was given.": [
        f"{BUDGET}::Budgets",
        f"{LAWS}::Forest",
    ],
    # The event bus.
    "A publication is durable and journaled, and published once for a key.": [
        f"{EVENT}::test_event_publish_ok"
    ],
    "Each matching trigger gets an event exactly once, in order, over a crash at any commit.": [
        f"{BUS}::test_each_event_is_delivered_once_over_a_crash_at_any_commit",
        f"{EVENTS}::test_an_event_wakes_agents_over_a_kill",
    ],
    "The listeners of a source are those of the naive definition.": [
        f"{EVENT_RECORDS}::test_listeners_are_those_of_the_naive_definition"
    ],
    "A trigger that fires once ends with a delivery, not before.": [
        f"{BUS}::test_once",
        f"{BUS}::test_a_busy_target_is_tried_again",
    ],
    "The end of every run is an event where somebody wants it, whatever its outcome; not that of a guest.": [
        f"{EVENT}::test_ends_of_runs_are_published",
        f"{EVENT}::test_unwatched_runs_publish_nothing",
    ],
    "A loop of events stops and says so.": [f"{BUS}::test_two_agents_that_wake_each_other_stop"],
    "No one publishes as an agent, and no agent as another one.": [
        f"{EVENT}::test_event_publish_event_source_reserved",
        f"{EVENT_TOOLS}::test_an_agent_publishes_under_its_own_name",
    ],
    "Connections follow events live.": [f"{EVENT}::test_event_subscribe_ok"],
    "A run waits for an event as a row, over restarts, and misses none between two waits.": [
        f"{EVENT_TOOLS}::test_a_wait_is_a_row",
        f"{EVENT_TOOLS}::test_a_wait_survives_a_restart",
        f"{EVENT_TOOLS}::test_no_event_between_two_waits_is_lost",
    ],
    "Bad rows of events/subscriptions.toml change nothing.": [f"{BUS}::test_triggers_of_the_file"],
}
"""Each promise, with the tests that would fail if it were broken."""


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the functions and classes of a test file."""
    tree = ast.parse((ROOT / "tests" / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def test_every_promise_has_its_tests() -> None:
    """A test that is renamed or removed takes its promises along, or this fails."""
    missing = [
        f"{promise} {test}"
        for promise, tests in PROMISES.items()
        for test in tests
        if test.partition("::")[2] not in names_in(test.partition("::")[0])
    ]
    assert not missing, "promises without their tests:\n" + "\n".join(missing)
    assert all(PROMISES.values())
