"""Sessions as lines to choose from."""

from kheishctl.render.session import describe_hit, describe_session, is_resumable, shorten


def test_a_session_that_can_be_continued() -> None:
    """It is open, has a sender, and is below no other session."""
    session = {"session_id": "ses_1", "status": "open", "sender": "ada"}
    assert is_resumable(session)
    assert not is_resumable(session | {"status": "ended"})
    assert not is_resumable(session | {"sender": None})
    assert not is_resumable(session | {"parent_session_id": "ses_0"})


def test_a_line() -> None:
    """It has the title, the last message, its age, the state and the directory."""
    session = {"status": "open", "updated_at_ms": 0, "open_runs": ["run_1"], "effective_workspace": "/srv"}
    message = {"message": {"role": "user", "items": [{"kind": "text", "text": "hi\nthere"}]}, "at_ms": 0}
    assert describe_session(session | {"title": "T"}, [message], 60_000).startswith("T · hi there (")
    assert describe_session(session, [], 60_000).endswith("running, /srv)")
    assert describe_hit({"snippet": "x", "at_ms": 0}, 60_000).startswith("x (")
    assert len(shorten("x" * 100)) == 60
