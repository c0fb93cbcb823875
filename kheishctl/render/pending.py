"""Format approvals, questions and calls in doubt, and parse people's answers to them.

Models and tools wrote most of the content, so every part of it is sanitized. The part that a person approves
shows hidden characters by name.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kheishctl.contract import Json
from kheishctl.render.layout import Display, format_pairs, paint
from protocol.text import escape_json, one_line, reveal, reveal_line, sanitize

STATUS_STYLE = {
    "pending": "yellow",
    "open": "yellow",
    "allowed": "green",
    "answered": "green",
    "done": "green",
    "denied": "red",
    "not_done": "red",
    "declined": "dim",
    "cancelled": "dim",
    "expired": "dim",
    "withdrawn": "dim",
}
DIFF_STYLE = {"+": "green", "-": "red", "@": "cyan"}

Pairs = Sequence[tuple[str, str | None]]


def format_approval(approval: Json, display: Display) -> str:
    """Format an approval and the call that it would allow."""
    pairs: Pairs = (
        ("approval", str(approval["approval_id"])),
        ("status", _format_status_time(approval, display)),
        ("tool", f"{approval['tool']} {reveal_line(str(approval.get('subject', '')))}"),
        ("why", approval.get("note")),
        ("agent", _format_agent(approval)),
        ("run", str(approval["run_id"])),
        ("requested", display.format_time(approval["requested_at_ms"])),
        ("expires", _format_expiry(approval, display)),
        ("asked of", _format_audience(approval)),
        ("denied as", approval.get("denial_note")),
        ("justification", approval.get("justification")),
        ("remembered", approval.get("remember")),
    )
    parts = [_format_head(pairs, approval, display), _format_call(approval, display)]
    if approval.get("updated_input") is not None:
        parts.append(f"changed to:\n{_format_json(approval['updated_input'])}")
    return "\n\n".join(filter(None, parts))


def format_question_request(request: Json, display: Display) -> str:
    """Format the questions of one call, with their answers if there are any."""
    pairs: Pairs = (
        ("question", str(request["question_id"])),
        ("status", _format_status_time(request, display)),
        ("agent", _format_agent(request)),
        ("run", str(request["run_id"])),
        ("asked", display.format_time(request["asked_at_ms"])),
        ("expires", _format_expiry(request, display)),
        ("asked of", _format_audience(request)),
        ("justification", request.get("justification")),
    )
    answers = {answer["key"]: answer for answer in request.get("answers", ())}
    blocks = [format_question(part, display, answers.get(part["key"])) for part in request["questions"]]
    return "\n\n".join([_format_head(pairs, request, display), *blocks])


def format_question(question: Json, display: Display, answer: Json | None = None) -> str:
    """Format one question with numbered options; an asterisk marks the options of its answer."""
    several = "(multiple choice)" if question.get("multi_select") else ""
    title = "  ".join(filter(None, [question["key"], question.get("header", ""), several]))
    lines = [paint(one_line(title), "bold", display.color), sanitize(str(question["question"]))]
    selected = answer.get("selected", ()) if answer is not None else ()
    for number, option in enumerate(question.get("options", ()), 1):
        mark = "*" if option["option_id"] in selected else " "
        description = f": {one_line(option['description'])}" if option.get("description") else ""
        lines.append(f" {mark}{number}. {one_line(option['label'])}{description}")
    if answer is not None and answer.get("text"):
        lines.append(f"> {sanitize(str(answer['text']))}")
    return "\n".join(lines)


def format_indoubt(indoubt: Json, display: Display) -> str:
    """Format a call in doubt, its input and its evidence."""
    pairs: Pairs = (
        ("in doubt", str(indoubt["indoubt_id"])),
        ("status", _format_status_time(indoubt, display)),
        ("tool", str(indoubt["tool"])),
        ("agent", _format_agent(indoubt)),
        ("run", str(indoubt["run_id"])),
        ("called", display.format_time(indoubt["called_at_ms"])),
        ("found", display.format_time(indoubt["found_at_ms"])),
        ("note", indoubt.get("note")),
        ("justification", indoubt.get("justification")),
    )
    parts = [_format_head(pairs, indoubt, display), f"input:\n{_format_json(indoubt.get('arguments', {}))}"]
    if indoubt.get("evidence"):
        parts.append(f"evidence:\n{_format_json(indoubt['evidence'])}")
    return "\n\n".join(parts)


def format_status(record: Mapping[str, Any]) -> str:
    """Format the status of a record and the person who resolved it."""
    status = str(record["status"]).replace("_", " ")
    return f"{status} by {record['resolved_by']}" if record.get("resolved_by") else status


def _format_audience(record: Json) -> str | None:
    """Return the people who may answer, and the votes so far; None: anyone with the right."""
    audience = record.get("audience") or {}
    people = audience.get("people")
    if people is None:
        return None
    votes = audience.get("votes", 1)
    names = ", ".join(people) or "nobody"
    cast = ", ".join(f"{vote['person']}: {vote['choice']}" for vote in record.get("votes", ()))
    return one_line((f"{votes} of {names}" if votes > 1 else names) + (f" ({cast})" if cast else ""))


def format_answers(answers: Sequence[Mapping[str, Any]]) -> str:
    """Format answers to questions: option ids or text. Not yet sanitized."""
    return " / ".join(
        ", ".join([*answer.get("selected", ()), *filter(None, [answer.get("text")])]) for answer in answers
    )


def _format_head(pairs: Pairs, record: Json, display: Display) -> str:
    status = one_line(format_status(record))
    style = STATUS_STYLE.get(str(record["status"]), "dim")
    return format_pairs(pairs, display).replace(status, paint(status, style, display.color), 1)


def _format_status_time(record: Json, display: Display) -> str:
    status, at_ms = format_status(record), record.get("resolved_at_ms")
    return status if at_ms is None else f"{status}, {display.format_time(at_ms)}"


def _format_agent(record: Json) -> str:
    sender = record.get("sender")
    return str(record.get("agent", "")) + (f" as {sender}" if sender else "")


def _format_expiry(record: Json, display: Display) -> str | None:
    at_ms = record.get("expires_at_ms")
    return None if at_ms is None else display.format_time(at_ms)


def _format_call(approval: Json, display: Display) -> str:
    """Format the preview of a call, or its input if the tool has no preview."""
    preview = approval.get("preview")
    if preview is None:
        return f"input:\n{_format_json(approval['arguments'])}" if approval.get("arguments") else ""
    is_diff = preview.get("kind") == "diff"
    lines = reveal(str(preview.get("text", "")), prose=is_diff).rstrip("\n").split("\n")
    if is_diff:
        styles = [DIFF_STYLE.get(line[:1]) for line in lines]
        lines = [
            paint(line, style, display.color) if style else line
            for line, style in zip(lines, styles, strict=True)
        ]
    elif preview.get("kind") == "command":
        lines = [f"$ {lines[0]}", *lines[1:]]
    if preview.get("truncated"):
        lines.append(paint("(truncated; there is more)", "yellow", display.color))
    return "\n".join(lines)


def _format_json(value: Any) -> str:
    return reveal(escape_json(json.dumps(value, ensure_ascii=False, indent=2)))


# Answers.


def match_option(question: Json, text: str) -> str | None:
    """Return the id of the option with this id, label or number; None if no option matches."""
    needle = " ".join(text.split()).casefold()
    for number, option in enumerate(question.get("options", ()), 1):
        names = (option["option_id"], option["label"], str(number))
        if needle in (" ".join(str(name).split()).casefold() for name in names):
            return str(option["option_id"])
    return None


def parse_answer(question: Json, line: str) -> Json:
    """Return the answer of a typed line: an option, options separated by commas, or text."""
    words = line.split(",") if question.get("multi_select") else [line]
    options = [match_option(question, word) for word in words]
    if line.strip() and all(options):
        return {"key": question["key"], "selected": list(dict.fromkeys(options))}
    return {"key": question["key"], "text": line.strip()}
