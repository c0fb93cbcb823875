"""Consecutive requests of a conversation share the whole earlier prompt, so that providers can cache it.

Providers cache a prompt from its beginning: tools, instructions, transcript. Each request here must repeat
the previous one byte for byte, except for the situation, which is its end.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheishd.core.context.situation import SITUATION_NOTE
from kheishd.hooks.plan import Planning
from kheishd.kernel.runtime import RouteSpec
from kheishd.objects.talk.fork import fork
from kheishd.objects.talk.send import send_to_session
from kheishd.providers.caller import ProviderCaller
from protocol.contract import OutputContract
from protocol.limits.debug import MAX_DEBUG_TEXT_BYTES
from protocol.objects.session import SessionFork, SessionSend
from tests.support.daemons import Daemon, until
from tests.support.desk import Desk, open_desk, working
from tests.support.model_calls import inline
from tests.support.model_server import ModelServer, running_model_server
from tests.support.wire_samples import check_kept_messages
from tests.support.workshop import Workshop, hooks

DRIVERS = ("openai", "responses", "anthropic", "google")

TODOS = '/call todo_write {"todos":[{"content":"look"},{"content":"say"}]}\n/then\nnoted'
ONE_DONE = '/call todo_write {"todos":[{"content":"look","completed":true},{"content":"say"}]}\n/then\nnoted'
PLAN = '/call enter_plan_mode {}\n/then\n/call look {"path":"/a"}\n/then\nplanned'


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare each request with one that is made from scratch."""
    check_kept_messages(monkeypatch)


@asynccontextmanager
async def talking(
    directory: Path, server: ModelServer, driver: Any, model: str = "orders", *, planned: bool = True
) -> AsyncIterator[Desk]:
    """Provide a desk with a worker, planning tools if ``planned``, and a route to the server."""
    models = ProviderCaller(in_thread=inline)
    route = RouteSpec("remote", driver, model, base_url=server.base_url)
    parts = hooks(Workshop(), *([Planning()] if planned else []))
    try:
        async with (
            open_desk(
                directory,
                models,
                threaded=True,
                routes={"remote": route},
                default_route="remote",
                hooks=parts,
            ) as desk,
            working(desk),
        ):
            yield desk
    finally:
        await models.aclose()


async def ask(desk: Desk, text: str, **params: Any) -> str:
    """Send a message, and return its session once the run is completed."""
    sent = await desk.ask(text, **params)
    assert (sent.status, sent.error) == ("completed", None)
    return str(sent.session_id)


def parse_prompt(body: dict[str, Any]) -> tuple[str, str]:
    """Return the prompt of a request as the provider reads it, and its situation."""
    messages = body.get("messages") or body.get("input") or body["contents"]
    instructions = body.get("system"), body.get("systemInstruction"), body.get("instructions")
    prompt = msgspec.json.encode([body.get("tools"), instructions, messages]).decode()
    # Breakpoints are no part of the prompt.
    prompt = prompt.replace(',"cache_control":{"type":"ephemeral"}', "")
    situation = ""
    if SITUATION_NOTE in prompt:
        prompt, _, situation = prompt.rpartition(SITUATION_NOTE)
    # It is a block of its own, or the end of the last text.
    for frame in (',{"type":"text","text":"', ',{"text":"', "\\n\\n"):
        prompt = prompt.removesuffix(frame)
    return prompt.rstrip('"}]'), situation


def require_shared_prefixes(server: ModelServer) -> list[str]:
    """Require that each request repeats the previous one; return the situations, and forget the requests."""
    pairs = [parse_prompt(request.json) for request in server.requests]
    for (previous, _), (current, _) in pairwise(pairs):
        assert current.startswith(previous)
    server.requests.clear()
    return [situation for _, situation in pairs]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_consecutive_requests_share_their_prefix(tmp_path: Path, driver: str) -> None:
    """Todos, a plan and requirements change, and everything before the situation stays."""
    contract = OutputContract(schema={"type": "null"})
    async with running_model_server() as server, talking(tmp_path, server, driver) as desk:
        for text in ("hello", TODOS, "and now?", ONE_DONE, PLAN, "still there?"):
            await ask(desk, text)
        await ask(desk, "null", output_contract=contract)
        await ask(desk, "bye")
        situations = require_shared_prefixes(server)
    assert situations[0] == ""
    assert sum("[x] look" in situation for situation in situations) > 3
    assert sum("Plan mode is on" in situation for situation in situations) > 2
    assert sum("no code fence" in situation for situation in situations) == 1


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_restarted_daemon_repeats_the_prefix(tmp_path: Path, driver: str) -> None:
    """After a restart, the next request begins with all of the last one."""
    async with running_model_server() as server:
        for text in (TODOS, "and now?"):
            async with talking(tmp_path, server, driver) as desk:
                await ask(desk, text)
        assert len(require_shared_prefixes(server)) == 3


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_fork_repeats_the_prefix_of_its_parent(tmp_path: Path, driver: str) -> None:
    """A fork and its parent both begin with the requests before the fork point."""
    async with running_model_server() as server, talking(tmp_path, server, driver) as desk:
        session_id = await ask(desk, TODOS)
        before = server.requests.copy()
        forked = await desk.do(fork, SessionFork(session_id=session_id))
        message = SessionSend(session_id=forked.session_id, content="in the fork", wait="settled")
        await desk.do(send_to_session, message)
        assert len(require_shared_prefixes(server)) == 3
        server.requests.extend(before)
        await ask(desk, "in the parent")
        assert len(require_shared_prefixes(server)) == 3


