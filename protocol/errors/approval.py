"""Refusals about approvals."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Gone, NotFound, Unprocessable


class ApprovalNotFound(NotFound, reason="approval_not_found"):
    """No approval has that id; approval.list shows the pending ones."""


class ApprovalAlreadyResolved(Conflict, reason="approval_already_resolved"):
    """The approval was already answered; the first answer counts."""


class ApprovalExpired(Gone, reason="approval_expired"):
    """Nobody answered in time and the call was denied; the agent may ask again."""


class ToolInputInvalid(Unprocessable, reason="tool_input_invalid"):
    """The changed input does not match the tool's schema."""
