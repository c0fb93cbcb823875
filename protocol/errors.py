"""Every refusal, declared once: its reason, its number, whether trying again can help.

``reason`` is the stable name that programs compare; ``message`` is for people and says what to do
next. A refusal is raised where a rule says no and becomes a JSON-RPC error at the border.
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct

REFUSALS: dict[str, type[Refusal]] = {}
"""Reason to class. Filled while this module is imported and never afterwards."""


class ErrorData(Struct, frozen=True, omit_defaults=True):
    """What ``error.data`` holds on the wire."""

    reason: str
    retryable: bool
    retry_after_ms: int | None = None
    field: str | None = None
    hint: str | None = None


class Refusal(Exception):
    """A request that a rule turned down. The docstring of each class is its default message."""

    number: ClassVar[int] = -32603
    reason: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, *, reason: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if reason is not None:
            assert reason not in REFUSALS, f"two refusals are called {reason}"
            cls.reason = reason
            REFUSALS[reason] = cls

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        self.message = message or " ".join((type(self).__doc__ or "Refused.").split())
        self.field = field
        self.hint = hint
        self.retry_after_ms = retry_after_ms
        super().__init__(self.message)

    def data(self) -> ErrorData:
        """The refusal as ``error.data``."""
        return ErrorData(self.reason, self.retryable, self.retry_after_ms, self.field, self.hint)


# JSON-RPC's own.


class ParseError(Refusal, reason="parse_error"):
    """The message is not JSON in UTF-8; send one JSON-RPC 2.0 message or batch per line."""

    number = -32700


class InvalidRequest(Refusal, reason="invalid_request"):
    """The message is JSON but not a JSON-RPC 2.0 request."""

    number = -32600


class MethodNotFound(Refusal, reason="method_not_found"):
    """There is no such method; rpc.discover lists those there are."""

    number = -32601


class InvalidParams(Refusal, reason="invalid_params"):
    """The params do not have the method's shape; ``field`` names the path."""

    number = -32602


class InternalError(Refusal, reason="internal_error"):
    """Something failed inside the daemon; its log has the details."""


# Our own, by kind.


class Unauthenticated(Refusal):
    """Who is asking is not known."""

    number = 1401


class Forbidden(Refusal):
    """The caller may not do this."""

    number = 1403


class NotFound(Refusal):
    """There is no such thing."""

    number = 1404


class Conflict(Refusal):
    """The present state does not allow this."""

    number = 1409


class Gone(Refusal):
    """It was here and is no longer."""

    number = 1410


class TooLarge(Refusal):
    """It is over a limit."""

    number = 1413


class Refused(Refusal):
    """Well-formed, but a rule says no."""

    number = 1422


class TooMany(Refusal):
    """Too many at once; try again later."""

    number = 1429
    retryable = True


class Cancelled(Refusal):
    """The caller took the request back."""

    number = 1499


class NotNow(Refusal):
    """Not possible at the moment; try again later."""

    number = 1503
    retryable = True


class TokenMissing(Unauthenticated, reason="token_missing"):
    """This listener needs a bearer token; make one with 'kheishctl token create'."""


class TokenInvalid(Unauthenticated, reason="token_invalid"):
    """The bearer token is unknown, expired or revoked; make one with 'kheishctl token create'."""


class PeerUnknown(Unauthenticated, reason="peer_unknown"):
    """This socket serves only the daemon's own user; ask its operator for a grant on a shared one."""


class ScopeMissing(Forbidden, reason="scope_missing"):
    """The caller lacks the scope this method needs."""


class AgentForbidden(Forbidden, reason="agent_forbidden"):
    """The caller's token does not cover this agent."""


class SenderForbidden(Forbidden, reason="sender_forbidden"):
    """The caller's token does not cover this sender."""


class WorkspaceForbidden(Forbidden, reason="workspace_forbidden"):
    """Agents may not work in that directory; leave it out, or choose one within [workspace] root."""


class OriginForbidden(Forbidden, reason="origin_forbidden"):
    """Requests from web pages of other origins are refused."""


class AgentNotFound(NotFound, reason="agent_not_found"):
    """No agent has that name; 'kheishctl definition list' shows those there are."""


class SessionNotFound(NotFound, reason="session_not_found"):
    """No session has that id; 'kheishctl session list' shows those there are."""


class ConversationNotFound(NotFound, reason="conversation_not_found"):
    """That agent and sender have no conversation; send something to start one."""


class RunNotFound(NotFound, reason="run_not_found"):
    """No run has that id; 'kheishctl run list' shows those there are."""


class RouteNotFound(NotFound, reason="route_not_found"):
    """No route has that id; 'kheishctl route list' shows those there are."""


class TokenNotFound(NotFound, reason="token_not_found"):
    """No token has that id; 'kheishctl token list' shows those there are."""


class SubscriptionNotFound(NotFound, reason="subscription_not_found"):
    """This connection has no subscription of that id."""


class RequestNotFound(NotFound, reason="request_not_found"):
    """This connection has no open request of that id; perhaps it was already answered."""


class ApprovalNotFound(NotFound, reason="approval_not_found"):
    """No approval has that id; 'kheishctl approval list' shows those that wait."""


class QuestionNotFound(NotFound, reason="question_not_found"):
    """No question has that id; 'kheishctl question list' shows those that wait."""


class IndoubtNotFound(NotFound, reason="indoubt_not_found"):
    """No call in doubt has that id; 'kheishctl indoubt list' shows those that are open."""


class GrantNotFound(NotFound, reason="grant_not_found"):
    """No grant has that id there; 'kheishctl permission list' shows those there are."""


class DebugNotFound(NotFound, reason="debug_not_found"):
    """Nothing is kept of that run's model calls; 'kheishctl send --debug redacted' captures those of one."""


