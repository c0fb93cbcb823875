"""How what waits for a person is drawn: what is asked, all of it page by page, and the keys that answer.

Nothing of what is asked is cut in width: a command whose end cannot be seen is no command one can allow. All
of it stands behind a rule, made harmless, so that nothing in it looks like a prompt or like a key.
"""

import json
from collections.abc import Iterator
from typing import Any

from kheishctl.contract import Json
from kheishctl.render.layout import count_columns, fit, fold, paint
from kheishctl.render.units import format_age
from kheishctl.shell.waiting import Item, Waiting
from kheishctl.shell.working import RULE
from protocol.text import one_line, sanitise

# What is looked at of a diff or of arguments. Four times what the daemon sends; folding it takes 20 ms.
MAX_SHOWN_CHARACTERS = 64 * 1_024

MAX_REASON_CHARACTERS = 2_048

_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}

# The keys of an approval where there is no room for more.
BRIEF_KEYS = (("a r s", "allow"), ("d D", "deny"), ("e", "edit"), ("A X", "all"))

Line = tuple[str, str]
"""Text and its style."""


def body(item: Item) -> Iterator[Line]:
    """What is asked, line by line, each with its style; not yet harmless."""
    if item.is_question:
        yield from _question(item)
    else:
        yield from _approval(item.record)


def _approval(approval: Json) -> Iterator[Line]:
    if reason := approval.get("note"):
        yield f"why: {one_line(str(reason)[:MAX_REASON_CHARACTERS])}", ""
    preview = approval.get("preview")
    if not preview:
        yield from _arguments(approval)
        return
    text = str(preview.get("text", "")).rstrip("\n")
    diff = preview.get("kind") == "diff"
    for line in text[:MAX_SHOWN_CHARACTERS].split("\n"):
        yield line, _DIFF_STYLES.get(line[:1], "") if diff else "bold"
    if preview.get("truncated") or len(text) > MAX_SHOWN_CHARACTERS:
        yield "This is not all of it: there is more than is shown here.", "yellow"


def _arguments(approval: Json) -> Iterator[Line]:
    arguments = approval.get("arguments")
    if not isinstance(arguments, dict) or not arguments:
        yield one_line(str(approval.get("subject", ""))[:MAX_SHOWN_CHARACTERS]), "bold"
        return
    room = MAX_SHOWN_CHARACTERS
    for name, value in arguments.items():
        text = f"{name}: {_written(value)}"
        yield from ((line, "bold") for line in text[:room].split("\n"))
        room -= len(text)
        if room <= 0:
            yield "This is not all of it: there is more than is shown here.", "yellow"
            return


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _question(item: Item) -> Iterator[Line]:
    question = item.question
    header = one_line(str(question.get("header", ""))[:MAX_REASON_CHARACTERS])
    asked = str(question["question"])[:MAX_SHOWN_CHARACTERS]
    for line in (f"{header}: {asked}" if header else asked).split("\n"):
        yield line, "bold"
    for number, option in enumerate(item.options, 1):
        chosen = "[x] " if option["option_id"] in item.chosen else "[ ] "
        mark = chosen if question.get("multi_select") else ""
        about = one_line(str(option.get("description", ""))[:MAX_REASON_CHARACTERS])
        label = one_line(str(option["label"])[:MAX_REASON_CHARACTERS])
        yield f"{number}  {mark}{label}" + (f": {about}" if about else ""), ""


def title(item: Item, now_s: float) -> str:
    """What waits, on one line."""
    record = item.record
    if item.is_question:
        count = len(record["questions"])
        said = "the agent asks" + (f", question {item.step + 1} of {count}" if count > 1 else "")
    else:
        said = f"{one_line(str(record.get('tool', '')))} needs your approval"
    expires = record.get("expires_at_ms")
    return said + (f" · expires {format_age(int(expires), int(now_s * 1000))}" if expires else "")


