"""Secret slots over the socket: every outcome of put, list and delete."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.config.sections.mcp import McpSection
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import SubHook, Tool
from kheishd.kernel.lifecycle import HookSpec
from kheishd.kernel.master_key import write_master_keys
from kheishd.kernel.runtime import RouteSpec
from kheishd.objects.node.secret import find_users
from kheishd.store.records import StoredServer
from kheishd.store.tables import MCP_SERVERS, RECEIPTS, SECRETS
from protocol.errors.rpc import IdempotencyConflict, InvalidParams
from protocol.errors.secret import (
    MasterKeyUnusable,
    SecretInUse,
    SecretLimit,
    SecretNotFound,
    SecretUnreadable,
    SecretUnusable,
)
from protocol.errors.token import ScopeMissing, ScopeWouldWiden
from protocol.limits.secret import MAX_SECRET_BYTES, MAX_SECRET_TEXTS, MAX_SECRETS, MAX_SECRETS_TEXTS
from protocol.objects.mcp import McpServerSettings
from tests.support.desk import Scripted, gives, open_desk, working
from tests.support.household import ROUTES, Household, household, pages, refusal_of
from tests.support.runtimes import change_runtime
from tests.support.workshop import Workshop, write

KEYED = RouteSpec("keyed", "openai", "m", "http://127.0.0.1:1/v1", auth_ref="slot:openai")
SERVERS = {
    "http": McpSection(url="https://mcp.example.com", auth_ref="slot:github"),
    "local": McpSection(command="server", env_refs={"TOKEN": "slot:github"}),
}
HOOKS = (
    HookSpec(
        "audit", "session_start", "/h/hooks/a.toml", "/h", url="https://h.example", auth_ref="slot:github"
    ),
)
VALUE = 'sk-quo"ted-0123456789'


def read_all(directory: Path) -> bytes:
    """Return the content of all files below a directory."""
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Household]:
    """Provide a household with a route that refers to a slot."""
    routes = ROUTES | {"keyed": KEYED}
    async with household(
        tmp_path, work=False, tcp=True, routes=routes, mcp=SERVERS, lifecycle=HOOKS
    ) as house:
        yield house


async def test_secret_put_ok(node: Household, tmp_path: Path) -> None:
    """A slot shows everything but its value, which is in no event and no file."""
    slot = await node.call("secret.put", slot_id="openai", value=VALUE, kind="api_key")
    assert (slot["slot_id"], slot["kind"], slot["revision"]) == ("openai", "api_key", 1)
    assert slot["used_by"] == ["route keyed"]
    assert node.server.services.secrets.read("openai") == VALUE
    again = await node.call("secret.put", slot_id="openai", value=VALUE + "-newer")
    assert (again["revision"], again["created_at_ms"]) == (2, slot["created_at_ms"])
    events = await node.events(types=["secret_stored"])
    assert [(event["slot_id"], event["actor"]) for event in events] == [("openai", slot["updated_by"])] * 2
    shown = json.dumps([slot, again, events, await node.call("secret.list")])
    assert "0123456789" not in shown
    assert b"0123456789" not in read_all(tmp_path)


async def test_secret_put_check(node: Household, tmp_path: Path) -> None:
    """A dry run shows the slot and changes nothing; it makes no master key."""
    assert (await node.call("secret.put", slot_id="a", value="x", check=True))["revision"] == 1
    assert await pages(node.client, "secret.list", "secrets") == []
    assert not (tmp_path / "master.key").exists()


async def test_secret_put_again_with_a_key(node: Household, tmp_path: Path) -> None:
    """A repeated request has the same result, also after a rotation; another value is a conflict."""
    request = {"slot_id": "a", "value": "tiny-pin", "idempotency_key": "k"}
    first = await node.call("secret.put", **request)
    assert await node.call("secret.put", **request) == first
    for _ in range(2):
        await node.call("secret.rotate")
        assert await node.call("secret.put", **request) == first
        refusal = await node.refusal_of("secret.put", **(request | {"value": "tiny-pan"}))
        assert isinstance(refusal, IdempotencyConflict)
    with node.state.read() as store:
        receipts = [receipt for (_, method, _), receipt in store.scan(RECEIPTS) if method == "secret.put"]
    assert len(receipts) == 1
    # Neither the receipt nor a digest of the value without a key is in it.
    plain = hashlib.sha256(b"tiny-pin").hexdigest().encode()
    for content in (receipts[0].result, receipts[0].params_digest, read_all(tmp_path)):
        assert b"tiny-pin" not in content
        assert plain not in content


@pytest.mark.parametrize(
    ("params", "refused", "field"),
    [
        ({"slot_id": "Big"}, InvalidParams, "$.params.slot_id"),
        ({"slot_id": "a/b"}, InvalidParams, "$.params.slot_id"),
        ({"slot_id": "a\n"}, InvalidParams, "$.params.slot_id"),
        ({"value": ""}, InvalidParams, "$.params.value"),
        ({"value": "x" * (MAX_SECRET_BYTES + 1)}, InvalidParams, "$.params.value"),
        ({"value": "ü" * (MAX_SECRET_BYTES // 2 + 1)}, InvalidParams, "$.params.value"),
        ({"kind": "oauth"}, InvalidParams, "$.params.kind"),
        ({"value": "two\nlines-of-text", "kind": "api_key"}, SecretUnusable, "$.params.value"),
        ({"value": "sk-1234", "kind": "api_key"}, SecretUnusable, "$.params.value"),
        ({"value": "completed"}, SecretUnusable, "$.params.value"),
        ({"value": "reviewer"}, SecretUnusable, "$.params.value"),
        ({"value": "ses_" + "0V" * 13}, SecretUnusable, "$.params.value"),
        ({"slot_id": "my-long-slot", "value": "long-slot"}, SecretUnusable, "$.params.value"),
    ],
)
async def test_secret_put_secret_unusable(
    node: Household, params: dict[str, Any], refused: type[Exception], field: str
) -> None:
    """A bad id or value is refused by its field, and the message does not repeat a value."""
    refusal = await node.refusal_of("secret.put", **({"slot_id": "a", "value": "sk-0123456789"} | params))
    assert (type(refusal), refusal.field) == (refused, field)
    assert "lines-of-text" not in refusal.message
    assert await pages(node.client, "secret.list", "secrets") == []


async def test_a_slot_is_not_named_like_a_secret(node: Household) -> None:
    """An id that contains a value would be redacted."""
    await node.call("secret.put", slot_id="a", value="sk-0123456789")
    refusal = await node.refusal_of("secret.put", slot_id="about-sk-0123456789", value="x")
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.slot_id")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("conversation.send", {"sender": "alexandra", "content": "x"}),
        ("token.create", {"scopes": ["read"], "senders": ["alexandra"]}),
        ("permission.update", {"session_id": "s", "add": [{"tool": "alexandra*", "decision": "deny"}]}),
        ("event.publish", {"source": "ci:alexandra", "payload": 1}),
    ],
)
async def test_a_name_is_not_a_secret(node: Household, method: str, params: dict[str, Any]) -> None:
    """A stored name cannot become the value of a slot, and a slot's value cannot become a name."""
    if method in ("conversation.send", "token.create"):
        await node.call(method, **params)
        refusal = await node.refusal_of("secret.put", slot_id="a", value="alexandra")
        assert (type(refusal), refusal.field) == (SecretUnusable, "$.params.value")
        params = json.loads(json.dumps(params).replace("alexandra", "alexander"))
        await node.call("secret.put", slot_id="a", value="alexander")
    else:
        await node.call("secret.put", slot_id="a", value="alexandra")
    before = await node.kinds()
    refusal = await node.refusal_of(method, **params)
    assert isinstance(refusal, InvalidParams)
    assert (refusal.field or "").startswith("$.params.")
    assert "secret" in refusal.message
    assert await node.kinds() == before


