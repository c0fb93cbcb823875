"""Refusals about approvals."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Forbidden, Gone, NotFound, Unprocessable


class ApprovalNotFound(NotFound, reason="approval_not_found"):
    """No approval has that id; approval.list shows the pending ones."""


class ApprovalAlreadyResolved(Conflict, reason="approval_already_resolved"):
    """The approval was already answered; the first answer counts."""


class ApprovalExpired(Gone, reason="approval_expired"):
    """Nobody answered in time and the call was denied; the agent may ask again."""


class NotInAudience(Forbidden, reason="not_in_audience"):
    """Only the audience of this request may answer it; its field 'audience' names the people."""


class AlreadyVoted(Conflict, reason="already_voted"):
    """This person has voted already; the first vote counts and cannot be changed."""


class ToolInputInvalid(Unprocessable, reason="tool_input_invalid"):
    """The changed input does not match the tool's schema."""
