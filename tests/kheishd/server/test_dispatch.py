"""Dispatch from requests to answers, through a real socket and a real store."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.call import Caller
from kheishd.objects.node import rpc
from kheishd.server.dispatch import Dispatcher, to_refusal
from protocol.errors.daemon import DaemonDraining
from protocol.errors.refusal import Refusal
from protocol.errors.rpc import (
    AlreadyShown,
    IdempotencyConflict,
    InternalError,
    InvalidParams,
    MessageTooLarge,
    MethodNotFound,
    RequestCancelled,
)
from protocol.errors.run import RunAlreadyEnded, RunNotFound
from protocol.errors.token import ScopeMissing
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.rpc import IDEMPOTENCY_RETENTION_MS, MAX_PARAMS_BYTES
from tests.support.rpc_server import Client, RpcServer, rpc_server
from tests.support.toys import Toys


class Clock:
    """A wall clock that tests set."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def toys() -> Toys:
    """Provide the toy handlers."""
    return Toys()


@pytest.fixture
def clock() -> Clock:
    """Provide the server's time of day."""
    return Clock()


@pytest.fixture
async def server(tmp_path: Path, toys: Toys, clock: Clock) -> AsyncIterator[RpcServer]:
    """Provide a server of the toys and of rpc.*."""
    async with rpc_server(tmp_path, [*toys.handlers(), *rpc.HANDLERS], clock=clock) as server:
        yield server


@pytest.fixture
async def client(server: RpcServer) -> Client:
    """Provide a connection that is already served."""
    client = await server.connect()
    await client.call("rpc.ping")
    return client


async def refused(client: Client, method: str, **params: Any) -> Refusal:
    """Return the refusal of a call."""
    with pytest.raises(Refusal) as caught:
        await client.call(method, **params)
    return caught.value


def events(server: RpcServer) -> int:
    """How many events the daemon's stream has."""
    with server.state.read() as store:
        return sum(1 for _ in store.entries(DAEMON_STREAM))


async def test_params_over_their_limit_are_not_even_decoded(client: Client) -> None:
    """Params over the method's limit are refused before they are decoded."""
    items = ["x" * (MAX_PARAMS_BYTES // 4)] * 4
    refusal = await refused(client, "toy.keep", value="x", extra=items)
    assert isinstance(refusal, MessageTooLarge)
    assert refusal.field == "$.params"
    assert str(MAX_PARAMS_BYTES) in refusal.message
    assert isinstance(await refused(client, "toy.keep", value="x", extra=items[1:]), InvalidParams)
    assert await client.call("toy.echo", value=items)


async def test_a_query_is_answered(client: Client) -> None:
    """A query receives its decoded params, defaults included."""
    assert await client.call("toy.echo", value=[1, {"a": None}]) == {
        "value": [1, {"a": None}],
        "size": 0,
        "items": [],
    }


async def test_no_result_holds_a_secret(server: RpcServer, client: Client) -> None:
    """Results are redacted, whether they come from an old record or from a file."""
    server.state.store.set_scrub(Scrubber(["sk-12345"]).scrub_journal_line)
    shown = await client.call("toy.echo", value=["it is sk-12345", {"kind": "x", "sk-12345": 1}])
    assert shown["value"] == ["it is [scrubbed]", {"kind": "x", "[scrubbed]": 1}]


async def test_params_may_be_left_out(client: Client) -> None:
    """Params may be omitted if none are required."""
    await client.send({"jsonrpc": "2.0", "id": "x", "method": "toy.read"})
    assert await client.read() == {"jsonrpc": "2.0", "id": "x", "result": True}


@pytest.mark.parametrize("sent", [b"1.0", b"-0", b'"\\u00e9"', b"null", b"123456789012345678901234567890"])
async def test_an_id_comes_back_as_it_was_sent(client: Client, sent: bytes) -> None:
    """An id is echoed byte for byte."""
    await client.send(b'{"jsonrpc":"2.0","id":%b,"method":"toy.read"}' % sent)
    assert await client.line() == b'{"jsonrpc":"2.0","id":%b,"result":true}' % sent


async def test_an_unknown_method_names_the_nearest(client: Client) -> None:
    """The refusal of an unknown method suggests a similar name, if there is one."""
    refusal = await refused(client, "toy.ecko")
    assert type(refusal) is MethodNotFound
    assert refusal.hint == "did you mean 'toy.echo'?"
    assert (await refused(client, "something.else")).hint is None


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"size": "1"}, "$.params.size"),
        ({"size": -1}, "$.params.size"),
        ({"items": [{"a": 1}, {"b": None}]}, "$.params.items[1][...]"),
        ({"sise": 1}, "$.params.sise"),
    ],
)
async def test_wrong_params_are_named_by_path(client: Client, params: dict[str, Any], field: str) -> None:
    """The refusal of wrong params names the path, at any depth."""
    refusal = await refused(client, "toy.echo", **params)
    assert type(refusal) is InvalidParams
    assert refusal.code == -32602
    assert refusal.field == field


