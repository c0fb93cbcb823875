"""Dispatch: from a request to its answer, independent of the transport.

The method's row states the required scope and the params. Then, by kind:

* a **query** is answered inline, from a snapshot, without a task;
* a **mutation** is submitted to the store and answered when its commit is durable; it gets a task only if it
  then waits;
* a **control** acts at once, or in a task of its own if it waits.

An error becomes the answer to its request and affects no other.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol, assert_never

import msgspec
import trio

from kheishd.kernel.call import Act, Call, Caller, Connection, Control, Handler, Mutate, Query
from kheishd.server.mutation import DryRun, MutationCommit, RepeatedResult, receipt_exclusions
from protocol.errors.daemon import DaemonDraining
from protocol.errors.refusal import Refusal
from protocol.errors.rpc import InternalError, InvalidParams, MessageTooLarge, MethodNotFound
from protocol.rpc.wire import decode_id, decode_params, encode_error, encode_result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from kheishd.kernel.services import Services
    from kheishd.server.requests import OpenRequest, Reply
    from protocol.rpc.method import AnyMethod
    from protocol.rpc.wire import Request

log = logging.getLogger(__name__)

_encode_any = msgspec.json.Encoder().encode


class RequestSource(Connection, Protocol):
    """The connection of a request, as the dispatcher sees it."""

    caller: Caller

    def open(self, id_: bytes, reply: Reply, *, waits: bool) -> OpenRequest:
        """Register a request that is not answered at once.

        Errors: Overloaded if it ``waits`` and the limit of waiting requests is reached.
        """
        ...

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a task that ends with the connections."""
        ...


class Dispatcher:
    """The served methods, and the parts of the daemon that their handlers receive."""

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
        self._requests = services.state.meter.requests
        self._handlers: dict[str, Handler] = {}
        self._entries: dict[str, _Entry] = {}
        for handler in handlers:
            assert handler.row.name not in self._handlers, f"two handlers for {handler.row.name}"
            self._handlers[handler.row.name] = handler

    def dispatch(self, request: Request, asker: RequestSource, reply: Reply) -> bytes | None:
        """Return the encoded answer; None if ``reply`` receives it later. Never raises."""
        try:
            entry = self._entries.get(request.method) or self._open_entry(request.method)
            self._requests[request.method] += 1
            return entry(request, asker, reply)
        except Exception as error:
            return self.encode_error(request.id, to_refusal(error, request.method))

    def is_mutation(self, request: Request) -> bool:
        """Whether a request's method changes the store: its transaction takes a while to prepare."""
        return type(self._handlers.get(request.method)) is Mutate

    def call(self, asker: RequestSource, request_id: str | int | None = None) -> Call:
        """Return the context of a handler."""
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
        """Encode a result, without secrets that became known after its data was stored."""
        encoded = _encode_any(result)
        scrub = self.state.store.scrub
        return encoded if scrub is None else scrub(encoded)

    def encode_error(self, id_: bytes, refusal: Refusal) -> bytes:
        """Encode a refusal without secrets: it may name a part of the request."""
        self.state.meter.refusals[refusal.reason] += 1
        return encode_error(id_, refusal, self.state.store.scrub)

    def _open_entry(self, name: str) -> _Entry:
        """Build the decoders of a method at its first request. Errors: MethodNotFound."""
        entry: _Entry
        match self._handlers.get(name):
            case Query() as handler:
                entry = _Queries(self, handler)
            case Mutate() as handler:
                entry = _Mutations(self, handler)
            case Act() as handler if iscoroutinefunction(handler.act):
                entry = _WaitingActs(self, handler)
            case Act() as handler:
                entry = _Acts(self, handler)
            case None:
                raise self._unknown(name)
            case handler:
                assert_never(handler)
        self._entries[name] = entry
        return entry

    def _unknown(self, name: str) -> MethodNotFound:
        # Imported here, as it costs a start two milliseconds that few daemons ever need.
        from difflib import get_close_matches

        near = get_close_matches(name[:128], self._handlers, 1)
        hint = f"did you mean '{near[0]}'?" if near else None
        return MethodNotFound(f"there is no method '{name[:128]}'; rpc.discover lists the methods", hint=hint)


class _Entry(ABC):
    """A served method: its decoder and its scope."""

    def __init__(self, dispatcher: Dispatcher, row: AnyMethod) -> None:
        self.dispatcher = dispatcher
        self.row = row
        self.scope = row.scope
        self.decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(row.params)

    @abstractmethod
    def __call__(self, request: Request, asker: RequestSource, reply: Reply) -> bytes | None:
        """Return the encoded answer; None if ``reply`` receives it later."""

    def params(self, request: Request, asker: RequestSource) -> Any:
        """Return an authorized request's params. Errors: ScopeMissing, MessageTooLarge, InvalidParams."""
        if self.scope is not None:
            asker.caller.require_scope(self.scope)
        size, limit = memoryview(request.params).nbytes, self.row.max_params_bytes
        if size > limit:
            raise MessageTooLarge(f"the params take {size} bytes; the limit is {limit}", field="$.params")
        return decode_params(self.decoder, request.params)

    async def wait(self, opened: OpenRequest, work: Callable[[], Awaitable[Any]]) -> None:
        """Run the task of a waiting request: answer it, also when it is cancelled."""
        assert opened.scope is not None
        with opened.scope:
            # A request that was cancelled before its task ran begins nothing: what it began, such as a
            # subscription of a client that is gone, would have no owner.
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                message = encode_result(opened.id, self.dispatcher.encode(await work()))
            except Exception as error:
                message = self.dispatcher.encode_error(opened.id, to_refusal(error, self.row.name))
            opened.finish(message)
            return
        assert opened.refusal is not None, "only a cancelled request gets here"
        opened.refuse(opened.refusal)

    def start(self, opened: OpenRequest, asker: RequestSource, work: Callable[[], Awaitable[Any]]) -> None:
        """Start the task of a request."""
        opened.scope = trio.CancelScope()
        asker.start(lambda: self.wait(opened, work))


