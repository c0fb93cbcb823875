"""Tests of the panel of pending requests."""

import re
import time
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.contract import Json
from kheishctl.render.layout import count_columns
from kheishctl.shell.panel import RequestPanel, format_title
from kheishctl.shell.pending import GRACE_SECONDS, PendingRequests
from kheishctl.shell.transcript import BAR
from protocol.text import sanitize

NOW_S = 1_795_000_000.0
DIFF = "--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new\n same"
OPTIONS = [{"option_id": "r", "label": "red", "description": "warm"}, {"option_id": "b", "label": "blue"}]
ANY_TEXT = st.text(st.characters(exclude_categories=[]))


def make_approval(number: int = 1, **fields: object) -> Json:
    """Return the record of an approval."""
    return {"approval_id": f"apr_{number}", "tool": "bash", "run_id": "run_1", **fields}


def make_command(text: str, **fields: object) -> Json:
    """Return the record of an approval whose preview is a command."""
    return make_approval(preview={"kind": "command", "text": text, **fields})


def make_pending(*records: Json, visible: bool = True) -> PendingRequests:
    """Return pending requests; ``visible``: every reading of the clock is beyond the grace period."""
    ticks = count(0.0, 2 * GRACE_SECONDS if visible else 0.0)
    pending = PendingRequests(lambda: next(ticks))
    for record in records:
        pending.add(record)
    pending.mark_drawn(empty=True)
    return pending


def draw(
    pending: PendingRequests, *, columns: int = 80, rows: int = 30, color: bool = False, empty: bool = True
) -> list[str]:
    """Return the lines of the panel."""
    return RequestPanel(color=color).format_panel(pending, columns, rows, NOW_S, empty=empty)


def test_no_request() -> None:
    """Without a pending request there is no panel."""
    assert draw(PendingRequests()) == []


def test_command() -> None:
    """The panel shows the tool, the note, the whole command and the keys."""
    record = make_command("make all\nmake install", binding="x") | {"note": "bash asks\nby default"}
    assert draw(make_pending(record)) == [
        "? bash needs your approval",
        f"{BAR}why: bash asks by default",
        f"{BAR}make all",
        f"{BAR}make install",
        "a allow  r for this run  s for this session  d deny  D with note  e edit",
    ]


def test_diff() -> None:
    """The lines of a diff have colors behind the rule."""
    lines = draw(make_pending(make_approval(preview={"kind": "diff", "text": DIFF})), color=True)
    rule = f"\x1b[2m{BAR}\x1b[0m"
    assert lines[3:7] == [
        f"{rule}\x1b[36m@@ -1 +1 @@\x1b[0m",
        f"{rule}\x1b[31m-old\x1b[0m",
        f"{rule}\x1b[32m+new\x1b[0m",
        f"{rule} same",
    ]


def test_arguments() -> None:
    """Without a preview the panel shows all arguments by name; without arguments, the subject."""
    lines = draw(make_pending(make_approval(arguments={"path": "a", "count": 3, "deep": {"x": [1]}})))
    assert lines[1:4] == [f"{BAR}path: a", f"{BAR}count: 3", f'{BAR}deep: {{"x": [1]}}']
    assert draw(make_pending(make_approval(subject="the subject")))[1] == f"{BAR}the subject"


def test_several_requests() -> None:
    """The panel shows one request, the number of requests, and keys that answer all."""
    lines = draw(make_pending(make_approval(1), make_approval(2), make_approval(3)))
    assert lines[0] == "? 1 of 3 · bash needs your approval"
    assert lines[-1].endswith("A allow all 3  X deny all")


def test_long_request() -> None:
    """A long request is shown page by page, with the position and the key of the next page."""
    pending = make_pending(make_command("\n".join(f"line {number}" for number in range(100))))
    first_page = draw(pending, rows=12)
    assert len(first_page) == 12
    assert first_page[1] == f"{BAR}line 0"
    assert "space more (1-9 of 100 lines)" in first_page[-2]
    for _ in range(20):
        pending.press(" ")
    last_page = draw(pending, rows=12)
    assert last_page[-3] == f"{BAR}line 99"
    assert "b back (92-100 of 100 lines)" in last_page[-2]
    assert "more" not in last_page[-2]


def test_words_are_not_broken() -> None:
    """A line is folded at its blanks, and nothing of it is removed."""
    head = "in /srv/shop, in a sandbox, connecting only to hosts that rules allow:"
    lines = draw(make_pending(make_command(f"{head}\nls")), columns=len(head) + len(BAR) - 1)
    assert lines[1:4] == [f"{BAR}{head.removesuffix('allow:')}", f"{BAR}allow:", f"{BAR}ls"]


def test_whole_command_is_visible() -> None:
    """A wide command is folded, not truncated, and a carriage return hides nothing of it."""
    text = "ls" + " " * 300 + "; rm -rf /\rls"
    lines = draw(make_pending(make_command(text)), columns=40)[1:-3]
    assert "".join(line.removeprefix(BAR) for line in lines) == text.replace("\r", "⟨CARRIAGE RETURN⟩")


@pytest.mark.parametrize("fields", [{"truncated": True}, {}], ids=["by the daemon", "by the panel"])
def test_truncated_request(fields: Json) -> None:
    """The last line of a truncated request says so."""
    text = "x" if fields else "x" * 100_000
    pending = make_pending(make_command(text, **fields))
    draw(pending)
    pending.offset = pending.total_lines - 1
    assert draw(pending)[1].startswith(f"{BAR}Truncated:")


