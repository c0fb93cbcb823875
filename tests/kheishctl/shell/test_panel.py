"""How what waits for a person is drawn."""

import re
import time
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.contract import Json
from kheishctl.render.layout import count_columns
from kheishctl.shell.sheet import Sheet, title
from kheishctl.shell.waiting import GRACE_SECONDS, Waiting
from kheishctl.shell.working import RULE
from protocol.text import sanitise

NOW_S = 1_795_000_000.0
DIFF = "--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new\n same"
OPTIONS = [{"option_id": "r", "label": "red", "description": "warm"}, {"option_id": "b", "label": "blue"}]
ANYTHING = st.text(st.characters(exclude_categories=[]))


def approval(number: int = 1, **fields: object) -> Json:
    """An approval as it is heard."""
    return {"approval_id": f"apr_{number}", "tool": "bash", "run_id": "run_1", **fields}


def command(text: str, **fields: object) -> Json:
    """An approval of a command."""
    return approval(preview={"kind": "command", "text": text, **fields})


def waiting(*records: Json, seen: bool = True) -> Waiting:
    """What waits, seen long enough to be answered or just come. Each look at the clock takes long enough."""
    ticks = count(0.0, 2 * GRACE_SECONDS if seen else 0.0)
    waits = Waiting(lambda: next(ticks))
    for record in records:
        waits.put(record)
    waits.drawn(empty=True)
    return waits


def drawn(
    waits: Waiting, *, columns: int = 80, lines: int = 30, color: bool = False, empty: bool = True
) -> list[str]:
    """The lines that are drawn."""
    return Sheet(color=color).lines(waits, columns, lines, NOW_S, empty=empty)


def test_nothing() -> None:
    """Where nothing waits, nothing is drawn."""
    assert drawn(Waiting()) == []


def test_a_command() -> None:
    """What tool, why, the whole command, and the keys."""
    shown = drawn(waiting(command("make all\nmake install", binding="x") | {"note": "rule\nbash ask"}))
    assert shown == [
        "? bash needs your approval",
        f"{RULE}why: rule bash ask",
        f"{RULE}make all",
        f"{RULE}make install",
        "a allow  r for this run  s for this session  d deny  D say why  e edit",
    ]


def test_a_diff_has_colors() -> None:
    """Added lines green, removed ones red, in front of each our rule."""
    shown = drawn(waiting(approval(preview={"kind": "diff", "text": DIFF})), color=True)
    rule = f"\x1b[2m{RULE}\x1b[0m"
    assert shown[3:7] == [
        f"{rule}\x1b[36m@@ -1 +1 @@\x1b[0m",
        f"{rule}\x1b[31m-old\x1b[0m",
        f"{rule}\x1b[32m+new\x1b[0m",
        f"{rule} same",
    ]


def test_arguments_where_there_is_no_preview() -> None:
    """All of them, by name; where they are not known, the subject."""
    shown = drawn(waiting(approval(arguments={"path": "a", "count": 3, "deep": {"x": [1]}})))
    assert shown[1:4] == [f"{RULE}path: a", f"{RULE}count: 3", f'{RULE}deep: {{"x": [1]}}']
    assert drawn(waiting(approval(subject="the subject")))[1] == f"{RULE}the subject"


def test_several_wait() -> None:
    """One is shown, it is said how many there are, and all can be answered at once."""
    shown = drawn(waiting(approval(1), approval(2), approval(3)))
    assert shown[0] == "? 1 of 3 · bash needs your approval"
    assert shown[-1].endswith("A allow all 3  X deny all")


def test_a_long_one_is_shown_page_by_page() -> None:
    """It fits the screen; it is said that there is more, and the rest comes with a key."""
    waits = waiting(command("\n".join(f"line {number}" for number in range(100))))
    first = drawn(waits, lines=12)
    assert len(first) == 12
    assert first[1] == f"{RULE}line 0"
    assert "space more (1-9 of 100 lines)" in first[-2]
    for _ in range(20):
        waits.press(" ")
    last = drawn(waits, lines=12)
    assert last[-3] == f"{RULE}line 99"
    assert "(92-100 of 100 lines)" in last[-2]


def test_nothing_of_a_command_is_hidden() -> None:
    """However wide it is, and whatever it writes over itself: all of it is there."""
    text = "ls" + " " * 300 + "; rm -rf /\rls"
    shown = "".join(line.removeprefix(RULE) for line in drawn(waiting(command(text)), columns=40)[1:-3])
    assert shown == text.replace("\r", "")


@pytest.mark.parametrize("more", [{"truncated": True}, {}])
def test_what_is_not_all_says_so(more: Json) -> None:
    """Where the daemon sent only part, or where it is more than a person will read."""
    text = "x" if more else "x" * 100_000
    waits = waiting(command(text, **more))
    drawn(waits)
    waits.offset = waits.rows - 1
    assert "not all of it" in drawn(waits)[1]


