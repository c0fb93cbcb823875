"""A small table of methods, one of each kind, for tests of the dispatcher and the transports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import trio
from msgspec import Meta, Struct

from kheishd.kernel.call import Act, Call, Handler, Mutate, Query
from kheishd.store.tables import META
from protocol.errors.run import RunAlreadyEnded
from protocol.events.daemon import DaemonStopped
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.rpc import MAX_LINE_BYTES
from protocol.rpc.method import Kind, Method, Mutation, Params

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction


class Echo(Params, frozen=True, kw_only=True):
    """Any value, and values of certain types."""

    value: Any = None
    size: Annotated[int, Meta(ge=0)] = 0
    items: list[dict[str, int]] = []


class Named(Params, frozen=True, kw_only=True):
    """A minuend and a subtrahend by name."""

    minuend: int
    subtrahend: int


class Keep(Mutation, frozen=True, kw_only=True):
    """A value to store. ``wait`` does not belong to the compared params."""

    value: str
    extra: dict[str, int] = {}
    fail: bool = False
    wait: bool = False


class Kept(Struct, frozen=True):
    """A stored value with its number, and the number of waits."""

    value: str
    number: int
    waited: int = 0


class Shown(Struct, frozen=True):
    """A value that is returned once."""

    number: int
    secret: str


class Nothing(Params, frozen=True, kw_only=True):
    """No params."""


class Toys:
    """The handlers, with a record of their calls. ``gate`` releases the waiting ones."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.waiting = 0
        self.heard: list[Any] = []
        self.followed = 0
        self.committed: list[str] = []
        self.waited = 0

    def handlers(self) -> list[Handler]:
        """Return a handler of each kind."""
        positional = cast("type[Params]", list[int] | Named)
        anything = cast("type[Params]", Any)
        return [
            Query(
                _row("toy.echo", "query", Echo, Any, scope=None, max_params_bytes=MAX_LINE_BYTES),
                lambda call, params: params,
            ),
            Query(_row("toy.read", "query", Nothing, bool), lambda call, params: True),
            Query(_row("toy.admin", "query", Nothing, bool, scope="admin"), lambda call, params: True),
            Query(_row("toy.broken", "query", Nothing, bool), _broken),
            Query(_row("toy.large", "query", Echo, str), lambda call, params: "x" * params.size),
            Query(_row("subtract", "query", positional, int), _subtract),
            Query(_row("get_data", "query", anything, list[Any]), lambda call, params: ["hello", 5]),
            Query(_row("sum", "query", anything, int), lambda call, params: sum(params)),
            Act(_row("update", "control", anything, Any), self._hear),
            Act(_row("notify_hello", "control", anything, Any), self._hear),
            Act(_row("toy.wait", "control", Echo, Any), self._wait),
            Act(_row("toy.refuse", "control", Nothing, Any), self._refuse),
            Mutate(_row("toy.keep", "mutation", Keep, Kept, uncompared=("wait",)), _keep),
            Mutate(
                _row("toy.follow", "mutation", Keep, Kept, uncompared=("wait",)),
                _keep,
                follow=self._follow,
                follows=lambda params: params.wait,
                on_commit=self._note_commit,
            ),
            Mutate(
                _row("toy.show", "mutation", Keep, Shown, secret="secret"),
                lambda tx, call, plan: Shown(_keep(tx, call, plan).number, f"hidden {plan.value}"),
            ),
            Mutate(
                _row("toy.prepared", "mutation", Keep, Kept),
                lambda tx, call, plan: Kept(plan, 0),
                prepare=_prepare,
            ),
        ]

    def _note_commit(self, call: Call, result: Kept) -> None:
        self.committed.append(result.value)
        if result.value == "fault":
            raise ZeroDivisionError

    def _hear(self, call: Call, params: Any) -> None:
        self.heard.append(params)

    async def _wait(self, call: Call, params: Echo) -> Any:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        return params.value

    async def _refuse(self, call: Call, params: Nothing) -> Any:
        async with trio.open_nursery():
            raise RunAlreadyEnded("from within a nursery")

    async def _follow(self, call: Call, params: Keep, result: Kept) -> Kept:
        self.followed += 1
        await self.gate.wait()
        self.waited += 1
        return msgspec.structs.replace(result, waited=self.waited)


def _row(name: str, kind: Kind, params: Any, result: Any, **more: Any) -> Method[Any, Any]:
    return Method(name, kind, params, result, "A toy.", **more)


def _broken(call: Call, params: Nothing) -> bool:
    raise RuntimeError("a fault, with a detail that is nobody's business")


def _subtract(call: Call, params: Any) -> int:
    minuend, subtrahend = params if isinstance(params, list) else (params.minuend, params.subtrahend)
    return int(minuend) - int(subtrahend)


def _prepare(call: Call, params: Keep) -> str:
    if params.fail:
        raise RunAlreadyEnded("before the transaction")
    return params.value.upper()


def _keep(tx: Transaction, call: Call, params: Keep) -> Kept:
    """Append an event, count in META, and then refuse on request."""
    number = int((tx.get(META, "toys") or b"0").decode()) + 1
    tx.put(META, "toys", value=b"%d" % number)
    tx.append(DAEMON_STREAM, DaemonStopped(note=params.value), request_id=call.request_id)
    if params.fail:
        raise RunAlreadyEnded("inside the transaction")
    return Kept(params.value, number)
