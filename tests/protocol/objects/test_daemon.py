"""Methods of the daemon itself."""

import pytest

from protocol.objects.daemon import METHODS, DaemonBackup, DaemonShutdown, DoctorParams
from tests.support.samples import refuse, take


@pytest.mark.parametrize("drain_s", [0, 0.5, 3600, None])
def test_shutdown_drains_up_to_an_hour(drain_s: float | None) -> None:
    """A drain takes between no time and an hour; by default the daemon decides."""
    assert take(DaemonShutdown, {"drain_s": drain_s}).drain_s == drain_s
    assert take(DaemonShutdown, {}).drain_s is None


@pytest.mark.parametrize("drain_s", [-1, 3601, "5"])
def test_shutdown_refuses_other_times(drain_s: object) -> None:
    """A longer drain is refused."""
    assert refuse(DaemonShutdown, {"drain_s": drain_s}) == "$.params.drain_s"


def test_backup_needs_a_path() -> None:
    """A backup requires a path."""
    assert take(DaemonBackup, {"path": "/var/backups/a"}).path == "/var/backups/a"
    assert refuse(DaemonBackup, {}) == "$.params.path"
    assert refuse(DaemonBackup, {"path": ""}) == "$.params.path"
    assert refuse(DaemonBackup, {"path": "x" * 5000}) == "$.params.path"


def test_doctor_is_shallow_unless_asked() -> None:
    """By default, the doctor does not read the whole journal."""
    assert take(DoctorParams, {}).deep is False
    assert take(DoctorParams, {"deep": True}).deep is True


def test_who_may() -> None:
    """Queries need the scope read, operations the scope admin."""
    scopes = {row.name: row.scope for row in METHODS}
    assert scopes["daemon.status"] == "read"
    assert {scopes[f"daemon.{verb}"] for verb in ("reload", "shutdown", "backup")} == {"admin"}