def test_keys_appear_when_they_count() -> None:
    """Not before what is asked was seen, and nothing moves when they come; not while something is typed."""
    records = command("x"), approval(2)
    fresh, seen = drawn(waiting(*records, seen=False)), drawn(waiting(*records))
    assert fresh[:-2] == seen[:-2]
    assert fresh[-2:] == ["", ""]
    assert "keys count where nothing is typed" in drawn(waiting(*records), empty=False)[-2]
    waits = waiting(*records)
    waits.press("D")
    assert drawn(waits, empty=False)[-1] == "Enter sends it, Ctrl-C leaves it"


def test_a_question() -> None:
    """Its options by number, what is chosen of several, and which part of several it is."""
    part = {"key": "c", "question": "Which\ncolor?", "header": "Paint", "options": OPTIONS}
    waits = waiting({"question_id": "q", "questions": [part, {**part, "multi_select": True}]})
    assert drawn(waits) == [
        "? the agent asks, question 1 of 2",
        f"{RULE}Paint: Which",
        f"{RULE}color?",
        f"{RULE}1  red: warm",
        f"{RULE}2  blue",
        "1-9 answer  … or type  n don't answer",
    ]
    waits.press("1")
    waits.drawn(empty=True)
    waits.press("2")
    assert drawn(waits)[-3:-1] == [f"{RULE}1  [ ] red: warm", f"{RULE}2  [x] blue"]
    assert "Enter answer" in drawn(waits)[-1]


def test_a_question_without_options() -> None:
    """It is answered by typing."""
    waits = waiting({"question_id": "q", "questions": [{"key": "n", "question": "What name?"}]})
    assert drawn(waits)[-1] == "… type the answer  /decline don't answer"


def test_an_expiry_is_named() -> None:
    """How long there is to answer."""
    waits = waiting(approval(expires_at_ms=int(NOW_S * 1000) + 240_000))
    assert waits.first is not None
    assert title(waits.first, NOW_S) == "bash needs your approval · expires in 4 min"


def test_the_whole_of_it() -> None:
    """For the scrollback: everything, without keys."""
    waits = waiting(command("\n".join("abc")))
    assert waits.first is not None
    whole = Sheet(color=False).whole(waits.first, 40, NOW_S)
    assert whole.splitlines() == ["? bash needs your approval", f"{RULE}a", f"{RULE}b", f"{RULE}c"]


@given(ANYTHING, ANYTHING, st.sampled_from(["diff", "command", "text"]), st.integers(20, 60))
def test_nothing_looks_like_ours(text: str, reason: str, kind: str, columns: int) -> None:
    """Whatever is asked: each of its lines stands behind the rule, fits, and does nothing."""
    record = approval(preview={"kind": kind, "text": text}, note=reason, tool=text)
    shown = drawn(waiting(record), columns=columns, lines=1000)
    assert shown[0].startswith("? ")
    keys = next(number for number, line in enumerate(shown) if line.startswith("a allow"))
    assert all(line.startswith(RULE) for line in shown[1:keys])
    for line in shown:
        assert sanitise(line) == line
        assert "\n" not in line
    assert all(count_columns(line) <= columns for line in shown[:keys])


@pytest.mark.parametrize("piece", ["x", "+x\n", "\x1b", "漢"])
@pytest.mark.parametrize("known", ["preview", "arguments"])
def test_a_huge_one_does_not_hold_up(piece: str, known: str) -> None:
    """Megabytes are drawn at once, and drawn again at no cost."""
    huge: Json = {known: {"kind": "diff", "text": piece * 10_000_000}}
    waits, sheet = waiting(approval() | huge), Sheet(color=True)
    began = time.process_time()
    for _ in range(20):
        sheet.lines(waits, 80, 30, NOW_S, empty=True)
    assert time.process_time() - began < 1


def test_keys_stand_on_as_many_lines_as_they_need() -> None:
    """In a narrow terminal, too, all of them can be read."""
    shown = drawn(waiting(approval(1), approval(2)), columns=30)
    keys = " ".join(line for line in shown if not line.startswith((RULE, "?")))
    assert re.findall(r"\b[arsdDeAX] \w+", keys) == [
        "a allow", "r for", "s for", "d deny", "D say", "e edit", "A allow", "X deny",
    ]  # fmt: skip
    assert all(count_columns(line) <= 30 for line in shown)


def test_keys_leave_room_for_what_is_asked() -> None:
    """In a low terminal they are only named."""
    waits = waiting(command("\n".join("abcdefgh")), approval(2))
    shown = drawn(waits, columns=44, lines=6)
    assert len(shown) == 6
    assert shown[1:4] == [f"{RULE}a", f"{RULE}b", f"{RULE}c"]
    assert shown[4:] == ["space more (1-3 of 8 lines)  a r s allow", "d D deny  e edit  A X all"]
