"""The journal as clients read it."""

import json

import msgspec
import pytest
from msgspec import Raw

from protocol.limits.page import DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS
from protocol.objects.journal import (
    NOTIFICATIONS,
    EventNotification,
    GapNotification,
    JournalPage,
    JournalRead,
    JournalSubscribe,
)
from tests.support.samples import refuse, sample, take

LINE = b'{"cursor":7,"at_ms":1, "type":"run_started","start":1}'


def test_an_event_is_sent_as_its_own_bytes() -> None:
    """Pages and notifications carry the stored line unchanged."""
    page = msgspec.json.encode(JournalPage([Raw(LINE), Raw(LINE)], None))
    assert page == b'{"events":[' + LINE + b"," + LINE + b'],"next":null,"epoch":""}'
    told = msgspec.json.encode(EventNotification("s", 7, Raw(LINE)))
    assert told == b'{"subscription":"s","cursor":7,"event":' + LINE + b"}"
    assert bytes(msgspec.json.decode(told, type=EventNotification).event) == LINE


def test_gap_is_from_and_to() -> None:
    """The wire name of ``from_`` is ``from``."""
    assert json.loads(msgspec.json.encode(GapNotification("s", 3, 9, "e", "pruned"))) == {
        "subscription": "s",
        "from": 3,
        "to": 9,
        "epoch": "e",
        "reason": "pruned",
    }


@pytest.mark.parametrize("name", NOTIFICATIONS)
def test_notifications_name_their_subscription(name: str) -> None:
    """Every notification names its subscription."""
    struct = NOTIFICATIONS[name]
    assert name.startswith("journal.")
    assert struct.__struct_fields__[0] == "subscription"
    told = msgspec.json.encode(sample(struct, full=True))
    assert msgspec.json.encode(msgspec.json.decode(told, type=struct)) == told


def test_read_defaults() -> None:
    """By default, a page holds everything the caller may read, from the beginning."""
    assert take(JournalRead, {}) == JournalRead(
        session_id=None, run_id=None, types=None, after=None, limit=DEFAULT_PAGE_ROWS, order="oldest"
    )


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (JournalRead, {"after": -1}, "$.params.after"),
        (JournalRead, {"after": "7"}, "$.params.after"),
        (JournalRead, {"limit": MAX_PAGE_ROWS + 1}, "$.params.limit"),
        (JournalRead, {"types": "run_started"}, "$.params.types"),
        (JournalRead, {"types": ["x"] * 65}, "$.params.types"),
        (JournalRead, {"session_id": "a b"}, "$.params.session_id"),
        (JournalRead, {"deltas": True}, "$.params.deltas"),
        (JournalSubscribe, {"subscription": ""}, "$.params.subscription"),
        (JournalSubscribe, {"limit": 5}, "$.params.limit"),
    ],
)
def test_refused(kind: type, params: dict[str, object], field: str) -> None:
    """A value of the wrong shape is refused, and the refusal names its path."""
    assert refuse(kind, params) == field


def test_types_may_be_unknown() -> None:
    """A client may filter by types that this version does not know."""
    assert take(JournalRead, {"types": ["planet_landed"]}).types == ["planet_landed"]
