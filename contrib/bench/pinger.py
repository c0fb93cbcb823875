"""Ping every millisecond until stdin closes, then print the durations in milliseconds."""

import json
import select
import sys
from pathlib import Path

from contrib.bench.client import PING, dial, round_trips


def main(path: Path) -> None:
    """Print ``ready``, ping, and print the durations."""
    waits: list[float] = []
    with dial(path) as connection:
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0.001)[0]:
            waits += (took / 1e6 for took in round_trips(connection, PING, 1))
    print(json.dumps(waits))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
