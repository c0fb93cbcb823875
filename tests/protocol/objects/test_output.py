"""Outputs: their shape and the params of their list."""

import msgspec
import pytest

from protocol.objects.output import Output, OutputListParams
from tests.support.samples import refuse, sample, take


@pytest.mark.parametrize("full", [False, True])
def test_output_survives_the_wire(full: bool) -> None:
    """An output is unchanged after JSON, and absent fields are omitted."""
    output = msgspec.convert(sample(Output, full=full), Output)
    encoded = msgspec.json.encode(output)
    assert msgspec.json.decode(encoded, type=Output) == output
    assert (b"value" in encoded, b"final" in encoded) == (full, full)


def test_params() -> None:
    """A list shows the outputs of a run or of a session."""
    params = take(OutputListParams, {"run_id": "run_1", "limit": 2})
    assert (params.run_id, params.session_id, params.limit) == ("run_1", None, 2)
    assert refuse(OutputListParams, {"run_id": "no id"}) == "$.params.run_id"
