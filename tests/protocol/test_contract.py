"""Contracts as they are given and kept."""

from typing import Any

import msgspec
import pytest

from protocol.contract import Bound, InputContract, OutputContract, Requirement
from protocol.limits import REPAIRS_DEFAULT, REPAIRS_MAX, REQUIRED_PATH_BYTES_MAX
from tests.support.samples import refuse, take


def test_an_output_contract_says_how_often_it_is_mended() -> None:
    """Three times where nothing is said, five at most, none if that is wanted."""
    assert take(OutputContract, {"schema": {}}).repairs_max == REPAIRS_DEFAULT
    assert take(OutputContract, {"schema": {}, "repairs_max": 0}).repairs_max == 0
    assert refuse(OutputContract, {"schema": {}, "repairs_max": REPAIRS_MAX + 1}) == "$.params.repairs_max"


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (InputContract, {}, "$.params.schema"),
        (InputContract, {"schema": True}, "$.params.schema"),
        (InputContract, {"schema": {}, "repairs_max": 1}, "$.params.repairs_max"),
        (Requirement, {"type": "poem"}, "$.params.type"),
        (Requirement, {"type": "workspace_file", "path": ""}, "$.params.path"),
        (
            Requirement,
            {"type": "workspace_file", "path": "x" * (REQUIRED_PATH_BYTES_MAX + 1)},
            "$.params.path",
        ),
    ],
)
def test_refused(kind: type[Any], params: dict[str, Any], field: str) -> None:
    """What does not have the shape is refused by its path."""
    assert refuse(kind, params) == field


def test_what_is_kept_is_small() -> None:
    """A record holds the digest and, where it is not as usual, how often."""
    assert msgspec.json.encode(Bound(digest="d")) == b'{"digest":"d"}'
    assert msgspec.json.encode(Bound(digest="d", repairs_max=0)) == b'{"digest":"d","repairs_max":0}'