class _Queries(_Entry):
    def __init__(self, dispatcher: Dispatcher, handler: Query) -> None:
        super().__init__(dispatcher, handler.row)
        self.answer = handler.answer

    def __call__(self, request: Request, asker: RequestSource, reply: Reply) -> bytes | None:
        params = self.params(request, asker)
        dispatcher = self.dispatcher
        return encode_result(request.id, dispatcher.encode(self.answer(dispatcher.call(asker), params)))


class _Acts(_Entry):
    def __init__(self, dispatcher: Dispatcher, handler: Act) -> None:
        super().__init__(dispatcher, handler.row)
        self.act = handler.act

    def __call__(self, request: Request, asker: RequestSource, reply: Reply) -> bytes | None:
        params = self.params(request, asker)
        return encode_result(request.id, self.dispatcher.encode(self.act(self.call(request, asker), params)))

    def call(self, request: Request, asker: RequestSource) -> Call:
        return self.dispatcher.call(asker, _journal_id(request.id))


class _WaitingActs(_Acts):
    def __call__(self, request: Request, asker: RequestSource, reply: Reply) -> bytes | None:
        params = self.params(request, asker)
        call = self.call(request, asker)
        opened = asker.open(request.id, reply, waits=True)
        self.start(opened, asker, lambda: self.act(call, params))
        return None


class _Mutations(_Entry):
    def __init__(self, dispatcher: Dispatcher, handler: Mutate) -> None:
        super().__init__(dispatcher, handler.row)
        self.handler = handler
        self.blank = receipt_exclusions(handler.row)
        self.result: msgspec.json.Decoder[Any] = msgspec.json.Decoder(handler.row.result)

    def __call__(self, request: Request, asker: RequestSource, reply: Reply) -> bytes | None:
        params = self.params(request, asker)
        scrubber = self.dispatcher.live.scrubber
        if scrubber.may_occur(bytes(request.params)):
            # Imported where a secret was found.
            from kheishd.core.text.identities import find_secret

            field = find_secret(self.row.params, params, scrubber, "$.params")
            if field is not None:
                raise InvalidParams("a name, an address or a rule contains a secret's value", field=field)
        if self.dispatcher.control.draining() and not self.row.while_draining:
            raise DaemonDraining()
        handler = self.handler
        call = self.dispatcher.call(asker, _journal_id(request.id))
        plan = params if handler.prepare is None else handler.prepare(call, params)
        masked = params if handler.mask is None else handler.mask(call, params)
        change = MutationCommit(handler, call, masked, plan, self.blank)
        follows = not params.check and handler.has_follow_up(params)
        opened = asker.open(request.id, reply, waits=follows)

        def answer(job: Any) -> None:
            """Answer, on the loop, once the transaction has committed or failed."""
            opened.job = None
            if handler.on_end is not None and not params.check:
                try:
                    handler.on_end(call)
                except Exception:
                    log.exception("the work after a transaction of %s failed", self.row.name)
            if handler.on_commit is not None and job.error is None and type(job.value) is not RepeatedResult:
                try:
                    handler.on_commit(call, job.value)
                except Exception:
                    # The change is committed all the same, and its answer says so.
                    log.exception("the work after a commit of %s failed", self.row.name)
            try:
                if follows:
                    self.follow(opened, asker, call, params, job.unwrap())
                else:
                    opened.finish(encode_result(opened.id, self.encode(job)))
            except Exception as error:
                refusal = to_refusal(error, self.row.name)
                opened.finish(self.dispatcher.encode_error(opened.id, refusal))

        try:
            opened.job = self.dispatcher.state.submit(change, answer)
        except Exception:
            opened.drop()
            raise
        return None

    def encode(self, job: Any) -> bytes:
        """Return the encoded result. Errors: those of the transaction."""
        if isinstance(job.error, DryRun):
            return self.dispatcher.encode(job.error.result)
        result = job.unwrap()
        return result.result if type(result) is RepeatedResult else self.dispatcher.encode(result)

    def follow(self, opened: OpenRequest, asker: RequestSource, call: Call, params: Any, result: Any) -> None:
        """Continue after the commit, unless the caller cancelled the request meanwhile."""
        follow = self.handler.follow
        assert follow is not None, f"{self.row.name} says that it follows"
        if opened.refusal is not None:
            raise opened.refusal
        if type(result) is RepeatedResult:
            # The handler's result from the first request with this key.
            result = self.result.decode(result.result)
        self.start(opened, asker, lambda: follow(call, params, result))


def _journal_id(id_: bytes) -> str | int | None:
    """Return a request's id for the journal: a number with a fraction as its text."""
    value = decode_id(id_)
    return id_.decode() if isinstance(value, float) else value


def to_refusal(error: Exception, doing: str) -> Refusal:
    """Return the refusal that answers an exception.

    A refusal is itself. Any other exception is a fault of the daemon: it is logged with its traceback and
    answered as -32603 without details. (Params that do not decode are already ``InvalidParams``; a stored
    record that does not decode is a fault.)
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        return to_refusal(error.exceptions[0], doing)
    log.error("%s failed", doing, exc_info=error)
    return InternalError()
