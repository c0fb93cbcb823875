"""Text being written: offsets, fan-out, attempts, who gets what."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.live import MAX_PIECES, TOOL_KINDS, Live, LiveText, TextBuffer
from protocol.limits.call import MAX_LIVE_CHARACTERS


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

    def delta(self, live_text: LiveText, delta: bytes) -> None:
        heard = msgspec.json.decode(b"{" + delta)
        assert heard["offset"] == live_text.lengths()[heard["kind"]], "it comes before the writing grows"
        self.heard.append(heard)


def text_of(listener: Listener, kind: str = "text") -> str:
    """What a follower that heard every piece has."""
    return "".join(str(piece["text"]) for piece in listener.heard if piece["kind"] == kind)


def test_every_follower_hears_each_piece_with_its_offset() -> None:
    """Pieces come at once, in order, with the offset in characters of their kind."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    writing = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(writing, "thinking", "hm")
    live.append(writing, "text", "Grüße")
    live.append(writing, "text", ", Welt")
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
    live.append(live.begin("ses_2", "run_2", "itm_2", 1), "text", "elsewhere")
    assert listener.heard == []
    assert listener.asked == 0


def test_a_follower_of_many_is_asked_about_each_run() -> None:
    """Who follows no single session says which runs are wanted."""
    live = Live()
    listener = Listener(None, {"run_2"})
    live.follow(listener)
    for number in (1, 2):
        writing = live.begin(f"ses_{number}", f"run_{number}", f"itm_{number}", 1)
        live.append(writing, "text", f"from {number}")
    assert text_of(listener) == "from 2"


def test_a_new_follower_finds_the_text_so_far() -> None:
    """What is being written is there whole, from offset 0, and later pieces follow on it."""
    live = Live()
    writing = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(writing, "text", "Once upon")
    listener = Listener("ses_1")
    assert live.current(listener) == [writing]
    assert writing.text("text") == "Once upon"
    assert writing.text("thinking") == ""
    live.follow(listener)
    live.append(writing, "text", " a time")
    assert listener.heard[0]["offset"] == len("Once upon")
    assert writing.text("text") == "Once upon a time"


def test_a_higher_attempt_begins_anew() -> None:
    """What an earlier attempt wrote is gone."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    writing = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(writing, "text", "wrong")
    writing = live.begin("ses_1", "run_1", "itm_1", 2)
    live.append(writing, "text", "right")
    assert [(piece["attempt"], piece["offset"]) for piece in listener.heard] == [(1, 0), (2, 0)]
    assert [writing.text("text") for writing in live.current(listener)] == ["right"]


def test_the_end_leaves_nothing() -> None:
    """Once the message is in the journal there is no text here; what comes late is heard by nobody."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    writing = live.begin("ses_1", "run_1", "itm_1", 1)
    live.end(writing)
    live.end(writing)
    assert live.current(listener) == []
    live.append(writing, "text", "late")
    assert listener.heard == []


def test_the_end_of_an_earlier_attempt_is_not_that_of_the_present_one() -> None:
    """It was replaced already."""
    live = Live()
    earlier = live.begin("ses_1", "run_1", "itm_1", 1)
    present = live.begin("ses_1", "run_1", "itm_1", 2)
    live.end(earlier)
    assert live.current(Listener("ses_1")) == [present]


# The output of tools.


def test_calls_of_one_run_write_side_by_side() -> None:
    """Each under its own id, with its own offsets; one that ends leaves the other."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    one = live.begin("ses_1", "run_1", "call_1", 1, TOOL_KINDS)
    other = live.begin("ses_1", "run_1", "call_2", 1, TOOL_KINDS)
    live.append(one, "output", "one")
    live.append(other, "output", "other")
    live.append(one, "output", "!")
    assert [(piece["item_id"], piece["offset"], piece["text"]) for piece in listener.heard] == [
        ("call_1", 0, "one"),
        ("call_2", 0, "other"),
        ("call_1", 3, "!"),
    ]
    live.end(one)
    assert live.current(listener) == [other]


def test_of_a_tools_output_the_end_is_kept() -> None:
    """Who hears every piece has heard all; who comes late gets the end with its true offset."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    writing = live.begin("ses_1", "run_1", "call_1", 1, TOOL_KINDS)
    whole = ""
    for number in range(40_000):
        piece = f"line {number}\n"
        whole += piece
        live.append(writing, "output", piece)
    strand = writing.buffers["output"]
    assert text_of(listener, "output") == whole
    assert strand.length == len(whole)
    assert strand.start > 0
    assert MAX_LIVE_CHARACTERS <= len(strand.text()) < 2 * MAX_LIVE_CHARACTERS
    assert strand.text() == whole[strand.start :]
    for offset in (0, strand.start, strand.start + 10, len(whole) - 1, len(whole)):
        assert strand.text(offset) == whole[max(offset, strand.start) :]


