"""The event bus over the socket: every outcome of the methods, and the end of a run."""

from typing import Any

from kheishd.store.tables import BUS_FANOUT, PUBLICATIONS
from protocol.errors.event import EventBusForbidden, EventBusFull, EventNotFound, EventSourceReserved
from protocol.errors.journal import SubscriptionExists, SubscriptionNotFound
from protocol.errors.rpc import InvalidParams, Overloaded
from protocol.errors.session import InputTooLarge
from protocol.limits.event import MAX_EVENT_PAYLOAD_BYTES, MAX_OPEN_EVENTS
from protocol.limits.rpc import MAX_SUBSCRIPTIONS
from tests.support.desk import fails
from tests.support.household import Household, refusal_of

TARGET = {"agent": "default", "sender": "ops", "prompt": "Look."}


async def publish(house: Household, source: str = "ci.build", **params: Any) -> Any:
    """Publish an event."""
    return await house.call("event.publish", source=source, **params)


async def sources(house: Household, pattern: str) -> list[str]:
    """Return the sources of the events that match, newest first."""
    page = await house.call("event.list", source=pattern)
    return [event["source"] for event in page["events"]]


# event.publish


async def test_event_publish_ok(idle: Household) -> None:
    """An event is durable, has its publisher, and is published once for a key."""
    first = await publish(idle, payload={"n": 1}, idempotency_key="k")
    assert (first["status"], first["publisher"][:4]) == ("done", "uid:")
    assert await publish(idle, payload={"n": 1}, idempotency_key="k") == first
    assert (await idle.call("event.publish", source="x", check=True))["source"] == "x"
    (event,) = (await idle.call("event.list"))["events"]
    assert (event["source"], event["payload"], event["event_id"]) == ("ci.build", {"n": 1}, first["event_id"])
    await idle.call("trigger.create", source="ci.*", target=TARGET)
    assert (await publish(idle))["status"] == "open"


async def test_event_publish_ok_only_for_sources(idle: Household) -> None:
    """A source is no pattern, and has only plain characters."""
    for source in ("", "*", "a b", "a\n", "é", "x" * 257, "a*"):
        refusal = await idle.refusal_of("event.publish", source=source)
        assert (type(refusal), refusal.field) == (InvalidParams, "$.params.source")


async def test_event_publish_event_source_reserved(idle: Household) -> None:
    """Nobody publishes as an agent; a limited token publishes under its own name, and nobody else does."""
    for source in ("agent:default:done", "token:tok_1:x"):
        assert isinstance(await idle.refusal_of("event.publish", source=source), EventSourceReserved)
    token, secret = await idle.server.token(scopes=["converse"], agents=[])
    limited = await idle.server.connect_websocket(secret)
    refusal = await refusal_of(limited, "event.publish", source="ci.build")
    assert isinstance(refusal, EventSourceReserved)
    assert token in refusal.message
    published = await limited.call("event.publish", source=f"token:{token}:build")
    assert published["publisher"] == f"token:{token}"


async def test_event_publish_event_bus_full(idle: Household) -> None:
    """With too many events that are not delivered yet, no more are published until some are."""
    await idle.call("trigger.create", source="ci.*", target=TARGET)

    def fill(tx: Any) -> None:
        for number in range(MAX_OPEN_EVENTS):
            tx.put(BUS_FANOUT, number + 1, value="evt")

    await idle.state.update(fill)
    assert isinstance(await idle.refusal_of("event.publish", source="a"), EventBusFull)


async def test_event_publish_input_too_large(idle: Household) -> None:
    """A payload has a maximum size; one that JSON could not store is refused, too."""
    await publish(idle, payload="x" * (MAX_EVENT_PAYLOAD_BYTES - 2))
    refusal = await idle.refusal_of("event.publish", source="a", payload="x" * MAX_EVENT_PAYLOAD_BYTES)
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.payload")
    refusal = await idle.refusal_of("event.publish", source="a", payload=2**70)
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.payload")


# event.get, event.list


async def test_event_get_ok(idle: Household) -> None:
    """An event shows its deliveries."""
    published = await publish(idle)
    assert await idle.call("event.get", event_id=published["event_id"]) == published


async def test_event_get_event_not_found(idle: Household) -> None:
    """An unknown event is refused."""
    assert isinstance(await idle.refusal_of("event.get", event_id="evt_1"), EventNotFound)


async def require_forbidden(house: Household, method: str, **params: Any) -> None:
    """Require that a token that is limited to some agents or senders gets nothing of the bus by a method."""
    await publish(house)
    for grant in ({"agents": ["default"]}, {"senders": ["ann"]}):
        limited = await house.connect_limited(**grant)
        assert isinstance(await refusal_of(limited, method, **params), EventBusForbidden)
        assert (await limited.call("journal.read"))["events"] == []


