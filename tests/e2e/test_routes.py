"""The real daemon and routes that change while it runs: stored routes, chains, and several keys."""

import json
import socket
import threading
from pathlib import Path
from typing import Any

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon
from tests.support.raw_provider import RawProvider, stream

BUSY = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n"


def settings(port: int, **changes: Any) -> dict[str, Any]:
    """Return the settings of a route to a local server."""
    return {"model": "m", "driver": "openai", "base_url": f"http://127.0.0.1:{port}/v1", **changes}


def test_routes_change_live_and_survive_a_kill(home: Path) -> None:
    """A chain that was stored over RPC answers at once although its first route is down, and after a kill."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Daemon(home) as daemon:
        provider = RawProvider(listener)
        threading.Thread(target=provider.serve, daemon=True).start()
        provider.answers += [(stream(text), False) for text in ("one", "two", "three")]
        port = listener.getsockname()[1]
        daemon.call("route.put", route_id="second", settings=settings(port))
        # Nothing listens on port 1.
        daemon.call("route.put", route_id="first", settings=settings(1, fallback=["second"]))
        daemon.call("route.default", route_id="first")
        sent = daemon.say("hello")
        assert sent["output"] == "one"
        run = daemon.call("run.get", run_id=sent["run_id"])
        assert (run["pinned"]["route"], run["route"]) == ("first", "second")
        failed = next(event for event in daemon.events() if event["type"] == "model_failed")
        assert (failed["route"], failed["next_route"], failed["error"]["reason"]) == (
            "first",
            "second",
            "connection_failed",
        )
        shown = daemon.call("route.get", route_id="first")
        assert shown["cooldowns"][0]["reason"] == "connection_failed"
        daemon.kill()
        daemon.start()
        assert daemon.say("again")["output"] == "two"
        third = daemon.say("and again")
        assert third["output"] == "three"
        shown = Ctl(home).json("run", "show", third["run_id"])
        assert [note.partition(":")[0] for note in shown["passed_over"]] == ["first"]
        assert daemon.call("daemon.status")["default_route"] == "first"
        assert daemon.call("route.get", route_id="first")["revision"] == 1


def test_every_route_fails(home: Path) -> None:
    """The run ends with one error that lists each route and key with its failure; no key is shown."""
    home.mkdir(exist_ok=True)
    keys = {"KEY_ONE": "sk-first-secret", "KEY_TWO": "sk-second-secret"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        provider = RawProvider(listener)
        threading.Thread(target=provider.serve, daemon=True).start()
        provider.answers += [(BUSY, False)] * 2
        port = listener.getsockname()[1]
        references = [f"env:{name}" for name in keys]
        (home / "config.toml").write_text(
            f"[runs]\nmax_attempts = 1\n[routes.last]\nmodel = 'm'\ndriver = 'openai'\n"
            f"base_url = 'http://127.0.0.1:1/v1'\n[routes.first]\nmodel = 'm'\ndriver = 'openai'\n"
            f"base_url = 'http://127.0.0.1:{port}/v1'\nauth_refs = {references}\nfallback = ['last']\n"
        )
        with Daemon(home, environ=keys) as daemon:
            sent = daemon.say("hello", route="first")
            error = sent["error"]
            assert (sent["status"], error["reason"]) == ("failed", "routes_failed")
            for name in ("first (env:KEY_ONE): ", "first (env:KEY_TWO): ", "last: "):
                assert name in error["message"]
            cooldowns = daemon.call("route.get", route_id="first")["cooldowns"]
            assert [cooldown["auth_ref"] for cooldown in cooldowns] == references
            assert "secret" not in json.dumps(daemon.events())


def test_a_restart_in_the_middle_of_a_chain(home: Path) -> None:
    """A run whose second route is being asked when the daemon is killed continues and is answered once."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Daemon(home) as daemon:
        provider = RawProvider(listener)
        threading.Thread(target=provider.serve, daemon=True).start()
        port = listener.getsockname()[1]
        # The answer of the first daemon's call never comes: its connection stays open.
        provider.answers += [(b"", False), (stream("after the restart"), False)]
        daemon.call("route.put", route_id="second", settings=settings(port))
        daemon.call("route.put", route_id="first", settings=settings(1, fallback=["second"]))
        sent = daemon.call(
            "conversation.send",
            agent="default",
            sender="user",
            content="hello",
            route="first",
            wait="accepted",
        )
        assert provider.is_asked.wait(60)
        daemon.kill()
        daemon.start()
        run = daemon.call("run.wait", run_id=sent["run_id"], timeout_s=60)
        assert (run["status"], run["route"], run["output"]) == ("completed", "second", "after the restart")
        kinds = [event["type"] for event in daemon.events() if event.get("run_id") == sent["run_id"]]
        assert kinds.count("message_appended") == 1
        shown = Ctl(home)("run", "show", sent["run_id"])
        assert ["answered by", "second"] in shown.rows
