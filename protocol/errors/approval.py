"""Refusals about approvals."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Gone, NotFound, Refused


class ApprovalNotFound(NotFound, reason="approval_not_found"):
    """No approval has that id; 'kheishctl approval list' shows those that wait."""


class ApprovalAlreadyResolved(Conflict, reason="approval_already_resolved"):
    """Somebody has answered already; the first answer counts."""


class ApprovalExpired(Gone, reason="approval_expired"):
    """Nobody answered in time and the call was denied; the agent may ask again."""


class ToolInputInvalid(Refused, reason="tool_input_invalid"):
    """The changed input does not fit the tool's schema."""
