"""Lifecycle hooks over the socket: every outcome of list, get, test, dead_letters and resolve."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest

from kheishd.core.workspace import Workspaces
from kheishd.kernel.hook import ToolKind
from kheishd.kernel.lifecycle import HookSpec, HookSubject
from kheishd.objects.node.hook import SAMPLE_PAYLOADS
from protocol.errors.hook import (
    DeadLetterAlreadyResolved,
    DeadLetterNotFound,
    HookNotFound,
    WorkspaceHooksUnusable,
)
from protocol.errors.rpc import InvalidParams
from protocol.errors.token import ScopeMissing, ScopeWouldWiden
from protocol.objects.hook import HookEvent
from protocol.transcript import InputOrigin
from tests.support.hooked import answer_hook, shell_hook
from tests.support.household import Household, household, pages, refusal_of

DOCUMENTATION = Path(__file__).parents[4] / "contrib/docs/hooks.md"
SERVER = HookSpec("server", "stop", "/h/hooks/s.toml", "/h/hooks", url="https://e.org/x", auth_ref="env:X")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Household]:
    """Provide a household with three hooks."""
    guard = answer_hook(
        "guard", "pre_tool_use", '{"decision": "block", "reason": "no"}', matcher="ba*", policy="closed"
    )
    broken = shell_hook("broken", "session_end", "echo broken >&2; exit 1")
    async with household(tmp_path, tcp=True, lifecycle=(guard, SERVER, broken)) as house:
        yield house


async def fail(house: Household, times: int = 1) -> list[str]:
    """Let a hook fail; return the ids of all failures."""
    hook = next(hook for hook in house.holder.current().lifecycle if hook.name == "broken")
    for number in range(times):
        subject = HookSubject("session_end", str(number), f"k{number}")
        await house.server.services.lifecycle.runner.notify([hook], subject)
    letters = await pages(house.client, "hook.dead_letters", "dead_letters", limit=2, state="any")
    return [letter["dead_letter_id"] for letter in letters]


async def test_hook_list_ok(node: Household) -> None:
    """Hooks are listed by name, all or those of an event."""
    hooks = await pages(node.client, "hook.list", "hooks", limit=1)
    assert [hook["name"] for hook in hooks] == ["broken", "guard", "server"]
    hooks = await pages(node.client, "hook.list", "hooks", event="pre_tool_use")
    assert [hook["name"] for hook in hooks] == ["guard"]


WORKSPACE_HOOKS = """
[[hook]]
name = "guard"
event = "pre_tool_use"
command = "pwd >&2; exit 2"
failure = "closed"
[[hook]]
name = "own"
event = "stop"
command = "true"
"""


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[tuple[Household, Path]]:
    """Provide a household with a hook, and a trusted root with two."""
    root = tmp_path.resolve() / "shop"  # noqa: ASYNC240
    (root / ".kheish").mkdir(parents=True)
    (root / "api").mkdir()
    (root / ".kheish/hooks.toml").write_text(WORKSPACE_HOOKS)
    workspaces = Workspaces(str(root), f"{tmp_path}/home", trusted=(str(root),))
    guard = answer_hook("guard", "pre_tool_use", "{}")
    async with household(tmp_path / "home", lifecycle=(guard,), workspaces=workspaces) as house:
        yield house, root


async def test_hook_list_ok_with_a_workspace(shop: tuple[Household, Path]) -> None:
    """The hooks of its trusted root follow; a directory that nobody trusts has a reason, and none."""
    house, root = shop
    assert [hook["name"] for hook in await pages(house.client, "hook.list", "hooks")] == ["guard"]
    hooks = await pages(house.client, "hook.list", "hooks", workspace=f"{root}/api", limit=1)
    rows = [(hook["name"], hook.get("workspace")) for hook in hooks]
    assert sorted(rows, key=str) == [("guard", str(root)), ("guard", None), ("own", str(root))]


async def require_unusable(house: Household, method: str, root: Path, **params: Any) -> None:
    """Require that hooks of an untrusted directory, and those of an invalid file, are refused by reason."""
    refusal = await house.refusal_of(method, workspace=str(root.parent), **params)
    assert (type(refusal), refusal.field) == (WorkspaceHooksUnusable, "$.params.workspace")
    assert "no trusted root contains" in refusal.message
    (root / ".kheish/hooks.toml").write_text(WORKSPACE_HOOKS.replace("failure", "falure"))
    refusal = await house.refusal_of(method, workspace=str(root), **params)
    assert isinstance(refusal, WorkspaceHooksUnusable)
    assert "hooks.toml:6: hook[0].falure: unknown key" in refusal.message


async def test_hook_list_workspace_hooks_unusable(shop: tuple[Household, Path]) -> None:
    """The list says why hooks that one expects have no effect."""
    await require_unusable(shop[0], "hook.list", shop[1])


async def test_hook_get_workspace_hooks_unusable(shop: tuple[Household, Path]) -> None:
    """Nor is one of them shown."""
    await require_unusable(shop[0], "hook.get", shop[1], name="own")


async def test_hook_test_workspace_hooks_unusable(shop: tuple[Household, Path]) -> None:
    """Nor is one of them run."""
    await require_unusable(shop[0], "hook.test", shop[1], name="own")


@pytest.mark.parametrize("workspace", ["shop", "", "/a\nb", "/" + "x" * 5_000])
async def test_hook_list_invalid_params(shop: tuple[Household, Path], workspace: str) -> None:
    """A workspace is an absolute path."""
    refusal = await shop[0].refusal_of("hook.list", workspace=workspace)
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.workspace")


async def test_hook_test_ok_in_a_workspace(shop: tuple[Household, Path]) -> None:
    """The hook of the workspace counts before the operator's, runs in its root, and may be previewed."""
    house, root = shop
    assert (await house.call("hook.get", name="guard", workspace=str(root)))["workspace"] == str(root)
    trial = await house.call("hook.test", name="guard", workspace=f"{root}/api")
    assert trial["outcome"] == {"decision": "block", "reason": str(root)}
    assert trial["payload"]["payload"]["workspace"] == str(root)
    assert (await house.call("hook.test", name="guard"))["outcome"] == {}


