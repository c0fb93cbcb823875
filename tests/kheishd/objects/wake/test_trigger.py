"""Triggers over the socket: every outcome of the methods."""

from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.objects.wake.trigger import apply_rows
from kheishd.records.writer import StreamWriter
from kheishd.store.tables import TRIGGERS
from protocol.errors.conversation import SenderInvalid
from protocol.errors.definition import AgentNotFound
from protocol.errors.event import EventBusForbidden, TriggerLimit, TriggerNotFound, TriggerReadOnly
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, SessionNotFound
from protocol.errors.skill import SkillNotFound
from protocol.events.trigger import TriggerCreated, TriggerFired
from protocol.journal.envelope import BUS_STREAM
from protocol.limits.event import MAX_TRIGGERS
from protocol.objects.trigger import TriggerTerms
from protocol.objects.wake import WakeTarget
from tests.support.household import Household, pages, refusal_of

TARGET: dict[str, Any] = {"agent": "default", "sender": "ops", "prompt": "Look."}


async def create(house: Household, source: str = "ci.*", **params: Any) -> Any:
    """Create a trigger."""
    return await house.call("trigger.create", source=source, **({"target": TARGET} | params))


async def refusal_of_create(house: Household, source: str = "ci.*", **params: Any) -> Any:
    """Return the refusal of a creation."""
    return await house.refusal_of("trigger.create", source=source, **({"target": TARGET} | params))


async def add_file_trigger(house: Household) -> None:
    """Add a trigger as a file does."""

    def add(tx: Any) -> None:
        writer = StreamWriter(tx, BUS_STREAM)
        target = WakeTarget(agent="default", sender="ops", prompt="Look.")
        writer.append(TriggerCreated(trigger_id="mine", author="file", source="ci.*", target=target))
        writer.write()

    await house.state.update(add)


# trigger.create


async def test_trigger_create_ok(idle: Household) -> None:
    """A trigger is complete: its sender is the default one unless it is named."""
    target = {"agent": "default", "prompt": "Look."}
    made = await create(idle, target=target, once=True, filter={"a": 1}, coalesce_s=5, max_hops=2, name="n")
    assert made["target"] == target | {"sender": "user"}
    assert (made["status"], made["author"], made["once"], made["max_hops"]) == ("active", "request", True, 2)
    assert await idle.call("trigger.get", trigger_id=made["trigger_id"]) == made
    assert await idle.kinds() == ["trigger_created"]


async def test_a_trigger_that_no_event_can_reach_is_warned_about(idle: Household) -> None:
    """It is created all the same: the agent may come later."""
    made = await create(idle, "agent:nobody:done")
    assert "there is no agent 'nobody'" in made["warnings"][0]
    assert "warnings" not in await create(idle, "agent:default:done")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"source": "a b"}, "$.params.source"),
    ({"source": "a*b"}, "$.params.source"),
    ({"source": "**"}, "$.params.source"),
    ({"target": {"prompt": "p"}}, "$.params.target.agent"),
    ({"target": TARGET | {"session_id": "s"}}, "$.params.target.agent"),
    ({"target": TARGET | {"prompt": " "}}, "$.params.target.prompt"),
    ({"target": TARGET | {"skill": "s"}}, "$.params.target.prompt"),
    ({"filter": {"a": []}}, "$.params.filter[...]"),
    ({"filter": {str(number): 1 for number in range(17)}}, "$.params.filter"),
    ({"coalesce_s": 3601}, "$.params.coalesce_s"),
    ({"max_hops": 0}, "$.params.max_hops"),
    ({"max_hops": 9}, "$.params.max_hops"),
]


async def test_trigger_create_invalid_params(idle: Household) -> None:
    """The refusal names the field."""
    for params, field in BAD:
        refusal = await refusal_of_create(idle, **({"source": "ci.*"} | params))
        assert (type(refusal), refusal.field) == (InvalidParams, field)


async def test_trigger_create_sender_invalid(idle: Household) -> None:
    """A sender is printable."""
    refusal = await refusal_of_create(idle, target=TARGET | {"sender": "a\nb"})
    assert (type(refusal), refusal.field) == (SenderInvalid, "$.params.target.sender")


async def test_trigger_create_agent_not_found(idle: Household) -> None:
    """The agent exists."""
    assert isinstance(await refusal_of_create(idle, target=TARGET | {"agent": "none"}), AgentNotFound)