class ArtifactNotFound(NotFound, reason="artifact_not_found"):
    """The run has no debug artifact of that id, or has it no more; 'kheishctl run debug RUN' lists them."""


class TaskNotFound(NotFound, reason="task_not_found"):
    """The session has no task of that id; 'kheishctl task list' shows those there are."""


class TaskTitleTaken(Conflict, reason="task_title_taken"):
    """An open task of the session has that title; change that one, or choose another title."""


class TaskEnded(Conflict, reason="task_ended"):
    """The task has ended and no longer changes; create another."""


class TaskRunning(Conflict, reason="task_running"):
    """The task is a shell that runs; it can only be stopped."""


class TaskBlocked(Conflict, reason="task_blocked"):
    """The task waits for others that are not completed."""


class TaskNeeded(Conflict, reason="task_needed"):
    """Open tasks wait for this one; take it out of what they are blocked by first."""


class NothingToSteer(Conflict, reason="nothing_to_steer"):
    """No run is in flight; send the message instead."""


class ApprovalResolved(Conflict, reason="approval_resolved"):
    """Somebody has answered already; the first answer counts."""


class QuestionClosed(Conflict, reason="question_closed"):
    """The question was answered or taken back already."""


class IndoubtSettled(Conflict, reason="indoubt_settled"):
    """Somebody has settled it already."""


class RunAlreadyEnded(Conflict, reason="run_already_ended"):
    """The run has ended; start another or read its journal."""


class SessionExists(Conflict, reason="session_exists"):
    """A session of that id exists with other properties; choose another id."""


class SessionEnded(Conflict, reason="session_ended"):
    """The session was ended and takes no more input; its journal stays readable."""


class SessionBusy(Conflict, reason="session_busy"):
    """The session has runs that have not ended; wait for them or cancel them."""


class IdempotencyConflict(Conflict, reason="idempotency_conflict"):
    """That idempotency key was used with other params; use a fresh key for a new request."""


class AlreadyShown(Conflict, reason="already_shown"):
    """The request was carried out before and its secret is shown only once; make a new one."""


class SubscriptionExists(Conflict, reason="subscription_exists"):
    """This connection has a subscription of that id already; choose another."""


class CursorPruned(Gone, reason="cursor_pruned"):
    """The history before that cursor was pruned; read from the first cursor that is kept."""


class ApprovalExpired(Gone, reason="approval_expired"):
    """Nobody answered in time and the call was denied; the agent may ask again."""


class QuestionExpired(Gone, reason="question_expired"):
    """Nobody answered in time and the run was cancelled."""


class TaskDeleted(Gone, reason="task_deleted"):
    """The task was deleted; create another."""


class MessageTooLarge(TooLarge, reason="message_too_large"):
    """The message is over 16 MiB; send large content as assets."""


class InputTooLarge(TooLarge, reason="input_too_large"):
    """The input is over its limit; send large content as assets."""


class UpdateTooLarge(TooLarge, reason="update_too_large"):
    """The change is over what one transaction may write (256 KiB); split it."""


class Overloaded(TooMany, reason="overloaded"):
    """Too many open requests or subscriptions on this connection; wait for some to end."""


class QueueFull(TooMany, reason="queue_full"):
    """The session has as many runs waiting as it may; wait for some to end or cancel them."""


class TasksFull(TooMany, reason="tasks_full"):
    """There are as many open tasks as there may be; end some, or stop some shells."""


class ScopeWouldWiden(Refused, reason="scope_would_widen"):
    """Rights only ever narrow; ask for no more than what is held."""


class TooDeep(Refused, reason="too_deep"):
    """Sessions nest 16 deep at most; make the new one a child of one further up."""


class AnswerInvalid(Refused, reason="answer_invalid"):
    """The answers do not fit the questions; 'kheishctl question show' lists keys and options."""


class ToolInputInvalid(Refused, reason="tool_input_invalid"):
    """The changed input does not fit the tool's schema."""


class TaskCycle(Refused, reason="task_cycle"):
    """Tasks may not wait for each other in a circle."""


class TaskOutputMissing(Refused, reason="task_output_missing"):
    """A task is completed with its output: say what came of it."""


class NotSupported(Refused, reason="not_supported"):
    """This version of the daemon cannot do that."""


class ContractInvalid(Refused, reason="contract_invalid"):
    """The contract's schema is not one that contracts may have; the message names every problem."""


class InputContractViolated(Refused, reason="input_contract_violated"):
    """The session takes only JSON that fits its input contract; 'kheishctl session get' shows it."""


class SenderInvalid(Refused, reason="sender_invalid"):
    """A sender is 1-128 bytes of printable UTF-8."""


class ConfigInvalid(Refused, reason="config_invalid"):
    """The configuration is not valid; nothing was changed."""


class ImportInvalid(Refused, reason="import_invalid"):
    """The export is damaged or not one of ours; nothing was imported."""


class PathRefused(Refused, reason="path_refused"):
    """That path cannot be used; give an absolute path in an existing directory that is not the store's."""


class RequestCancelled(Cancelled, reason="request_cancelled"):
    """The request was cancelled by its caller."""


class DaemonDraining(NotNow, reason="daemon_draining"):
    """The daemon is stopping and takes no new work; try again when it is back."""


class RouteNotReady(NotNow, reason="route_not_ready"):
    """The route cannot be used now; its credential is missing or it is not configured whole."""


class StorageFull(NotNow, reason="storage_full"):
    """The disk is full; nothing was changed. Reading works; writing resumes when there is room."""

    number = 1507


class StorageFailed(NotNow, reason="storage_failed"):
    """The disk refused a write that could not be taken back; the daemon stops. Its log says more."""

    number = 1507
    retryable = False
