"""Definitions over a socket: list, show, store and delete them."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.build.agents import add_stored_agents
from kheishd.core.definition import built_in, parse
from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.runtime import Runtime
from kheishd.objects.node import definition as handlers
from kheishd.objects.node.definition import HANDLERS
from kheishd.server.listeners import TcpListen
from kheishd.store.tables import DEFINITIONS
from protocol.errors.definition import (
    AgentForbidden,
    AgentNotFound,
    DefinitionInvalid,
    DefinitionLimit,
    DefinitionReadOnly,
)
from protocol.errors.refusal import Refusal
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge
from protocol.errors.token import ScopeMissing, ScopeWouldWiden
from tests.support.rpc_server import rpc_server
from tests.support.runtimes import make_runtime


def runtime() -> Runtime:
    """Serve the built-in agent and two agents from files."""
    reviewer = parse("reviewer", b"---\ntools: []\n---\nReview.", "/home/agents/reviewer.md")
    writer = parse("writer", b"Write.", "/home/agents/writer.md")
    return make_runtime(definitions={a.name: a for a in (writer, built_in(), reviewer)})


async def test_definition_list_ok(tmp_path: Path) -> None:
    """Agents are listed by name without gaps between pages; null lists are left out, empty ones are shown."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        first = await client.call("definition.list", limit=2)
        second = await client.call("definition.list", limit=2, after=first["next"])
    names = [d["name"] for d in first["definitions"] + second["definitions"]]
    assert names == ["default", "reviewer", "writer"]
    assert second["next"] is None
    assert first["definitions"][1]["tools"] == []
    assert "tools" not in first["definitions"][0]


async def test_unknown_names_are_shown(tmp_path: Path) -> None:
    """The answer to a put has a warning about each, and so have the list and the definition."""
    holder = RuntimeHolder(runtime(), lambda old: None)
    async with rpc_server(tmp_path, HANDLERS, runtimes=holder) as server:
        client = await server.connect()
        put = await client.call("definition.put", name="new", settings={"members": ["writre"]})
        expected = [
            "the agent 'new' names 'writre' in 'members', which does not exist now; did you mean 'writer'?"
        ]
        assert put["warnings"] == expected
        with server.state.read() as store:
            stored = [record.definition for _, record in store.scan(DEFINITIONS)]
        assert [definition.warnings for definition in stored] == [[]]
        holder.replace(replace(add_stored_agents(runtime(), stored), generation=2))
        assert (await client.call("definition.get", name="new"))["warnings"] == expected
        rows = (await client.call("definition.list"))["definitions"]
        assert [row["name"] for row in rows if row.get("warnings")] == ["new"]


@pytest.mark.parametrize("field", ["route", "model", "persona"])
async def test_names_in_settings_are_printable(tmp_path: Path, field: str) -> None:
    """A name that a terminal could not show is refused with its field."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        with pytest.raises(Refusal) as caught:
            await client.call("definition.put", name="new", settings={field: "m\x1b[0m"})
    assert caught.value.field == f"$.params.settings.{field}"


async def test_definition_get_ok(tmp_path: Path) -> None:
    """An agent is shown with its source and the digest of its instructions."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        agent = await (await server.connect()).call("definition.get", name="reviewer")
    assert (agent["instructions"], agent["source"], agent["path"]) == (
        "Review.",
        "file",
        "/home/agents/reviewer.md",
    )
    assert len(agent["digest"]) == 64


async def test_definition_get_agent_not_found(tmp_path: Path) -> None:
    """The refusal names the agent and the field."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        with pytest.raises(AgentNotFound, match="'nobody'") as refused:
            await client.call("definition.get", name="nobody")
    assert refused.value.field == "$.params.name"


async def test_a_token_sees_only_its_agents(tmp_path: Path) -> None:
    """A token that covers one agent neither lists nor shows others."""
    tcp = TcpListen("127.0.0.1", 0)
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime(), tcp=tcp) as server:
        _, secret = await server.token(agents=["writer"])
        client = await server.connect_websocket(secret)
        listed = await client.call("definition.list")
        with pytest.raises(AgentNotFound):
            await client.call("definition.get", name="reviewer")
    assert [d["name"] for d in listed["definitions"]] == ["writer"]


TEXT = """---
description: Finds faults.
tools: [read_file]
busy: steer
---
Find faults.
"""


async def refusal_of(directory: Path, method: str, **params: Any) -> Refusal:
    """Return the refusal of a call on a new store."""
    async with rpc_server(directory, HANDLERS, runtimes=runtime()) as server:
        with pytest.raises(Refusal) as caught:
            await (await server.connect()).call(method, **params)
    return caught.value


async def test_definition_put_ok(tmp_path: Path) -> None:
    """The text of a file and its settings make the same definition; the same one again appends no event."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        by_text = await client.call("definition.put", name="critic", text=TEXT)
        settings = {"description": "Finds faults.", "tools": ["read_file"], "busy": "steer"}
        with server.state.read() as store:
            cursor = store.last_cursor
        by_settings = await client.call(
            "definition.put", name="critic", settings=settings, instructions="Find faults."
        )
        with server.state.read() as store:
            assert store.last_cursor == cursor
            record = store.need(DEFINITIONS, "critic")
        assert by_text == by_settings
        assert (by_text["source"], by_text["tools"]) == ("stored", ["read_file"])
        runtime_ = add_stored_agents(runtime(), [record.definition])
        assert runtime_.definitions["critic"].instructions == "Find faults."