async def test_secret_put_of_many_credentials(node: Household) -> None:
    """A value with too many credentials is refused, and so are too many of all slots together."""

    def make(start: int, count: int) -> str:
        return json.dumps([{"token": f"{number:09}"} for number in range(start, start + count)])

    refusal = await node.refusal_of("secret.put", slot_id="a", value=make(0, MAX_SECRET_TEXTS))
    assert (type(refusal), refusal.field) == (SecretUnusable, "$.params.value")
    per_slot = MAX_SECRET_TEXTS - 1
    for number in range(MAX_SECRETS_TEXTS // MAX_SECRET_TEXTS):
        await node.call("secret.put", slot_id=f"s{number}", value=make(number * 100, per_slot))
    more = {"slot_id": "more", "value": make(5_000, per_slot)}
    assert isinstance(await node.refusal_of("secret.put", **more), SecretLimit)
    await node.call("secret.delete", slot_id="s0")
    await node.call("secret.put", **more)


async def test_part_of_an_id_is_left_in_ids(node: Household) -> None:
    """A value that occurs in a session's id is redacted in texts, and the session stays reachable."""
    session_id = (await node.call("session.create"))["session_id"]
    value = session_id[4:14]
    await node.call("secret.put", slot_id="a", value=value)
    renamed = await node.call("session.rename", session_id=session_id, title=f"about {value}")
    assert (renamed["session_id"], renamed["title"]) == (session_id, "about [scrubbed]")
    assert (await node.call("session.get", session_id=session_id))["session_id"] == session_id


async def test_a_value_of_json_structure(node: Household) -> None:
    """A value of quotes and braces is redacted in texts and leaves events and answers whole."""
    for slot_id, value in (
        ("a", '","type":"'),
        ("b", '{"format":2'),
        ("c", "\\u0041\\n\\\\"),
        ("d", "ünïcödé😀"),
    ):
        await node.call("secret.put", slot_id=slot_id, value=value)
        session = await node.call("session.create", title=f"it is {value}.")
        assert session["title"] == "it is [scrubbed]."
    assert "session_created" in await node.kinds()


async def test_secret_put_secret_limit(node: Household) -> None:
    """One slot too many is refused; an existing one can still be replaced."""

    def fill(tx: Any) -> None:
        for number in range(MAX_SECRETS):
            node.server.services.secrets.put_slot(tx, f"s{number}", "x", "opaque")

    node.server.services.secrets.prepare("s0")
    await node.state.update(fill)
    assert isinstance(await node.refusal_of("secret.put", slot_id="more", value="x"), SecretLimit)
    assert (await node.call("secret.put", slot_id="s0", value="y"))["revision"] == 2
    slots = await pages(node.client, "secret.list", "secrets", limit=50)
    assert [slot["slot_id"] for slot in slots] == sorted(f"s{number}" for number in range(MAX_SECRETS))


async def test_secret_put_master_key_unusable(node: Household, tmp_path: Path) -> None:
    """A bad file of the key is named, and nothing is stored."""
    (tmp_path / "master.key").write_text("no key")
    refusal = await node.refusal_of("secret.put", slot_id="a", value="x")
    assert isinstance(refusal, MasterKeyUnusable)
    assert str(tmp_path / "master.key") in refusal.message


async def test_secret_put_secret_unreadable(node: Household, tmp_path: Path) -> None:
    """Without the key of other slots a value is stored only on request; the list names the problem."""
    await node.call("secret.put", slot_id="a", value="sk-0123456789")
    (tmp_path / "master.key").unlink()
    node.server.services.secrets.reload_keys()
    refusal = await node.refusal_of("secret.put", slot_id="b", value="x")
    assert (type(refusal), refusal.field) == (SecretUnreadable, "$.params.replace_unreadable")
    (slot,) = (await node.call("secret.list"))["secrets"]
    assert "is missing; put it back" in slot["problem"]
    await node.call("secret.put", slot_id="b", value="x", replace_unreadable=True)


async def test_secret_list_ok(node: Household) -> None:
    """Slots have their users, and whether they are redacted; a page ends where it says."""
    for slot_id, value in (("openai", "sk-0123456789"), ("pin", "1234"), ("z", "sk-9876543210")):
        await node.call("secret.put", slot_id=slot_id, value=value)
    slots = await pages(node.client, "secret.list", "secrets", limit=1)
    assert [slot["slot_id"] for slot in slots] == ["openai", "pin", "z"]
    assert [slot.get("used_by", []) for slot in slots] == [["route keyed"], [], []]
    assert [slot.get("redacted", True) for slot in slots] == [True, False, True]


async def test_secret_delete_ok(node: Household) -> None:
    """A slot that nothing uses is deleted with its value."""
    await node.call("secret.put", slot_id="a", value="sk-0123456789")
    assert await node.call("secret.delete", slot_id="a") == {"slot_id": "a"}
    assert node.server.services.secrets.read("a") is None


async def test_secret_delete_secret_not_found(node: Household) -> None:
    """A slot that does not exist cannot be deleted."""
    refusal = await node.refusal_of("secret.delete", slot_id="a")
    assert (type(refusal), refusal.field) == (SecretNotFound, "$.params.slot_id")


async def test_secret_delete_secret_in_use(node: Household) -> None:
    """A slot that a route uses stays, and the refusal names the route."""
    await node.call("secret.put", slot_id="openai", value="sk-0123456789")
    refusal = await node.refusal_of("secret.delete", slot_id="openai")
    assert isinstance(refusal, SecretInUse)
    assert "route keyed" in refusal.message
    await node.call("secret.put", slot_id="github", value="gh-0123456789")
    refusal = await node.refusal_of("secret.delete", slot_id="github")
    assert "MCP server http, MCP server local, hook audit" in refusal.message
    with node.state.read() as store:
        assert store.count(SECRETS) == 2


async def test_a_slot_is_used_by_what_is_stored(node: Household) -> None:
    """A server that was stored in the moment before keeps its slot, though no runtime has it yet."""
    await node.call("secret.put", slot_id="a", value="sk-0123456789")
    settings = McpServerSettings(url="https://mcp.example.com", auth_ref="slot:a")

    def store(tx: Any) -> None:
        server = StoredServer(name="late", settings=settings, created_cursor=1, updated_cursor=1)
        tx.put(MCP_SERVERS, "late", value=server)

    await node.state.update(store)
    refusal = await node.refusal_of("secret.delete", slot_id="a")
    assert isinstance(refusal, SecretInUse)
    assert "MCP server late" in refusal.message


async def test_secret_rotate_ok(node: Household, tmp_path: Path) -> None:
    """All slots are sealed by a new key, of which only the id is journaled; a dry run changes nothing."""
    for slot_id in ("openai", "b"):
        await node.call("secret.put", slot_id=slot_id, value=VALUE)
    key = read_key(tmp_path)
    checked = await node.call("secret.rotate", check=True)
    assert read_key(tmp_path) == key
    assert await node.call("secret.rotate", idempotency_key="k") == checked
    assert checked == {"slots": 2, "path": str(tmp_path / "master.key")}
    rotated, rotated_file = read_key(tmp_path), (tmp_path / "master.key").read_bytes()
    assert rotated != key
    for _ in range(3):
        assert await node.call("secret.rotate", idempotency_key="k") == checked
    assert len((tmp_path / "master.key").read_bytes().split(b"\n")) <= len(rotated_file.split(b"\n")) + 1
    (event,) = await node.events(types=["secrets_resealed"])
    assert event["slots"] == 2
    assert event["key_id"].encode() not in rotated
    assert node.server.services.secrets.read("openai") == VALUE


def read_key(directory: Path) -> bytes:
    """Return the first line of the key's file."""
    return (directory / "master.key").read_bytes().splitlines()[0]


async def test_secret_rotate_master_key_unusable(node: Household) -> None:
    """Without a key there is nothing to rotate."""
    refusal = await node.refusal_of("secret.rotate")
    assert isinstance(refusal, MasterKeyUnusable)
    assert "the first slot generates one" in refusal.message


async def test_secret_rotate_secret_unreadable(node: Household, tmp_path: Path) -> None:
    """A slot whose key is gone keeps the others from another key."""
    await node.call("secret.put", slot_id="a", value="sk-0123456789")
    (tmp_path / "master.key").unlink()
    write_master_keys(tmp_path / "master.key", [bytes(32)], replaces=False)
    refusal = await node.refusal_of("secret.rotate")
    assert isinstance(refusal, SecretUnreadable)
    assert "does not hold the master key" in refusal.message


async def test_secret_rotate_scope_would_widen(node: Household) -> None:
    """A token of some agents does not rotate the key of all slots."""
    limited = await node.connect_limited(scopes=["admin"], agents=["default"])
    assert isinstance(await refusal_of(limited, "secret.rotate"), ScopeWouldWiden)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("secret.rotate", {}),
        ("secret.put", {"slot_id": "a", "value": "sk-0123456789"}),
        ("secret.delete", {"slot_id": "a"}),
        ("secret.list", {}),
    ],
)
async def test_scopes(node: Household, method: str, params: dict[str, Any]) -> None:
    """Slots are for administrators: no other scope reaches them."""
    operator = await node.connect_limited(scopes=["read", "converse", "approve", "operate"])
    assert isinstance(await refusal_of(operator, method, **params), ScopeMissing)


