"""``kheishctl question``: the questions that agents ask people."""

import sys
from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import QUESTION_FILTERS, Json
from kheishctl.options import (
    answer_as_option,
    drop_unset,
    id_argument,
    mutating,
    paged,
    request_filters,
    status_option,
)
from kheishctl.render.layout import Column, Display
from kheishctl.render.pending import (
    format_question,
    format_question_request,
    format_status,
    match_option,
    parse_answer,
)
from protocol.text import one_line

group = make_group("question", "Questions that agents ask people; a run waits until they are answered.")

COLUMNS = (
    Column("QUESTION", "question_id"),
    Column("STATUS", format_status),
    Column("ASKS", lambda row: " / ".join(part["question"] for part in row["questions"])),
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("ASKED", "asked_at_ms", "time"),
    Column("EXPIRES", "expires_at_ms", "time"),
    Column("RUN", "run_id"),
)

_question = id_argument("question_id", "QUESTION", "questions")


@command(
    group,
    "list",
    method="question.list",
    examples=("kheishctl question list", "kheishctl question list --session ses_0EXAMPLE --status any"),
)
@request_filters
@status_option(QUESTION_FILTERS, "pending")
@paged
def list_(app: App, everything: bool, **filters: Any) -> None:
    """List pending questions, oldest first."""
    page = fetch_pages(app, "question.list", drop_unset(**filters), "questions", everything=everything)
    show_table(app, page, "questions", COLUMNS, "No questions are pending.")


@command(group, "show", method="question.get", examples=("kheishctl question show qst_0EXAMPLE",))
@_question
def show(app: App, question_id: str) -> None:
    """Show a question, its options and its answer."""
    app.emit(app.call("question.get", {"question_id": question_id}), format_question_request)


@command(
    group,
    "answer",
    method="question.answer",
    examples=(
        "kheishctl question answer qst_0EXAMPLE",
        "kheishctl question answer qst_0EXAMPLE --answer q1=Blue --text 'q2=as dark as can be'",
        "kheishctl question answer qst_0EXAMPLE --decline --justification 'ask again tomorrow'",
    ),
)
@_question
@click.option(
    "--answer",
    "answers",
    multiple=True,
    metavar="KEY=OPTION",
    help="The answer to one part: an option, or else text (repeatable).",
)
@click.option(
    "--text", "texts", multiple=True, metavar="KEY=TEXT", help="An answer in your own words (repeatable)."
)
@click.option("--decline", "declined", is_flag=True, help="Decline to answer; the run continues.")
@click.option("--justification", metavar="TEXT", help="A justification for the model.")
@answer_as_option
@mutating
def answer(
    app: App,
    question_id: str,
    answers: tuple[str, ...],
    texts: tuple[str, ...],
    declined: bool,
    **params: Any,
) -> None:
    """Answer all parts of a question; the run continues.

    Without an answer on the command line, you are asked for each part. OPTION is the label, id or number of
    an option.
    """
    if declined and (answers or texts):
        raise click.UsageError("--decline cannot be combined with --answer and --text")
    params = drop_unset(question_id=question_id, declined=declined, **params)
    if not declined:
        request = app.call("question.get", {"question_id": question_id})
        params["answers"] = (
            _parse_options(request, answers, texts) if answers or texts else _prompt(app, request)
        )
    app.emit(app.call("question.answer", params), _format_result)


def _parse_options(request: Json, options: tuple[str, ...], texts: tuple[str, ...]) -> list[Json]:
    """Return the answers on the command line. Errors: a usage error that names the invalid word."""
    parts = {str(part["key"]): part for part in request["questions"]}
    answers: dict[str, Json] = {}
    for word, is_text in [*((word, False) for word in options), *((word, True) for word in texts)]:
        key, equals, value = word.partition("=")
        keys = f"the keys are {', '.join(parts)}"
        if not equals:
            raise click.UsageError(f"{word!r} is not of the form KEY=...; {keys}")
        if key not in parts:
            raise click.UsageError(f"the question has no part {key!r}; {keys}")
        if not value:
            raise click.UsageError(f"the answer to {key} is empty; --decline declines to answer")
        answer = answers.setdefault(key, {"key": key})
        option = None if is_text else match_option(parts[key], value)
        if option is None:
            answer["text"] = "\n".join(filter(None, (answer.get("text"), value)))
        else:
            answer["selected"] = [*answer.get("selected", ()), option]
    return list(answers.values())


def _prompt(app: App, request: Json) -> list[Json]:
    """Ask the person for each answer. Errors: a usage error if standard input is not a terminal."""
    if not sys.stdin.isatty():
        raise click.UsageError("use --answer KEY=OPTION, --text KEY=TEXT or --decline")
    answers = []
    for part in request["questions"]:
        app.print(format_question(part, app.display()) + "\n")
        number = "numbers separated by commas" if part.get("multi_select") else "a number"
        prompt = f"Your answer ({number}, or your own words)" if part.get("options") else "Your answer"
        answers.append(parse_answer(part, click.prompt(prompt, prompt_suffix=": ")))
    return answers


def _format_result(request: Json, display: Display) -> str:
    return one_line(f"{request['question_id']} {format_status(request)}")


@command(group, "cancel", method="question.cancel", examples=("kheishctl question cancel qst_0EXAMPLE",))
@_question
@click.option("--justification", metavar="TEXT", help="A justification, which is recorded with the question.")
@answer_as_option
@mutating
def cancel(app: App, **params: Any) -> None:
    """Cancel a question and its run. To let the run continue, decline to answer instead."""
    app.emit(app.call("question.cancel", drop_unset(**params)), _format_result)
