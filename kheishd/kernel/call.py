"""What a handler gets, and how a module says what it handles.

A module in ``objects`` exports ``HANDLERS``, a tuple of the values that the three decorators make:

* ``@query(row)`` on ``def f(call, params) -> result``: answered inline from a snapshot, never waits.
* ``@mutation(row, prepare=..., follow=...)`` on ``def f(tx, call, plan) -> result``: runs as one
  transaction on the writer thread. ``prepare(call, params) -> plan`` runs before on the loop (validation,
  ids, hashing; may refuse); without it the plan is the params. ``follow(call, params, result) -> result``
  is async and runs after the commit, only if ``follows(params)`` says so: waiting, streaming.
* ``@control(row)`` on ``def f(call, params) -> result`` or ``async def``: acts on the running daemon.

The dispatcher does authorisation by scope, idempotency keys and ``check`` for all of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kheishd.records.writer import Origin
from protocol.errors.conversation import SenderForbidden
from protocol.errors.definition import AgentForbidden
from protocol.errors.token import ScopeMissing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kheishd.kernel.live import Live
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.services import Services
    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction
    from protocol.objects.daemon import DaemonStatus
    from protocol.objects.journal import Filter, Subscribed
    from protocol.rpc.method import AnyMethod, Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, and what that allows. ``None`` covers every name, an empty set none."""

    principal: str
    scopes: frozenset[Scope]
    agents: frozenset[str] | None = None
    senders: frozenset[str] | None = None
    token_id: str | None = None

    def need(self, scope: Scope | None) -> None:
        """Errors: ScopeMissing unless the caller holds ``scope``."""
        if scope is not None and scope not in self.scopes:
            raise ScopeMissing(f"this needs the scope '{scope}', which the caller does not have", hint=scope)

    def need_agent(self, agent: str, field: str = "$.params.agent") -> None:
        """Errors: AgentForbidden unless the caller may speak with and read this agent."""
        if self.agents is not None and agent not in self.agents:
            raise AgentForbidden(f"the token does not cover the agent '{agent}'", field=field)

    def need_sender(self, sender: str | None) -> None:
        """Errors: SenderForbidden unless the caller may speak as and read this sender."""
        if self.senders is not None and sender not in self.senders:
            raise SenderForbidden(f"the token does not cover the sender '{sender}'", field="$.params.sender")

    def covers_agent(self, agent: str) -> bool:
        """Whether the caller may speak with and read this agent."""
        return self.agents is None or agent in self.agents

    def covers(self, agent: str, sender: str | None) -> bool:
        """Whether the caller may read what belongs to this agent and sender."""
        return self.covers_agent(agent) and (self.senders is None or sender in self.senders)

    @property
    def unlimited(self) -> bool:
        """Whether every agent and sender is covered."""
        return self.agents is None and self.senders is None


class Connection(Protocol):
    """What a handler may ask of the connection that the request came by."""

    def subscribe(
        self,
        filter_: Filter,
        after: int | None,
        *,
        deltas: bool,
        subscription: str | None = None,
        until_settled: str | None = None,
    ) -> Subscribed:
        """Start a subscription; with ``until_settled`` (a run id) it ends once that run has settled."""
        ...

    def unsubscribe(self, subscription: str) -> None:
        """Errors: SubscriptionNotFound."""
        ...

    def cancel_request(self, request_id: str | int | float | None) -> None:
        """Errors: RequestNotFound."""
        ...


class Control(Protocol):
    """What a handler may ask of the running daemon."""

    async def reload(self) -> tuple[int, list[str]]:
        """Build a new runtime: its generation and warnings. Errors: ConfigInvalid."""
        ...

    def shutdown(self, drain_s: float | None) -> None:
        """Begin to stop."""
        ...

    def draining(self) -> bool:
        """Whether the daemon is stopping."""
        ...

    def status(self) -> DaemonStatus:
        """How the daemon is."""
        ...

    def config_path(self) -> str | None:
        """The configuration file read, if there is one."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way through a handler."""

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


@dataclass(frozen=True, slots=True)
class Query:
    """A row and the function that answers it from a snapshot."""

    row: AnyMethod
    answer: Callable[[Call, Any], Any]


@dataclass(frozen=True, slots=True)
class Mutate:
    """A row, what is done before, inside and after its transaction."""

    row: AnyMethod
    apply: Callable[[Transaction, Call, Any], Any]
    prepare: Callable[[Call, Any], Any] | None = None
    follow: Callable[[Call, Any, Any], Awaitable[Any]] | None = None
    follows: Callable[[Any], bool] | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """A row and the function, sync or async, that acts on the daemon or the connection."""

    row: AnyMethod
    act: Callable[[Call, Any], Any]


Handler = Query | Mutate | Act


def query(row: AnyMethod) -> Callable[[Callable[[Call, Any], Any]], Query]:
    """Decorate the function that answers a query."""
    return lambda function: Query(row, function)


def mutation(
    row: AnyMethod,
    *,
    prepare: Callable[[Call, Any], Any] | None = None,
    follow: Callable[[Call, Any, Any], Awaitable[Any]] | None = None,
    follows: Callable[[Any], bool] | None = None,
) -> Callable[[Callable[[Transaction, Call, Any], Any]], Mutate]:
    """Decorate the transaction function of a mutation."""
    return lambda function: Mutate(row, function, prepare, follow, follows)


def control(row: AnyMethod) -> Callable[[Callable[[Call, Any], Any]], Act]:
    """Decorate the function that performs a control."""
    return lambda function: Act(row, function)


def origin_of(call: Call, on_behalf_of: str | None = None) -> Origin:
    """Return the origin of the events that a call causes."""
    return Origin(call.caller.principal, on_behalf_of, call.request_id)