@pytest.mark.parametrize(
    ("params", "field", "message"),
    [
        ({"text": "---\nroute: gone\n---\n"}, "text", "line 2: route: no route 'gone'"),
        ({"text": "---\na: 1\nb: *x\n---\n"}, "text", "line 3: "),
        ({"text": "---\ntools: 3\n---\n"}, "text", "line 2: tools"),
        ({"settings": {"route": "gone"}}, "settings.route", "route: no route 'gone'"),
        ({"settings": {"workspace": "/"}}, "settings.workspace", "workspace: "),
        ({"settings": {"tools": ["x" * 5_000]}}, "settings.tools", "the lists of names exceed"),
        ({"name": "a b", "instructions": "x"}, "settings", "not a valid agent name"),
    ],
)
async def test_definition_put_definition_invalid(
    tmp_path: Path, params: dict[str, Any], field: str, message: str
) -> None:
    """The refusal names the field, and for a text the line."""
    refusal = await refusal_of(tmp_path, "definition.put", **({"name": "critic"} | params))
    assert isinstance(refusal, DefinitionInvalid)
    assert refusal.field == f"$.params.{field}"
    assert message in refusal.message


@pytest.mark.parametrize("params", [{}, {"text": "x", "instructions": "y"}, {"text": "x", "settings": {}}])
async def test_put_without_or_with_two_definitions(tmp_path: Path, params: dict[str, Any]) -> None:
    """Exactly one form of the definition is given."""
    refusal = await refusal_of(tmp_path, "definition.put", name="critic", **params)
    assert isinstance(refusal, InvalidParams)


async def test_definition_put_definition_read_only(tmp_path: Path) -> None:
    """A name that a file defines is refused with the file's path."""
    refusal = await refusal_of(tmp_path, "definition.put", name="reviewer", text="Mine.")
    assert isinstance(refusal, DefinitionReadOnly)
    assert "/home/agents/reviewer.md" in refusal.message


async def test_definition_put_input_too_large(tmp_path: Path) -> None:
    """A definition whose escapes make it too long for an event is refused."""
    text = "\x01" * 60_000
    refusal = await refusal_of(tmp_path, "definition.put", name="critic", instructions=text)
    assert isinstance(refusal, InputTooLarge)


async def test_definition_put_definition_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full store takes no new name; an existing one can be replaced."""
    monkeypatch.setattr(handlers, "MAX_STORED_DEFINITIONS", 1)
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        await client.call("definition.put", name="a", text="A.")
        await client.call("definition.put", name="a", text="B.")
        with pytest.raises(DefinitionLimit):
            await client.call("definition.put", name="b", text="B.")


async def test_definition_delete_ok(tmp_path: Path) -> None:
    """A stored definition is deleted."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        await client.call("definition.put", name="a", text="A.")
        assert await client.call("definition.delete", name="a") == {"name": "a"}
        with server.state.read() as store:
            assert store.count(DEFINITIONS) == 0


@pytest.mark.parametrize(("name", "remedy"), [("reviewer", "remove the file"), ("default", "built in")])
async def test_definition_delete_definition_read_only(tmp_path: Path, name: str, remedy: str) -> None:
    """A file's agent and the built-in one cannot be deleted over RPC."""
    refusal = await refusal_of(tmp_path, "definition.delete", name=name)
    assert isinstance(refusal, DefinitionReadOnly)
    assert remedy in refusal.message


async def test_definition_delete_agent_not_found(tmp_path: Path) -> None:
    """An unknown agent cannot be deleted."""
    assert isinstance(await refusal_of(tmp_path, "definition.delete", name="nobody"), AgentNotFound)


async def require_forbidden(directory: Path, method: str, **params: Any) -> None:
    """Require that the method needs the scope ``admin`` and a token that covers the agent."""
    tcp = TcpListen("127.0.0.1", 0)
    async with rpc_server(directory, HANDLERS, runtimes=runtime(), tcp=tcp) as server:
        for scopes, agents, expected in (
            (["admin"], ["writer"], AgentForbidden),
            (["operate", "approve"], None, ScopeMissing),
        ):
            _, secret = await server.token(scopes=scopes, agents=agents)
            client = await server.connect_websocket(secret)
            with pytest.raises(expected):
                await client.call(method, name="critic", **params)


async def test_definition_put_agent_forbidden(tmp_path: Path) -> None:
    """Definitions are stored by administrators, and within the agents of their tokens."""
    await require_forbidden(tmp_path, "definition.put", text="x")


async def test_definition_delete_agent_forbidden(tmp_path: Path) -> None:
    """Definitions are deleted by administrators, and within the agents of their tokens."""
    await require_forbidden(tmp_path, "definition.delete")


async def test_definition_put_scope_would_widen(tmp_path: Path) -> None:
    """An agent that brings a program is stored by a token that covers all agents."""
    tcp = TcpListen("127.0.0.1", 0)
    settings = {"mcp_servers": {"own": {"command": "own"}}}
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime(), tcp=tcp) as server:
        _, secret = await server.token(scopes=["admin"], agents=["helper"])
        client = await server.connect_websocket(secret)
        with pytest.raises(ScopeWouldWiden):
            await client.call("definition.put", name="helper", settings=settings)
        _, secret = await server.token(scopes=["admin"])
        client = await server.connect_websocket(secret)
        stored = await client.call("definition.put", name="helper", settings=settings)
        assert stored["mcp_servers"]["own"]["command"] == "own"