# Thoughts that are bound to all that came before them.


def read_thinking(server: ModelServer) -> list[Any]:
    """Return the configuration of thinking of each request, and forget the requests."""
    configured = [request.json.get("thinking") for request in server.requests]
    server.requests.clear()
    return configured


async def test_bound_thoughts_stay_valid(tmp_path: Path) -> None:
    """The situation stays where it was stated and comes again when it changes, also after a restart."""
    async with running_model_server() as server:
        async with talking(tmp_path, server, "anthropic", "binds") as desk:
            for text in ("hello", TODOS, "and now?", "well?", ONE_DONE, PLAN):
                await ask(desk, text)
            await ask(desk, "null", output_contract=OutputContract(schema={"type": "null"}))
        async with talking(tmp_path, server, "anthropic", "binds") as desk:
            await ask(desk, "still there?")
            await ask(desk, '/call todo_write {"todos":[]}\n/then\nnoted')
            await ask(desk, "bye")
        last = server.requests[-1].body.decode()
        # No request was refused and sent again.
        assert read_thinking(server) == [None] * 15
    assert last.count("<situation>") < last.count("Hm.") - 2
    for stated in ("[ ] look", "[x] look", "Plan mode is on", "no code fence"):
        assert 0 < last.count(stated) <= 4


async def test_thoughts_behind_a_changed_prompt_are_dropped(tmp_path: Path) -> None:
    """With other tools, the provider is asked to drop thoughts instead of rejecting them; it stays so."""
    dropping = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    async with running_model_server() as server:
        async with talking(tmp_path, server, "anthropic", "binds") as desk:
            await ask(desk, "one")
        async with talking(tmp_path, server, "anthropic", "binds", planned=False) as desk:
            await ask(desk, "two")
            await ask(desk, "three")
        assert read_thinking(server) == [None, None, dropping, dropping]


# Changes of the prompt's begin: what is kept for a runtime is never that of another one.


def read_prompt(daemon: Daemon, content: str, **params: Any) -> dict[str, Any]:
    """Send a message to a session; return the request that the offline stand-in got."""
    sent = daemon.call("session.send", content=content, wait="settled", **params)
    run_id = sent["run_id"]

    def is_written() -> bool:
        artifacts = daemon.call("run.debug", run_id=run_id)["artifacts"]
        return any(artifact["artifact_id"].endswith("answer.json") for artifact in artifacts)

    until(is_written, "the capture of the call")
    first = daemon.call("run.debug", run_id=run_id)["artifacts"][0]["artifact_id"]
    artifact = daemon.call("run.debug", run_id=run_id, artifact=first, limit=MAX_DEBUG_TEXT_BYTES)
    body: dict[str, Any] = msgspec.json.decode(artifact["text"])["body"]
    return body


def test_the_prompt_follows_every_change(home: Path) -> None:
    """The tools, the sections and the situation are those of the scope, the mode and the configuration."""
    home.mkdir()
    config = home / "config.toml"
    config.write_text("[debug]\ncapture = 'full'\n")
    with Daemon(home) as daemon:
        session = {"session_id": daemon.call("session.create", agent="default")["session_id"]}
        first, second = read_prompt(daemon, "one", **session), read_prompt(daemon, "two", **session)
        assert (first["tools"], first["instructions"]) == (second["tools"], second["instructions"])
        assert "# Workspace" in first["instructions"]
        daemon.call("session.update", permission_mode="plan", **session)
        assert "Plan mode is on" in read_prompt(daemon, "three", **session)["situation"]
        daemon.call("session.update", permission_mode="default", **session)
        assert read_prompt(daemon, "four", **session)["situation"] == ""
        config.write_text("[debug]\ncapture = 'full'\n[tools]\nmax_timeout_s = 77\n")
        daemon.call("daemon.reload")
        reloaded = {tool["name"]: tool for tool in read_prompt(daemon, "five", **session)["tools"]}
        previous = {tool["name"]: tool for tool in second["tools"]}
        assert reloaded.keys() == previous.keys()
        assert reloaded["bash"] != previous["bash"]
        assert "77" in str(reloaded["bash"])
        daemon.call("session.update", scope={"tools": ["web_fetch"]}, **session)
        narrowed = read_prompt(daemon, "six", **session)
        assert [tool["name"] for tool in narrowed["tools"]] == ["web_fetch"]
        assert "# Workspace" not in narrowed["instructions"]
