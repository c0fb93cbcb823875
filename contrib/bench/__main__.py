"""Measure the named figures, or all, and print one table."""

import argparse
import importlib
import json
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from contrib.bench.processes import ROOT
from contrib.bench.scale import Scale
from contrib.bench.table import Row, render

FIGURES = (
    "instructions",
    "turn",
    "long_conversation",
    "tokens",
    "tools",
    "bash",
    "start",
    "send_accepted",
    "memory",
    "writes",
    "ping",
    "store_update",
    "drivers",
    "fanout",
    "idle_connections",
    "cli_start",
    "last_page",
    "agents",
    "mailbox",
    "cron",
    "mcp",
    "events",
    "skills",
    "recall",
    "routes",
    "chat_mentions",
)
"""The modules of this package whose ``measure(scale)`` yields rows."""
GOALS = FIGURES[: FIGURES.index("writes")]
"""Those with the goals of the project, in the order of its table."""

WRITTEN = ROOT / "contrib" / "bench" / "goals.json"
"""The figures that ``contrib/docs/performance.md`` and the README show."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="contrib/bench/run",
        description="Measure the daemon and print each figure beside a yardstick from the same run: "
        "minimum, median and maximum of several rounds. Goals apply to the median.",
    )
    goals = "goals: only the goals of the project, of the named figures or of all"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"figures: {', '.join(FIGURES)}; {goals}")
    parser.add_argument("--small", action="store_true", help="only check that measuring works, in seconds")
    parser.add_argument(
        "--write",
        action="store_true",
        help="with goals: put the rows into contrib/bench/goals.json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    options.only_goals = "goals" in options.names
    if options.only_goals:
        options.names.remove("goals")
        options.names = options.names or list(GOALS)
    if options.write and (options.small or not options.only_goals):
        parser.error("--write is for goals, and not for --small")
    unknown = set(options.names) - set(FIGURES)
    if unknown:
        parser.error(f"no figure {', '.join(sorted(unknown))}; figures: {', '.join(FIGURES)}")
    return options


def measure(name: str, scale: Scale) -> Iterator[Row]:
    """Return the rows of one figure."""
    module = importlib.import_module(f"contrib.bench.{name}")
    yield from module.measure(scale)


def merge(written: list[Any], measured: list[Any]) -> list[Any]:
    """Return the written rows with the measured ones in place of those of the same name."""
    rows = {row["name"]: row for row in written}
    rows.update((row["name"], row) for row in measured)
    return list(rows.values())


def main() -> int:
    """Exit 0 when everything was measured, whatever the figures; 1 when a measurement failed."""
    options = arguments()
    # SIGTERM exits normally, so that child processes end and temporary homes are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scale = Scale(small=options.small)
    rows: list[Row] = []
    broken: list[str] = []
    for name in options.names or FIGURES:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            rows += [row for row in measure(name, scale) if row.is_headline or not options.only_goals]
        except Exception:
            traceback.print_exc()
            broken.append(name)
    report: dict[str, Any] = {"rows": [row.as_json() for row in rows], "broken": broken}
    if options.write and not broken:
        report["rows"] = merge(json.loads(WRITTEN.read_text())["rows"], report["rows"])
        WRITTEN.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print(render(rows))
    if broken:
        print(f"could not be measured: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
