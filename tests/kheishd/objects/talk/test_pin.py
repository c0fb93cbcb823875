"""The values that a run pins when it is accepted."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.config.sections.runs import RunsSection
from kheishd.core.profiles import PROFILES
from kheishd.kernel.runtime import RouteSpec
from kheishd.store.tables import BLOBS
from protocol.budget import Prices
from protocol.errors.route import RouteNotFound
from protocol.errors.rpc import InvalidParams
from tests.support.household import AGENTS, Household, agent, household


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon without a run worker, with an agent that names its route and model."""
    async with household(tmp_path, work=False, definitions={**AGENTS, "routed": ROUTED}) as house:
        yield house


ROUTED = agent("routed", "route: local\nmodel: special\nmax_turns: 7\nworkspace: /own", "Work.")


async def read_pinned(house: Household, **params: Any) -> Any:
    """Send an input and return the pinned values of its run."""
    sent = await house.send(**params)
    return (await house.call("run.get", run_id=sent["run_id"]))["pinned"]


async def read_pinned_in_session(house: Household, *, created: dict[str, Any], **params: Any) -> Any:
    """Create a session, send to it, and return the pinned values of the run."""
    made = await house.call("session.create", **created)
    sent = await house.call("session.send", session_id=made["session_id"], content="x", **params)
    return (await house.call("run.get", run_id=sent["run_id"]))["pinned"]


async def test_everything_a_run_uses_is_pinned(idle: Household) -> None:
    """Every value is pinned, a credential by its reference."""
    values = await read_pinned(idle, agent="routed")
    assert values == {
        "route": "local",
        "driver": "openai",
        "model": "special",
        "base_url": "http://127.0.0.1:1/v1",
        "options": {"temperature": 0},
        "instructions_digest": hashlib.sha256(b"Work.").hexdigest(),
        "workspace": "/own",
        "max_turns": 7,
        "generation": 1,
        "max_continuations": 3,
    }
    with idle.state.read() as store:
        assert store.get(BLOBS, values["instructions_digest"], 0) == b"Work."


async def test_a_profile_pins_its_tools_and_its_text(idle: Household) -> None:
    """The profile's tools are within those of the agent, and its text follows the agent's instructions."""
    created = {"profile": "plan", "scope": {"tools": ["bash", "read_file"]}}
    values = await read_pinned_in_session(idle, created=created)
    assert values["tools"] == ["read_file"]
    with idle.state.read() as store:
        (section,) = [store.get(BLOBS, digest, 0) for digest in values["section_digests"]]
    assert section == PROFILES["plan"].prompt.encode()
    assert "section_digests" not in await read_pinned_in_session(idle, created={"profile": "default"})


@pytest.mark.parametrize(
    ("created", "params", "expected"),
    [
        ({}, {}, ("local", "special")),
        ({}, {"model": "m"}, ("local", "m")),
        ({}, {"route": "offline"}, ("offline", "offline")),
        ({}, {"route": "offline", "model": "m"}, ("offline", "m")),
        ({"model": "s"}, {}, ("local", "s")),
        ({"route": "offline"}, {}, ("offline", "offline")),
        ({"route": "offline", "model": "s"}, {}, ("offline", "s")),
        ({"route": "offline", "model": "s"}, {"model": "m"}, ("offline", "m")),
        ({"route": "offline", "model": "s"}, {"route": "local"}, ("local", "qwen3")),
    ],
)
async def test_a_model_belongs_to_the_route_it_was_named_with(
    idle: Household, created: dict[str, Any], params: dict[str, Any], expected: tuple[str, str]
) -> None:
    """The request comes before the session and the agent; a model is never used with another route."""
    values = await read_pinned_in_session(idle, created={"agent": "routed", **created}, **params)
    assert (values["route"], values["model"]) == expected


