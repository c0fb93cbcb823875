"""The journal for clients: pages, filters, permissions and subscriptions."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheishd.kernel.call import Caller
from kheishd.objects.node import journal, rpc
from kheishd.objects.node.journal import MAX_CACHED_STREAMS, Selection, pruned_until
from kheishd.records.writer import Origin, SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import SESSIONS
from protocol.errors.journal import CursorPruned, CursorUnknown, SubscriptionExists, SubscriptionNotFound
from protocol.errors.rpc import Overloaded
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.events.run import InputReceived, RunAccepted
from protocol.limits.page import MAX_PAGE_BYTES, MAX_PAGE_EXAMINED_BYTES, MAX_PAGE_EXAMINED_ROWS
from protocol.limits.rpc import MAX_SUBSCRIPTIONS
from protocol.objects.journal import Filter
from protocol.transcript import Text
from tests.support.histories import PINNED
from tests.support.rpc_server import Client, RpcServer, rpc_server
from tests.support.stories import add_daemon_event, add_event, add_session, mark_pruned, put_run

LIMITED = Caller("token:t", frozenset(("read",)), frozenset(("helper",)), frozenset(("ann",)))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RpcServer]:
    """Serve a journal that begins with the session ses_1 and its run_1."""
    async with rpc_server(tmp_path, [*rpc.HANDLERS, *journal.HANDLERS]) as server:
        await commit(server, add_session, "ses_1")
        await commit(server, put_run, "run_1", "ses_1", "running")
        yield server


@pytest.fixture
async def client(server: RpcServer) -> Client:
    """Connect to the server."""
    client = await server.connect()
    await client.call("rpc.ping")
    return client


async def commit(server: RpcServer, fn: Callable[..., Any], *args: Any) -> Any:
    """Commit a transaction."""
    return await server.state.update(lambda tx: fn(tx, *args))


async def add(server: RpcServer, count: int, session_id: str = "ses_1", title: str = "") -> list[int]:
    """Commit some events at once. Returns their cursors."""

    def fill(tx: Transaction) -> list[int]:
        return [add_event(tx, session_id, title) for _ in range(count)]

    cursors: list[int] = await server.state.update(fill)
    return cursors


def limit(server: RpcServer, caller: Caller = LIMITED) -> None:
    """Let every later connection be this caller's."""
    for connection in server.server.list_connections():
        connection.caller = caller


def cursors(page: dict[str, Any]) -> list[int]:
    """Return the cursors of a page."""
    return [event["cursor"] for event in page["events"]]


# journal.read


async def test_journal_read_ok(server: RpcServer, client: Client) -> None:
    """Pages from the oldest event continue where the previous one ended."""
    await add(server, 4)
    first = await client.call("journal.read", limit=2)
    second = await client.call("journal.read", limit=2, after=first["next"])
    third = await client.call("journal.read", limit=2, after=second["next"])
    assert [cursors(page) for page in (first, second, third)] == [[1, 2], [3, 4], [5]]
    assert third["next"] is None
    assert first["events"][0]["type"] == "session_created"
    assert first["events"][0]["session_id"] == "ses_1"


async def test_journal_read_ok_newest(server: RpcServer, client: Client) -> None:
    """Pages from the newest event end at the first one."""
    await add(server, 4)
    first = await client.call("journal.read", limit=3, order="newest")
    second = await client.call("journal.read", limit=3, order="newest", after=first["next"])
    assert [cursors(page) for page in (first, second)] == [[5, 4, 3], [2, 1]]
    assert second["next"] is None
    assert cursors(await client.call("journal.read", order="newest", after=0)) == []


async def test_journal_read_ok_returns_stored_bytes(server: RpcServer, client: Client) -> None:
    """Events are returned byte for byte as stored."""
    await add(server, 1, title="Überschrift \\ \u2028")
    with server.state.read() as store:
        lines = [line for _, line in store.entries("ses_1")]
    await client.send({"jsonrpc": "2.0", "id": 1, "method": "journal.read"})
    assert b",".join(lines) in await client.line()


