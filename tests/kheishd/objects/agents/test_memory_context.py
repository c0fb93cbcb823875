"""What a session's model is given besides the conversation, over the socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from kheishd.core.workspace import Workspaces
from kheishd.store.blobs import blob_name
from protocol.errors.session import SessionNotFound
from tests.support.household import AGENTS, Household, household, refusal_of


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Provide a home with a default workspace, and a shop beside it, each with instructions."""
    top = tmp_path.resolve()
    for name in ("home/workspace/deep", "shop"):
        (top / name).mkdir(parents=True)
    (top / "home/AGENTS.md").write_text("global")
    (top / "home/workspace/AGENTS.md").write_text("mine")
    (top / "shop/AGENTS.md").write_text("x" * 70_000)
    return top


@pytest.fixture
async def node(tmp_path: Path, top: Path) -> AsyncIterator[Household]:
    """Serve a daemon whose default workspace is trusted; the shop is not."""
    workspaces = Workspaces(f"{top}/home/workspace", f"{top}/home", trusted=(f"{top}/home/workspace",))
    async with household(tmp_path, tcp=True, workspaces=workspaces) as house:
        yield house


async def test_session_memory_context_ok(node: Household, top: Path) -> None:
    """It names the instructions, the files and the rights of the session's next run."""
    sent = await node.ask("ring", origin="event")
    context = await node.call("session.memory_context", session_id=sent["session_id"])
    instructions = AGENTS["default"].instructions.encode()
    assert (context["instructions"], context["instructions_bytes"]) == (
        blob_name(instructions),
        len(instructions),
    )
    assert (context["workspace"], context["trusted_root"]) == (f"{top}/home/workspace",) * 2
    assert [(file["path"], file["bytes"]) for file in context["agents_files"]] == [
        (f"{top}/home/AGENTS.md", 6),
        (f"{top}/home/workspace/AGENTS.md", 4),
    ]
    assert (context["permission_mode"], context["origins"]) == ("default", ["event"])
    assert "Sell" not in str(context)
    run = await node.call("run.get", run_id=sent["run_id"])
    explanation = await node.call("permission.why", tool="bash", run_id=run["run_id"])
    lines = [line["text"] for line in explanation["lines"] if line["source"] == "instructions"]
    assert lines == [f"{top}/home/AGENTS.md: 6 bytes", f"{top}/home/workspace/AGENTS.md: 4 bytes"]


async def test_an_untrusted_workspace_has_no_files(node: Household, top: Path) -> None:
    """Once it is trusted, its file is there, cut at the limit."""
    await node.call("session.create", session_id="s", workspace=f"{top}/shop")
    context = await node.call("session.memory_context", session_id="s")
    assert "trusted_root" not in context
    assert [file["path"] for file in context["agents_files"]] == [f"{top}/home/AGENTS.md"]
    await node.call("workspace.trust", root=f"{top}/shop")
    context = await node.call("session.memory_context", session_id="s")
    file = context["agents_files"][1]
    assert (file["bytes"], file["cut"], context["trusted_root"]) == (70_000, True, f"{top}/shop")


async def test_a_session_with_little_has_a_context(node: Household) -> None:
    """An agent that is no longer defined and a workspace that is no longer allowed are left out."""
    await node.call("session.create", session_id="s", agent="reviewer")
    runtime = node.holder.current()
    workspaces = Workspaces("/srv", "/home/x", limited=True)
    node.holder.replace(
        replace(runtime, generation=2, definitions={"default": AGENTS["default"]}, workspaces=workspaces)
    )
    context = await node.call("session.memory_context", session_id="s")
    assert "instructions" not in context


async def test_session_memory_context_session_not_found(node: Household) -> None:
    """A session that the caller may not read is not found."""
    sent = await node.ask()
    stranger = await node.connect_limited(senders=["ann"])
    for client, session_id in ((node.client, "ses_none"), (stranger, sent["session_id"])):
        refusal = await refusal_of(client, "session.memory_context", session_id=session_id)
        assert isinstance(refusal, SessionNotFound)
