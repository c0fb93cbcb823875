"""The crash certificate in short: a run with tools and people is killed at some of the points.

``contrib/bench/crash`` tries every point; this test tries enough of each kind to notice a new fault.
"""

import shutil
from pathlib import Path

import pytest

from tests.support.certificate import (
    EFFECTS,
    differences,
    list_disturbances,
    play_disturbed,
    play_traced,
    world,
)

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian: strace)")

EVERY = 40


def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path) -> None:
    """The journal is the same; each effect happens once, or at most once with an in-doubt item."""
    with world() as port:
        calm, counts = play_traced(tmp_path / "calm", port, ("fdatasync", "sendto"))
        assert calm.effects == dict.fromkeys(EFFECTS, 1)
        assert calm.doubts == []
        assert min(counts.values()) > 30
        deaths = doubts = 0
        for number, disturbance in enumerate(list_disturbances(counts, EVERY)):
            shaken = play_disturbed(tmp_path / f"home{number}", port, disturbance)
            assert list(differences(calm, shaken)) == [], disturbance.name
            deaths += shaken.deaths
            doubts += len(shaken.doubts)
        assert deaths > 5
        assert doubts > 0, "a daemon that dies while a command runs cannot know what became of it"
