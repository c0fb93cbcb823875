"""A provider that repeats its key: no reader of the daemon receives it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from protocol.rpc.catalogue import METHODS
from tests.support.daemons import Daemon, RpcError, short_home
from tests.support.model_server import running_model_server
from tests.support.samples import sample
from tests.support.spellings import spell
from tests.support.stores import needs_strace
from tests.support.victims import Script, Victim, strace
from tests.support.waiting_runs import order

# With characters that JSON escapes.
SECRET = 'sk-quo"ted-0123456789'
ROTATED = "sk-rotated-9876543210"
# With characters that an id may have.
IDENTIFIER = "sk-proj-AbCdEf0123456789"

CONFIG = """
default_route = "remote"
[routes.remote]
driver = "openai"
model = "echo"
base_url = "{url}"
auth_ref = "env:KEY"
[routes.filed]
driver = "openai"
model = "echo"
base_url = "{url}"
auth_ref = "credential:key"
[debug]
capture = "full"
"""


def yield_forms(secret: str) -> Iterator[bytes]:
    """Yield a secret plain, in JSON, and in JSON inside JSON."""
    for _ in range(3):
        yield secret.encode()
        secret = json.dumps(secret)[1:-1]


def has_secret(text: str | bytes) -> bool:
    """Whether a text contains a secret."""
    content = text.encode() if isinstance(text, str) else text
    return any(form in content for secret in (SECRET, ROTATED) for form in yield_forms(secret))


def deltas(daemon: Daemon, **params: Any) -> tuple[str, str]:
    """Send and follow; return the text of the deltas and the stored answer."""
    with daemon.connect() as client:
        sent = client.call("conversation.send", content="hello", stream=True, wait="settled", **params)
        while not any(note["method"] == "journal.end" for note in client.notes):
            client.notes.append(client.receive())
        written = {"thinking": "", "text": ""}
        for note in client.notes:
            if note["method"] == "journal.delta":
                kind = note["params"]["kind"]
                assert note["params"]["offset"] == len(written[kind])
                written[kind] += note["params"]["text"]
        assert not has_secret(json.dumps(client.notes))
    assert written["thinking"] == written["text"]
    return written["text"], sent["output"]


@pytest.fixture
def home(home: Path) -> Path:
    """Provide a home with credentials and an agent."""
    (home / "agents").mkdir(parents=True)
    (home / "agents" / "loose.md").write_text(f"The key is {SECRET}, keep it safe.")
    (home / "credentials").mkdir()
    (home / "credentials" / "key").write_text(SECRET)
    return home


def make_requests(home: Path) -> None:
    """Make every kind of request while the provider repeats the key; require that no answer contains it."""
    environ = {"KEY": SECRET, "CREDENTIALS_DIRECTORY": str(home / "credentials")}
    with Daemon(home, "--log-format", "json", "--log-level", "debug", environ=environ) as daemon:
        for size in (1, 2, 7, 1000):
            written, stored = deltas(daemon, model=f"repeat:{size}")
            assert written == stored == "it is [scrubbed], yes, sk-"
        # A key replaced while the daemon runs is redacted from its first use on.
        (home / "credentials" / "key").write_text(ROTATED)
        written, stored = deltas(daemon, model="repeat:3", route="filed")
        assert written == stored == "it is [scrubbed], yes, sk-"
        daemon.call("session.create", session_id="s", title=f"about {SECRET}", metadata={SECRET: ROTATED})
        assert daemon.call("session.get", session_id="s")["title"] == "about [scrubbed]"
        agent = daemon.call("definition.get", name="loose")
        assert agent["instructions"] == "The key is [scrubbed], keep it safe."
        (home / "agents" / "bad.md").write_text(f"---\nroute: {json.dumps(SECRET)}\n---\nx")
        with pytest.raises(RpcError) as refusal:
            daemon.call("daemon.reload")
        assert "no route '[scrubbed]'" in refusal.value.message
        for method in ("daemon.status", "daemon.config", "route.list", "definition.list", "session.list"):
            assert not has_secret(json.dumps(daemon.call(method)))
        for method in ("run.list", "journal.read", "conversation.history"):
            assert not has_secret(json.dumps(daemon.call(method)))
        daemon.call("conversation.send", agent="loose", content=f"Is it {SECRET}?", wait="settled")
        daemon.stop()
        assert not has_secret(daemon.read_log())


SLOT_CONFIG = """
default_route = "slotted"
[routes.slotted]
driver = "openai"
model = "echo"
base_url = "{url}"
auth_ref = "slot:provider"
"""


def use_a_slot(home: Path) -> None:
    """Fill a slot while the daemon runs, use it, and use it again after a kill."""
    with Daemon(home, "--log-level", "debug") as daemon:
        (route,) = [row for row in daemon.call("route.list")["routes"] if row["route_id"] == "slotted"]
        assert "the slot 'provider' is empty" in route["problem"]
        with pytest.raises(RpcError, match="the slot 'provider' is empty"):
            daemon.call("conversation.send", content="hello", wait="settled")
        daemon.call("secret.put", slot_id="provider", value=SECRET, kind="api_key")
        route = daemon.call("route.get", route_id="slotted")
        assert route.get("ready", True), route.get("problem")
        written, stored = deltas(daemon, model="repeat:2")
        assert written == stored == "it is [scrubbed], yes, sk-"
        daemon.kill()
        daemon.start()
        written, stored = deltas(daemon, model="repeat:7")
        assert written == stored == "it is [scrubbed], yes, sk-"
        # The former value stays redacted, because an answer may still repeat it.
        daemon.call("secret.rotate")
        daemon.kill()
        daemon.start()
        route = daemon.call("route.get", route_id="slotted")
        assert route.get("ready", True), route.get("problem")
        daemon.call("secret.put", slot_id="provider", value=ROTATED)
        assert deltas(daemon, model="repeat:3")[1] == "it is [scrubbed], yes, sk-"
        session = daemon.call("session.create", title=f"{SECRET} and {ROTATED}")
        assert session["title"] == "[scrubbed] and [scrubbed]"
        diagnosis = daemon.call("daemon.doctor", deep=True)
        assert (diagnosis["findings"], diagnosis["complete"]) == ([], True)
        with pytest.raises(RpcError) as error:
            daemon.call("secret.delete", slot_id="provider")
        assert error.value.reason == "secret_in_use"
        assert not has_secret(json.dumps([daemon.events(), daemon.call("secret.list")]))
        assert daemon.call("daemon.backup", path=f"{home}/backup")["sealed_slots"] == 1
        daemon.stop()
        assert not has_secret(daemon.read_log())
    assert not any(has_secret(path.read_bytes()) for path in (home / "state").iterdir())


async def test_a_slot_is_a_credential_at_once_and_never_shown(home: Path) -> None:
    """A route uses the value of its slot from the next call on, also after a kill, and nothing shows it."""
    await trio.to_thread.run_sync(shutil.rmtree, home / "agents")
    async with running_model_server() as server:
        (home / "config.toml").write_text(SLOT_CONFIG.format(url=server.base_url))
        await trio.to_thread.run_sync(use_a_slot, home)


def yield_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each text in a JSON value."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from yield_places(inner, (*place, key))


def insert(value: Any, place: tuple[Any, ...], text: str) -> Any:
    """Return a JSON value with another text at a place."""
    if not place:
        return text
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[place[0]] = insert(value[place[0]], place[1:], text)
    return changed


def test_no_method_repeats_a_secret() -> None:
    """A secret in any required param of any method, in a name or in an id of a request, is in no answer."""
    with short_home() as home:
        home.mkdir(mode=0o700)
        with Daemon(home, "--log-level", "debug") as daemon:
            daemon.call("secret.put", slot_id="a", value=SECRET)
            requests: list[tuple[str, Any]] = [(SECRET, {}), ("run.get", {SECRET: 1})]
            for name, row in METHODS.items():
                params = sample(row.params, full=False)
                places = yield_places(params) if name != "daemon.shutdown" else ()
                requests += [(name, insert(params, place, SECRET)) for place in places]
            assert len(requests) > 100
            with daemon.connect() as client:
                client.socket.settimeout(30)
                for number, (name, params) in enumerate(requests):
                    client.send({"jsonrpc": "2.0", "id": number, "method": name, "params": params})
                    message = client.receive()
                    while message.get("id") != number:
                        message = client.receive()
                    assert not has_secret(json.dumps(message)), (name, params)
                client.send({"jsonrpc": "2.0", "id": SECRET, "method": "session.create", "params": {}})
                client.receive()
            assert not has_secret(json.dumps(daemon.events()))
            daemon.stop()
            assert not has_secret(daemon.read_log())
        assert not any(has_secret(path.read_bytes()) for path in (home / "state").iterdir())


@needs_strace
def test_a_kill_at_the_commit_of_a_rotation() -> None:
    """The next daemon opens every slot, and the repeated request rotates the key."""
    with short_home() as home:
        home.mkdir(mode=0o700)
        victim = Victim(home)
        victim.start()
        script = Script(victim)
        for slot_id, value in (("a", SECRET), ("b", ROTATED)):
            script.call("secret.put", slot_id=slot_id, value=value)
        victim.stop()
        key = (home / "master.key").read_bytes()
        # The first flush is that of the start.
        inject = ("trace=fdatasync", "-e", "inject=fdatasync:signal=SIGKILL:when=2")
        victim.start(*strace("-o", "/dev/null", "-e", *inject))
        try:
            assert script.call("secret.rotate")["slots"] == 2
            assert victim.deaths == 1
            slots = script.call_again("secret.list", {})["secrets"]
            assert [(slot["slot_id"], slot.get("problem")) for slot in slots] == [("a", None), ("b", None)]
            assert key not in (home / "master.key").read_bytes()
        finally:
            victim.kill()


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def require_clean_captures(home: Path) -> None:
    """Require that no captured artifact contains the key, not even split across pieces."""
    paths = [path for path in (home / "debug").rglob("*") if path.is_file()]
    assert len(paths) == 6 * 3
    for path in paths:
        content = path.read_text()
        assert not has_secret(content)
        joined = "".join(text for line in content.splitlines() for text in texts(json.loads(line)))
        assert "0123456789" not in joined.replace("msg_0123456789", "")


async def test_a_key_that_the_provider_repeats_is_redacted_everywhere(home: Path) -> None:
    """The key is in no delta, answer, record, error, journal or log, whole or in pieces."""
    async with running_model_server() as server:
        (home / "config.toml").write_text(CONFIG.format(url=server.base_url))
        await trio.to_thread.run_sync(make_requests, home)
        await trio.to_thread.run_sync(require_clean_captures, home)


LOCAL_CONFIG = """
[permissions]
mode = "acceptEdits"
rules = [{tool = "bash", decision = "allow"}]
[workspace]
sandbox = "off"
unsandboxed = "allow"
[routes.remote]
driver = "openai"
model = "m"
base_url = "http://127.0.0.1:9"
auth_ref = "env:KEY"
[routes.short]
driver = "openai"
model = "m"
base_url = "http://127.0.0.1:9"
auth_ref = "env:SHORT"
[routes.identifier]
driver = "openai"
model = "m"
base_url = "http://127.0.0.1:9"
auth_ref = "env:IDENTIFIER"
"""


def test_a_secret_is_redacted_in_every_field_and_spelling(tmp_path: Path) -> None:
    """No field name protects a secret, and no encoding: in inputs, calls, output, results, logs, backup."""
    spellings = spell(SECRET)
    text = "\n".join(f"{name}: {spelling}" for name, spelling in spellings.items())
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(LOCAL_CONFIG)
        with Daemon(home, environ={"KEY": SECRET, "SHORT": "sk-1234", "IDENTIFIER": IDENTIFIER}) as daemon:
            workspace = home / "workspace"
            workspace.mkdir(exist_ok=True)
            (workspace / "f").write_text(text)
            tags = {"type": SECRET, "kind": SECRET, "role": SECRET, SECRET: [{"type": SECRET}]}
            daemon.call("session.create", session_id="s", metadata={"user": json.dumps(tags), "role": SECRET})
            key = f"key {SECRET}"
            first = daemon.call("session.create", title="a", idempotency_key=key)
            assert daemon.call("session.create", title="a", idempotency_key=key) == first
            with pytest.raises(RpcError) as error:
                daemon.call("session.create", title="b", idempotency_key=key)
            assert error.value.data["reason"] == "idempotency_conflict"
            for method, name in (
                ("session.create", "session_id"),
                ("session.get", "session_id"),
                (SECRET, "x"),
            ):
                with pytest.raises(RpcError) as error:
                    daemon.call(method, **{name: IDENTIFIER})
                assert error.value.data["reason"] != "internal_error"
                assert IDENTIFIER not in f"{error.value.message} {error.value.data}"
                assert SECRET not in error.value.message
            notes: list[Any] = []
            with daemon.connect() as client:
                client.call("journal.subscribe")
                for content in (
                    text,
                    order("todo_write", todos=[{"content": SECRET, "status": "pending"}], type=SECRET),
                    order("emit_output", value={"user": tags}),
                    order("bash", command="cat f; cat f >&2"),
                    order("read_file", path="f"),
                    order("write_file", path="g", content=text),
                    order(SECRET, role=SECRET),
                ):
                    client.call("conversation.send", content=content, wait="settled")
                notes = client.notes
            answers = [
                notes,
                daemon.events(),
                *(daemon.call(method) for method in ("conversation.history", "run.list", "session.list")),
            ]
            routes = json.dumps(daemon.call("route.list"))
            daemon.call("daemon.backup", path=str(tmp_path / "backup"))
            daemon.stop()
            log = daemon.read_log()
        assert "fewer than 8 characters" in routes
        assert "sk-1234" not in routes
        assert IDENTIFIER not in log
        files = [path for root in (home, tmp_path) for path in root.rglob("*") if path.is_file()]
        stored = b"".join(path.read_bytes() for path in files if workspace not in path.parents)
    assert IDENTIFIER.encode() not in stored
    shown = json.dumps(answers, ensure_ascii=False)
    assert shown.count("[scrubbed]") > len(spellings)
    for name, spelling in spellings.items():
        forms = {spelling, json.dumps(spelling)[1:-1], json.dumps(json.dumps(spelling)[1:-1])[1:-1]}
        for form in forms:
            assert form not in shown, name
            assert form not in log, name
            assert form.encode() not in stored, name
