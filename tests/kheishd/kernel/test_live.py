"""Text being written: offsets, fan-out, attempts, who gets what."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.scrub import Scrubber
from kheishd.kernel.live import Live, Writing


class Listener:
    """A follower that keeps what it is given, with the offsets at that moment."""

    def __init__(self, session_id: str | None, runs: set[str] | None = None) -> None:
        self.session_id = session_id
        self.runs = runs
        self.heard: list[dict[str, object]] = []
        self.asked = 0

    def wants(self, session_id: str, run_id: str) -> bool:
        self.asked += 1
        return self.runs is None or run_id in self.runs

    def delta(self, writing: Writing, delta: bytes) -> None:
        heard = msgspec.json.decode(b"{" + delta)
        assert heard["offset"] == writing.lengths[heard["kind"]], "it comes before the writing grows"
        self.heard.append(heard)


def text_of(listener: Listener, kind: str = "text") -> str:
    """What a follower that heard every piece has."""
    return "".join(str(piece["text"]) for piece in listener.heard if piece["kind"] == kind)


def test_every_follower_hears_each_piece_with_its_offset() -> None:
    """Pieces come at once, in order, with the offset in characters of their kind."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live.begin("ses_1", "run_1", "itm_1", 1)
    live.text("run_1", "thinking", "hm")
    live.text("run_1", "text", "Grüße")
    live.text("run_1", "text", ", Welt")
    assert listener.heard == [
        {"run_id": "run_1", "item_id": "itm_1", "attempt": 1, "offset": 0, "kind": "thinking", "text": "hm"},
        {"run_id": "run_1", "item_id": "itm_1", "attempt": 1, "offset": 0, "kind": "text", "text": "Grüße"},
        {"run_id": "run_1", "item_id": "itm_1", "attempt": 1, "offset": 5, "kind": "text", "text": ", Welt"},
    ]


def test_sessions_do_not_hear_each_other() -> None:
    """A follower of one session is not even asked about another."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live.begin("ses_2", "run_2", "itm_2", 1)
    live.text("run_2", "text", "elsewhere")
    assert listener.heard == []
    assert listener.asked == 0


def test_a_follower_of_many_is_asked_about_each_run() -> None:
    """Who follows no single session says which runs are wanted."""
    live = Live()
    listener = Listener(None, {"run_2"})
    live.follow(listener)
    for number in (1, 2):
        live.begin(f"ses_{number}", f"run_{number}", f"itm_{number}", 1)
        live.text(f"run_{number}", "text", f"from {number}")
    assert text_of(listener) == "from 2"


def test_a_new_follower_finds_the_text_so_far() -> None:
    """What is being written is there whole, from offset 0, and later pieces follow on it."""
    live = Live()
    live.begin("ses_1", "run_1", "itm_1", 1)
    live.text("run_1", "text", "Once upon")
    listener = Listener("ses_1")
    (writing,) = live.current(listener)
    assert writing.text("text") == "Once upon"
    assert writing.text("thinking") == ""
    live.follow(listener)
    live.text("run_1", "text", " a time")
    assert listener.heard[0]["offset"] == len("Once upon")
    assert writing.text("text") == "Once upon a time"


def test_a_higher_attempt_begins_anew() -> None:
    """What an earlier attempt wrote is gone."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live.begin("ses_1", "run_1", "itm_1", 1)
    live.text("run_1", "text", "wrong")
    live.begin("ses_1", "run_1", "itm_1", 2)
    live.text("run_1", "text", "right")
    assert [(piece["attempt"], piece["offset"]) for piece in listener.heard] == [(1, 0), (2, 0)]
    assert [writing.text("text") for writing in live.current(listener)] == ["right"]


def test_the_end_leaves_nothing() -> None:
    """Once the message is in the journal there is no text here; ending twice is harmless."""
    live = Live()
    listener = Listener("ses_1")
    live.begin("ses_1", "run_1", "itm_1", 1)
    live.end("run_1")
    live.end("run_1")
    assert live.current(listener) == []
    with pytest.raises(KeyError):
        live.text("run_1", "text", "late")


def test_who_unfollows_hears_no_more() -> None:
    """Also of what is being written; and unfollowing without having followed is harmless."""
    live = Live()
    one, many, stranger = Listener("ses_1"), Listener(None), Listener("ses_9")
    live.follow(one)
    live.follow(many)
    live.begin("ses_1", "run_1", "itm_1", 1)
    for listener in (one, many, stranger):
        live.unfollow(listener)
    live.text("run_1", "text", "unheard")
    live.begin("ses_1", "run_2", "itm_2", 1)
    live.text("run_2", "text", "unheard")
    assert one.heard == many.heard == []


def test_an_empty_piece_is_none() -> None:
    """Nobody is told of nothing."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live.begin("ses_1", "run_1", "itm_1", 1)
    live.text("run_1", "text", "")
    assert listener.heard == []


@given(
    st.lists(st.tuples(st.sampled_from(["text", "thinking"]), st.text(max_size=8)), max_size=30), st.data()
)
def test_what_was_missed_and_what_is_heard_make_the_text(
    pieces: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Whenever somebody begins to follow, the text so far and the pieces after it are the whole text."""
    live = Live()
    listener = Listener("ses_1")
    live.begin("ses_1", "run_1", "itm_1", 1)
    joins_at = data.draw(st.integers(0, len(pieces)))
    (writing,) = live.current(listener)
    so_far = {"text": "", "thinking": ""}
    for number, (kind, text) in enumerate([*pieces, ("text", ".")]):
        if number == joins_at:
            so_far = {"text": writing.text("text"), "thinking": writing.text("thinking")}
            live.follow(listener)
        live.text("run_1", "text" if kind == "text" else "thinking", text)
    for kind in ("text", "thinking"):
        whole = "".join(text for of, text in [*pieces, ("text", ".")] if of == kind)
        assert so_far[kind] + text_of(listener, kind) == whole
        assert writing.text("text" if kind == "text" else "thinking") == whole


def test_no_piece_holds_a_secret() -> None:
    """However it was cut: what may become one is held back until that is certain, or the text is whole."""
    live = Live()
    live.scrub(Scrubber(["sk-12345"]))
    listener = Listener("ses_1")
    live.follow(listener)
    live.begin("ses_1", "run_1", "itm_1", 1)
    for piece in ("it is s", "k-1", "2345, yes s"):
        live.text("run_1", "thinking", piece)
        live.text("run_1", "text", piece)
    live.whole("run_1")
    for kind in ("text", "thinking"):
        assert text_of(listener, kind) == "it is [scrubbed], yes s"
        (writing,) = live.current(listener)
        assert writing.text("text" if kind == "text" else "thinking") == "it is [scrubbed], yes s"


def test_a_secret_that_is_learned_later_counts_from_then_on() -> None:
    """Also for what is being written."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live.begin("ses_1", "run_1", "itm_1", 1)
    live.text("run_1", "text", "no secret yet. ")
    live.scrub(Scrubber(["sk-12345"]))
    live.text("run_1", "text", "sk-12")
    live.text("run_1", "text", "345")
    live.whole("run_1")
    assert text_of(listener) == "no secret yet. [scrubbed]"
