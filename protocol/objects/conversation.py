"""A conversation: the pair (agent, sender), which is the whole address of a session."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from protocol.errors.conversation import ConversationNotFound, SenderForbidden, SenderInvalid
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.persona import PersonaNotFound
from protocol.errors.route import RouteForbidden, RouteNotFound, RouteNotReady
from protocol.errors.rpc import NotSupported
from protocol.errors.run import NothingToSteer
from protocol.errors.session import (
    ContractInvalid,
    InputContractViolated,
    InputTooLarge,
    QueueFull,
    SessionAlreadyEnded,
    SessionBusy,
    SessionNotFound,
    WorkspaceForbidden,
    WorkspaceMissing,
)
from protocol.errors.store import StorageFull
from protocol.errors.token import InputOriginForbidden
from protocol.ids import Id
from protocol.limits.names import MAX_AGENT_BYTES, MAX_REASON_BYTES, MAX_SENDER_BYTES
from protocol.objects.run import (
    CompactParams,
    CompactResult,
    PathName,
    SendParams,
    SendResult,
    SteerParams,
    SteerResult,
)
from protocol.objects.session import History, Order, Session
from protocol.rpc.method import Method, Mutation, Page, Params

DEFAULT_SENDER = "user"

Agent = Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_BYTES)]
Sender = Annotated[str, Meta(min_length=1, max_length=MAX_SENDER_BYTES)]


class Conversation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address and the session it means now.

    ``workspace`` is the directory of the session's next run; null if that is no longer allowed.
    """

    agent: str
    sender: str
    session_id: Id
    bound_at_ms: int
    session: Session | None = None
    workspace: str | None = None


class ConversationList(Struct, frozen=True):
    """A page of conversations, by agent and sender."""

    conversations: list[Conversation]
    next: str | None


class ConversationSend(SendParams, frozen=True, kw_only=True):
    """Params of ``conversation.send``. Without ``agent``, the configured default agent is meant.

    ``workspace`` is the conversation's directory from this message on. ``cwd`` is the sender's own directory:
    a new conversation works there if that is allowed, and its agent has no directory.
    """

    agent: Agent | None = None
    sender: Sender = DEFAULT_SENDER
    guest: Agent | None = None
    workspace: PathName | None = None
    cwd: PathName | None = None
    reply_targets: list[dict[str, Any]] | None = None


class ConversationSteer(SteerParams, frozen=True, kw_only=True):
    """Params of ``conversation.steer``."""

    agent: Agent | None = None
    sender: Sender = DEFAULT_SENDER


class ConversationCompact(CompactParams, frozen=True, kw_only=True):
    """Params of ``conversation.compact``."""

    agent: Agent | None = None
    sender: Sender = DEFAULT_SENDER


class ConversationRef(Params, frozen=True, kw_only=True):
    """Params that name a conversation."""

    agent: Agent | None = None
    sender: Sender = DEFAULT_SENDER


class ConversationListParams(Page, frozen=True, kw_only=True):
    """Params of ``conversation.list``."""

    agent: str | None = None
    sender: str | None = None


class ConversationHistoryParams(Page, frozen=True, kw_only=True):
    """Params of ``conversation.history``."""

    agent: Agent | None = None
    sender: Sender = DEFAULT_SENDER
    order: Order = "oldest"


class ConversationCancel(Mutation, frozen=True, kw_only=True):
    """Params of ``conversation.cancel``."""

    agent: Agent | None = None
    sender: Sender = DEFAULT_SENDER
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


class CancelResult(Struct, frozen=True, omit_defaults=True):
    """Whether a run was stopped, and which; false when none was in flight."""

    cancelled: bool
    session_id: str
    run_id: str | None = None


class ConversationReset(Mutation, frozen=True, kw_only=True):
    """Params of ``conversation.reset``."""

    agent: Agent | None = None
    sender: Sender = DEFAULT_SENDER


class ConversationResume(Mutation, frozen=True, kw_only=True):
    """Params of ``conversation.resume``: a session of the same agent and sender, such as a fork of one."""

    session_id: Id
    agent: Agent | None = None
    sender: Sender = DEFAULT_SENDER


class ConversationResetResult(Struct, frozen=True):
    """The session that the address meant until now; it stays readable."""

    agent: str
    sender: str
    session_id: str


_ADDRESS = (AgentForbidden, SenderForbidden, SenderInvalid, ConversationNotFound)

SEND = Method(
    "conversation.send",
    "mutation",
    ConversationSend,
    SendResult,
    "Send a message to an agent; sending to the same pair (agent, sender) again resumes the conversation.",
    scope="converse",
    errors=(
        AgentNotFound,
        AgentForbidden,
        SenderForbidden,
        SenderInvalid,
        PersonaNotFound,
        InputOriginForbidden,
        RouteNotFound,
        RouteNotReady,
        RouteForbidden,
        InputTooLarge,
        ContractInvalid,
        InputContractViolated,
        QueueFull,
        SessionBusy,
        NotSupported,
        WorkspaceForbidden,
        WorkspaceMissing,
        StorageFull,
    ),
    uncompared=("wait", "stream", "timeout_s", "cwd"),
)
STEER = Method(
    "conversation.steer",
    "mutation",
    ConversationSteer,
    SteerResult,
    "Add a message to the run in flight; the model reads it before its next answer.",
    scope="converse",
    errors=(
        *_ADDRESS,
        InputOriginForbidden,
        NothingToSteer,
        InputTooLarge,
        InputContractViolated,
        QueueFull,
        StorageFull,
    ),
)
LIST = Method(
    "conversation.list",
    "query",
    ConversationListParams,
    ConversationList,
    "List conversations, by agent and sender.",
)
GET = Method(
    "conversation.get",
    "query",
    ConversationRef,
    Conversation,
    "Show the session of an agent and a sender.",
    errors=_ADDRESS,
)
HISTORY = Method(
    "conversation.history",
    "query",
    ConversationHistoryParams,
    History,
    "Read a conversation's messages.",
    errors=_ADDRESS,
)
CANCEL = Method(
    "conversation.cancel",
    "mutation",
    ConversationCancel,
    CancelResult,
    "Cancel the run in flight and keep the conversation. Answers when it has stopped.",
    scope="converse",
    errors=(*_ADDRESS, StorageFull),
    while_draining=True,
)
COMPACT = Method(
    "conversation.compact",
    "mutation",
    ConversationCompact,
    CompactResult,
    "Summarize the conversation so far; from now on the model reads the summary instead. It must be idle.",
    scope="converse",
    errors=(
        *_ADDRESS,
        SessionAlreadyEnded,
        SessionBusy,
        AgentNotFound,
        RouteNotFound,
        RouteNotReady,
        RouteForbidden,
        WorkspaceForbidden,
        StorageFull,
    ),
    uncompared=("wait", "timeout_s"),
)
RESET = Method(
    "conversation.reset",
    "mutation",
    ConversationReset,
    ConversationResetResult,
    "Start over: the next send creates a new session; the old one stays readable.",
    scope="converse",
    errors=(*_ADDRESS, SessionBusy, StorageFull),
)
RESUME = Method(
    "conversation.resume",
    "mutation",
    ConversationResume,
    Conversation,
    "Continue an earlier session, or a fork: from now on the address means it. The other one stays readable.",
    scope="converse",
    errors=(
        AgentForbidden,
        SenderForbidden,
        SenderInvalid,
        SessionNotFound,
        SessionAlreadyEnded,
        SessionBusy,
        StorageFull,
    ),
)

METHODS = (SEND, STEER, LIST, GET, HISTORY, CANCEL, COMPACT, RESET, RESUME)
