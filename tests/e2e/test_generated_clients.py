"""Clients that published generators make from ``rpc.discover``: typed strictly, and in conversation."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemon, short_home
from tests.support.programs import BIN, environment

NODE = Path(__file__).parent / "node"
MODULES = NODE / "node_modules"

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (MODULES / "@open-rpc").exists(),
    reason="node, or what 'npm ci' puts into tests/e2e/node, is missing",
)

TURNS = ("The lamp is green.", "What did I say before?")

PYTHON_CLIENT = """
import itertools
import socket
import sys
from typing import Any, TypeVar

import msgspec
import pydantic

from models import (
    ConversationSendParams,
    Envelope,
    ErrorData,
    InputReceivedEvent,
    JournalPage,
    JournalReadParams,
    RunGetParams,
    RunView,
    SendResult,
    SessionId,
)

Result = TypeVar("Result", bound=pydantic.BaseModel)
ids = itertools.count()


class Refused(Exception):
    def __init__(self, data: ErrorData) -> None:
        self.data = data


with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    lines = connection.makefile("rb")

    def ask(method: str, params: pydantic.BaseModel) -> Any:
        sent = params.model_dump(mode="json", exclude_unset=True, by_alias=True)
        request = {"jsonrpc": "2.0", "id": next(ids), "method": method, "params": sent}
        connection.sendall(msgspec.json.encode(request) + b"\\n")
        answer = msgspec.json.decode(lines.readline())
        if "error" in answer:
            raise Refused(ErrorData.model_validate(answer["error"]["data"]))
        return answer["result"]

    def call(method: str, params: pydantic.BaseModel, kind: type[Result]) -> Result:
        return kind.model_validate(ask(method, params))

    texts: list[str | None] = []
    for turn in sys.argv[2:]:
        params = ConversationSendParams(content=turn, sender="python", wait="settled")
        result = call("conversation.send", params, SendResult)
        assert result.status == "completed", result
        texts.append(result.output)
    try:
        call("run.get", RunGetParams(run_id="run_nobody"), RunView)
    except Refused as refusal:
        reason: str = refusal.data.reason
    page = ask("journal.read", JournalReadParams(session_id=SessionId(result.session_id)))
    assert len(JournalPage.model_validate(page).events) == len(page["events"])
    events = {Envelope.model_validate(event).cursor: event for event in page["events"]}
    received = [event for event in events.values() if event["type"] == "input_received"]
    inputs = [InputReceivedEvent.model_validate(event) for event in received]
    document = {"texts": texts, "refusal": reason, "inputs": [event.sender for event in inputs]}
    print(msgspec.json.encode(document).decode())
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon."""
    with short_home() as home, Daemon(home) as daemon:
        yield daemon


def run_tool(directory: Path, *command: str | Path) -> str:
    """Run a program in a directory and return its output. Errors: AssertionError with its messages."""
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=120, check=False, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def to_json_schema(document: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON Schema of the document's components, and of the params of each method."""
    definitions = dict(document["components"]["schemas"])
    for method in document["methods"]:
        name = "".join(word.title() for word in method["name"].split(".")) + "Params"
        definitions[name] = {
            "title": name,
            "type": "object",
            "properties": {param["name"]: param["schema"] for param in method["params"]},
            "required": [param["name"] for param in method["params"] if param["required"]],
        }
    text = json.dumps({"$defs": definitions}).replace("#/components/schemas/", "#/$defs/")
    schema: dict[str, Any] = json.loads(text)
    return schema


def assert_conversation(texts: list[str]) -> None:
    """Assert that both turns were answered, and that the second belongs to the first's conversation."""
    assert len(texts) == len(TURNS)
    assert f"before it you said: “{TURNS[0]}”" in texts[1]


@needs_node
def test_a_typescript_client_holds_a_conversation(daemon: Daemon, tmp_path: Path) -> None:
    """@open-rpc/generator's client compiles with ``tsc --strict`` and holds a conversation.

    Two faults of the generator are worked around: it writes a method's name as an identifier, and a name with
    a dot needs quotes; and its methods miss required params, so that such calls go through ``rpc``.
    """
    document = daemon.call("rpc.discover")
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / "openrpc.json").write_text(json.dumps(document))
    client = {"type": "client", "name": "kheish", "language": "typescript"}
    settings = {"openrpcDocument": "openrpc.json", "outDir": "made", "components": [client]}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    run_tool(tmp_path, "node", MODULES / ".bin/open-rpc-generator", "generate", "-c", "settings.json")
    made = (tmp_path / "made/client/typescript/src/index.ts").read_text()
    quoted, count = re.subn(r"(?m)^  public ([a-z]+\.[a-z_]+): ", r'  public "\1": ', made)
    assert count == len(document["methods"])
    (tmp_path / "kheish.ts").write_text(quoted)
    shutil.copy(NODE / "conversation.ts", tmp_path)
    options = [
        "--strict",
        "--esModuleInterop",
        "--skipLibCheck",
        "--target",
        "es2020",
        "--module",
        "commonjs",
    ]
    run_tool(tmp_path, "node", MODULES / ".bin/tsc", *options, "--types", "node", "conversation.ts")
    gave = json.loads(run_tool(tmp_path, "node", "conversation.js", daemon.socket))
    assert gave["statuses"] == ["completed", "completed"]
    assert_conversation(gave["texts"])
    assert gave["refusal"] == [1404, "run_not_found"]
    assert gave["events"] > 0


def test_a_python_client_holds_a_conversation(daemon: Daemon, tmp_path: Path) -> None:
    """datamodel-code-generator's models pass ``mypy --strict``; a client with them holds a conversation."""
    (tmp_path / "schema.json").write_text(json.dumps(to_json_schema(daemon.call("rpc.discover"))))
    (tmp_path / "client.py").write_text(PYTHON_CLIENT)
    options = ["--input-file-type", "jsonschema", "--output-model-type", "pydantic_v2.BaseModel"]
    options += ["--use-annotated", "--enum-field-as-literal", "all", "--keep-field-defaults-off-branch-roots"]
    options += ["--formatters", "builtin", "--input", "schema.json", "--output", "models.py"]
    run_tool(tmp_path, BIN / "datamodel-codegen", *options)
    run_tool(tmp_path, BIN / "mypy", "--strict", "--config-file=", "models.py", "client.py")
    gave = json.loads(run_tool(tmp_path, sys.executable, "client.py", daemon.socket, *TURNS))
    assert_conversation(gave["texts"])
    assert gave["refusal"] == "run_not_found"
    assert gave["inputs"] == ["python", "python"]