async def test_event_get_event_bus_forbidden(idle: Household) -> None:
    """A limited token reads no event."""
    await require_forbidden(idle, "event.get", event_id="evt_1")


async def test_event_list_event_bus_forbidden(idle: Household) -> None:
    """A limited token lists no events."""
    await require_forbidden(idle, "event.list")


async def test_event_subscribe_event_bus_forbidden(idle: Household) -> None:
    """A limited token follows no events."""
    await require_forbidden(idle, "event.subscribe")


async def test_event_list_ok(idle: Household) -> None:
    """Events are listed by their source, newest first, page by page."""
    for source in ("a.x", "b", "a.y"):
        await publish(idle, source)
    assert await sources(idle, "*") == ["a.y", "b", "a.x"]
    assert await sources(idle, "a.*") == ["a.y", "a.x"]
    assert await sources(idle, "a.x") == ["a.x"]
    first = await idle.call("event.list", limit=2)
    rest = await idle.call("event.list", after=first["next"])
    assert [event["source"] for event in rest["events"]] == ["a.x"]
    assert rest["next"] is None


# event.subscribe, event.unsubscribe


async def test_event_subscribe_ok(house: Household) -> None:
    """A follower gets past and new events of its pattern, and the ends of runs while it follows."""
    await house.ask(sender="ann")
    first = await publish(house)
    await publish(house, "other")
    await house.call("event.subscribe", source="ci.*", after=0, subscription="ci")
    method, params = await house.client.next()
    assert (method, params["event"]["event_id"]) == ("journal.event", first["event_id"])
    assert (await house.client.next())[0] == "journal.synced"
    ends = await house.server.connect()
    await ends.call("event.subscribe", source="agent:default:*", subscription="ends")
    assert (await ends.next())[0] == "journal.synced"
    sent = await house.ask(sender="ann")
    event = (await ends.next())[1]["event"]
    assert (event["source"], event["payload"]["run_id"]) == ("agent:default:done", sent["run_id"])
    assert event["payload"]["output"] == "You said: hello"
    await ends.call("event.unsubscribe", subscription="ends")
    await house.ask(sender="ann")
    assert len(await sources(house, "agent:*")) == 1


async def test_event_subscribe_subscription_exists(idle: Household) -> None:
    """A name is used once on a connection."""
    await idle.call("event.subscribe", subscription="s")
    assert isinstance(await idle.refusal_of("journal.subscribe", subscription="s"), SubscriptionExists)
    assert isinstance(await idle.refusal_of("event.subscribe", subscription="s"), SubscriptionExists)


async def test_event_subscribe_overloaded(idle: Household) -> None:
    """A connection has a maximum number of subscriptions; what is refused leaves no follower."""
    for _ in range(MAX_SUBSCRIPTIONS):
        await idle.call("event.subscribe", source="a")
    assert isinstance(await idle.refusal_of("event.subscribe"), Overloaded)
    assert idle.state.store.followers.patterns == ("a",) * MAX_SUBSCRIPTIONS


async def test_event_unsubscribe_ok(idle: Household) -> None:
    """A closed subscription follows nothing."""
    await idle.call("event.subscribe", source="a", subscription="s")
    assert await idle.call("event.unsubscribe", subscription="s") == {"subscription": "s"}
    assert idle.state.store.followers.patterns == ()


async def test_event_unsubscribe_subscription_not_found(idle: Household) -> None:
    """A subscription that does not exist is refused."""
    refusal = await idle.refusal_of("event.unsubscribe", subscription="s")
    assert isinstance(refusal, SubscriptionNotFound)


# The end of a run.


async def test_ends_of_runs_are_published(house: Household) -> None:
    """A run that completed, failed or was cancelled is told with its status; a guest's run is not."""
    await house.call("trigger.create", source="agent:default:done", target=TARGET)
    await house.ask("one", sender="ann")
    house.models.answers_to["two"] = lambda request: fails("invalid_request", retryable=False)
    await house.ask("two", sender="ann")
    gate = house.gate("three")
    sent = await house.send("three", sender="ann")
    await gate.reached.wait()
    await house.call("run.cancel", run_id=sent["run_id"])
    await house.ask("four", sender="ann", guest="critic")
    page = await house.call("event.list", source="agent:*")
    payloads = [event["payload"] for event in reversed(page["events"])]
    assert [payload["status"] for payload in payloads] == ["completed", "failed", "cancelled"]
    assert [payload["sender"] for payload in payloads] == ["ann"] * 3
    assert payloads[1]["error"]["reason"] == "invalid_request"
    assert payloads[2]["run_id"] == sent["run_id"]


async def test_unwatched_runs_publish_nothing(house: Household) -> None:
    """Without a trigger, a waiting run or a follower, the end of a run leaves no event."""
    await house.call("trigger.create", source="agent:reviewer:done", target=TARGET)
    await house.ask()
    with house.state.read() as store:
        assert not store.count(PUBLICATIONS)