async def test_journal_read_ok_beyond_the_end(client: Client) -> None:
    """A cursor after the newest entry is refused, also without an epoch; to a subscription it is a gap."""
    assert cursors(await client.call("journal.read", after=1)) == []
    for cursor in (2, 2**63, 2**64, 10**30):
        with pytest.raises(CursorUnknown):
            await client.call("journal.read", after=cursor)
        assert cursors(await client.call("journal.read", after=cursor, order="newest")) == [1]
        await client.call("journal.subscribe", after=cursor)
        assert [(await client.next())[0] for _ in range(2)] == ["journal.gap", "journal.synced"]


async def test_journal_read_ok_filtered(server: RpcServer, client: Client) -> None:
    """Filters by session, subtree, run and type apply alone and together."""
    child = await commit(server, add_session, "ses_2", "default", "user", "ses_1")
    of_run = await commit(server, add_event, "ses_1", "", "run_1")
    daemons = await commit(server, add_daemon_event)
    read = client.call
    assert cursors(await read("journal.read")) == [1, child, of_run, daemons]
    assert cursors(await read("journal.read", session_id="ses_1")) == [1, of_run]
    assert cursors(await read("journal.read", session_id="ses_1", subtree=True)) == [1, child, of_run]
    assert cursors(await read("journal.read", run_id="run_1")) == [of_run]
    assert cursors(await read("journal.read", run_id="run_1", session_id="ses_1", subtree=True)) == [of_run]
    assert cursors(await read("journal.read", types=["session_created"])) == [1, child]
    assert cursors(await read("journal.read", types=["session_created"], session_id="ses_2")) == [child]
    assert cursors(await read("journal.read", types=[])) == []