def test_keys_appear_when_they_are_effective() -> None:
    """Keys appear after the grace period without moving any line, and not while the line has text."""
    records = make_command("x"), make_approval(2)
    new, visible = draw(make_pending(*records, visible=False)), draw(make_pending(*records))
    assert new[:-2] == visible[:-2]
    assert new[-2:] == ["", ""]
    assert draw(make_pending(*records), empty=False)[-2] == "the keys work on an empty line only"
    pending = make_pending(*records)
    pending.press("D")
    assert draw(pending, empty=False)[-1] == "Enter: send · Ctrl-C: cancel"


def test_question() -> None:
    """A question shows its position among the parts, its numbered options and the selected ones."""
    part = {"key": "c", "question": "Which\ncolor?", "header": "Paint", "options": OPTIONS}
    pending = make_pending({"question_id": "q", "questions": [part, {**part, "multi_select": True}]})
    assert draw(pending) == [
        "? the agent asks, question 1 of 2",
        f"{BAR}Paint: Which",
        f"{BAR}color?",
        f"{BAR}1  red: warm",
        f"{BAR}2  blue",
        "1-9 answer  … or type  n decline",
    ]
    pending.press("1")
    pending.mark_drawn(empty=True)
    pending.press("2")
    assert draw(pending)[-3:-1] == [f"{BAR}1  [ ] red: warm", f"{BAR}2  [x] blue"]
    assert "Enter answer" in draw(pending)[-1]


def test_question_without_options() -> None:
    """A question without options is answered by typing."""
    pending = make_pending({"question_id": "q", "questions": [{"key": "n", "question": "What name?"}]})
    assert draw(pending)[-1] == "… type the answer  /decline don't answer"


def test_expiry() -> None:
    """The title names the remaining time of a request that expires."""
    pending = make_pending(make_approval(expires_at_ms=int(NOW_S * 1000) + 240_000))
    assert pending.first is not None
    assert format_title(pending.first, NOW_S) == "bash needs your approval · expires in 4 min"
    pending.first.record["agent_path"] = "scout/\x1b[2J" + "deep/" * 99
    title = format_title(pending.first, NOW_S)
    assert title.startswith("scout/␛[2Jdeep/")
    assert title.endswith("…: bash needs your approval · expires in 4 min")


def test_whole_request() -> None:
    """The scrollback shows a whole request without keys."""
    pending = make_pending(make_command("\n".join("abc")))
    assert pending.first is not None
    text = RequestPanel(color=False).format_request(pending.first, 40, NOW_S)
    assert text.splitlines() == ["? bash needs your approval", f"{BAR}a", f"{BAR}b", f"{BAR}c"]


@given(ANY_TEXT, ANY_TEXT, st.sampled_from(["diff", "command", "text"]), st.integers(20, 60))
def test_content_cannot_imitate_the_panel(text: str, note: str, kind: str, columns: int) -> None:
    """Every line of a request stands behind the rule, fits, and is sanitized."""
    record = make_approval(preview={"kind": kind, "text": text}, note=note, tool=text)
    lines = draw(make_pending(record), columns=columns, rows=1000)
    assert lines[0].startswith("? ")
    keys = next(number for number, line in enumerate(lines) if line.startswith("a allow"))
    assert all(line.startswith(BAR) for line in lines[1:keys])
    for line in lines:
        assert sanitize(line) == line
        assert "\n" not in line
    assert all(count_columns(line) <= columns for line in lines[:keys])


@pytest.mark.parametrize("piece", ["x", "+x\n", "\x1b", "漢"])
@pytest.mark.parametrize("field", ["preview", "arguments"])
def test_huge_request_is_drawn_fast(piece: str, field: str) -> None:
    """Megabytes are drawn at once, and drawn again at no cost."""
    content: Json = {field: {"kind": "diff", "text": piece * 10_000_000}}
    pending, panel = make_pending(make_approval() | content), RequestPanel(color=True)
    start_s = time.process_time()
    for _ in range(20):
        panel.format_panel(pending, 80, 30, NOW_S, empty=True)
    assert time.process_time() - start_s < 1


def test_keys_in_a_narrow_terminal() -> None:
    """In a narrow terminal the keys take as many lines as they need."""
    lines = draw(make_pending(make_approval(1), make_approval(2)), columns=30)
    keys = " ".join(line for line in lines if not line.startswith((BAR, "?")))
    assert re.findall(r"\b[arsdDeAX] \w+", keys) == [
        "a allow", "r for", "s for", "d deny", "D with", "e edit", "A allow", "X deny",
    ]  # fmt: skip
    assert all(count_columns(line) <= 30 for line in lines)


def test_keys_in_a_low_terminal() -> None:
    """In a terminal with few rows the keys are abbreviated, so that the request has room."""
    pending = make_pending(make_command("\n".join("abcdefgh")), make_approval(2))
    lines = draw(pending, columns=44, rows=6)
    assert len(lines) == 6
    assert lines[1:4] == [f"{BAR}a", f"{BAR}b", f"{BAR}c"]
    assert lines[4:] == ["space more (1-3 of 8 lines)", "a r s allow at its end  d D deny"]
    for _ in range(2):
        pending.press(" ")
        lines = draw(pending, columns=44, rows=6)
    assert lines[1:4] == [f"{BAR}f", f"{BAR}g", f"{BAR}h"]
    assert lines[4:] == ["b back (6-8 of 8 lines)  a r s allow", "d D deny  e edit  A X all"]
