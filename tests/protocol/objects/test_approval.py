"""Approvals: the shapes of answers and records."""

import msgspec
import pytest

from protocol.limits.names import MAX_REASON_BYTES
from protocol.limits.permission import MAX_GRANT_USES, MAX_RESOLUTIONS
from protocol.objects.approval import Approval, ApprovalListParams, ApprovalResolve, ApprovalView, Resolution
from tests.support.samples import refuse, sample, take

YES = {"approval_id": "apr_1", "decision": "allow"}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"resolutions": []}, "$.params.resolutions"),
        ({"resolutions": [YES] * (MAX_RESOLUTIONS + 1)}, "$.params.resolutions"),
        ({"resolutions": [YES | {"decision": "maybe"}]}, "$.params.resolutions[0].decision"),
        ({"resolutions": [YES | {"remember": "always"}]}, "$.params.resolutions[0].remember"),
        ({"resolutions": [YES | {"uses": 0}]}, "$.params.resolutions[0].uses"),
        ({"resolutions": [YES | {"uses": MAX_GRANT_USES + 1}]}, "$.params.resolutions[0].uses"),
        (
            {"resolutions": [YES | {"reason": "x" * (MAX_REASON_BYTES + 1)}]},
            "$.params.resolutions[0].reason",
        ),
        ({"resolutions": [YES | {"approval": "apr_1"}]}, "$.params.resolutions[0].approval"),
    ],
)
def test_refused(params: dict[str, object], field: str) -> None:
    """A value of the wrong shape is refused, and the refusal names its path."""
    assert refuse(ApprovalResolve, params) == field


def test_an_answer_holds_once_unless_it_says_more() -> None:
    """By default, an answer is not remembered."""
    (resolution,) = take(ApprovalResolve, {"resolutions": [YES]}).resolutions
    assert resolution == Resolution(approval_id="apr_1", decision="allow")
    assert (resolution.remember, resolution.uses, resolution.updated_input) == ("once", None, None)


def test_lists_show_what_waits() -> None:
    """A list shows pending approvals by default; an unknown status is refused."""
    assert take(ApprovalListParams, {}).status == "pending"
    assert take(ApprovalListParams, {"status": "any"}).status == "any"
    assert refuse(ApprovalListParams, {"status": "open"}) == "$.params.status"


def test_a_view_is_a_record_and_more() -> None:
    """A view has every field of the record under its name."""
    record = msgspec.convert(sample(Approval, full=True), Approval)
    shown = msgspec.to_builtins(record)
    assert msgspec.to_builtins(msgspec.convert(shown, ApprovalView)) == shown
