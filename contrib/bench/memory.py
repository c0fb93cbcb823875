"""Memory of the daemon: idle, after its first run with tools, for each conversation and each waiting run."""

from collections.abc import Iterator
from pathlib import Path

from contrib.bench.client import Client
from contrib.bench.model import config, model_server
from contrib.bench.proc import memory_kib
from contrib.bench.processes import daemon
from contrib.bench.prototype import MESSAGE, require_completed
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most
from contrib.bench.tools import ASK, ORDERS, PERMITTED, directives

TOOLS = ['/call list_files {"limit": 1}', '/call read_file {"path": "x"}', '/call bash {"command": "true"}']


def measure(scale: Scale) -> Iterator[Row]:
    """Measure five rows."""
    rounds = range(scale.pick(3, 1))
    with model_server() as port:
        yield Row("idle daemon", "MiB", [Round(idle_mib()) for _ in rounds], at_most(45))
        setting = config(port).replace('model = "chunks:50"', f'model = "{ORDERS}"')
        both = [after_tools_mib(setting + PERMITTED) for _ in rounds]
        name = "idle daemon after its first run with tools"
        yield Row(name, "MiB", [Round(own) for own, _ in both], at_most(45), is_headline=True)
        note = "processes that the daemon keeps for commands; shared pages count in part (PSS)"
        yield Row("its child processes", "MiB", [Round(children) for _, children in both], note=note)
        growths = [Round(growth_kib(port, scale.pick(2_000, 20))) for _ in rounds]
        yield Row("memory for each conversation", "KiB", growths, at_most(10))
        runs = scale.pick(10_000, 20)
        name = f"memory for each of {runs:,} runs that wait for approval"
        pairs = [Round(waiting_kib(setting, runs, scale.pick(500, 5)))]
        yield Row(name, "KiB", pairs, at_most(0.5), is_headline=True)


def idle_mib() -> float:
    """Measure the resident memory of an idle daemon."""
    with daemon() as server:
        return memory_kib(server.pid) / 1024


def after_tools_mib(setting: str) -> tuple[float, float]:
    """Measure the resident memory after the first run with tools: of the daemon, and of its children."""
    with daemon(setting) as server, server.client() as client:
        (server.home / "workspace" / "x").write_text("text\n")
        content = "\n/then\n".join([*TOOLS, "done"])
        require_completed(client.call("conversation.send", content=content, wait="settled"))
        children = sum(proportional_kib(pid) for pid in descendants(server.pid))
        return memory_kib(server.pid) / 1024, children / 1024


def descendants(pid: int) -> list[int]:
    """Return the processes below a process."""
    listed = [
        int(child)
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for child in file.read_text().split()
    ]
    return listed + [inner for child in listed for inner in descendants(child)]


def proportional_kib(pid: int) -> int:
    """Return the memory of a process, in which a page that n processes share counts as its n-th part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def growth_kib(port: int, conversations: int) -> float:
    """Measure the memory that a conversation of one turn retains; mapped store pages do not count."""
    with daemon(config(port)) as server, server.client() as client:
        speak(client, "warm", 100)
        before = memory_kib(server.pid, "RssAnon")
        speak(client, "many", conversations)
        return (memory_kib(server.pid, "RssAnon") - before) / conversations


def speak(client: Client, name: str, conversations: int) -> None:
    """Run one turn in each of many conversations."""
    send = {"content": MESSAGE, "wait": "settled"}
    calls = [("conversation.send", {"sender": f"{name}-{n}", **send}) for n in range(conversations)]
    for result in client.many(calls):
        require_completed(result)


def waiting_kib(setting: str, runs: int, warm: int) -> float:
    """Measure the memory of a run that waits for approval."""
    with daemon(setting) as server, server.client() as client:
        ask(client, "warm", warm)
        before = memory_kib(server.pid, "RssAnon")
        ask(client, "waiting", runs)
        return (memory_kib(server.pid, "RssAnon") - before) / runs


def ask(client: Client, name: str, runs: int) -> None:
    """Start that many runs, each in its own conversation, that wait for approval."""
    send = {"content": directives(1, ASK), "wait": "settled"}
    calls = [("conversation.send", {"sender": f"{name}-{n}", **send}) for n in range(runs)]
    for result in client.many(calls):
        assert result["status"] == "waiting_for_approval", result
