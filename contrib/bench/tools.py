"""Runs with tools, beside text turns of the same daemon: one more call, many runs at once, the journal."""

from collections.abc import Iterator
from statistics import median
from time import perf_counter_ns

from contrib.bench.client import Client
from contrib.bench.model import ANSWER, Direct, config, model_server, newest_request
from contrib.bench.processes import daemon, on_core
from contrib.bench.prototype import MESSAGE, require_completed, run_turn
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most
from contrib.bench.turn import turn

STEPS = 10
AT_ONCE = 200
CALLS = 3
FILE = "notes"
READ = f'/call read_file {{"path": "{FILE}"}}'
ASK = '/call write_file {"path": "x", "content": "y"}'
ORDERS = "orders"
PERMITTED = '[permissions]\nmode = "bypassPermissions"\n'
BESIDE = "a text turn of 50 pieces"


def measure(scale: Scale) -> Iterator[Row]:
    """Measure four rows."""
    with model_server() as port:
        setting = order_config(port)
        with on_core(), daemon(setting) as server, server.client() as client:
            (server.home / "workspace" / FILE).write_text("A line of text.\n" * 20)
            yield from one_run(scale, client, port)
        with daemon(setting) as server, server.client() as client:
            (server.home / "workspace" / FILE).write_text("A line of text.\n" * 20)
            yield many_runs(scale, client)
            yield journal_growth(scale, client)


def order_config(port: int, more: str = "") -> str:
    """Return a configuration whose model obeys ``/call`` lines."""
    return config(port, more).replace(f'model = "{ANSWER}"', f'model = "{ORDERS}"')


def directives(calls: int, line: str = READ) -> str:
    """Return the input for the model: this many calls, each in a separate answer, then an end."""
    return "\n/then\n".join([line] * calls + ["done"])


def run(client: Client, sender: str, calls: int, line: str = READ) -> float:
    """Measure a run with this many calls, in milliseconds."""
    began = perf_counter_ns()
    run_turn(client, sender, directives(calls, line))
    return (perf_counter_ns() - began) / 1e6


def one_run(scale: Scale, client: Client, port: int) -> Iterator[Row]:
    """Measure one call of a run: the tool, the commits around it, and one more model call."""
    per_call, whole = [], []
    run_turn(client, "warm", model=ANSWER)
    text_request = newest_request(port)
    run(client, "warm", STEPS)
    with Direct(port, newest_request(port)) as ordered, Direct(port, text_request) as direct:
        for number in scale.rounds:
            times: dict[str, list[float]] = {name: [] for name in ("order", "model", "text", "short", "long")}
            for n in range(scale.pick(20, 3)):
                times["order"].append(ordered.turn().end_ms)
                times["model"].append(direct.turn().end_ms)
                times["text"].append(turn(client, f"text{number}", model=ANSWER))
                times["short"].append(run(client, f"short{number}-{n}", 1))
                times["long"].append(run(client, f"long{number}-{n}", 1 + STEPS))
            middle = {name: median(values) for name, values in times.items()}
            text = middle["text"] - middle["model"]
            per_call.append(Round((middle["long"] - middle["short"]) / STEPS - middle["order"], text))
            whole.append(Round(middle["long"] / (STEPS + 2) - middle["order"], text))
    name = "one more tool call (read_file) and answer, beyond the model's time"
    yield Row(name, "ms", per_call, at_most(1), "ratio", BESIDE, is_headline=True)
    name = f"a run of {STEPS + 1} tool calls, each answer beyond the model's time"
    yield Row(name, "ms", whole, at_most(1), "ratio", BESIDE)


def many_runs(scale: Scale, client: Client) -> Row:
    """Measure two hundred runs at once, each with three sequential tool calls."""
    runs, rounds = scale.pick(AT_ONCE, 10), []
    for number in scale.rounds:
        text = duration_of_runs(client, f"text{number}", runs, {"content": MESSAGE, "model": ANSWER})
        took = duration_of_runs(client, f"many{number}", runs, {"content": directives(CALLS)})
        rounds.append(Round(took / (runs * (CALLS + 1)), text / runs))
    name = f"{runs} runs at once of {CALLS} tool calls, each answer with its call"
    return Row(name, "ms", rounds, at_most(1), "ratio", f"{runs} text turns at once")


def duration_of_runs(client: Client, name: str, runs: int, send: dict[str, str]) -> float:
    """Measure runs in conversations of their own, started at once, in milliseconds."""
    began = perf_counter_ns()
    calls = [("conversation.send", {"sender": f"{name}-{n}", **send}) for n in range(runs)]
    sent = client.many(calls)
    for result in client.many([("run.wait", {"run_id": run["run_id"]}) for run in sent]):
        require_completed(result)
    return (perf_counter_ns() - began) / 1e6


def journal_growth(scale: Scale, client: Client) -> Row:
    """Measure the journal bytes of one tool call and answer, beside those of a text turn."""
    rounds = []
    for number in range(scale.pick(3, 1)):
        sizes, texts = [], []
        for calls in (1, 1 + STEPS):
            run(client, f"journal{number}-{calls}", calls)
            sizes.append(journal_bytes(client, f"journal{number}-{calls}"))
        for turns in (1, 3):
            for _ in range(turns):
                run_turn(client, f"text{number}-{turns}", model=ANSWER)
            texts.append(journal_bytes(client, f"text{number}-{turns}"))
        rounds.append(Round((sizes[1] - sizes[0]) / STEPS, (texts[1] - texts[0]) / 2))
    return Row("journal growth for each tool call and answer", "bytes", rounds, at_most(1), "ratio", BESIDE)


def journal_bytes(client: Client, sender: str) -> int:
    """Return the bytes of the journal of a sender's session."""
    session_id, size = client.call("conversation.get", sender=sender)["session_id"], 0
    after: str | None = None
    while True:
        more = {} if after is None else {"after": after}
        page = client.call("session.export", session_id=session_id, limit=500, **more)
        size += sum(len(line) for line in page["lines"])
        after = page["next"]
        if after is None:
            return size
