"""Live text: offsets, followers, attempts, limits and secrets."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.live import MAX_PIECES, TOOL_KINDS, Live, LiveText, TextBuffer
from protocol.limits.call import MAX_LIVE_CHARACTERS


class Listener:
    """A follower that records its pieces and checks their offsets."""

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
        assert heard["offset"] == live_text.lengths()[heard["kind"]], "a piece comes before it is appended"
        self.heard.append(heard)


def text_of(listener: Listener, kind: str = "text") -> str:
    """Return the joined text of a kind that a follower got."""
    return "".join(str(piece["text"]) for piece in listener.heard if piece["kind"] == kind)


def test_a_follower_gets_each_piece_with_its_offset() -> None:
    """Pieces arrive at once and in order, with the offset in characters of their kind."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live_text = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(live_text, "thinking", "hm")
    live.append(live_text, "text", "Grüße")
    live.append(live_text, "text", ", Welt")
    assert listener.heard == [
        {"run_id": "run_1", "item_id": "itm_1", "attempt": 1, "offset": 0, "kind": "thinking", "text": "hm"},
        {"run_id": "run_1", "item_id": "itm_1", "attempt": 1, "offset": 0, "kind": "text", "text": "Grüße"},
        {"run_id": "run_1", "item_id": "itm_1", "attempt": 1, "offset": 5, "kind": "text", "text": ", Welt"},
    ]


def test_a_follower_gets_only_its_session() -> None:
    """A follower of one session is not even asked about another."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live.append(live.begin("ses_2", "run_2", "itm_2", 1), "text", "elsewhere")
    assert listener.heard == []
    assert listener.asked == 0


def test_a_follower_of_many_is_asked_about_each_run() -> None:
    """A follower without a single session decides for each run."""
    live = Live()
    listener = Listener(None, {"run_2"})
    live.follow(listener)
    for number in (1, 2):
        live_text = live.begin(f"ses_{number}", f"run_{number}", f"itm_{number}", 1)
        live.append(live_text, "text", f"from {number}")
    assert text_of(listener) == "from 2"


def test_a_new_follower_finds_the_text_so_far() -> None:
    """The text so far is complete, and later pieces follow it."""
    live = Live()
    live_text = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(live_text, "text", "Once upon")
    listener = Listener("ses_1")
    assert live.current(listener) == [live_text]
    assert live_text.text("text") == "Once upon"
    assert live_text.text("thinking") == ""
    live.follow(listener)
    live.append(live_text, "text", " a time")
    assert listener.heard[0]["offset"] == len("Once upon")
    assert live_text.text("text") == "Once upon a time"


def test_a_higher_attempt_replaces_the_text() -> None:
    """The text of an earlier attempt is gone."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live_text = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(live_text, "text", "wrong")
    live_text = live.begin("ses_1", "run_1", "itm_1", 2)
    live.append(live_text, "text", "right")
    assert [(piece["attempt"], piece["offset"]) for piece in listener.heard] == [(1, 0), (2, 0)]
    assert [live_text.text("text") for live_text in live.current(listener)] == ["right"]


def test_an_ended_text_is_forgotten() -> None:
    """An ended text is not found any more, and later pieces reach no follower."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live_text = live.begin("ses_1", "run_1", "itm_1", 1)
    live.end(live_text)
    live.end(live_text)
    assert live.current(listener) == []
    live.append(live_text, "text", "late")
    assert listener.heard == []


def test_the_end_of_an_earlier_attempt_keeps_the_current_one() -> None:
    """An attempt that was replaced can be ended without effect."""
    live = Live()
    earlier = live.begin("ses_1", "run_1", "itm_1", 1)
    present = live.begin("ses_1", "run_1", "itm_1", 2)
    live.end(earlier)
    assert live.current(Listener("ses_1")) == [present]


# Tool output.


def test_calls_of_one_run_have_separate_texts() -> None:
    """Each call has its own id and offsets, and ends by itself."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    first = live.begin("ses_1", "run_1", "call_1", 1, TOOL_KINDS)
    second = live.begin("ses_1", "run_1", "call_2", 1, TOOL_KINDS)
    live.append(first, "output", "one")
    live.append(second, "output", "other")
    live.append(first, "output", "!")
    assert [(piece["item_id"], piece["offset"], piece["text"]) for piece in listener.heard] == [
        ("call_1", 0, "one"),
        ("call_2", 0, "other"),
        ("call_1", 3, "!"),
    ]
    live.end(first)
    assert live.current(listener) == [second]


