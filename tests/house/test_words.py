"""Words that no file may contain: marks of unfinished work, paths of one machine, waits by the clock."""

import re
from pathlib import Path

from tests.house.sources import ROOT, all_tests, tracked

# Written apart, so that this file does not hold them.
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
MACHINE = re.compile(r"(?<![\w~.$}])/(wor" r"k|roo" r"t|tmp/ba" r"sh_jobs|tmp/te" r"am)/|\.\./sha" r"red\b")
SLEEP = re.compile(r"\bsleep\(")

SLEEPS = {
    Path("tests/house/test_words.py"): "names what it looks for",
    Path("tests/support/daemons.py"): "asks another process whether it answers yet",
}
"""Tests and helpers that may say ``sleep(``, with the reason."""

GENERATED = {".lock", ".svg", ".png", ".gz", ".lmdb"}


def hits(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """Return where a pattern occurs in text files."""
    found = []
    for path in paths:
        if path.suffix in GENERATED:
            continue
        text = (ROOT / path).read_bytes().decode(errors="replace")
        found += [
            f"{path}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), 1)
            if pattern.search(line)
        ]
    return found


def test_nothing_is_left_for_later() -> None:
    """No file contains a mark of unfinished work."""
    found = hits(UNFINISHED, tracked())
    assert not found, "unfinished:\n" + "\n".join(found)


def test_no_paths_of_one_machine() -> None:
    """No file names a directory that exists only on one machine."""
    found = hits(MACHINE, tracked())
    assert not found, "paths of one machine:\n" + "\n".join(found)


def test_patterns_find_what_they_should() -> None:
    """The patterns match the words and not similar ones."""
    assert UNFINISHED.search("# TO" + "DO: more")
    assert not UNFINISHED.search("a hackney carriage in autodoc")
    assert MACHINE.search("open('/wor" + "k/main/x')")
    assert not MACHINE.search("root = '~/wor" + "k/x'")


def test_tests_do_not_wait_by_the_clock() -> None:
    """Tests wait for events, not for time, except with a stated reason."""
    paths = [path for path in all_tests() if path not in SLEEPS]
    found = hits(SLEEP, paths)
    assert not found, "wait for an event, or say why not in SLEEPS:\n" + "\n".join(found)


def test_reasons_for_sleeping_are_current() -> None:
    """Every file that is allowed to sleep exists and does."""
    stale = [str(path) for path in SLEEPS if path not in all_tests() or not hits(SLEEP, [path])]
    assert not stale, "no longer sleep: " + ", ".join(stale)
