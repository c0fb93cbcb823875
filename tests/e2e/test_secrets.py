"""A provider that repeats the key it was given: nobody is told, by no way there is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.daemons import Daemon, RpcError
from tests.support.model_server import running_model_server

# With what JSON spells otherwise.
SECRET = 'sk-quo"ted-0123456789'
ROTATED = "sk-rotated-9876543210"

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


def spelled(secret: str) -> Iterator[bytes]:
    """Return a secret as it is, in JSON, and in JSON inside JSON."""
    for _ in range(3):
        yield secret.encode()
        secret = json.dumps(secret)[1:-1]


def known(text: str | bytes) -> bool:
    """Whether somebody who reads this knows a secret."""
    content = text.encode() if isinstance(text, str) else text
    return any(form in content for secret in (SECRET, ROTATED) for form in spelled(secret))


def deltas(daemon: Daemon, **params: Any) -> tuple[str, str]:
    """Send and follow: the text as it was written, and the answer as it is kept."""
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
        assert not known(json.dumps(client.notes))
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


def story(home: Path) -> None:
    """Return everything a client can request, with the key in every answer of the provider."""
    environ = {"KEY": SECRET, "CREDENTIALS_DIRECTORY": str(home / "credentials")}
    with Daemon(home, "--log-format", "json", "--log-level", "debug", environ=environ) as daemon:
        for size in (1, 2, 7, 1000):
            written, kept = deltas(daemon, model=f"repeat:{size}")
            assert written == kept == "it is [scrubbed], yes, sk-"
        # One that was exchanged while the daemon runs counts from its first use on.
        (home / "credentials" / "key").write_text(ROTATED)
        written, kept = deltas(daemon, model="repeat:3", route="filed")
        assert written == kept == "it is [scrubbed], yes, sk-"
        daemon.call("session.create", session_id="s", title=f"about {SECRET}", metadata={SECRET: ROTATED})
        assert daemon.call("session.get", session_id="s")["title"] == "about [scrubbed]"
        agent = daemon.call("definition.get", name="loose")
        assert agent["instructions"] == "The key is [scrubbed], keep it safe."
        (home / "agents" / "bad.md").write_text(f"---\nroute: {json.dumps(SECRET)}\n---\nx")
        with pytest.raises(RpcError) as refusal:
            daemon.call("daemon.reload")
        assert "no route '[scrubbed]'" in refusal.value.message
        for method in ("daemon.status", "daemon.config", "route.list", "definition.list", "session.list"):
            assert not known(json.dumps(daemon.call(method)))
        for method in ("run.list", "journal.read", "conversation.history"):
            assert not known(json.dumps(daemon.call(method)))
        daemon.call("conversation.send", agent="loose", content=f"Is it {SECRET}?", wait="settled")
        daemon.stop()
        assert not known(daemon.read_log())


def texts(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def captured(home: Path) -> None:
    """Return every captured artifact; none contains the key, not even split across pieces."""
    paths = [path for path in (home / "debug").rglob("*") if path.is_file()]
    assert len(paths) == 6 * 3
    for path in paths:
        content = path.read_text()
        assert not known(content)
        joined = "".join(text for line in content.splitlines() for text in texts(json.loads(line)))
        assert "0123456789" not in joined.replace("msg_0123456789", "")


async def test_a_key_that_the_provider_repeats_is_told_to_nobody(home: Path) -> None:
    """Neither in pieces nor whole: text being written, answers, records, errors, the journal, the log."""
    async with running_model_server() as server:
        (home / "config.toml").write_text(CONFIG.format(url=server.base_url))
        await trio.to_thread.run_sync(story, home)
        await trio.to_thread.run_sync(captured, home)
