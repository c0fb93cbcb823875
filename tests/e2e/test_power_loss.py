"""Power cuts in short: the disk is rebuilt as a cut may leave it, at some of the steps of a home's life.

``contrib/bench/power`` tries every step many times; this test tries enough of each kind to notice a fault.
"""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.daemons import Daemon
from tests.support.power import build_image, record, require_whole

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.power import Recording

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian: strace)")

IMAGES = 36


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Provide the steps of a home from its first start to a restore."""
    return record(tmp_path_factory.mktemp("power") / "recorded")


def test_the_recording_is_complete(recording: Recording) -> None:
    """All conversations were answered, and there are flushes, renames and writes to cut between."""
    assert len(recording.answers(len(recording.operations))) >= 10
    kinds = {operation.kind for operation in recording.operations}
    assert kinds >= {"create", "mkdir", "write", "fsync", "fdatasync", "rename", "unlink", "link"}
    assert len(recording.cuts()) > 100


def test_nothing_acknowledged_is_lost(recording: Recording, tmp_path: Path) -> None:
    """After a cut at any step the home opens, everything verifies, and all that was answered is there."""
    cuts = recording.cuts()
    for seed in range(IMAGES):
        cut = cuts[seed * len(cuts) // IMAGES]
        image = build_image(recording, cut, tmp_path / "image", random.Random(seed))
        require_whole(image, recording.answers(cut))


def test_a_cut_during_the_first_start_leaves_nothing_that_is_refused(
    recording: Recording, tmp_path: Path
) -> None:
    """Whatever is on the disk of the first steps, the home starts as new."""
    first = next(
        number for number, operation in enumerate(recording.operations) if operation.path.endswith("identity")
    )
    for seed in range(24):
        cut = seed * first // 24
        image = build_image(recording, cut, tmp_path / "image", random.Random(seed))
        require_whole(image, [])


def test_a_real_daemon_starts_after_a_cut(recording: Recording, tmp_path: Path) -> None:
    """The daemon itself starts on what is left, continues, and reports no damage."""
    cuts = recording.cuts()
    for seed in (3, 4):
        cut = cuts[seed * len(cuts) // 7]
        image = build_image(recording, cut, tmp_path / f"image{seed}", random.Random(seed))
        with Daemon(image) as daemon:
            assert daemon.say("after the cut")["status"] == "completed"
            assert daemon.call("daemon.doctor", deep=True)["findings"] == []


def test_a_disk_that_ignores_flushes_is_noticed(recording: Recording, tmp_path: Path) -> None:
    """The method finds a missing flush: on a disk that ignores all of them, most images are bad."""
    bad = 0
    for seed in range(10):
        cut = len(recording.operations) // 2
        image = build_image(recording, cut, tmp_path / "image", random.Random(seed), lies=True)
        try:
            require_whole(image, recording.answers(cut))
        except Exception:
            bad += 1
    assert bad > 5