class Sheet:
    """Draws what waits. What is long is folded once, not each time it is drawn."""

    def __init__(self, *, color: bool) -> None:
        self._color = color
        self._folded: tuple[object, list[str]] = (None, [])

    def whole(self, item: Item, columns: int, now_s: float) -> str:
        """All of one thing that waits, ending with a newline."""
        head = paint(fit(f"? {title(item, now_s)}", columns), "yellow", self._color)
        return "\n".join([head, *self._body(item, columns)]) + "\n"

    def lines(
        self, waiting: Waiting, columns: int, max_lines: int, now_s: float, *, empty: bool
    ) -> list[str]:
        """What is shown of what waits: its title, a page of it, its keys; nothing where nothing waits.

        ``empty``: nothing is typed, so that keys count.
        """
        first = waiting.first
        if first is None:
            return []
        count = len(waiting.items)
        which = f"1 of {count} · " if count > 1 else ""
        head = paint(fit(f"? {which}{title(first, now_s)}", columns), "yellow", self._color)
        every = self._body(first, columns)
        # How many lines the keys take depends on whether there is more than a page, and the reverse.
        waiting.rows, waiting.page = len(every), max(1, max_lines - 2)
        for _ in range(2):
            keys = self._keys(waiting, first, columns, max_lines // 3, empty=empty)
            waiting.page = max(1, max_lines - 1 - len(keys))
        return [head, *every[waiting.offset : waiting.offset + waiting.page], *keys]

    def _body(self, item: Item, columns: int) -> list[str]:
        key = (item.key, item.step, tuple(item.chosen), columns)
        if self._folded[0] != key:
            room = max(1, columns - len(RULE))
            rule = paint(RULE, "dim", self._color)
            self._folded = (
                key,
                [
                    rule + paint(part, style, self._color and bool(style))
                    for line, style in body(item)
                    for part in fold(sanitise(line), room)
                ],
            )
        return self._folded[1]

    def _keys(self, waiting: Waiting, first: Item, columns: int, max_rows: int, *, empty: bool) -> list[str]:
        if waiting.typing is not None:
            return [paint(fit("Enter sends it, Ctrl-C leaves it", columns), "dim", self._color)]
        turning = []
        if waiting.rows > waiting.page:
            upto = min(waiting.offset + waiting.page, waiting.rows)
            lines = f"{waiting.offset + 1}-{upto} of {waiting.rows} lines"
            turning = [("space", f"more ({lines})"), ("b", "back")]
        keys = question_keys(first) if first.is_question else approval_keys(len(waiting.approvals))
        rows = _rows([*turning, *keys], columns)
        if len(rows) > max(1, max_rows) and not first.is_question:
            rows = _rows([*turning[:1], *BRIEF_KEYS], columns)
        painted = [self._painted(row) for row in rows]
        if not waiting.armed:
            return ["" for _ in painted]
        if not empty and not first.is_question:
            said = "what is typed is no answer; keys count where nothing is typed"
            return [paint(fit(said, columns), "dim", self._color), *("" for _ in painted[1:])]
        return painted

    def _painted(self, row: list[tuple[str, str]]) -> str:
        return "  ".join(f"{paint(key, 'cyan', self._color)} {what}" for key, what in row)


def approval_keys(count: int) -> list[tuple[str, str]]:
    """The keys that answer an approval, of ``count`` that wait."""
    keys = [("a", "allow"), ("r", "for this run"), ("s", "for this session"), ("d", "deny")]
    keys += [("D", "say why"), ("e", "edit")]
    return [*keys, ("A", f"allow all {count}"), ("X", "deny all")] if count > 1 else keys


def question_keys(item: Item) -> list[tuple[str, str]]:
    """The keys that answer a question."""
    if not item.options:
        return [("…", "type the answer"), ("/decline", "don't answer")]
    if item.question.get("multi_select"):
        return [("1-9", "choose"), ("Enter", "answer"), ("…", "or type"), ("n", "don't answer")]
    return [("1-9", "answer"), ("…", "or type"), ("n", "don't answer")]


def _rows(keys: list[tuple[str, str]], columns: int) -> list[list[tuple[str, str]]]:
    """The keys on as many lines as they need."""
    rows: list[list[tuple[str, str]]] = [[]]
    used = 0
    for key, what in keys:
        needed = count_columns(key) + count_columns(what) + 3
        if rows[-1] and used + needed > columns:
            rows.append([])
            used = 0
        rows[-1].append((key, what))
        used += needed
    return rows
