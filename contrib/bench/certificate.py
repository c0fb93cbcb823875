"""Kill the daemon wherever it can be killed in a run with tools, and compare what comes of it each time."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.support.certificate import (
    EFFECTS,
    differences,
    list_disturbances,
    play_disturbed,
    play_traced,
    world,
)

CALLS = ("fdatasync", "sendto")


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="contrib/bench/crash",
        description="Play a run with tools, an approval, a question, a background shell and a compaction; "
        "kill the daemon at every commit and at every word after one, and while each command runs, fail "
        "flushes and fill the disk; and see that nothing is lost and nothing done twice.",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th place")
    parser.add_argument("--small", action="store_true", help="a few places only, to see that it works")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser.parse_args()


def main() -> int:
    """Exit 0 when every ending was the undisturbed one, 1 when one was not."""
    given = arguments()
    every = 25 if given.small else max(1, given.every)
    began = time.monotonic()
    tried = deaths = doubts = 0
    found: list[str] = []
    with world() as port, tempfile.TemporaryDirectory(prefix="kheish-crash-") as directory:
        calm, counts = play_traced(Path(directory) / "calm", port, CALLS)
        print(f"undisturbed: {counts}, effects {dict(calm.effects)}", file=sys.stderr)
        for number, disturbance in enumerate(list_disturbances(counts, every)):
            shaken = play_disturbed(Path(directory) / f"home{number}", port, disturbance)
            tried += 1
            deaths += shaken.deaths
            doubts += len(shaken.doubts)
            wrong = [f"{disturbance.name}: {difference}" for difference in differences(calm, shaken)]
            found += wrong
            what = f"{disturbance.name}: {shaken.deaths} deaths, {len(shaken.doubts)} in doubt"
            print(f"{what}{', DIFFERS' if wrong else ''}", file=sys.stderr, flush=True)
    report = {
        "disturbances": tried,
        "deaths": deaths,
        "in_doubt": doubts,
        "effects": len(EFFECTS) * tried,
        "differences": found,
        "seconds": round(time.monotonic() - began),
    }
    if given.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print(
            f"{tried} disturbances, {deaths} deaths of the daemon, {doubts} calls in doubt, each with an "
            f"item; {len(found)} differences, in {report['seconds']} s"
        )
        print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
