"""A small MCP server on standard streams, with good and bad manners.

It needs the standard library only, so that it starts fast. Its arguments are manners: ``silent`` never
answers, ``prints`` writes a banner and bytes that are no UTF-8, ``many`` has 5,000 tools, ``stubborn``
ignores the end of its input and SIGTERM, ``dies`` ends before it answers, ``kills`` starts a child that hides
and kills the server's parent, ``endless`` and ``heavy`` have lists without an end. A path gets a line with
the process id for each start, and with the child's. A JSON object has answers by method.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from typing import Any

ANSWERS = {
    method: answer for text in sys.argv[1:] if text[0] == "{" for method, answer in json.loads(text).items()
}
MANNERS = {text for text in sys.argv[1:] if text[0] != "{"}
LOCK = threading.Lock()
ANSWERED = threading.Event()
LAST_ANSWER: dict[str, Any] = {}
REQUESTS: dict[str, dict[str, Any]] = {
    "ping": {},
    "roots/list": {},
    "sampling/createMessage": {"messages": [], "maxTokens": 1},
    "elicitation/create": {"message": "Password?", "requestedSchema": {"type": "object", "properties": {}}},
    "no/such/method": {},
}
CANCELLED: defaultdict[Any, threading.Event] = defaultdict(threading.Event)
EXTRA: list[str] = []


def send(message: dict[str, Any]) -> None:
    """Write a message."""
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def tool(name: str, hints: dict[str, bool] | None = None) -> dict[str, Any]:
    """Return a tool that takes a text."""
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": False}
    return {"name": name, "description": f"Does {name}.", "inputSchema": schema, "annotations": hints or {}}


def tools() -> list[dict[str, Any]]:
    """Return the tools."""
    if "many" in MANNERS:
        return [tool(f"tool-{number:04}") for number in range(5_000)]
    names = ["env", "die", "huge", "child", "ask", "change", "fail", "odd name!", "odd_name_", "slow"]
    names += ["log", "hang", "garbage"]
    safe = tool("read", {"readOnlyHint": True})
    return [tool("echo"), safe, *map(tool, [*names, *EXTRA])]


def call(request_id: Any, params: dict[str, Any]) -> None:
    """Answer a call."""
    name, arguments = params["name"], params.get("arguments") or {}
    text = arguments.get("text", "")
    token = params.get("_meta", {}).get("progressToken")
    match name:
        case "env":
            text = json.dumps(dict(os.environ) | {"cwd": os.getcwd()})
        case "die":
            os._exit(3)
        case "huge":
            text = "x" * int(text)
        case "child":
            child = subprocess.Popen(["sleep", text], start_new_session=True)
            text = str(child.pid)
        case "ask":
            # A request to the client; the call's result is the client's answer.
            ANSWERED.clear()
            send({"id": "q1", "method": text, "params": REQUESTS[text]})
            ANSWERED.wait()
            text = json.dumps(LAST_ANSWER.get("error") or LAST_ANSWER["result"])
        case "log":
            for number in range(2_000):
                data = {"level": "error", "data": f"{number} {text}" + "x" * 1_000}
                send({"method": "notifications/message", "params": data})
        case "change":
            EXTRA.append(text)
            send({"method": "notifications/tools/list_changed"})
        case "slow":
            # A call that ends when it is cancelled.
            progress = {"progressToken": token, "progress": 1, "total": 2, "message": text}
            send({"method": "notifications/progress", "params": progress})
            CANCELLED[request_id].wait()
            return
        case "read" if text == "meta":
            text = json.dumps(params.get("_meta", {}))
        case "read":
            text = str(os.getpid())
        case "hang":
            return
        case "garbage":
            send({"id": request_id, "result": 5})
            return
        case "fail":
            send({"id": request_id, "error": {"code": -32000, "message": f"no \x1b[31m{text}"}})
            return
        case _:
            pass
    send({"id": request_id, "result": {"content": [{"type": "text", "text": text}]}})


def answer(message: dict[str, Any]) -> None:
    """Answer a message of the client."""
    method, request_id, params = message.get("method"), message.get("id"), message.get("params") or {}
    match method:
        case str() if method in ANSWERS:
            send({"id": request_id, "result": ANSWERS[method]})
        case "initialize":
            capabilities = {"tools": {"listChanged": True}}
            capabilities |= {method.split("/")[0]: {} for method in ANSWERS if method != "tools/call"}
            info = {"name": "toy", "version": "1"}
            version = params["protocolVersion"]
            result = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
            send({"id": request_id, "result": result})
        case "tools/list" if MANNERS & {"endless", "heavy"}:
            page = int(params.get("cursor", 0))
            rows = [tool(f"page-{page}")]
            if "heavy" in MANNERS:
                rows = [{**tool(f"t-{page}-{number}"), "description": "x" * 60_000} for number in range(50)]
                rows.append({**tool("too-long"), "description": "x" * 65_536})
            send({"id": request_id, "result": {"tools": rows, "nextCursor": str(page + 1)}})
        case "tools/list":
            send({"id": request_id, "result": {"tools": tools()}})
        case "tools/call":
            threading.Thread(target=call, args=(request_id, params), daemon=True).start()
        case "notifications/cancelled":
            CANCELLED[params["requestId"]].set()
        case None:
            LAST_ANSWER.clear()
            LAST_ANSWER.update(message)
            ANSWERED.set()
        case _:
            if request_id is not None:
                send({"id": request_id, "error": {"code": -32601, "message": "Method not found"}})


def kill_parent() -> None:
    """Start a process in a session of its own, without any variable, and kill the parent of this one."""
    child = subprocess.Popen(["sleep", "4403.5"], start_new_session=True, env={})
    for path in [manner for manner in MANNERS if "/" in manner]:
        with open(path, "a") as file:
            file.write(f"{child.pid}\n")
    os.kill(os.getppid(), signal.SIGKILL)


def main() -> None:
    """Serve until the end of the input."""
    for path in [manner for manner in MANNERS if "/" in manner]:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
    if "stubborn" in MANNERS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "prints" in MANNERS:
        sys.stdout.buffer.write(b"Welcome! \xff\xfe\n{}\n[1]\n")
        sys.stdout.flush()
    for line in sys.stdin:
        if "kills" in MANNERS:
            kill_parent()
        if "dies" in MANNERS:
            sys.exit("cannot open its database")
        if "silent" not in MANNERS:
            answer(json.loads(line))
    if "stubborn" in MANNERS:
        threading.Event().wait()


if __name__ == "__main__":
    main()