async def test_hook_test_preview(node: Household) -> None:
    """A preview shows the input and runs nothing."""
    trial = await node.call("hook.test", name="broken", preview=True, payload={"note": "bye"})
    assert trial["payload"]["payload"] == {"note": "bye"}
    assert not trial.keys() & {"outcome", "problem", "exit_code", "attempts", "stderr"}


async def test_hook_get_ok(node: Household) -> None:
    """A command is shown as a line, a credential by its reference only, or not at all."""
    guard = await node.call("hook.get", name="guard")
    assert guard["target"].startswith("/bin/sh -c 'cat")
    assert (guard["executor"], guard["policy"], guard["matcher"]) == ("command", "closed", "ba*")
    assert (guard["is_policy"], guard["timeout_ms"]) == (True, 5000)
    server = await node.call("hook.get", name="server")
    assert (server["executor"], server["target"]) == ("http", "https://e.org/x")


async def test_hook_get_hook_not_found(node: Household) -> None:
    """There is no hook of that name."""
    assert isinstance(await node.refusal_of("hook.get", name="gone"), HookNotFound)


async def test_hook_test_ok(node: Household) -> None:
    """The outcome is shown, and nothing follows: not even a failure is recorded."""
    trial = await node.call("hook.test", name="guard", subject="edit", payload={"tool": "edit"})
    assert (trial["matches"], trial["payload"]["payload"]["tool"]) == (False, "edit")
    assert trial["outcome"] == {"decision": "block", "reason": "no"}
    assert json.loads(trial["stdout"]) == trial["outcome"]
    trial = await node.call("hook.test", name="guard")
    assert (trial["matches"], trial["payload"]["subject"]) == (True, "ba")
    sample = trial["payload"]["payload"]
    assert (sample["tool"], sample["kind"], sample["arguments"]) == (
        "ba",
        "execute",
        {"command": "rm -rf build"},
    )
    trial = await node.call("hook.test", name="broken")
    assert (trial["problem"], trial["exit_code"]) == ("it ended with exit code 1: broken", 1)
    assert await pages(node.client, "hook.dead_letters", "dead_letters", state="any") == []


