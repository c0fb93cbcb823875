"""The event bus: publications beside 10,000 triggers, and one event that wakes many conversations."""

from collections.abc import Iterator
from time import perf_counter, sleep

from contrib.bench.client import Client
from contrib.bench.processes import daemon
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_least

TARGET = {"agent": "default", "prompt": "Say ok."}


def measure(scale: Scale) -> Iterator[Row]:
    """Measure the publications in the same rounds, without and with triggers, and then a fan-out."""
    triggers, events, targets = scale.pick(10_000, 200), scale.pick(2_000, 100), scale.pick(1_000, 20)
    alone, beside, ratios = [], [], []
    for _ in range(scale.pick(3, 1)):
        with daemon() as server, Client(server.socket) as client:
            publish(client, events)
            rate = publish(client, events)
            create(client, triggers)
            crowded = publish(client, events)
        alone.append(Round(rate))
        beside.append(Round(crowded))
        ratios.append(Round(crowded / rate))
    yield Row("events published", "/s", alone, note="no trigger")
    yield Row(f"events published beside {triggers:,} triggers", "/s", beside, note="none matches")
    yield Row(f"their rate beside {triggers:,} triggers / without", "ratio", ratios, at_least(0.8))
    rates = [Round(fan_out(targets)) for _ in range(scale.pick(3, 1))]
    yield Row(f"an event that wakes {targets:,} conversations", "/s", rates, note="runs accepted")


def pipeline(client: Client, method: str, requests: list[dict[str, object]]) -> float:
    """Send requests, several at a time; return the number per second."""
    start = perf_counter()
    client.many([(method, params) for params in requests])
    return len(requests) / (perf_counter() - start)


def publish(client: Client, number: int) -> float:
    """Publish events of several sources; return the number per second."""
    payload = {"status": "green", "text": "x" * 100}
    return pipeline(
        client,
        "event.publish",
        [{"source": f"ci.build.{n % 100}", "payload": payload} for n in range(number)],
    )


def create(client: Client, number: int) -> None:
    """Create triggers, half of them for sources and half for beginnings of sources."""
    patterns = (f"other.{n}" if n % 2 else f"ci.build.x{n}*" for n in range(number))
    pipeline(client, "trigger.create", [{"source": pattern, "target": TARGET} for pattern in patterns])


def fan_out(targets: int) -> float:
    """Return how many conversations per second one event wakes."""
    with daemon() as server, Client(server.socket) as client:
        pipeline(
            client,
            "trigger.create",
            [{"source": "go*", "target": TARGET | {"sender": f"s{n}"}} for n in range(targets)],
        )
        start = perf_counter()
        event_id = client.call("event.publish", source="go.now")["event_id"]
        while client.call("event.get", event_id=event_id)["status"] == "open":
            sleep(0.005)
        return targets / (perf_counter() - start)
