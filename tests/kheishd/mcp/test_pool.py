"""The pool of servers, with real processes."""

import os
from pathlib import Path

import msgspec
import pytest
import trio
from msgspec.structs import replace

from kheishd.core.text.scrub import Scrubber
from kheishd.hooks.os.shell.keeper import start_ticks_of
from kheishd.kernel.mcp import ServerFailure, ServerSpec
from kheishd.mcp.pool import McpPool
from protocol.errors.mcp import McpServerNotFound, McpServerUnavailable
from protocol.limits.mcp import MAX_SERVER_ERROR_BYTES
from protocol.objects.mcp import McpServerSettings
from tests.support.mcp_servers import TOY_COMMAND, MemorySlots, open_pool, spec_of, until


async def text_of(pool: McpPool, server: str, tool: str, text: str = "") -> str:
    """Return the text that a tool returns."""
    result = await pool.call(server, tool, {"text": text}, lambda line: None)
    return str(result.content[0]["text"])


async def test_servers_and_their_tools() -> None:
    """Each server has a state; the tools of all are listed by name, and the list is one object."""
    disabled = spec_of("off", enabled=False)
    async with open_pool(spec_of("b", "prints"), spec_of("a"), spec_of("bad", "dies"), disabled) as pool:
        assert [(view.name, view.state, view.tools) for view in pool.views()] == [
            ("a", "ready", 14),
            ("b", "ready", 14),
            ("bad", "failed", 0),
            ("off", "disabled", 0),
        ]
        names = [tool.row.name for tool in pool.tools]
        assert names == sorted(names)
        assert pool.tools is pool.tools
        assert await text_of(pool, "b", "echo", "hi") == "hi"
        assert pool.find("a").name == "a"
        with pytest.raises(McpServerNotFound):
            pool.find("none")
        assert pool.find_problem("off") == "it is disabled in the configuration"
        with pytest.raises(McpServerUnavailable):
            await pool.restart("off")
        with pytest.raises(ServerFailure, match="cannot open its database"):
            await text_of(pool, "bad", "echo")


async def test_calls_run_side_by_side() -> None:
    """One connection serves calls of all sessions at once."""
    async with open_pool(spec_of("a")) as pool, trio.open_nursery() as nursery:
        began = trio.Event()
        nursery.start_soon(pool.call, "a", "slow", {"text": "x"}, lambda line: began.set())
        await began.wait()
        texts = [await text_of(pool, "a", "echo", str(number)) for number in range(3)]
        assert texts == ["0", "1", "2"]
        nursery.cancel_scope.cancel()


async def test_a_reload_keeps_unchanged_servers() -> None:
    """Unchanged servers keep their process, changed ones get another, and those that are gone end."""
    kept, changed, gone = spec_of("kept"), spec_of("changed"), spec_of("gone")
    async with open_pool(kept, changed, gone) as pool:
        pids = {name: int(await text_of(pool, name, "read")) for name in ("kept", "changed", "gone")}
        other = replace(changed, settings=McpServerSettings(command=TOY_COMMAND, env={"A": "b"}))
        pool.adopt({"kept": replace(kept, agents=("x",)), "changed": other})
        await pool.settle(["kept", "changed"])
        assert int(await text_of(pool, "kept", "read")) == pids["kept"]
        assert int(await text_of(pool, "changed", "read")) != pids["changed"]
        assert {tool.spec.agents for tool in pool.tools if tool.spec.name == "kept"} == {("x",)}
        with pytest.raises(McpServerNotFound):
            await text_of(pool, "gone", "read")
        await until(lambda: [view.name for view in pool.views()] == ["changed", "kept"])
        assert start_ticks_of(pids["gone"]) is None


async def test_a_dead_server_is_started_again() -> None:
    """A server that dies is connected again in the background, with its tools."""
    async with open_pool(spec_of("a")) as pool:
        pid = await text_of(pool, "a", "read")
        with pytest.raises(ServerFailure):
            await text_of(pool, "a", "die")
        assert "mcp__a__echo" in {tool.row.name for tool in pool.tools}
        await pool.restart("a")
        assert await text_of(pool, "a", "read") != pid


async def test_the_environment_of_a_server(tmp_path: Path) -> None:
    """A server gets few variables of the daemon, its own, credentials by reference, and its directory."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": "/h",
        "OPENAI_API_KEY": "canary",
        "NAMED": "1",
        "LC_X": "y",
    }
    settings = McpServerSettings(
        command=TOY_COMMAND, env={"OWN": "2"}, env_refs={"TOKEN": "env:X"}, inherit_env=["NAMED"]
    )
    async with open_pool(ServerSpec("a", settings, cwd=str(tmp_path)), environ=environ) as pool:
        found = msgspec.json.decode(await text_of(pool, "a", "env"))
    found.pop("KHEISH_CALL")
    found.pop("LC_CTYPE", None)
    assert found == {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": "/h",
        "NAMED": "1",
        "LC_X": "y",
        "OWN": "2",
        "TOKEN": "value-of-env:X",
        "cwd": str(tmp_path),
    }


async def test_a_missing_credential(tmp_path: Path) -> None:
    """A server whose credential cannot be read is not connected, and its problem says so."""

    def resolve(reference: str) -> str:
        raise ValueError(f"'{reference}' is not set")

    slots = MemorySlots()
    pool = McpPool(tmp_path, os.environ, resolve, lambda: 0, slots, slots.save)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.serve)
        pool.adopt(
            {"a": ServerSpec("a", McpServerSettings(url="http://127.0.0.1:1/mcp", auth_ref="env:NO_TOKEN"))}
        )
        await pool.settle(["a"])
        assert pool.views()[0].problem == "'env:NO_TOKEN' is not set"
        nursery.cancel_scope.cancel()


async def test_a_secret_at_the_cut_of_a_message() -> None:
    """An error and the progress of a server are cut where no part of a secret is left."""
    secret = "sk-" + "0123456789" * 5
    async with open_pool(spec_of("a"), scrub_cut=Scrubber([secret]).scrub_cut) as pool:
        text = "x" * (MAX_SERVER_ERROR_BYTES - 40) + secret + "y" * 100
        with pytest.raises(ServerFailure) as failure:
            await text_of(pool, "a", "fail", text)
        lines: list[str] = []
        async with trio.open_nursery() as nursery:

            def follow(line: str) -> None:
                lines.append(line)
                nursery.cancel_scope.cancel()

            await pool.call("a", "slow", {"text": text}, follow)
    for message in (str(failure.value), lines[0]):
        assert "xxx" in message
        assert "012" not in message
