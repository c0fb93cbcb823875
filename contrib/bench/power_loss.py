"""Cut the power at every step of a home's life, and check what is left on the disk."""

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.support.power import build_image, record, require_whole


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="contrib/bench/power",
        description="Record a first start, conversations, a backup, a second start, a compaction and a "
        "restore; rebuild the disk as a power cut may leave it, with unsynced writes dropped, reordered and "
        "torn at 512 bytes; open each image with the store and the doctor, and check that nothing that was "
        "acknowledged is lost.",
    )
    parser.add_argument(
        "--images", type=int, default=10, metavar="N", help="images of each step (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser.parse_args()


def main() -> int:
    """Exit 0 if every image is whole, else 1."""
    options = arguments()
    logging.disable(logging.WARNING)
    began = time.monotonic()
    problems: list[str] = []
    images = 0
    with tempfile.TemporaryDirectory(prefix="kheish-power-") as directory:
        recording = record(Path(directory) / "recorded")
        cuts = recording.cuts()
        steps = len(recording.operations)
        print(f"{steps} steps, {len(cuts)} cuts", file=sys.stderr)
        for cut in cuts:
            for seed in range(options.images):
                image = build_image(recording, cut, Path(directory) / "image", random.Random(seed))
                images += 1
                try:
                    require_whole(image, recording.answers(cut))
                except Exception as error:
                    problems.append(f"step {cut}, seed {seed}: {type(error).__name__}: {error}")
                    print(problems[-1], file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - began)
    report = {"steps": steps, "cuts": len(cuts), "images": images, "problems": problems, "seconds": seconds}
    if options.json:
        print(json.dumps(report))
    else:
        print(f"{images} images of {len(cuts)} cuts, {len(problems)} with problems, in {seconds} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