async def test_a_missing_param_is_named(client: Client) -> None:
    """The refusal of a missing param names its path."""
    assert (await refused(client, "toy.keep")).field == "$.params.value"


async def test_a_fault_harms_nobody_else(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A fault is answered as -32603 without details, and the connection and others continue."""
    with caplog.at_level(logging.ERROR):
        refusal = await refused(client, "toy.broken")
    assert type(refusal) is InternalError
    assert "nobody's business" not in refusal.message
    assert "nobody's business" in caplog.text
    assert await client.call("toy.read") is True


async def test_a_scope_is_needed(server: RpcServer, client: Client) -> None:
    """A missing scope is refused before the params are read."""
    (connection,) = server.server.list_connections()
    connection.caller = Caller("token:t", frozenset(("read",)))
    refusal = await refused(client, "toy.admin", nonsense=True)
    assert type(refusal) is ScopeMissing
    assert refusal.hint == "admin"
    assert await client.call("toy.read") is True
    assert await client.call("toy.echo") is not None


async def test_a_request_that_waits_lets_others_pass(client: Client, toys: Toys) -> None:
    """A waiting request does not delay others; answers come in any order."""
    waiting = await client.request("toy.wait", value="late")
    assert await client.call("toy.read") is True
    toys.gate.set()
    assert await client.answer(waiting) == "late"


async def test_a_refusal_from_within_a_nursery_is_told(client: Client) -> None:
    """A refusal inside a nursery's exception group is answered as that refusal."""
    refusal = await refused(client, "toy.refuse")
    assert type(refusal) is RunAlreadyEnded
    assert refusal.message == "from within a nursery"


async def test_a_mutation_is_on_the_disk_when_it_answers(server: RpcServer, client: Client) -> None:
    """The event of an answered mutation is stored, with the request's id and its actor."""
    assert await client.call("toy.keep", value="a") == {"value": "a", "number": 1, "waited": 0}
    assert events(server) == 1


async def test_a_refused_mutation_leaves_nothing(server: RpcServer, client: Client) -> None:
    """A refused mutation is rolled back and leaves no receipt."""
    refusal = await refused(client, "toy.keep", value="a", fail=True, idempotency_key="k")
    assert type(refusal) is RunAlreadyEnded
    assert events(server) == 0
    assert (await client.call("toy.keep", value="a", idempotency_key="k"))["number"] == 1


async def test_preparing_may_refuse(client: Client) -> None:
    """A handler can refuse before the transaction; otherwise the transaction receives its plan."""
    assert (await client.call("toy.prepared", value="a"))["value"] == "A"
    assert (await refused(client, "toy.prepared", value="a", fail=True)).message == "before the transaction"


# Idempotency keys.


async def test_the_same_key_gives_the_same_result_once_done(server: RpcServer, client: Client) -> None:
    """A repeated key returns the first result, also over another connection of the principal."""
    first = await client.call("toy.keep", value="a", extra={"x": 1, "y": 2}, idempotency_key="k")
    again = await client.call("toy.keep", value="a", extra={"y": 2, "x": 1}, idempotency_key="k")
    elsewhere = await (await server.connect()).call(
        "toy.keep", value="a", extra={"x": 1, "y": 2}, fail=False, idempotency_key="k"
    )
    assert first == again == elsewhere
    assert events(server) == 1


async def test_other_params_conflict(client: Client) -> None:
    """A used key with other params is refused."""
    await client.call("toy.keep", value="a", idempotency_key="k")
    refusal = await refused(client, "toy.keep", value="b", idempotency_key="k")
    assert type(refusal) is IdempotencyConflict
    assert refusal.field == "$.params.idempotency_key"


async def test_a_key_belongs_to_its_method_and_principal(server: RpcServer, client: Client) -> None:
    """Other methods and principals can use the same key."""
    await client.call("toy.keep", value="a", idempotency_key="k")
    assert (await client.call("toy.follow", value="b", idempotency_key="k"))["number"] == 2
    for connection in server.server.list_connections():
        connection.caller = Caller("token:t", frozenset(("read",)))
    assert (await client.call("toy.keep", value="c", idempotency_key="k"))["number"] == 3


async def test_a_key_is_forgotten_after_a_week(server: RpcServer, client: Client, clock: Clock) -> None:
    """A key expires after exactly a week and can then be reused."""
    await client.call("toy.keep", value="a", idempotency_key="k")
    clock.now_ms += IDEMPOTENCY_RETENTION_MS - 1
    assert (await client.call("toy.keep", value="a", idempotency_key="k"))["number"] == 1
    clock.now_ms += 1
    assert (await client.call("toy.keep", value="b", idempotency_key="k"))["number"] == 2


async def test_a_secret_is_not_shown_again(client: Client) -> None:
    """A repeated request for a secret is refused as already shown."""
    assert (await client.call("toy.show", value="a", idempotency_key="k"))["secret"] == "hidden a"
    assert type(await refused(client, "toy.show", value="a", idempotency_key="k")) is AlreadyShown
    assert type(await refused(client, "toy.show", value="b", idempotency_key="k")) is IdempotencyConflict


async def test_how_to_ask_is_not_compared_and_done_anew(client: Client, toys: Toys) -> None:
    """The params of waiting are not compared: a repeated request may wait, and gets the first result."""
    toys.gate.set()
    assert (await client.call("toy.follow", value="a", idempotency_key="k"))["waited"] == 0
    for time in (1, 2):
        again = await client.call("toy.follow", value="a", wait=True, idempotency_key="k")
        assert again == {"value": "a", "number": 1, "waited": time}


async def test_a_key_of_too_many_bytes_is_refused(client: Client) -> None:
    """The limit of a key counts bytes of UTF-8."""
    assert (await refused(client, "toy.keep", value="a", idempotency_key="é" * 129)).field == (
        "$.params.idempotency_key"
    )
    for _ in range(2):
        assert (await client.call("toy.keep", value="a", idempotency_key="é" * 128))["number"] == 1


# check.


async def test_a_check_tells_and_changes_nothing(server: RpcServer, client: Client) -> None:
    """A check returns the result or the refusal, changes nothing and uses up no key."""
    assert (await client.call("toy.keep", value="a", check=True, idempotency_key="k"))["number"] == 1
    assert type(await refused(client, "toy.keep", value="a", check=True, fail=True)) is RunAlreadyEnded
    assert events(server) == 0
    assert (await client.call("toy.keep", value="b", idempotency_key="k"))["number"] == 1


async def test_a_check_gives_no_secret(client: Client) -> None:
    """A check returns a placeholder for the secret."""
    assert (await client.call("toy.show", value="a", check=True))["secret"] == "(shown when it is created)"


async def test_a_check_does_not_wait(client: Client) -> None:
    """A check answers at once."""
    assert (await client.call("toy.follow", value="a", wait=True, check=True))["waited"] == 0


async def test_a_check_with_a_used_key_gives_what_it_gave(client: Client) -> None:
    """A check with a used key returns the first result."""
    await client.call("toy.keep", value="a", idempotency_key="k")
    assert (await client.call("toy.keep", value="a", check=True, idempotency_key="k"))["number"] == 1


# Cancelling and stopping.


async def test_a_waiting_request_is_cancelled(client: Client, toys: Toys) -> None:
    """A cancelled waiting request is answered, and its task ends."""
    waiting = await client.request("toy.wait")
    assert await client.call("rpc.cancel", id=waiting) == {"id": waiting}
    with pytest.raises(RequestCancelled):
        await client.answer(waiting)
    await trio.testing.wait_all_tasks_blocked()
    assert toys.waiting == 0


async def test_what_follows_a_commit_is_cancelled_and_the_commit_stays(
    server: RpcServer, client: Client
) -> None:
    """Cancelling ends the wait after a commit; the commit stays."""
    waiting = await client.request("toy.follow", value="a", wait=True)
    await client.call("toy.read")
    await client.call("rpc.cancel", id=waiting)
    with pytest.raises(RequestCancelled):
        await client.answer(waiting)
    assert (await client.call("toy.keep", value="b"))["number"] in (1, 2)


async def test_work_right_after_a_commit(
    client: Client, toys: Toys, caplog: pytest.LogCaptureFixture
) -> None:
    """It is done once for each commit; a fault in it is logged, and the answer is that of the commit."""
    for key in ("first", "first", "second"):
        await client.call("toy.follow", value=key, idempotency_key=key)
    await client.call("toy.follow", value="checked", check=True)
    await refused(client, "toy.follow", value="a", fail=True)
    assert toys.committed == ["first", "second"]
    assert (await client.call("toy.follow", value="fault"))["value"] == "fault"
    assert toys.committed == ["first", "second", "fault"]
    assert "the work after a commit of toy.follow failed" in caplog.text


async def test_no_new_work_while_stopping(server: RpcServer, client: Client) -> None:
    """While the daemon stops, queries work and mutations are refused as retryable."""
    server.control.is_draining = True
    refusal = await refused(client, "toy.keep", value="a")
    assert type(refusal) is DaemonDraining
    assert refusal.retryable
    assert await client.call("toy.read") is True
    assert events(server) == 0


async def test_a_notification_is_carried_out_and_not_answered(
    server: RpcServer, client: Client, toys: Toys
) -> None:
    """A notification is executed and gets no answer, whether it succeeds or fails."""
    for method, params in [
        ("update", [1]),
        ("toy.keep", {"value": "a"}),
        ("toy.keep", {"value": "b", "fail": True}),
        ("toy.broken", {}),
        ("no.such", {}),
        ("toy.wait", {}),
    ]:
        await client.send({"jsonrpc": "2.0", "method": method, "params": params})
    assert (await client.call("toy.keep", value="c"))["number"] == 2
    assert toys.heard == [[1]]
    assert toys.waiting == 1


async def test_two_handlers_of_one_method_are_a_mistake(server: RpcServer, toys: Toys) -> None:
    """Two handlers for one method are rejected at construction."""
    twice = [*toys.handlers(), toys.handlers()[0]]
    with pytest.raises(AssertionError, match=r"two handlers for toy\.echo"):
        Dispatcher(twice, server.services, server.control)


# Translation of exceptions.


def test_a_refusal_is_itself() -> None:
    """A refusal stays itself, also alone in an exception group."""
    refusal = RunNotFound("no such run")
    assert to_refusal(refusal, "run.get") is refusal
    assert to_refusal(ExceptionGroup("", [ExceptionGroup("", [refusal])]), "run.get") is refusal


def test_a_fault_is_logged_and_told_without_details(caplog: pytest.LogCaptureFixture) -> None:
    """The client learns only that the daemon failed; the log has the method and the traceback."""
    with caplog.at_level(logging.ERROR):
        told = to_refusal(RuntimeError("the password is x"), "toy.broken")
    assert type(told) is InternalError
    assert told.code == -32603
    assert "password" not in told.message
    assert "toy.broken" in caplog.text
    assert "the password is x" in caplog.text


def test_several_faults_at_once_are_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    """A group of several errors is a fault, even if one of them is a refusal."""
    told = to_refusal(ExceptionGroup("", [RunNotFound(), RuntimeError("x")]), "toy.broken")
    assert type(told) is InternalError
    assert "RuntimeError" in caplog.text
