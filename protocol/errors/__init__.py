"""Refusals, by object or area. Importing this package registers every one of them in ``REFUSALS``."""

from protocol.errors import (
    approval,
    conversation,
    daemon,
    definition,
    indoubt,
    journal,
    permission,
    question,
    refusal,
    route,
    rpc,
    run,
    session,
    store,
    task,
    token,
)

__all__ = [
    "approval",
    "conversation",
    "daemon",
    "definition",
    "indoubt",
    "journal",
    "permission",
    "question",
    "refusal",
    "route",
    "rpc",
    "run",
    "session",
    "store",
    "task",
    "token",
]
