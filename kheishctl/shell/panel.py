"""The panel above the prompt: the oldest pending request, page by page, and the keys that answer it.

Nothing of a request is truncated to the width, because a person must see all of a command before they allow
it. Every line is sanitized and prefixed with a bar, so that no line can imitate a prompt or a key.
"""

import json
from collections.abc import Iterator
from functools import partial

from kheishctl.contract import Json
from kheishctl.render.children import shorten_path
from kheishctl.render.layout import count_columns, fit, fold, fold_words, paint
from kheishctl.render.pending import DIFF_STYLE
from kheishctl.render.units import format_age
from kheishctl.shell.pending import PendingRequest, PendingRequests
from kheishctl.shell.transcript import BAR
from protocol.text import one_line, reveal, reveal_line, sanitize

# The part of a preview or of arguments that is shown: four times the daemon's limit. Folding it takes 20 ms.
MAX_SHOWN_CHARACTERS = 64 * 1_024

MAX_NOTE_CHARACTERS = 2_048

TRUNCATED = "Truncated: the request is longer than the part shown here."

# The keys of an approval in a terminal with few rows.
BRIEF_KEYS = (("a r s", "allow"), ("d D", "deny"), ("e", "edit"), ("A X", "all"))

Line = tuple[str, str]
"""Text and its style; the text is not yet sanitized."""

Key = tuple[str, str]
"""A key and its meaning."""


def format_title(request: PendingRequest, now_s: float) -> str:
    """Format the kind of a request, the agent below that made it, and its expiry on one line."""
    record = request.record
    path = shorten_path(str(record.get("agent_path") or ""))
    if request.is_question:
        count = len(record["questions"])
        title = f"{path or 'the agent'} asks" + (
            f", question {request.part + 1} of {count}" if count > 1 else ""
        )
    else:
        tool = one_line(str(record.get("tool", "")))
        title = f"{path}: {tool} needs your approval" if path else f"{tool} needs your approval"
    expiry = record.get("expires_at_ms")
    return title + (f" · expires {format_age(int(expiry), int(now_s * 1000))}" if expiry else "")


def _approval_lines(approval: Json) -> Iterator[Line]:
    """Yield the note of an approval, then its preview, else its arguments, else its subject."""
    if note := approval.get("note"):
        yield f"why: {one_line(str(note)[:MAX_NOTE_CHARACTERS])}", ""
    preview, arguments = approval.get("preview"), approval.get("arguments")
    if preview:
        text = str(preview.get("text", "")).rstrip("\n")
        is_diff = preview.get("kind") == "diff"
        for line in text[:MAX_SHOWN_CHARACTERS].split("\n"):
            yield line, DIFF_STYLE.get(line[:1], "") if is_diff else "bold"
        if preview.get("truncated") or len(text) > MAX_SHOWN_CHARACTERS:
            yield TRUNCATED, "yellow"
        return
    if not isinstance(arguments, dict) or not arguments:
        yield reveal_line(str(approval.get("subject", ""))[:MAX_SHOWN_CHARACTERS]), "bold"
        return
    room = MAX_SHOWN_CHARACTERS
    for name, value in arguments.items():
        text = f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        yield from ((line, "bold") for line in text[:room].split("\n"))
        room -= len(text)
        if room <= 0:
            yield TRUNCATED, "yellow"
            return


def _question_lines(request: PendingRequest) -> Iterator[Line]:
    """Yield the shown part of a question and its numbered options."""
    question = request.question
    header = one_line(str(question.get("header", ""))[:MAX_NOTE_CHARACTERS])
    text = str(question["question"])[:MAX_SHOWN_CHARACTERS]
    for line in (f"{header}: {text}" if header else text).split("\n"):
        yield line, "bold"
    for number, option in enumerate(request.options, 1):
        box = "[x] " if option["option_id"] in request.selected else "[ ] "
        mark = box if question.get("multi_select") else ""
        description = one_line(str(option.get("description", ""))[:MAX_NOTE_CHARACTERS])
        label = one_line(str(option["label"])[:MAX_NOTE_CHARACTERS])
        yield f"{number}  {mark}{label}" + (f": {description}" if description else ""), ""


