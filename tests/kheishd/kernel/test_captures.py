"""The capture of a call that is not captured."""

from kheishd.kernel.captures import NO_CAPTURE, Capture
from kheishd.kernel.runtime import TextDelta


def test_no_capture_does_nothing() -> None:
    """Every method can be called, and an error passes through."""
    capture: Capture = NO_CAPTURE
    with capture as entered:
        entered.record_request("http://h", {}, b"")
        entered.record_local_request()
        entered.record_reply(200, {})
        entered.record_body(b"")
        entered.record_event(TextDelta("x"))
    assert entered is capture
