"""What waits for a person, as text: calls to allow or deny, questions, calls in doubt. Pure.

What is shown was written by models and tools: all of it goes through ``clean`` or ``one_line``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kheishctl.client import Json
from kheishctl.render.layout import Look, ago, clean, clock, json_safe, one_line, paint, properties, stamp

STATUS_STYLE = {
    "pending": "yellow",
    "open": "yellow",
    "allowed": "green",
    "answered": "green",
    "done": "green",
    "denied": "red",
    "not_done": "red",
}
DIFF_STYLE = {"+": "green", "-": "red", "@": "cyan"}

Pairs = Sequence[tuple[str, str | None]]


def approval(view: Json, look: Look) -> str:
    """An approval and what it would allow."""
    pairs: Pairs = (
        ("approval", str(view["approval_id"])),
        ("status", _ended(view, view.get("resolved_at_ms"), look)),
        ("tool", f"{view['tool']} {view.get('subject', '')}"),
        ("why asked", view.get("note")),
        ("agent", _who(view)),
        ("run", str(view["run_id"])),
        ("asked", _when(view["requested_at_ms"], look)),
        ("expires", _expiry(view, look)),
        ("denied as", view.get("denial_note")),
        ("justification", view.get("justification")),
        ("remembered", view.get("remember")),
    )
    parts = [_head(pairs, view, look), _shown(view, look)]
    if view.get("updated_input") is not None:
        parts.append(f"changed to:\n{_json(view['updated_input'])}")
    return "\n\n".join(filter(None, parts))


def question(request: Json, look: Look) -> str:
    """The questions of one call, and the answers if there are any."""
    pairs: Pairs = (
        ("question", str(request["question_id"])),
        ("status", _ended(request, request.get("resolved_at_ms"), look)),
        ("agent", _who(request)),
        ("run", str(request["run_id"])),
        ("asked", _when(request["asked_at_ms"], look)),
        ("expires", _expiry(request, look)),
        ("justification", request.get("justification")),
    )
    answers = {answer["key"]: answer for answer in request.get("answers", ())}
    blocks = [one_question(asked, look, answers.get(asked["key"])) for asked in request["questions"]]
    return "\n\n".join([_head(pairs, request, look), *blocks])


def one_question(asked: Json, look: Look, answer: Json | None = None) -> str:
    """One question with its options, numbered; those that were chosen are marked."""
    several = "(several may be chosen)" if asked.get("multi_select") else ""
    title = "  ".join(filter(None, [asked["key"], asked.get("header", ""), several]))
    lines = [paint(one_line(title), "bold", look.color), clean(str(asked["question"]))]
    chosen = answer.get("selected", ()) if answer is not None else ()
    for number, option in enumerate(asked.get("options", ()), 1):
        mark = "*" if option["option_id"] in chosen else " "
        about = f": {one_line(option['description'])}" if option.get("description") else ""
        lines.append(f" {mark}{number}. {one_line(option['label'])}{about}")
    if answer is not None and answer.get("text"):
        lines.append(f"> {clean(str(answer['text']))}")
    return "\n".join(lines)


def indoubt(view: Json, look: Look) -> str:
    """A call of which nobody knows whether it took effect, and what is known about it."""
    pairs: Pairs = (
        ("in doubt", str(view["indoubt_id"])),
        ("status", _ended(view, view.get("resolved_at_ms"), look)),
        ("tool", str(view["tool"])),
        ("agent", _who(view)),
        ("run", str(view["run_id"])),
        ("called", _when(view["called_at_ms"], look)),
        ("found", _when(view["found_at_ms"], look)),
        ("known", view.get("note")),
        ("justification", view.get("justification")),
    )
    parts = [_head(pairs, view, look), f"input:\n{_json(view.get('arguments', {}))}"]
    if view.get("evidence"):
        parts.append(f"evidence:\n{_json(view['evidence'])}")
    return "\n\n".join(parts)


def status_word(record: Mapping[str, Any]) -> str:
    """How something stands, and who made it so."""
    status = str(record["status"]).replace("_", " ")
    return f"{status} by {record['resolved_by']}" if record.get("resolved_by") else status


# Answering.


def matched(asked: Json, words: str) -> str | None:
    """The option that words mean: its id, its label, or its number; None if they mean none."""
    wanted = " ".join(words.split()).casefold()
    for number, option in enumerate(asked.get("options", ()), 1):
        named = (option["option_id"], option["label"], str(number))
        if wanted in (" ".join(str(name).split()).casefold() for name in named):
            return str(option["option_id"])
    return None


def read_answer(asked: Json, line: str) -> Json:
    """An answer as somebody types it: an option, several with commas between them, or a text."""
    words = line.split(",") if asked.get("multi_select") else [line]
    options = [matched(asked, word) for word in words]
    if line.strip() and all(options):
        return {"key": asked["key"], "selected": list(dict.fromkeys(options))}
    return {"key": asked["key"], "text": line.strip()}


# Pieces.


def _head(pairs: Pairs, record: Json, look: Look) -> str:
    shown = properties(pairs, look)
    status = one_line(status_word(record))
    return shown.replace(status, paint(status, STATUS_STYLE.get(str(record["status"]), "dim"), look.color), 1)


def _ended(record: Json, at_ms: int | None, look: Look) -> str:
    word = status_word(record)
    return word if at_ms is None else f"{word}, {_when(at_ms, look)}"


def _who(record: Json) -> str:
    sender = record.get("sender")
    return str(record.get("agent", "")) + (f" as {sender}" if sender else "")


def _when(at_ms: int, look: Look) -> str:
    return stamp(at_ms) if look.width is None else f"{clock(at_ms)} ({ago(at_ms, look.now_ms)})"


def _expiry(record: Json, look: Look) -> str | None:
    at_ms = record.get("expires_at_ms")
    return None if at_ms is None else _when(at_ms, look)


def _shown(view: Json, look: Look) -> str:
    """What a call would do; where its tool does not show that, its input."""
    preview = view.get("preview")
    if preview is None:
        return f"input:\n{_json(view['arguments'])}" if view.get("arguments") else ""
    lines = clean(str(preview.get("text", ""))).rstrip("\n").split("\n")
    if preview.get("kind") == "diff":
        lines = [
            paint(line, DIFF_STYLE.get(line[:1], ""), look.color and line[:1] in DIFF_STYLE) for line in lines
        ]
    elif preview.get("kind") == "command":
        lines = [f"$ {lines[0]}", *lines[1:]]
    if preview.get("truncated"):
        lines.append(paint("(cut here; there is more)", "yellow", look.color))
    return "\n".join(lines)


def _json(value: Any) -> str:
    return clean(json_safe(json.dumps(value, ensure_ascii=False, indent=2)))