@pytest.mark.parametrize(
    "pieces", [["x" * (3 * MAX_LIVE_CHARACTERS)], ["abc", "y" * (2 * MAX_LIVE_CHARACTERS)]]
)
def test_a_piece_that_is_no_message_is_told_from_its_end(pieces: list[str]) -> None:
    """The offset shows what was left out."""
    live = Live()
    listener = Listener("ses_1")
    writing = live.begin("ses_1", "run_1", "call_1", 1, TOOL_KINDS)
    live.append(writing, "output", "before ")
    live.follow(listener)
    for piece in pieces:
        live.append(writing, "output", piece)
    live.append(writing, "output", "after")
    length = len("before " + "".join(pieces))
    told, after = listener.heard[-2:]
    assert len(str(told["text"])) == MAX_LIVE_CHARACTERS
    assert told["offset"] == length - MAX_LIVE_CHARACTERS
    assert after["offset"] == length
    assert writing.buffers["output"].text() == pieces[-1][-MAX_LIVE_CHARACTERS:] + "after"


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 20))
def test_a_strand_keeps_at_least_what_it_should(sizes: list[int], most: int) -> None:
    """Whatever the pieces are: the end is there, from where the strand says, and not much more than that."""
    strand, whole = TextBuffer(most), ""
    for number, size in enumerate(sizes):
        piece = chr(ord("a") + number % 26) * size
        whole += piece
        strand.append(piece)
        assert strand.start + len(strand.text()) == strand.length == len(whole)
        assert whole.endswith(strand.text())
        assert min(most, len(whole)) <= len(strand.text()) < 2 * (most + 30)


def test_a_tool_that_writes_a_character_at_a_time_costs_little() -> None:
    """Pieces are joined before there are many of them."""
    strand = TextBuffer(MAX_LIVE_CHARACTERS)
    for _ in range(3 * MAX_PIECES):
        strand.append("x")
        assert len(strand._pieces) <= MAX_PIECES + 1
    assert strand.text() == "x" * 3 * MAX_PIECES
    read_often = TextBuffer(10)
    for number in range(100):
        read_often.append(str(number % 10))
        assert len(read_often.text()) <= 2 * 10


def test_who_unfollows_hears_no_more() -> None:
    """Also of what is being written; and unfollowing without having followed is harmless."""
    live = Live()
    one, many, stranger = Listener("ses_1"), Listener(None), Listener("ses_9")
    live.follow(one)
    live.follow(many)
    writing = live.begin("ses_1", "run_1", "itm_1", 1)
    for listener in (one, many, stranger):
        live.unfollow(listener)
    live.append(writing, "text", "unheard")
    live.append(live.begin("ses_1", "run_2", "itm_2", 1), "text", "unheard")
    assert one.heard == many.heard == []


def test_an_empty_piece_is_none() -> None:
    """Nobody is told of nothing."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    writing = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(writing, "text", "")
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
    writing = live.begin("ses_1", "run_1", "itm_1", 1)
    joins_at = data.draw(st.integers(0, len(pieces)))
    so_far = {"text": "", "thinking": ""}
    for number, (kind, text) in enumerate([*pieces, ("text", ".")]):
        if number == joins_at:
            so_far = {"text": writing.text("text"), "thinking": writing.text("thinking")}
            live.follow(listener)
        live.append(writing, "text" if kind == "text" else "thinking", text)
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
    writing = live.begin("ses_1", "run_1", "itm_1", 1)
    for piece in ("it is s", "k-1", "2345, yes s"):
        live.append(writing, "thinking", piece)
        live.append(writing, "text", piece)
    live.flush(writing)
    for kind in ("text", "thinking"):
        assert text_of(listener, kind) == "it is [scrubbed], yes s"
        assert writing.text("text" if kind == "text" else "thinking") == "it is [scrubbed], yes s"


def test_a_secret_that_is_learned_later_counts_from_then_on() -> None:
    """Also for what is being written."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    writing = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(writing, "text", "no secret yet. ")
    live.scrub(Scrubber(["sk-12345"]))
    live.append(writing, "text", "sk-12")
    live.append(writing, "text", "345")
    live.flush(writing)
    assert text_of(listener) == "no secret yet. [scrubbed]"
