"""Runs: statuses, views and params."""

from typing import get_args

import msgspec
import pytest

from protocol.objects.run import (
    ENDED,
    SETTLED,
    Outcome,
    Pinned,
    Run,
    RunDebug,
    RunListParams,
    RunStatus,
    RunView,
    RunWait,
)
from tests.support.samples import refuse, sample, take


def test_statuses() -> None:
    """An ended run is settled, and outcomes are the statuses of ended runs."""
    statuses = set(get_args(RunStatus))
    assert ENDED < SETTLED < statuses
    assert set(get_args(Outcome)) == ENDED
    assert statuses - SETTLED == {"queued", "running"}


@pytest.mark.parametrize("full", [False, True])
def test_record_survives_the_store(full: bool) -> None:
    """A run is the same after MessagePack, in which it is kept, and JSON, in which it is shown."""
    run = msgspec.convert(sample(Run, full=full), Run)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(run), type=Run) == run
    assert msgspec.json.decode(msgspec.json.encode(run), type=Run) == run


def test_record_of_a_later_version_is_read() -> None:
    """A field that was added later is passed over."""
    data = sample(Run, full=True) | {"added_later": [1]}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(data), type=Run).run_id == "x"


def test_view_is_the_record_and_more() -> None:
    """What is shown of a run has every field of its record."""
    assert set(Run.__struct_fields__) < set(RunView.__struct_fields__)


def test_pinned_holds_no_secret() -> None:
    """A run pins the name of a credential; there is no field for its value."""
    assert "auth_ref" in Pinned.__struct_fields__
    assert not {"api_key", "key", "token", "secret", "credential"} & set(Pinned.__struct_fields__)


def test_no_tools_is_not_all_tools() -> None:
    """An empty tool surface stays empty."""
    pinned = Pinned(route="r", driver="offline", model="m", tools=[])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(pinned), type=Pinned).tools == []


def test_a_run_of_an_earlier_version_is_not_captured() -> None:
    """What says nothing of it says off."""
    pinned = Pinned(route="r", driver="offline", model="m")
    assert (pinned.debug, b"debug" in msgspec.msgpack.encode(pinned)) == ("off", False)


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (RunListParams, {"status": "done"}, "$.params.status"),
        (RunListParams, {"limit": 0}, "$.params.limit"),
        (RunWait, {"run_id": "r", "timeout_s": -1}, "$.params.timeout_s"),
        (RunWait, {}, "$.params.run_id"),
        (RunDebug, {"run_id": "r", "artifact": ""}, "$.params.artifact"),
        (RunDebug, {"run_id": "r", "artifact": "a" * 129}, "$.params.artifact"),
        (RunDebug, {"run_id": "r", "offset": -1}, "$.params.offset"),
        (RunDebug, {"run_id": "r", "limit": 3}, "$.params.limit"),
    ],
)
def test_refused(kind: type, params: dict[str, object], field: str) -> None:
    """A value of the wrong shape is refused, and the refusal names its path."""
    assert refuse(kind, params) == field


def test_list_shows_the_newest_first() -> None:
    """A list of runs begins with the newest by default."""
    assert take(RunListParams, {}).order == "newest"