async def test_secret_put_scope_would_widen(node: Household) -> None:
    """A token of some agents stores nothing: a slot concerns all of them."""
    limited = await node.connect_limited(scopes=["admin"], agents=["default"])
    refusal = await refusal_of(limited, "secret.put", slot_id="a", value="sk-0123456789")
    assert isinstance(refusal, ScopeWouldWiden)


async def test_secret_delete_scope_would_widen(node: Household) -> None:
    """Nor does a token of some senders delete a slot."""
    limited = await node.connect_limited(scopes=["admin"], senders=["ann"])
    assert isinstance(await refusal_of(limited, "secret.delete", slot_id="a"), ScopeWouldWiden)


async def test_secret_list_ok_with_servers(tmp_path: Path) -> None:
    """MCP servers are users of slots, too."""
    servers = {
        "bearer": McpSection(url="http://localhost/", auth_ref="slot:openai"),
        "variable": McpSection(command="x", env_refs={"A": "slot:openai"}),
    }
    async with household(tmp_path, work=False, mcp=servers) as house:
        slot = await house.call("secret.put", slot_id="openai", value=VALUE)
        assert slot["used_by"] == ["MCP server bearer", "MCP server variable"]
        assert isinstance(await house.refusal_of("secret.delete", slot_id="openai"), SecretInUse)