def test_the_end_of_a_tools_output_is_kept() -> None:
    """A late follower gets the end with its true offset."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live_text = live.begin("ses_1", "run_1", "call_1", 1, TOOL_KINDS)
    whole = ""
    for number in range(40_000):
        piece = f"line {number}\n"
        whole += piece
        live.append(live_text, "output", piece)
    buffer = live_text.buffers["output"]
    assert text_of(listener, "output") == whole
    assert buffer.length == len(whole)
    assert buffer.start > 0
    assert MAX_LIVE_CHARACTERS <= len(buffer.text()) < 2 * MAX_LIVE_CHARACTERS
    assert buffer.text() == whole[buffer.start :]
    for offset in (0, buffer.start, buffer.start + 10, len(whole) - 1, len(whole)):
        assert buffer.text(offset) == whole[max(offset, buffer.start) :]


@pytest.mark.parametrize(
    "pieces", [["x" * (3 * MAX_LIVE_CHARACTERS)], ["abc", "y" * (2 * MAX_LIVE_CHARACTERS)]]
)
def test_a_piece_that_is_too_long_is_cut_to_its_end(pieces: list[str]) -> None:
    """The offset shows how much was left out."""
    live = Live()
    listener = Listener("ses_1")
    live_text = live.begin("ses_1", "run_1", "call_1", 1, TOOL_KINDS)
    live.append(live_text, "output", "before ")
    live.follow(listener)
    for piece in pieces:
        live.append(live_text, "output", piece)
    live.append(live_text, "output", "after")
    length = len("before " + "".join(pieces))
    long, short = listener.heard[-2:]
    assert len(str(long["text"])) == MAX_LIVE_CHARACTERS
    assert long["offset"] == length - MAX_LIVE_CHARACTERS
    assert short["offset"] == length
    assert live_text.buffers["output"].text() == pieces[-1][-MAX_LIVE_CHARACTERS:] + "after"


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 20))
def test_a_buffer_keeps_at_least_its_limit(sizes: list[int], limit: int) -> None:
    """Whatever the pieces, the buffer has the end of the text, from its start on, and little more."""
    buffer, whole = TextBuffer(limit), ""
    for number, size in enumerate(sizes):
        piece = chr(ord("a") + number % 26) * size
        whole += piece
        buffer.append(piece)
        assert buffer.start + len(buffer.text()) == buffer.length == len(whole)
        assert whole.endswith(buffer.text())
        assert min(limit, len(whole)) <= len(buffer.text()) < 2 * (limit + 30)


def test_single_characters_cost_little() -> None:
    """Pieces are joined before there are many of them."""
    buffer = TextBuffer(MAX_LIVE_CHARACTERS)
    for _ in range(3 * MAX_PIECES):
        buffer.append("x")
        assert len(buffer._pieces) <= MAX_PIECES + 1
    assert buffer.text() == "x" * 3 * MAX_PIECES
    read_often = TextBuffer(10)
    for number in range(100):
        read_often.append(str(number % 10))
        assert len(read_often.text()) <= 2 * 10


def test_a_follower_can_leave() -> None:
    """A former follower gets no pieces, and leaving without having followed is harmless."""
    live = Live()
    single, many, stranger = Listener("ses_1"), Listener(None), Listener("ses_9")
    live.follow(single)
    live.follow(many)
    live_text = live.begin("ses_1", "run_1", "itm_1", 1)
    for listener in (single, many, stranger):
        live.unfollow(listener)
    live.append(live_text, "text", "unheard")
    live.append(live.begin("ses_1", "run_2", "itm_2", 1), "text", "unheard")
    assert single.heard == many.heard == []


def test_an_empty_piece_is_not_passed_on() -> None:
    """Followers get no empty pieces."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live_text = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(live_text, "text", "")
    assert listener.heard == []


@given(
    st.lists(st.tuples(st.sampled_from(["text", "thinking"]), st.text(max_size=8)), max_size=30), st.data()
)
def test_the_text_so_far_and_the_pieces_are_the_whole_text(
    pieces: list[tuple[str, str]], data: st.DataObject
) -> None:
    """This holds whenever a follower joins."""
    live = Live()
    listener = Listener("ses_1")
    live_text = live.begin("ses_1", "run_1", "itm_1", 1)
    joins_at = data.draw(st.integers(0, len(pieces)))
    so_far = {"text": "", "thinking": ""}
    for number, (kind, text) in enumerate([*pieces, ("text", ".")]):
        if number == joins_at:
            so_far = {"text": live_text.text("text"), "thinking": live_text.text("thinking")}
            live.follow(listener)
        live.append(live_text, "text" if kind == "text" else "thinking", text)
    for kind in ("text", "thinking"):
        whole = "".join(text for of, text in [*pieces, ("text", ".")] if of == kind)
        assert so_far[kind] + text_of(listener, kind) == whole
        assert live_text.text("text" if kind == "text" else "thinking") == whole


def test_no_piece_holds_a_secret() -> None:
    """The possible beginning of a secret is held back until it is certain, or the text is flushed."""
    live = Live()
    live.scrub(Scrubber(["sk-12345"]))
    listener = Listener("ses_1")
    live.follow(listener)
    live_text = live.begin("ses_1", "run_1", "itm_1", 1)
    for piece in ("it is s", "k-1", "2345, yes s"):
        live.append(live_text, "thinking", piece)
        live.append(live_text, "text", piece)
    live.flush(live_text)
    for kind in ("text", "thinking"):
        assert text_of(listener, kind) == "it is [scrubbed], yes s"
        assert live_text.text("text" if kind == "text" else "thinking") == "it is [scrubbed], yes s"


def test_a_new_secret_is_removed_from_further_text() -> None:
    """A new secret also applies to texts that have begun."""
    live = Live()
    listener = Listener("ses_1")
    live.follow(listener)
    live_text = live.begin("ses_1", "run_1", "itm_1", 1)
    live.append(live_text, "text", "no secret yet. ")
    live.scrub(Scrubber(["sk-12345"]))
    live.append(live_text, "text", "sk-12")
    live.append(live_text, "text", "345")
    live.flush(live_text)
    assert text_of(listener) == "no secret yet. [scrubbed]"
