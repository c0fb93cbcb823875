"""``kheishctl question``: what agents ask people."""

import sys
from typing import Any

import click

from kheishctl.cli import App, complete, given, mutating, noun, paged, pages, show_table, verb
from kheishctl.client import Json
from kheishctl.commands.approval import place
from kheishctl.render import pending as asking
from kheishctl.render.layout import Column, Look, one_line

group = noun("question", "Questions that agents ask people; a run waits until they are answered.")

STATUSES = ("pending", "answered", "declined", "cancelled", "expired", "withdrawn", "any")
COLUMNS = (
    Column("QUESTION", "question_id"),
    Column("STATUS", asking.status_word),
    Column("ASKS", lambda row: " / ".join(asked["question"] for asked in row["questions"])),
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("ASKED", "asked_at_ms", "time"),
    Column("EXPIRES", "expires_at_ms", "time"),
    Column("RUN", "run_id"),
)

_question = click.argument(
    "question_id", metavar="QUESTION", shell_complete=complete("questions"), help="The question."
)


@verb(
    group,
    "list",
    method="question.list",
    examples=("kheishctl question list", "kheishctl question list --session ses_0EXAMPLE --status any"),
)
@place
@click.option(
    "--status", type=click.Choice(STATUSES), metavar="STATUS", help="Those with this status, or any."
)
@paged
def list_(app: App, everything: bool, **filters: Any) -> None:
    """List questions: those that wait, oldest first."""
    page = pages(app, "question.list", given(**filters), "questions", everything=everything)
    show_table(app, page, "questions", COLUMNS, "Nobody is asked anything.")


@verb(group, "show", method="question.get", examples=("kheishctl question show qst_0EXAMPLE",))
@_question
def show(app: App, question_id: str) -> None:
    """Show a question, its options, and the answer if there is one."""
    app.emit(app.call("question.get", {"question_id": question_id}), asking.question)


@verb(
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
    help="The answer to one question: an option, or else a text; repeat for more.",
)
@click.option("--text", "texts", multiple=True, metavar="KEY=TEXT", help="An answer in your own words.")
@click.option("--decline", "declined", is_flag=True, help="Decline to answer; the run goes on.")
@click.option("--justification", metavar="TEXT", help="Why; the model reads it.")
@mutating
def answer(
    app: App,
    question_id: str,
    answers: tuple[str, ...],
    texts: tuple[str, ...],
    declined: bool,
    justification: str | None,
    **mutation: Any,
) -> None:
    """Answer a question, all parts of it at once; the run goes on.

    Without an answer on the command line, each part is asked for. OPTION is an option's label, id or number.
    """
    if declined and (answers or texts):
        raise click.UsageError("--decline goes without --answer and --text")
    params = given(question_id=question_id, justification=justification, declined=declined, **mutation)
    if not declined:
        request = app.call("question.get", {"question_id": question_id})
        params["answers"] = _given(request, answers, texts) if answers or texts else _asked(app, request)
    app.emit(app.call("question.answer", params), _brief)


def _given(request: Json, answers: tuple[str, ...], texts: tuple[str, ...]) -> list[Json]:
    """The answers of the command line, by question. Errors: a usage error naming the word."""
    by_key = {str(asked["key"]): asked for asked in request["questions"]}
    given_: dict[str, Json] = {}
    for word, as_text in [*((word, False) for word in answers), *((word, True) for word in texts)]:
        key, equals, value = word.partition("=")
        if not equals or key not in by_key:
            raise click.UsageError(f"{word!r} is not of the form KEY=...; the keys are {', '.join(by_key)}")
        answer = given_.setdefault(key, {"key": key})
        option = None if as_text else asking.matched(by_key[key], value)
        if option is None:
            answer["text"] = "\n".join(filter(None, (answer.get("text"), value)))
        else:
            answer["selected"] = [*answer.get("selected", ()), option]
    return list(given_.values())


def _asked(app: App, request: Json) -> list[Json]:
    """The answers as a person gives them now, one after the other. Errors: a usage error without one."""
    if not sys.stdin.isatty():
        raise click.UsageError("give --answer KEY=OPTION, --text KEY=TEXT or --decline")
    answers = []
    for asked in request["questions"]:
        app.say(asking.one_question(asked, app.look()) + "\n")
        answers.append(asking.read_answer(asked, click.prompt(_hint(asked), prompt_suffix=": ")))
    return answers


def _hint(asked: Json) -> str:
    if not asked.get("options"):
        return "Your answer"
    many = "numbers with commas between them" if asked.get("multi_select") else "a number"
    return f"Your answer ({many}, or your own words)"


def _brief(request: Json, look: Look) -> str:
    return one_line(f"{request['question_id']} {asking.status_word(request)}")


@verb(group, "cancel", method="question.cancel", examples=("kheishctl question cancel qst_0EXAMPLE",))
@_question
@click.option("--justification", metavar="TEXT", help="Why; it is kept with the question.")
@mutating
def cancel(app: App, question_id: str, justification: str | None, **mutation: Any) -> None:
    """Cancel a question and the run that asked it. To let the run go on instead, decline to answer."""
    params = given(question_id=question_id, justification=justification, **mutation)
    app.emit(app.call("question.cancel", params), _brief)
