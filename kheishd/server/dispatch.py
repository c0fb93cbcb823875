"""From a request to its answer, whatever it came by.

The row says who may ask and what the params are. Then, by kind:

* a **query** is answered inline, from a snapshot, without a task;
* a **mutation** is handed to the store, and answered when its commit is on the disk: a task only for
  one that then waits;
* a **control** acts at once, or in a task of its own if it has to wait.

Whatever goes wrong becomes the answer to that one request.
"""

from __future__ import annotations

from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol, assert_never

import msgspec
import trio

from kheishd.kernel.call import Act, Call, Caller, Connection, Control, Handler, Mutate, Query
from kheishd.server.faults import refusal_of
from kheishd.server.receipts import Change, Repeated, TakenBack, uncompared
from protocol.errors.daemon import DaemonDraining
from protocol.errors.rpc import MessageTooLarge, MethodNotFound
from protocol.rpc.wire import decode_id, decode_params, encode_error, encode_result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from kheishd.kernel.services import Services
    from kheishd.server.requests import Open, Reply
    from protocol.rpc.method import AnyMethod
    from protocol.rpc.wire import Request

_encode_any = msgspec.json.Encoder().encode


class Asker(Connection, Protocol):
    """What the dispatcher needs of a connection."""

    caller: Caller

    def open(self, id_: bytes, reply: Reply, *, waits: bool) -> Open:
        """Note a request that is not answered at once.

        Errors: Overloaded if it ``waits`` and as many as may do so already.
        """
        ...

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a task that lives no longer than the connections."""
        ...


class Dispatcher:
    """Every method that is served, and the parts of the daemon their handlers get."""

    def __init__(
        self,
        handlers: Iterable[Handler],
        services: Services,
        control: Control,
    ) -> None:
        self.services = services
        self.state = services.state
        self.live = services.live
        self.control = control
        self._entries: dict[str, Callable[[Request, Asker, Reply], bytes | None]] = {}
        for handler in handlers:
            assert handler.row.name not in self._entries, f"two handlers for {handler.row.name}"
            self._entries[handler.row.name] = self._entry(handler)

    def dispatch(self, request: Request, asker: Asker, reply: Reply) -> bytes | None:
        """The encoded answer; None if ``reply`` will get it later. Never raises."""
        try:
            entry = self._entries.get(request.method)
            if entry is None:
                raise self._unknown(request.method)
            return entry(request, asker, reply)
        except Exception as error:
            return encode_error(request.id, refusal_of(error, request.method))

    def call(self, asker: Asker, request_id: str | int | None = None) -> Call:
        """What a handler gets."""
        return Call(
            asker.caller,
            self.services,
            self.services.runtimes.current(),
            self.control,
            asker,
            request_id,
            self.state.now_ms(),
        )

    def encode(self, result: Any) -> bytes:
        """A result as it is answered: without the secrets that were not known when it was written down."""
        encoded = _encode_any(result)
        scrub = self.state.store.scrub
        return encoded if scrub is None else scrub(encoded)

    def _entry(self, handler: Handler) -> Callable[[Request, Asker, Reply], bytes | None]:
        match handler:
            case Query():
                return _Queries(self, handler)
            case Mutate():
                return _Mutations(self, handler)
            case Act():
                return (
                    _WaitingActs(self, handler) if iscoroutinefunction(handler.act) else _Acts(self, handler)
                )
            case _:
                assert_never(handler)

    def _unknown(self, name: str) -> MethodNotFound:
        # Imported here, as it costs a start two milliseconds that few daemons ever need.
        from difflib import get_close_matches

        near = get_close_matches(name[:128], self._entries, 1)
        hint = f"did you mean '{near[0]}'?" if near else None
        return MethodNotFound(
            f"there is no method '{name[:128]}'; rpc.discover lists those there are", hint=hint
        )


class _Entry:
    """One method, made ready: its decoder, the right it needs."""

    def __init__(self, dispatcher: Dispatcher, row: AnyMethod) -> None:
        self.dispatcher = dispatcher
        self.row = row
        self.scope = row.scope
        self.decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(row.params)

    def params(self, request: Request, asker: Asker) -> Any:
        """The params, if the caller may ask at all. Errors: ScopeMissing, MessageTooLarge, InvalidParams."""
        if self.scope is not None:
            asker.caller.need(self.scope)
        size, limit = memoryview(request.params).nbytes, self.row.max_params_bytes
        if size > limit:
            raise MessageTooLarge(f"the params take {size} bytes; the limit is {limit}", field="$.params")
        return decode_params(self.decoder, request.params)

    async def wait(self, opened: Open, work: Callable[[], Awaitable[Any]]) -> None:
        """The task of a request that waits: answers it, also when it is cancelled."""
        assert opened.scope is not None
        with opened.scope:
            try:
                message = encode_result(opened.id, self.dispatcher.encode(await work()))
            except Exception as error:
                message = encode_error(opened.id, refusal_of(error, self.row.name))
            opened.finish(message)
            return
        assert opened.refusal is not None, "only a cancelled request gets here"
        opened.refuse(opened.refusal)

    def start(self, opened: Open, asker: Asker, work: Callable[[], Awaitable[Any]]) -> None:
        """Give a request its task."""
        opened.scope = trio.CancelScope()
        asker.start(lambda: self.wait(opened, work))


class _Queries(_Entry):
    def __init__(self, dispatcher: Dispatcher, handler: Query) -> None:
        super().__init__(dispatcher, handler.row)
        self.answer = handler.answer

    def __call__(self, request: Request, asker: Asker, reply: Reply) -> bytes | None:
        params = self.params(request, asker)
        dispatcher = self.dispatcher
        return encode_result(request.id, dispatcher.encode(self.answer(dispatcher.call(asker), params)))


class _Acts(_Entry):
    def __init__(self, dispatcher: Dispatcher, handler: Act) -> None:
        super().__init__(dispatcher, handler.row)
        self.act = handler.act

    def __call__(self, request: Request, asker: Asker, reply: Reply) -> bytes | None:
        params = self.params(request, asker)
        return encode_result(request.id, self.dispatcher.encode(self.act(self.call(request, asker), params)))

    def call(self, request: Request, asker: Asker) -> Call:
        return self.dispatcher.call(asker, _journaled(request.id))


class _WaitingActs(_Acts):
    def __call__(self, request: Request, asker: Asker, reply: Reply) -> bytes | None:
        params = self.params(request, asker)
        call = self.call(request, asker)
        opened = asker.open(request.id, reply, waits=True)
        self.start(opened, asker, lambda: self.act(call, params))
        return None


class _Mutations(_Entry):
    def __init__(self, dispatcher: Dispatcher, handler: Mutate) -> None:
        super().__init__(dispatcher, handler.row)
        self.handler = handler
        self.blank = uncompared(handler.row)
        self.result: msgspec.json.Decoder[Any] = msgspec.json.Decoder(handler.row.result)

    def __call__(self, request: Request, asker: Asker, reply: Reply) -> bytes | None:
        params = self.params(request, asker)
        if self.dispatcher.control.draining() and not self.row.while_draining:
            raise DaemonDraining()
        handler = self.handler
        call = self.dispatcher.call(asker, _journaled(request.id))
        plan = params if handler.prepare is None else handler.prepare(call, params)
        change = Change(handler, call, params, plan, self.blank)
        follows = handler.follows is not None and not params.check and handler.follows(params)
        opened = asker.open(request.id, reply, waits=follows)

        def done(job: Any) -> None:
            """Runs on the loop, once the fate of the transaction is known."""
            opened.job = None
            try:
                if follows:
                    self.follow(opened, asker, call, params, self.value(job.unwrap()))
                else:
                    opened.finish(encode_result(opened.id, self.encoded(job)))
            except Exception as error:
                opened.refuse(refusal_of(error, self.row.name))

        try:
            opened.job = self.dispatcher.state.submit(change, done)
        except Exception:
            opened.drop()
            raise
        return None

    def encoded(self, job: Any) -> bytes:
        """The result as it is answered. Errors: whatever the transaction raised."""
        if isinstance(job.error, TakenBack):
            return self.dispatcher.encode(job.error.result)
        result = job.unwrap()
        return result.result if type(result) is Repeated else self.dispatcher.encode(result)

    def value(self, result: Any) -> Any:
        """The result as the handler gave it, now or when the key was first used."""
        return self.result.decode(result.result) if type(result) is Repeated else result

    def follow(self, opened: Open, asker: Asker, call: Call, params: Any, result: Any) -> None:
        """Go on after the commit, unless the caller took the request back meanwhile."""
        follow = self.handler.follow
        assert follow is not None, f"{self.row.name} says that it follows"
        if opened.refusal is not None:
            raise opened.refusal
        self.start(opened, asker, lambda: follow(call, params, result))


def _journaled(id_: bytes) -> str | int | None:
    """A request's id as the journal keeps it: a number that is no whole number as its text."""
    value = decode_id(id_)
    return id_.decode() if isinstance(value, float) else value