async def test_trigger_create_session_not_found(idle: Household) -> None:
    """The session exists."""
    refusal = await refusal_of_create(idle, target={"session_id": "none", "prompt": "p"})
    assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.target.session_id")


async def test_trigger_create_skill_not_found(idle: Household) -> None:
    """The target can use the skill."""
    refusal = await refusal_of_create(idle, target={"agent": "default", "skill": "none"})
    assert isinstance(refusal, SkillNotFound)


async def test_trigger_create_input_too_large(idle: Household) -> None:
    """A filter is short."""
    refusal = await refusal_of_create(idle, filter={"a": "x" * 1025})
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.filter")


async def test_trigger_create_trigger_limit(idle: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a maximum number of triggers."""
    assert MAX_TRIGGERS == 10_000
    monkeypatch.setattr("kheishd.objects.wake.trigger.MAX_TRIGGERS", 1)
    await create(idle)
    assert isinstance(await refusal_of_create(idle), TriggerLimit)


async def require_forbidden(house: Household, name: str, **params: Any) -> None:
    """Require that a limited token reads the triggers of its conversations, and changes none of them."""
    target = TARGET | {"sender": "ann"}
    mine = (await create(house, target=target))["trigger_id"]
    await create(house)
    limited = await house.connect_limited(scopes=["read", "operate"], agents=["default"], senders=["ann"])
    params = params or {"trigger_id": mine}
    assert isinstance(await refusal_of(limited, f"trigger.{name}", **params), EventBusForbidden)
    listed = await limited.call("trigger.list")
    assert [trigger["trigger_id"] for trigger in listed["triggers"]] == [mine]


async def test_trigger_create_event_bus_forbidden(idle: Household) -> None:
    """A limited token creates no trigger, not even for its own conversation."""
    await require_forbidden(idle, "create", source="a", target=TARGET | {"sender": "ann"})


async def test_trigger_pause_event_bus_forbidden(idle: Household) -> None:
    """A limited token pauses no trigger."""
    await require_forbidden(idle, "pause")


async def test_trigger_resume_event_bus_forbidden(idle: Household) -> None:
    """A limited token resumes no trigger."""
    await require_forbidden(idle, "resume")


async def test_trigger_delete_event_bus_forbidden(idle: Household) -> None:
    """A limited token deletes no trigger."""
    await require_forbidden(idle, "delete")


# trigger.get, .list


async def test_trigger_get_ok(idle: Household) -> None:
    """A trigger is shown."""
    made = await create(idle)
    assert await idle.call("trigger.get", trigger_id=made["trigger_id"]) == made


async def require_not_found(house: Household, name: str) -> None:
    """Require that a method refuses an unknown trigger."""
    refusal = await house.refusal_of(f"trigger.{name}", trigger_id="trg_1")
    assert (type(refusal), refusal.field) == (TriggerNotFound, "$.params.trigger_id")


async def test_trigger_get_trigger_not_found(idle: Household) -> None:
    """An unknown trigger is not shown."""
    await require_not_found(idle, "get")


async def test_trigger_pause_trigger_not_found(idle: Household) -> None:
    """An unknown trigger is not paused."""
    await require_not_found(idle, "pause")


async def test_trigger_resume_trigger_not_found(idle: Household) -> None:
    """An unknown trigger is not resumed."""
    await require_not_found(idle, "resume")


async def test_trigger_delete_trigger_not_found(idle: Household) -> None:
    """An unknown trigger is not deleted."""
    await require_not_found(idle, "delete")


async def test_trigger_list_ok(idle: Household) -> None:
    """Triggers are listed by id, page by page."""
    made = [(await create(idle))["trigger_id"] for _ in range(3)]
    listed = await pages(idle.client, "trigger.list", "triggers", limit=2)
    assert [trigger["trigger_id"] for trigger in listed] == sorted(made)
    await idle.call("session.create", session_id="s")
    assert (await idle.call("trigger.list", session_id="s"))["triggers"] == []


async def test_trigger_list_session_not_found(idle: Household) -> None:
    """An unknown session is refused."""
    assert isinstance(await idle.refusal_of("trigger.list", session_id="none"), SessionNotFound)


# trigger.pause, .resume, .delete


async def test_trigger_pause_ok(idle: Household) -> None:
    """A paused trigger has no row in the index of listeners; pausing twice changes nothing."""
    trigger_id = (await create(idle))["trigger_id"]
    assert (await idle.call("trigger.pause", trigger_id=trigger_id))["status"] == "paused"
    await idle.call("trigger.pause", trigger_id=trigger_id)
    assert await idle.kinds() == ["trigger_created", "trigger_changed"]
    assert (await idle.call("event.publish", source="ci.build"))["status"] == "done"


async def test_trigger_resume_ok(idle: Household) -> None:
    """A resumed trigger is active, and gets events again."""
    trigger_id = (await create(idle))["trigger_id"]
    await idle.call("trigger.pause", trigger_id=trigger_id)
    assert (await idle.call("trigger.resume", trigger_id=trigger_id))["status"] == "active"
    assert (await idle.call("event.publish", source="ci.build"))["status"] == "open"


async def test_trigger_delete_ok(idle: Household) -> None:
    """A deleted trigger is gone."""
    trigger_id = (await create(idle))["trigger_id"]
    assert await idle.call("trigger.delete", trigger_id=trigger_id) == {"trigger_id": trigger_id}
    with idle.state.read() as store:
        assert not store.count(TRIGGERS)


async def test_trigger_delete_trigger_read_only(idle: Household) -> None:
    """A trigger of a file is paused and resumed over the wire, but not deleted."""
    await add_file_trigger(idle)
    assert isinstance(await idle.refusal_of("trigger.delete", trigger_id="mine"), TriggerReadOnly)
    assert (await idle.call("trigger.pause", trigger_id="mine"))["status"] == "paused"


async def test_a_token_of_data_stores_no_instruction(idle: Household) -> None:
    """The task of a trigger has no authority if its author's inputs are data."""
    assert (await create(idle))["authority"] == "operator"
    _, secret = await idle.server.token(scopes=["operate"], origin="connector")
    client = await idle.server.connect_websocket(secret)
    made = await client.call("trigger.create", source="a", target=TARGET)
    assert ("authority" in made, made["origins"]) == (False, ["connector"])


async def require_forbidden_to_data(house: Household, name: str) -> None:
    """Require that a token whose inputs are data changes no trigger of an operator, but its own."""
    theirs = (await create(house))["trigger_id"]
    _, secret = await house.server.token(scopes=["operate"], origin="connector")
    client = await house.server.connect_websocket(secret)
    refusal = await refusal_of(client, f"trigger.{name}", trigger_id=theirs)
    assert (type(refusal), refusal.field) == (EventBusForbidden, "$.params.trigger_id")
    own = await client.call("trigger.create", source="a", target=TARGET)
    await client.call(f"trigger.{name}", trigger_id=own["trigger_id"])


@pytest.mark.parametrize("name", ["pause", "resume", "delete"])
async def test_a_token_of_data_changes_no_trigger_of_an_operator(idle: Household, name: str) -> None:
    """It may change only what it could have created."""
    await require_forbidden_to_data(idle, name)


async def test_a_changed_subscription_gives_up_what_it_holds(idle: Household) -> None:
    """Events of the former pattern do not reach the new target; a change of another field keeps them."""
    terms = TriggerTerms(source="hr.*", target=WakeTarget(agent="default", sender="hr", prompt="p"))

    def apply(changed: TriggerTerms) -> Any:
        return idle.state.update(lambda tx: apply_rows(tx, [("mine", changed)]))

    def hold(tx: Any) -> None:
        writer = StreamWriter(tx, BUS_STREAM)
        writer.append(
            TriggerFired(trigger_id="mine", event_id="e", event_cursor=1, outcome="held", due_at_ms=2**45)
        )
        writer.write()

    await apply(terms)
    changes: list[dict[str, Any]] = [
        {"source": "ci.*"},
        {"filter": {"a": 1}},
        {"target": WakeTarget(**TARGET)},
    ]
    for change in changes:
        await apply(terms)
        await idle.state.update(hold)
        await apply(replace(terms, coalesce_s=5))
        with idle.state.read() as store:
            assert store.need(TRIGGERS, "mine").held is not None
            refused = store.need(TRIGGERS, "mine").refused
        await apply(replace(terms, **change))
        with idle.state.read() as store:
            trigger = store.need(TRIGGERS, "mine")
        assert (trigger.held, trigger.refused) == (None, refused + 1)
