"""Contracts as they are given and kept."""

from typing import Any

import msgspec
import pytest

from protocol.contract import BoundContract, InputContract, OutputContract, Requirement
from protocol.limits.output import DEFAULT_REPAIRS, MAX_REPAIRS, MAX_REQUIRED_PATH_BYTES
from tests.support.samples import refuse, take


def test_an_output_contract_says_how_often_it_is_mended() -> None:
    """Three times where nothing is said, five at most, none if that is wanted."""
    assert take(OutputContract, {"schema": {}}).max_repairs == DEFAULT_REPAIRS
    assert take(OutputContract, {"schema": {}, "max_repairs": 0}).max_repairs == 0
    assert refuse(OutputContract, {"schema": {}, "max_repairs": MAX_REPAIRS + 1}) == "$.params.max_repairs"


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (InputContract, {}, "$.params.schema"),
        (InputContract, {"schema": True}, "$.params.schema"),
        (InputContract, {"schema": {}, "max_repairs": 1}, "$.params.max_repairs"),
        (Requirement, {"type": "poem"}, "$.params.type"),
        (Requirement, {"type": "workspace_file", "path": ""}, "$.params.path"),
        (
            Requirement,
            {"type": "workspace_file", "path": "x" * (MAX_REQUIRED_PATH_BYTES + 1)},
            "$.params.path",
        ),
    ],
)
def test_refused(kind: type[Any], params: dict[str, Any], field: str) -> None:
    """What does not have the shape is refused by its path."""
    assert refuse(kind, params) == field


def test_what_is_kept_is_small() -> None:
    """A record holds the digest and, where it is not as usual, how often."""
    assert msgspec.json.encode(BoundContract(digest="d")) == b'{"digest":"d"}'
    assert msgspec.json.encode(BoundContract(digest="d", max_repairs=0)) == b'{"digest":"d","max_repairs":0}'
