"""Hints after a refusal: the command that helps, for each refusal reason.

The daemon's messages name no commands of kheishctl, because every client shows them.
"""

HINTS: dict[str, tuple[str, ...]] = {
    "agent_already_closed": ("agent", "list", "--closed"),
    "agent_not_found": ("definition", "list"),
    "answer_invalid": ("question", "show", "QUESTION"),
    "approval_not_found": ("approval", "list"),
    "artifact_not_found": ("run", "debug", "RUN"),
    "conversation_not_found": ("conversation", "list"),
    "debug_not_found": ("send", "--debug", "redacted"),
    "goal_not_found": ("goal", "set", "SESSION", "OBJECTIVE"),
    "grant_not_found": ("permission", "list"),
    "indoubt_not_found": ("indoubt", "list"),
    "input_contract_violated": ("session", "show", "SESSION"),
    "internal_error": ("daemon", "logs"),
    "mail_not_found": ("mailbox", "list", "AGENT", "--state", "any"),
    "member_forbidden": ("definition", "show", "AGENT"),
    "method_not_found": ("call", "rpc.discover"),
    "no_such_agent": ("agent", "list", "--closed"),
    "persona_not_found": ("persona", "list"),
    "question_not_found": ("question", "list"),
    "root_not_found": ("workspace", "list"),
    "route_not_found": ("route", "list"),
    "run_not_found": ("run", "list"),
    "session_busy": ("run", "list", "--active"),
    "session_not_found": ("session", "list"),
    "skill_not_found": ("skill", "list"),
    "skills_too_large": ("skill", "visible", "SESSION"),
    "spawn_conflict": ("agent", "list"),
    "spawn_limit": ("agent", "list"),
    "storage_failed": ("daemon", "logs"),
    "storage_full": ("status",),
    "store_damaged": ("daemon", "doctor", "--repair"),
    "task_not_found": ("task", "list"),
    "token_invalid": ("token", "create"),
    "token_limit": ("token", "list"),
    "token_missing": ("token", "create"),
    "token_not_found": ("token", "list"),
}
"""The command for each reason, as its arguments; words in capitals are placeholders."""