async def test_journal_read_ok_of_a_request(
    server: RpcServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events of a request are found by its id as text, with those of the runs that it led to."""
    monkeypatch.setattr(journal, "MAX_CACHED_STREAMS", 1)

    def accept(tx: Transaction, session_id: str, request_id: str | int) -> int:
        origin = Origin("uid:1", None, request_id)
        writer = SessionWriter(tx, session_id, session=tx.need(SESSIONS, session_id), origin=origin)
        writer.begin_run(f"run_of_{request_id}")
        writer.append(InputReceived(input_id=f"inp_{request_id}", items=[Text("hello")]))
        writer.append(
            RunAccepted(input_id=f"inp_{request_id}", agent="default", pinned=PINNED, sender="user")
        )
        writer.write()
        return tx.last_cursor

    accepted = [await commit(server, accept, "ses_1", name) for name in ("deploy", 7)]
    later = [await commit(server, add_event, "ses_1", "", f"run_of_{name}") for name in ("deploy", 7)]
    read = client.call
    for name, index in (("deploy", 0), ("7", 1), (7, 1)):
        found = cursors(await read("journal.read", request_id=name))
        assert found == [accepted[index] - 1, accepted[index], later[index]]
    newest = await read("journal.read", request_id="7", order="newest", limit=1)
    assert cursors(newest) == [later[1]]
    assert cursors(await read("journal.read", request_id="7", types=["run_accepted"])) == [accepted[1]]
    assert cursors(await read("journal.read", request_id="nothing")) == []


async def test_journal_read_ok_a_page_ends_early(server: RpcServer, client: Client) -> None:
    """A page ends at a mebibyte, or after 5,000 examined entries, even empty, with a ``next``."""
    for _ in range(8):
        await add(server, 1, title="x" * 200_000)
    page = await client.call("journal.read", limit=500)
    assert len(msgspec.json.encode(page)) < MAX_PAGE_BYTES + 300_000
    assert page["next"] == cursors(page)[-1] < 9
    for _ in range(MAX_PAGE_EXAMINED_ROWS // 1000):
        await add(server, 1000)
    entry = await commit(server, add_daemon_event)
    empty = await client.call("journal.read", types=["daemon_reloaded"])
    assert (empty["events"], empty["next"]) == ([], MAX_PAGE_EXAMINED_ROWS)
    assert cursors(await client.call("journal.read", types=["daemon_reloaded"], after=empty["next"])) == [
        entry
    ]


async def test_journal_read_ok_a_search_through_large_entries_ends_early(
    server: RpcServer, client: Client
) -> None:
    """A page ends after eight examined mebibytes, because 5,000 entries may be a gigabyte."""
    count = MAX_PAGE_EXAMINED_BYTES // 200_000 + 1
    for _ in range(count + 5):
        await add(server, 1, title="x" * 200_000)
    empty = await client.call("journal.read", types=["daemon_reloaded"])
    assert empty["events"] == []
    assert 8 < empty["next"] <= count + 1


async def test_journal_read_ok_for_a_limited_caller(server: RpcServer, client: Client) -> None:
    """A token reads its agents and senders; only an unlimited caller reads the daemon's own events."""
    anns = await commit(server, add_session, "ses_ann", "helper", "ann")
    await commit(server, add_session, "ses_bob", "helper", "bob")
    await commit(server, add_daemon_event)
    limit(server)
    assert cursors(await client.call("journal.read")) == [anns]
    assert cursors(await client.call("journal.read", session_id="ses_ann")) == [anns]


async def test_journal_read_session_not_found(server: RpcServer, client: Client) -> None:
    """An unknown session, the daemon's stream and a session that is not covered are refused alike."""
    for session_id in ("ses_9", "daemon"):
        with pytest.raises(SessionNotFound):
            await client.call("journal.read", session_id=session_id)
    limit(server)
    with pytest.raises(SessionNotFound):
        await client.call("journal.read", session_id="ses_1")


async def test_journal_read_run_not_found(server: RpcServer, client: Client) -> None:
    """An unknown run and a run of another session are refused."""
    await commit(server, add_session, "ses_2")
    with pytest.raises(RunNotFound):
        await client.call("journal.read", run_id="run_9")
    with pytest.raises(RunNotFound):
        await client.call("journal.read", run_id="run_1", session_id="ses_2")


@pytest.mark.parametrize("method", ["journal.read", "journal.subscribe"])
async def test_an_uncovered_run_looks_unknown(server: RpcServer, client: Client, method: str) -> None:
    """The refusal for a run that is not covered equals the one for an unknown run and names no session."""
    limit(server)
    for session in ({}, {"session_id": "ses_1"}):
        with pytest.raises(RunNotFound) as caught:
            await client.call(method, run_id="run_1", **session)
        assert (caught.value.message, caught.value.field) == ("there is no run 'run_1'", "$.params.run_id")


async def test_journal_read_cursor_pruned(server: RpcServer, client: Client) -> None:
    """A pruned cursor is refused; without a cursor, reading begins with the first entry that is left."""
    cursors_ = await add(server, 3)
    await commit(server, mark_pruned, "ses_1", cursors_[0])
    await commit(server, mark_pruned, "*", cursors_[0])
    for params in ({"session_id": "ses_1"}, {}):
        with pytest.raises(CursorPruned):
            await client.call("journal.read", after=1, **params)
        assert cursors_[1] in cursors(await client.call("journal.read", after=cursors_[0], **params))
        assert await client.call("journal.read", **params)
        assert await client.call("journal.read", order="newest", after=1, **params)


async def test_journal_read_cursor_unknown(server: RpcServer, client: Client) -> None:
    """A cursor beyond the end, or of another epoch, is refused with the current epoch as the hint."""
    last = (await add(server, 3))[-1]
    page = await client.call("journal.read", after=last, epoch=server.state.epoch)
    assert (page["events"], page["epoch"]) == ([], server.state.epoch)
    unknown = (
        {"after": last + 1},
        {"after": last + 1, "epoch": server.state.epoch},
        {"after": 1, "epoch": "another"},
    )
    for params in unknown:
        with pytest.raises(CursorUnknown) as caught:
            await client.call("journal.read", **params)
        assert caught.value.hint == server.state.epoch
    assert (await client.call("journal.read", after=last + 1, order="newest"))["events"]
    assert (await client.call("journal.read", epoch="another"))["events"], "without a cursor nothing is wrong"


async def test_pruned_cursors_are_per_stream(server: RpcServer) -> None:
    """A stream without pruning has the pruned cursor 0."""
    await commit(server, mark_pruned, "ses_1", 300)
    with server.state.read() as store:
        assert pruned_until(store, "ses_1") == 300
        assert pruned_until(store, "ses_2") == pruned_until(store, None) == 0


async def test_cached_verdicts_are_bounded(server: RpcServer) -> None:
    """The cache of verdicts on streams is bounded."""
    with server.state.read() as store:
        selection = Selection(store, LIMITED, Filter())
        for number in range(MAX_CACHED_STREAMS + 10):
            assert not selection.admits(store, f"ses_{number}")
    assert len(selection._admitted) <= MAX_CACHED_STREAMS


# journal.subscribe, journal.unsubscribe


async def test_journal_subscribe_ok(server: RpcServer, client: Client) -> None:
    """A subscription sends its answer, the entries after the cursor, ``synced``, then new entries."""
    appended = await add(server, 2)
    epoch = server.state.epoch
    assert await client.call("journal.subscribe", after=1, subscription="mine") == {
        "subscription": "mine",
        "cursor": 1,
        "epoch": epoch,
    }
    heard = [await client.next() for _ in range(3)]
    assert [method for method, _ in heard] == ["journal.event", "journal.event", "journal.synced"]
    assert heard[2][1] == {"subscription": "mine", "cursor": appended[-1], "epoch": epoch}
    (new,) = await add(server, 1)
    method, params = await client.next()
    assert (method, params["subscription"], params["cursor"]) == ("journal.event", "mine", new)
    assert params["event"]["type"] == "session_renamed"


async def test_journal_subscribe_ok_with_deltas(server: RpcServer, client: Client) -> None:
    """A subscription from now on includes text while the model writes it."""
    answer = await client.call("journal.subscribe", session_id="ses_1", deltas=True)
    assert (await client.next())[0] == "journal.synced"
    server.live.append(server.live.begin("ses_1", "run_1", "itm_1", 1), "text", "Grüße")
    method, params = await client.next()
    assert method == "journal.delta"
    assert params == {
        "subscription": answer["subscription"],
        "run_id": "run_1",
        "item_id": "itm_1",
        "attempt": 1,
        "offset": 0,
        "kind": "text",
        "text": "Grüße",
    }


async def test_journal_subscribe_session_not_found(server: RpcServer, client: Client) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    with pytest.raises(SessionNotFound):
        await client.call("journal.subscribe", session_id="ses_9")
    limit(server)
    with pytest.raises(SessionNotFound):
        await client.call("journal.subscribe", session_id="ses_1")


async def test_journal_subscribe_run_not_found(client: Client) -> None:
    """An unknown run is refused."""
    with pytest.raises(RunNotFound):
        await client.call("journal.subscribe", run_id="run_9")


async def test_journal_subscribe_subscription_exists(server: RpcServer, client: Client) -> None:
    """A name is unique within a connection, and free again when its subscription has ended."""
    await client.call("journal.subscribe", subscription="s")
    with pytest.raises(SubscriptionExists):
        await client.call("journal.subscribe", subscription="s")
    await (await server.connect()).call("journal.subscribe", subscription="s")
    await client.call("journal.unsubscribe", subscription="s")
    await client.call("journal.subscribe", subscription="s")


async def test_journal_subscribe_overloaded(client: Client) -> None:
    """A connection has a maximum number of subscriptions."""
    for _ in range(MAX_SUBSCRIPTIONS):
        await client.call("journal.subscribe")
    with pytest.raises(Overloaded):
        await client.call("journal.subscribe")


async def test_journal_unsubscribe_ok(server: RpcServer, client: Client) -> None:
    """After its answer the subscription sends nothing more; another one continues."""
    for name in ("s", "t"):
        await client.call("journal.subscribe", subscription=name)
        method, synced = await client.next()
        assert (method, synced["subscription"], synced["cursor"]) == ("journal.synced", name, 1)
    assert await client.call("journal.unsubscribe", subscription="s") == {"subscription": "s"}
    await add(server, 1)
    assert await client.next() == ("journal.end", {"subscription": "s", "reason": "unsubscribed"})
    assert (await client.next())[1]["subscription"] == "t"


async def test_journal_unsubscribe_subscription_not_found(client: Client) -> None:
    """A subscription that the connection does not have is refused."""
    with pytest.raises(SubscriptionNotFound):
        await client.call("journal.unsubscribe", subscription="s")
