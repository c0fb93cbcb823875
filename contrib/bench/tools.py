"""Runs with tools: the cost of a call beyond the tool, many runs at once, and waiting runs."""

from collections.abc import Iterator
from statistics import median
from time import perf_counter_ns

from contrib.bench.client import Client
from contrib.bench.model import Direct, config, model_server
from contrib.bench.proc import memory_kib
from contrib.bench.processes import daemon
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row
from contrib.bench.turn import require_completed

STEPS = 10
AT_ONCE = 200
CALLS = 3
READ = '/call list_files {"limit": 1}'
ASK = '/call write_file {"path": "x", "content": "y"}'
ORDERS = "orders"


def measure(scale: Scale) -> Iterator[Row]:
    """Measure five rows."""
    with model_server() as port:
        setting = config(port).replace('model = "chunks:50"', f'model = "{ORDERS}"')
        with daemon(setting) as server, server.client() as client, Direct(port) as direct:
            yield from one_run(scale, client, direct)
            yield many_runs(scale, client, direct)
            yield journal_growth(scale, client)
        yield waiting(scale, setting)


def directives(calls: int, line: str = READ) -> str:
    """Return the input for the model: this many calls, each in a separate answer, then an end."""
    return "\n/then\n".join([line] * calls + ["done"])


def run(client: Client, sender: str, calls: int) -> float:
    """Measure a run with this many calls, in milliseconds."""
    began = perf_counter_ns()
    result = client.call("conversation.send", sender=sender, content=directives(calls), wait="settled")
    took = (perf_counter_ns() - began) / 1e6
    require_completed(result)
    return took


def one_run(scale: Scale, client: Client, direct: Direct) -> Iterator[Row]:
    """Measure one call of a run: the tool, the commits around it, and one more model call."""
    times = scale.pick(30, 3)
    per_call, whole = [], []
    run(client, "warm", STEPS)
    for number in scale.rounds:
        alone = median(direct.turn(ORDERS).end_ms for _ in range(times))
        short = median(run(client, f"short{number}-{n}", 1) for n in range(times))
        long = median(run(client, f"long{number}-{n}", 1 + STEPS) for n in range(times))
        per_call.append(Round((long - short) / STEPS, alone))
        whole.append(Round(long, alone * (STEPS + 2)))
    beside = "model server called directly"
    yield Row("one more tool call (list_files) and answer", "ms", per_call, None, "difference", beside)
    yield Row(f"a run of {STEPS + 1} tool calls", "ms", whole, None, "ratio", beside)


def many_runs(scale: Scale, client: Client, direct: Direct) -> Row:
    """Measure two hundred runs at once, each with three sequential tool calls."""
    runs = scale.pick(AT_ONCE, 10)
    rounds = []
    for number in scale.rounds:
        began = perf_counter_ns()
        content = directives(CALLS)
        calls = [
            ("conversation.send", {"sender": f"many{number}-{n}", "content": content}) for n in range(runs)
        ]
        sent = client.many(calls)
        for result in client.many([("run.wait", {"run_id": run["run_id"]}) for run in sent]):
            require_completed(result)
        took = (perf_counter_ns() - began) / 1e6
        alone = median(direct.turn(ORDERS).end_ms for _ in range(20))
        rounds.append(Round(took / (runs * (CALLS + 1)), alone))
    name = f"{runs} runs at once of {CALLS} tool calls, each answer with its call"
    return Row(name, "ms", rounds, None, "ratio", "model server called directly, one at a time")


def journal_growth(scale: Scale, client: Client) -> Row:
    """Measure the journal bytes of one tool call."""
    rounds = []
    for number in range(scale.pick(3, 1)):
        sizes = []
        for calls in (1, 1 + STEPS):
            run(client, f"journal{number}-{calls}", calls)
            conversation = client.call("conversation.get", sender=f"journal{number}-{calls}")
            sizes.append(journal_bytes(client, conversation["session_id"]))
        rounds.append(Round((sizes[1] - sizes[0]) / STEPS))
    return Row("journal growth for each tool call and answer", "bytes", rounds)


def journal_bytes(client: Client, session_id: str) -> int:
    """Return the bytes of a session's journal."""
    size = 0
    after: str | None = None
    while True:
        more = {} if after is None else {"after": after}
        page = client.call("session.export", session_id=session_id, limit=500, **more)
        size += sum(len(line) for line in page["lines"])
        after = page["next"]
        if after is None:
            return size


def waiting(scale: Scale, setting: str) -> Row:
    """Measure the memory of a run that waits for approval."""
    runs = scale.pick(10_000, 20)
    with daemon(setting) as server, server.client() as client:
        ask(client, "warm", scale.pick(500, 5))
        before = memory_kib(server.pid, "RssAnon")
        ask(client, "waiting", runs)
        grown = memory_kib(server.pid, "RssAnon") - before
    return Row(f"memory for each of {runs:,} runs that wait for approval", "KiB", [Round(grown / runs)])


def ask(client: Client, name: str, runs: int) -> None:
    """Start that many runs, each in its own conversation, that wait for approval."""
    send = {"content": ASK, "wait": "settled"}
    calls = [("conversation.send", {"sender": f"{name}-{n}", **send}) for n in range(runs)]
    for result in client.many(calls):
        assert result["status"] == "waiting_for_approval", result