async def test_a_waiting_run_uses_its_slot(tmp_path: Path) -> None:
    """A run that waits for approval, or behind such a run, counts as a user although its route is gone."""
    models = Scripted([lambda request: gives(write("/a"))])
    hooks = CompositeHook((Workshop(),))
    routes = {"keyed": KEYED, **ROUTES}
    async with open_desk(tmp_path, models, hooks=hooks, routes=routes, default_route="keyed") as desk:
        async with working(desk):
            waiting = await desk.send("write")
            await desk.until(lambda: desk.run(waiting.run_id).status == "waiting_for_approval")
            queued = await desk.send("again")
        runtime = change_runtime(desk.holder.current(), routes=ROUTES)
        with desk.state.read() as store:
            assert find_users(runtime, "openai") == []
            users = [f"run {waiting.run_id}", f"run {queued.run_id}"]
            assert find_users(runtime, "openai", store) == users
            assert find_users(runtime, "other", store) == []


class Tooled(SubHook):
    """A sub-hook with a tool whose name somebody chose."""

    name = "tooled"
    tools = (Tool("mcp__vault__swordfish_lookup", "Look.", {}, "read", default="ask"),)


async def test_secret_put_secret_unusable_because_of_a_tool(tmp_path: Path) -> None:
    """A value that occurs in the name of a tool is refused: to redact it would rename the tool."""
    async with household(tmp_path, work=False, hooks=CompositeHook((Tooled(),))) as house:
        refusal = await house.refusal_of("secret.put", slot_id="a", value="swordfish")
        assert (type(refusal), refusal.field) == (SecretUnusable, "$.params.value")
        assert "mcp__vault__swordfish_lookup" in refusal.message
        await house.call("secret.put", slot_id="a", value="swordfish-1")
