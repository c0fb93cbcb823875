"""The crash certificate in short: a run with tools and people, killed and harmed at some of the places.

``contrib/bench/crash`` tries every one of them; here it is enough of each kind to see a fault that is new.
"""

import shutil
from pathlib import Path

import pytest

from tests.support.certificate import EFFECTS, differences, disturbed, places, traced, world

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian: strace)")

EVERY = 40


def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path) -> None:
    """The journal says the same, and each effect was seen once; or at most once, if an item says so."""
    with world() as port:
        calm, counts = traced(tmp_path / "calm", port, ("fdatasync", "sendto"))
        assert calm.effects == dict.fromkeys(EFFECTS, 1)
        assert calm.doubts == []
        assert min(counts.values()) > 30
        deaths = doubts = 0
        for number, place in enumerate(places(counts, EVERY)):
            shaken = disturbed(tmp_path / f"home{number}", port, place)
            assert list(differences(calm, shaken)) == [], place.name
            deaths += shaken.deaths
            doubts += len(shaken.doubts)
        assert deaths > 5
        assert doubts > 0, "a daemon that dies while a command runs cannot know what became of it"
