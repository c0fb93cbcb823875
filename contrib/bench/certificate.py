"""Kill the daemon at every possible point of a run with tools, and compare the results."""

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
        "kill the daemon at every commit, at every message after one and during each command, fail flushes, "
        "fill the disk, and check that nothing is lost and nothing is done twice.",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th point")
    parser.add_argument("--small", action="store_true", help="only a few points, to check that it works")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser.parse_args()


def main() -> int:
    """Exit 0 if every ending equals the undisturbed one, else 1."""
    options = arguments()
    every = 25 if options.small else max(1, options.every)
    began = time.monotonic()
    tried = deaths = doubts = 0
    all_differences: list[str] = []
    with world() as port, tempfile.TemporaryDirectory(prefix="kheish-crash-") as directory:
        calm, counts = play_traced(Path(directory) / "calm", port, CALLS)
        print(f"undisturbed: {counts}, effects {dict(calm.effects)}", file=sys.stderr)
        for number, disturbance in enumerate(list_disturbances(counts, every)):
            shaken = play_disturbed(Path(directory) / f"home{number}", port, disturbance)
            tried += 1
            deaths += shaken.deaths
            doubts += len(shaken.doubts)
            new_differences = [
                f"{disturbance.name}: {difference}" for difference in differences(calm, shaken)
            ]
            all_differences += new_differences
            line = f"{disturbance.name}: {shaken.deaths} deaths, {len(shaken.doubts)} in doubt"
            print(f"{line}{', DIFFERS' if new_differences else ''}", file=sys.stderr, flush=True)
    report = {
        "disturbances": tried,
        "deaths": deaths,
        "in_doubt": doubts,
        "effects": len(EFFECTS) * tried,
        "differences": all_differences,
        "seconds": round(time.monotonic() - began),
    }
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print(
            f"{tried} disturbances, {deaths} deaths of the daemon, {doubts} calls in doubt, each with an "
            f"item; {len(all_differences)} differences, in {report['seconds']} s"
        )
        print("\n".join(all_differences))
    return 1 if all_differences else 0


if __name__ == "__main__":
    sys.exit(main())