class RequestPanel:
    """Formatter of pending requests. It folds a long request once, not for every drawing."""

    def __init__(self, *, color: bool) -> None:
        self._color = color
        self._cache: tuple[object, list[str]] = (None, [])

    def format_request(self, request: PendingRequest, columns: int, now_s: float) -> str:
        """Format a whole request without its keys, for the scrollback; it ends with a newline."""
        head = paint(fit(f"? {format_title(request, now_s)}", columns), "yellow", self._color)
        return "\n".join([head, *self._fold_request(request, columns)]) + "\n"

    def format_panel(
        self, pending: PendingRequests, columns: int, max_lines: int, now_s: float, *, empty: bool
    ) -> list[str]:
        """Return the lines of the panel: a title, a page of the request, its keys; none without a request.

        ``empty``: the line is empty, so that keys are effective.
        """
        first = pending.first
        if first is None:
            return []
        count = len(pending.requests)
        position = f"1 of {count} · " if count > 1 else ""
        head = paint(fit(f"? {position}{format_title(first, now_s)}", columns), "yellow", self._color)
        lines = self._fold_request(first, columns)
        # The size of a page depends on the number of key lines. Those grow if there is more than one page.
        pending.total_lines, pending.page_lines = len(lines), max(1, max_lines - 2)
        for _ in range(2):
            keys = self._format_keys(pending, first, columns, max_lines // 3, empty=empty)
            pending.page_lines = max(1, max_lines - 1 - len(keys))
        # The page has its size now; with its last line, the keys change, but not their number of rows.
        pending.mark_read()
        keys = self._format_keys(pending, first, columns, max_lines // 3, empty=empty)
        return [head, *lines[pending.offset : pending.offset + pending.page_lines], *keys]

    def _fold_request(self, request: PendingRequest, columns: int) -> list[str]:
        """Return the lines of a request behind a bar, folded to the width."""
        key = (request.key, request.part, tuple(request.selected), columns)
        if self._cache[0] != key:
            width = max(1, columns - len(BAR))
            bar = paint(BAR, "dim", self._color)
            is_prose = (request.record.get("preview") or {}).get("kind") == "diff"
            show = sanitize if request.is_question else partial(reveal, prose=is_prose)
            lines = _question_lines(request) if request.is_question else _approval_lines(request.record)
            folded = [
                bar + paint(part, style, self._color and bool(style))
                for line, style in lines
                for part in (fold if is_prose else fold_words)(show(line), width)
            ]
            self._cache = (key, folded)
        return self._cache[1]

    def _format_keys(
        self, pending: PendingRequests, first: PendingRequest, columns: int, max_rows: int, *, empty: bool
    ) -> list[str]:
        """Return the lines with the effective keys; blank lines reserve space until keys are effective."""
        if pending.line_entry is not None:
            return [paint(fit("Enter: send · Ctrl-C: cancel", columns), "dim", self._color)]
        paging: list[Key] = []
        if pending.total_lines > pending.page_lines:
            end = min(pending.offset + pending.page_lines, pending.total_lines)
            lines = f"{pending.offset + 1}-{end} of {pending.total_lines} lines"
            paging = [("space", f"more ({lines})"), ("b", "back")]
        keys = list_question_keys(first) if first.is_question else list_approval_keys(len(pending.approvals))
        rows = _break_rows([*paging, *keys], columns)
        is_brief = len(rows) > max(1, max_rows) and not first.is_question
        if is_brief:
            rows = _break_rows([*paging[:1], *BRIEF_KEYS], columns)
        if paging and not first.is_question and not pending.is_read:
            unread = _break_rows([paging[0], ("a r s", "allow at its end"), ("d D", "deny")], columns)
            rows = [*unread, *[[]] * len(rows)][: len(rows)]
        elif paging and end == pending.total_lines:
            last = [("b", f"back ({lines})")]
            final = _break_rows([*last, *(BRIEF_KEYS if is_brief else keys)], columns)
            rows = [*final, *[[]] * len(rows)][: len(rows)]
        if not pending.is_armed:
            return [""] * len(rows)
        if not empty and not first.is_question:
            hint = "the keys work on an empty line only"
            return [paint(fit(hint, columns), "dim", self._color), *[""] * (len(rows) - 1)]
        return [
            "  ".join(f"{paint(key, 'cyan', self._color)} {meaning}" for key, meaning in row) for row in rows
        ]


def list_approval_keys(count: int) -> list[Key]:
    """Return the keys that answer an approval, if ``count`` approvals are pending."""
    keys = [("a", "allow"), ("r", "for this run"), ("s", "for this session"), ("d", "deny")]
    keys += [("D", "with note"), ("e", "edit")]
    return [*keys, ("A", f"allow all {count}"), ("X", "deny all")] if count > 1 else keys


def list_question_keys(request: PendingRequest) -> list[Key]:
    """Return the keys that answer the shown part of a question."""
    if not request.options:
        return [("…", "type the answer"), ("/decline", "don't answer")]
    if request.question.get("multi_select"):
        return [("1-9", "choose"), ("Enter", "answer"), ("…", "or type"), ("n", "decline")]
    return [("1-9", "answer"), ("…", "or type"), ("n", "decline")]


def _break_rows(keys: list[Key], columns: int) -> list[list[Key]]:
    """Distribute keys over rows of at most ``columns``."""
    rows: list[list[Key]] = [[]]
    used = 0
    for key, meaning in keys:
        needed = count_columns(key) + count_columns(meaning) + 3
        if rows[-1] and used + needed > columns:
            rows.append([])
            used = 0
        rows[-1].append((key, meaning))
        used += needed
    return rows
