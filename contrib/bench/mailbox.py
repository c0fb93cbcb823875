"""Ten thousand messages through one mailbox: messages per second, and the runs that read them."""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from time import perf_counter, sleep

from contrib.bench.client import Client, Refused, result_of
from contrib.bench.processes import daemon
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most

CONNECTIONS = 4
WINDOW = 60
"""Open requests of one connection, of the 64 that it may have."""
FULL_SECONDS = 0.01


def measure(scale: Scale) -> Iterator[Row]:
    """Measure two rows over the same rounds."""
    number = scale.pick(10_000, 200)
    rates, runs = [], []
    for _ in range(scale.pick(3, 1)):
        rate, count = deliver(number)
        rates.append(Round(rate))
        runs.append(Round(count))
    yield Row(f"{number:,} messages through one mailbox", "/s", rates, note="posted, read and done")
    yield Row(f"runs for {number:,} messages", "runs", runs, at_most(number / 8))


def deliver(number: int) -> tuple[float, int]:
    """Return the messages per second until all are done, and the number of runs that read them."""
    with daemon() as server, ExitStack() as stack:
        clients = [stack.enter_context(Client(server.socket)) for _ in range(CONNECTIONS)]
        client = clients[0]
        for session_id in ("sender", "reader"):
            client.call("session.create", session_id=session_id)
        start = perf_counter()
        todo = deque(range(number))
        while todo:
            post_some(clients, todo)
        while client.call("mailbox.list", agent="reader", limit=1)["messages"]:
            sleep(FULL_SECONDS)
        took = perf_counter() - start
        return number / took, client.call("session.get", session_id="reader")["runs"]


def post_some(clients: list[Client], todo: deque[int]) -> None:
    """Post some messages over each connection; those that a full mailbox refused remain to be posted."""
    open_requests: list[tuple[Client, dict[int, int]]] = []
    for client in clients:
        numbers = [todo.popleft() for _ in range(min(WINDOW, len(todo)))]
        open_requests.append((client, {send(client, number): number for number in numbers}))
    is_full = False
    for client, requests in open_requests:
        while requests:
            message = client.message()
            number = requests.pop(message["id"])
            try:
                result_of(message)
            except Refused:
                is_full = True
                todo.append(number)
    if is_full:
        sleep(FULL_SECONDS)


def send(client: Client, number: int) -> int:
    """Send one post; return the id of the request."""
    addresses = {"from": "sender", "to": "reader"}
    payload = {"type": "report", "number": number, "text": "x" * 100}
    return client.send("mailbox.post", **addresses, subject="s", payload=payload, message_id=f"m{number}")