async def test_tools_are_what_both_agent_and_session_allow(idle: Household) -> None:
    """Null is every tool, an empty list none; a guest has none."""
    assert "tools" not in await read_pinned(idle)
    assert (await read_pinned(idle, agent="reviewer"))["tools"] == ["read_file", "grep"]
    narrowed = await read_pinned_in_session(
        idle, created={"agent": "reviewer", "scope": {"tools": ["grep", "bash"]}}
    )
    assert narrowed["tools"] == ["grep"]
    assert (await read_pinned_in_session(idle, created={"scope": {"tools": []}}))["tools"] == []
    assert (await read_pinned(idle, guest="reviewer"))["tools"] == []


async def test_the_lower_turn_limit_applies(tmp_path: Path) -> None:
    """The lower of the agent's and the daemon's limits applies; zero is no limit."""
    for max_turns, expected in ((3, 3), (0, 7), (500, 7)):
        limits = RunsSection(max_turns=max_turns)
        agents: dict[str, Any] = {"definitions": {"routed": ROUTED}, "default_agent": "routed"}
        async with household(tmp_path / str(max_turns), work=False, runs=limits, **agents) as house:
            assert (await read_pinned(house))["max_turns"] == expected


PRICED = RouteSpec(
    "offline",
    "offline",
    "offline",
    prices=Prices(currency="USD", input=3_000_000, output=15_000_000),
)


async def test_a_budget_is_the_lowest_of_all(tmp_path: Path) -> None:
    """The lowest limit of the daemon, the agent and the request applies."""
    limits = RunsSection(max_tokens=500, max_work_s=60.0, max_cost=0.5)
    spender = agent("spender", "max_tokens: 300\nmax_work_s: 90\nmax_cost: 2")
    agents: dict[str, Any] = {"definitions": {"spender": spender}, "default_agent": "spender"}
    routes: dict[str, Any] = {"routes": {"offline": PRICED}}
    async with household(tmp_path, work=False, runs=limits, **agents, **routes) as house:
        assert (await read_pinned(house))["budget"] == {
            "max_tokens": 300,
            "max_work_s": 60.0,
            "max_cost_micros": 500_000,
        }
        values = await read_pinned(house, budget={"max_tokens": 400, "max_work_s": 1.5, "max_cost": 0.25})
        assert values["budget"] == {"max_tokens": 300, "max_work_s": 1.5, "max_cost_micros": 250_000}
        assert values["prices"] == {"currency": "USD", "input": 3_000_000, "output": 15_000_000}


async def test_cost_is_not_limited_without_prices(tmp_path: Path) -> None:
    """Without prices a requested cost limit is refused, and a configured one is ignored."""
    async with household(tmp_path, work=False, runs=RunsSection(max_cost=0.5)) as house:
        refusal = await house.refusal_of("conversation.send", content="x", budget={"max_cost": 7})
        assert (type(refusal), refusal.field) == (InvalidParams, "$.params.budget.max_cost")
        values = await read_pinned(house)
        assert "budget" not in values
        assert "prices" not in values


async def test_costs_are_summed(tmp_path: Path) -> None:
    """A run has a cost, and a session the sum of its runs'."""
    async with household(tmp_path, routes={"offline": PRICED}) as house:
        first, second = await house.ask("one"), await house.ask("two")
        cost = {"micros": 3 + 15, "currency": "USD"}
        assert (first["cost"], second["cost"]) == (cost, cost)
        run = await house.call("run.get", run_id=first["run_id"])
        assert (run["cost"], run["usage"]) == (cost, {"input_tokens": 1, "output_tokens": 1})
        view = await house.call("session.get", session_id=first["session_id"])
        assert view["costs"] == [{"micros": 36, "currency": "USD"}]


async def test_instructions_are_stored_once(idle: Household) -> None:
    """Instructions are stored once for all runs that use them."""
    for _ in range(3):
        await idle.send()
    with idle.state.read() as store:
        assert store.count(BLOBS) == 1


async def test_an_agent_without_its_route_is_refused(tmp_path: Path) -> None:
    """The refusal names the route, and no session is created."""
    async with household(tmp_path, work=False, definitions={"routed": ROUTED}, routes={}) as house:
        assert isinstance(
            await house.refusal_of("conversation.send", agent="routed", content="x"), RouteNotFound
        )
        assert house.sessions() == 0
