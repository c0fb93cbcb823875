"""The context of a request's handler, and the decorators that declare handlers.

A module in ``objects`` exports ``HANDLERS``, a tuple of handlers made by three decorators:

* ``@query(row)`` on ``def f(call, params) -> result``: answers at once, from a snapshot.
* ``@mutation(row, prepare=..., follow=...)`` on ``def f(tx, call, plan) -> result``: runs as one transaction
  on the writer thread. ``prepare(call, params) -> plan`` runs before it on the loop (validation, ids,
  hashing; may refuse); without it the plan is the params. ``on_commit(call, result)`` runs on the loop right
  after the commit; it must not block. ``on_end(call)`` does so however the transaction ended, also when its
  result is that of an earlier request: it tidies up after a ``prepare`` with effects. A dry run has none.
  ``follow(call, params, result) -> result`` is async and runs then
  (waiting, streaming), unless ``follows(params)`` is false. ``mask(call, params) -> params`` runs after
  ``prepare``: it removes secrets from the params whose digest an idempotency key stores.
* ``@control(row)`` on ``def f(call, params) -> result`` or ``async def``: acts on the running daemon.

The dispatcher applies scopes, idempotency keys and ``check`` to all handlers alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from kheishd.records.writer import Origin
from protocol.errors.conversation import SenderForbidden
from protocol.errors.definition import AgentForbidden
from protocol.errors.token import ScopeMissing
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kheishd.kernel.live import Live
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.services import Services
    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction
    from protocol.export import ExportEnd
    from protocol.objects.daemon import DaemonStatus
    from protocol.objects.event import EventSubscribe
    from protocol.objects.journal import Filter, Subscribed
    from protocol.rpc.method import AnyMethod, Scope
    from protocol.transcript import DeclaredOrigin


class Caller(Value, frozen=True):
    """The party that makes a request, and its rights. ``None`` allows every name, an empty set none.

    ``origin`` is the origin of every input that the caller sends; None: the caller may declare one.
    """

    principal: str
    scopes: frozenset[Scope]
    agents: frozenset[str] | None = None
    senders: frozenset[str] | None = None
    token_id: str | None = None
    origin: DeclaredOrigin | None = None

    def require_scope(self, scope: Scope | None) -> None:
        """Require a scope; None requires nothing. Errors: ScopeMissing."""
        if scope is not None and scope not in self.scopes:
            raise ScopeMissing(f"this needs the scope '{scope}', which the caller does not have", hint=scope)

    def require_agent(self, agent: str, field: str = "$.params.agent") -> None:
        """Require the right to write to and read an agent. Errors: AgentForbidden."""
        if self.agents is not None and agent not in self.agents:
            raise AgentForbidden(f"the token does not cover the agent '{agent}'", field=field)

    def require_sender(self, sender: str | None, field: str = "$.params.sender") -> None:
        """Require the right to write as and read a sender. Errors: SenderForbidden."""
        if self.senders is not None and sender not in self.senders:
            raise SenderForbidden(f"the token does not cover the sender '{sender}'", field=field)

    def may_read_agent(self, agent: str) -> bool:
        """Whether the caller may write to and read an agent."""
        return self.agents is None or agent in self.agents

    def may_read(self, agent: str, sender: str | None) -> bool:
        """Whether the caller may read the conversation of an agent and a sender."""
        return self.may_read_agent(agent) and (self.senders is None or sender in self.senders)

    @property
    def is_unrestricted(self) -> bool:
        """Whether the caller may read every agent and every sender."""
        return self.agents is None and self.senders is None


class Connection(Protocol):
    """The connection of a request."""

    def subscribe(
        self,
        filter_: Filter | EventSubscribe,
        after: int | None,
        *,
        epoch: str | None = None,
        deltas: bool,
        subscription: str | None = None,
        until_settled: str | None = None,
    ) -> Subscribed:
        """Start a subscription; with ``until_settled`` (a run id) it ends once that run has settled."""
        ...

    def unsubscribe(self, subscription: str) -> None:
        """End a subscription. Errors: SubscriptionNotFound."""
        ...

    def cancel_request(self, request_id: str | int | float | None) -> None:
        """Cancel a request of this connection. Errors: RequestNotFound."""
        ...


class Control(Protocol):
    """The running daemon."""

    async def reload(self) -> tuple[int, list[str]]:
        """Build a new runtime; return its generation and its warnings. Errors: ConfigInvalid."""
        ...

    def sign_export(self, end: ExportEnd) -> ExportEnd:
        """Sign the end of an export by the key of the home. Errors: ExportKeyUnusable."""
        ...

    def export_key(self) -> str:
        """Return the public key of the home. Errors: ExportKeyUnusable."""
        ...

    def shutdown(self, drain_s: float | None) -> None:
        """Begin to stop; runs in flight may take ``drain_s``, or the configured time, to finish."""
        ...

    def draining(self) -> bool:
        """Whether the daemon is stopping."""
        ...

    def status(self) -> DaemonStatus:
        """Return the status of the daemon."""
        ...

    def config_path(self) -> str | None:
        """Return the path of the configuration file; None without one."""
        ...


class Call(Value, frozen=True):
    """The context of one request. ``runtime`` is the current one as of the request."""

    caller: Caller
    services: Services
    runtime: Runtime
    control: Control
    connection: Connection
    request_id: str | int | None
    now_ms: int

    @property
    def state(self) -> State:
        """The store."""
        return self.services.state

    @property
    def live(self) -> Live:
        """The text being written."""
        return self.services.live


class Query(Value, frozen=True):
    """The handler of a query."""

    row: AnyMethod
    answer: Callable[[Call, Any], Any]


class Mutate(Value, frozen=True):
    """The handler of a mutation: its functions before, inside and after the transaction."""

    row: AnyMethod
    apply: Callable[[Transaction, Call, Any], Any]
    prepare: Callable[[Call, Any], Any] | None = None
    follow: Callable[[Call, Any, Any], Awaitable[Any]] | None = None
    follows: Callable[[Any], bool] | None = None
    on_commit: Callable[[Call, Any], None] | None = None
    mask: Callable[[Call, Any], Any] | None = None
    on_end: Callable[[Call], None] | None = None

    def has_follow_up(self, params: Any) -> bool:
        """Whether ``follow`` runs after the commit of a request with these params."""
        return self.follow is not None and (self.follows is None or self.follows(params))


class Act(Value, frozen=True):
    """The handler of a control method; its function may be async."""

    row: AnyMethod
    act: Callable[[Call, Any], Any]


Handler = Query | Mutate | Act


def query(row: AnyMethod) -> Callable[[Callable[[Call, Any], Any]], Query]:
    """Declare a function as the handler of a query."""
    return lambda function: Query(row, function)


def mutation(
    row: AnyMethod,
    *,
    prepare: Callable[[Call, Any], Any] | None = None,
    follow: Callable[[Call, Any, Any], Awaitable[Any]] | None = None,
    follows: Callable[[Any], bool] | None = None,
    on_commit: Callable[[Call, Any], None] | None = None,
    mask: Callable[[Call, Any], Any] | None = None,
    on_end: Callable[[Call], None] | None = None,
) -> Callable[[Callable[[Transaction, Call, Any], Any]], Mutate]:
    """Declare a transaction function as the handler of a mutation."""
    return lambda function: Mutate(row, function, prepare, follow, follows, on_commit, mask, on_end)


def control(row: AnyMethod) -> Callable[[Callable[[Call, Any], Any]], Act]:
    """Declare a function as the handler of a control method."""
    return lambda function: Act(row, function)


def origin_of(call: Call, on_behalf_of: str | None = None) -> Origin:
    """Return the origin of the events that a call causes."""
    return Origin(call.caller.principal, on_behalf_of, call.request_id)