def test_samples_have_real_values() -> None:
    """A sample's origins and kind of tool are values that real events have."""
    for event, payload in SAMPLE_PAYLOADS.items():
        origins = payload.get("origins", [])
        assert isinstance(origins, list)
        assert set(origins) <= set(get_args(InputOrigin)), event
        assert payload.get("kind", "read") in get_args(ToolKind), event


def test_samples_are_documented() -> None:
    """Each event has a sample, and the documentation lists every field of it."""
    assert SAMPLE_PAYLOADS.keys() == set(get_args(HookEvent))
    rows = [line for line in DOCUMENTATION.read_text().splitlines() if line.startswith("| `")]
    for event, payload in SAMPLE_PAYLOADS.items():
        fields = [row for row in rows if f"`{event}`" in row.split("|")[1]][-1]
        assert all(f"`{name}`" in fields for name in payload), event


async def test_hook_test_hook_not_found(node: Household) -> None:
    """There is no hook of that name."""
    assert isinstance(await node.refusal_of("hook.test", name="gone"), HookNotFound)


async def require_rights(house: Household, method: str, **params: Any) -> None:
    """Require that a caller needs ``operate``, for every agent and sender."""
    expected: list[tuple[dict[str, Any], Any]] = [
        ({"scopes": ["read", "converse", "approve"]}, ScopeMissing),
        ({"scopes": ["operate"], "agents": ["default"]}, ScopeWouldWiden),
        ({"scopes": ["operate"], "senders": ["ann"]}, ScopeWouldWiden),
    ]
    for grant, refusal in expected:
        client = await house.connect_limited(**grant)
        assert isinstance(await refusal_of(client, method, **params), refusal)


async def test_hook_test_scope_would_widen(node: Household) -> None:
    """A hook runs for every agent."""
    await require_rights(node, "hook.test", name="guard")


async def test_hook_dead_letters_ok(node: Household) -> None:
    """Failures are listed oldest first, by default the open ones."""
    ids = await fail(node, times=3)
    assert len(ids) == 3
    letters = await pages(node.client, "hook.dead_letters", "dead_letters", limit=1)
    assert [letter["subject"] for letter in letters] == ["0", "1", "2"]
    await node.call("hook.resolve", dead_letter_id=ids[1])
    letters = await pages(node.client, "hook.dead_letters", "dead_letters")
    assert [letter["subject"] for letter in letters] == ["0", "2"]
    letters = await pages(node.client, "hook.dead_letters", "dead_letters", state="resolved")
    assert [letter["subject"] for letter in letters] == ["1"]


async def test_hook_dead_letters_scope_would_widen(node: Household) -> None:
    """An input of a hook may be that of any agent."""
    await require_rights(node, "hook.dead_letters")


async def test_hook_resolve_ok(node: Household) -> None:
    """The record says by whom and why."""
    (dead_letter_id,) = await fail(node)
    resolved = await node.call("hook.resolve", dead_letter_id=dead_letter_id, note="mended")
    assert (resolved["state"], resolved["note"]) == ("resolved", "mended")
    assert resolved["resolved_by"].startswith("uid:")
    (event,) = await node.events(types=["hook_failure_resolved"])
    assert event["dead_letter_id"] == dead_letter_id


async def test_hook_resolve_dead_letter_not_found(node: Household) -> None:
    """There is no such failure."""
    assert isinstance(await node.refusal_of("hook.resolve", dead_letter_id="hkf_1"), DeadLetterNotFound)


async def test_hook_resolve_dead_letter_already_resolved(node: Household) -> None:
    """The first one counts."""
    (dead_letter_id,) = await fail(node)
    await node.call("hook.resolve", dead_letter_id=dead_letter_id)
    refusal = await node.refusal_of("hook.resolve", dead_letter_id=dead_letter_id)
    assert isinstance(refusal, DeadLetterAlreadyResolved)


async def test_hook_resolve_scope_would_widen(node: Household) -> None:
    """A restricted caller resolves nothing."""
    await require_rights(node, "hook.resolve", dead_letter_id="hkf_1")
