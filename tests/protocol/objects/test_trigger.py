"""Triggers: the shapes of params and records."""

import pytest

from protocol.limits.event import MAX_COALESCE_SECONDS, MAX_EVENT_HOPS
from protocol.objects.trigger import Trigger, TriggerCreate, TriggerListParams, TriggerTerms
from tests.support.samples import refuse, take

NEW = {"source": "ci.*", "target": {"agent": "default", "prompt": "Look."}}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"source": "a"}, "$.params.target"),
        (NEW | {"target": {"prompt": ""}}, "$.params.target.prompt"),
        (NEW | {"target": {"model": "x"}}, "$.params.target.model"),
        (NEW | {"coalesce_s": MAX_COALESCE_SECONDS + 1}, "$.params.coalesce_s"),
        (NEW | {"max_hops": MAX_EVENT_HOPS + 1}, "$.params.max_hops"),
        (NEW | {"once": "yes"}, "$.params.once"),
        (NEW | {"status": "paused"}, "$.params.status"),
    ],
)
def test_bad_params(params: dict[str, object], field: str) -> None:
    """The refusal names the field."""
    assert refuse(TriggerCreate, params) == field


def test_good_params() -> None:
    """A trigger needs only its source and its target."""
    assert take(TriggerCreate, NEW).max_hops == MAX_EVENT_HOPS
    assert take(TriggerListParams, {}).session_id is None


def test_the_record_has_every_term() -> None:
    """The params, the event and the record share the terms of a trigger."""
    terms = set(TriggerTerms.__struct_fields__)
    assert terms <= set(Trigger.__struct_fields__)
    assert terms <= set(TriggerCreate.__struct_fields__)
