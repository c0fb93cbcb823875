"""Tests of contrib/examples against the real daemon."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.daemons import Daemon
from tests.support.programs import BIN, ROOT, environment

EXAMPLES = ROOT / "contrib" / "examples"
MAX_LINES = 7

PROGRAMS = {
    "socat.sh": ["sh"],
    "client.py": [str(BIN / "python"), "-I"],
    "client.mjs": ["node"],
    "websocket.py": [str(BIN / "python"), "-I"],
}
NEEDED = {"socat.sh": "socat", "client.py": "sh", "client.mjs": "node", "websocket.py": "sh"}
SENDERS = {"socat.sh": "socat", "client.py": "python", "client.mjs": "node", "websocket.py": "websocket"}


def code_lines(path: Path) -> list[str]:
    """Return the effective lines of a script, without comments, imports and blank lines."""
    skipped = ("#", "//", '"""', "import ", "from ")
    return [line for line in path.read_text().splitlines() if line.strip() and not line.startswith(skipped)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_holds_a_turn_of_a_conversation(name: str, tmp_path: Path) -> None:
    """An example prints the answer, and the conversation exists afterwards."""
    if shutil.which(NEEDED[name]) is None:
        pytest.skip(f"{NEEDED[name]} is missing")
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text('[listen.tcp]\naddress = "127.0.0.1:0"\n')
    with Daemon(home) as daemon:
        token = daemon.call("token.create", name="example", scopes=["read", "converse"])["secret"]
        url = [f"ws://{(home / 'run' / 'tcp').read_text().strip()}/rpc"] if name == "websocket.py" else []
        done = subprocess.run(
            [*PROGRAMS[name], EXAMPLES / name, *url],
            env=environment(KHEISH_HOME=str(home), KHEISH_TOKEN=token),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "You say: “Hello from " in done.stdout
        history = daemon.call("conversation.history", sender=SENDERS[name])
    assert [message["message"]["role"] for message in history["messages"]] == ["user", "assistant"]


def test_every_example_is_tested_and_short() -> None:
    """Every example is tested and has about six lines besides its imports."""
    scripts = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert scripts == set(PROGRAMS)
    for name in scripts:
        assert len(code_lines(EXAMPLES / name)) <= MAX_LINES, name


def test_the_socat_example_prints_a_json_rpc_answer(tmp_path: Path) -> None:
    """The shell example prints the whole JSON-RPC answer, because it has no JSON parser."""
    if shutil.which("socat") is None:
        pytest.skip("socat is missing")
    with Daemon(tmp_path / "home"):
        output = subprocess.check_output(
            ["sh", EXAMPLES / "socat.sh"], env=environment(KHEISH_HOME=str(tmp_path / "home")), timeout=60
        )
    answer = json.loads(output)
    assert answer["jsonrpc"] == "2.0"
    assert answer["result"]["status"] == "completed"
