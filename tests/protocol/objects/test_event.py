"""Events on the bus: the shapes of params, and patterns."""

from typing import Any

import msgspec
import pytest

from protocol.limits.event import MAX_EVENT_SOURCE_BYTES
from protocol.objects.event import EventListParams, EventPattern, EventPublish, EventSource, EventSubscribe
from tests.support.samples import refuse, take


@pytest.mark.parametrize(
    ("source", "is_source", "is_pattern"),
    [
        ("ci.build", True, True),
        ("agent:a.b:done", True, True),
        ("a/b-c_D:9", True, True),
        ("x" * MAX_EVENT_SOURCE_BYTES, True, True),
        ("x" * (MAX_EVENT_SOURCE_BYTES + 1), False, False),
        ("", False, False),
        ("*", False, True),
        ("ci.*", False, True),
        ("*ci", False, False),
        ("ci.**", False, False),
        ("ci.\n", False, False),
        ("ci.*\n", False, False),
        ("é", False, False),
    ],
)
def test_sources_and_patterns(source: str, is_source: bool, is_pattern: bool) -> None:
    """A pattern is a source, or the beginning of sources and a star."""
    for kind, is_valid in ((EventSource, is_source), (EventPattern, is_pattern)):
        if is_valid:
            assert msgspec.convert(source, kind) == source
        else:
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert(source, kind)


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (EventPublish, {}, "$.params.source"),
        (EventPublish, {"source": "a", "event_id": "evt_mine"}, "$.params.event_id"),
        (EventListParams, {"limit": 0}, "$.params.limit"),
        (EventSubscribe, {"after": -1}, "$.params.after"),
    ],
)
def test_bad_params(kind: Any, params: dict[str, object], field: str) -> None:
    """The refusal names the field."""
    assert refuse(kind, params) == field


def test_good_params() -> None:
    """An event needs only its source; a follower follows every source by default."""
    assert take(EventPublish, {"source": "a"}).payload is None
    assert take(EventSubscribe, {}).source == "*"
