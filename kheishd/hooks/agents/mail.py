"""The tools by which agents of one tree talk to each other: messages, and questions of a child to its parent.

A message is posted, and a question answered, in the transaction that commits the call's result: a call that a
restart interrupted is run again, and has happened once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from kheishd.core import question as rules
from kheishd.core.run.commands import AnswerQuestion
from kheishd.core.trust import join_origins
from kheishd.hooks.ask_user import AskQuestions, make_questions
from kheishd.kernel.hook import (
    Arguments,
    Deny,
    Invocation,
    NeedsAnswer,
    Opinion,
    Outcome,
    RunContext,
    SubHook,
    Tool,
    ToolError,
    tool,
)
from kheishd.objects.agents.mail import CLARIFICATION, NOTICE, find_question_to_agent, is_open, post
from kheishd.objects.agents.tree import find_relative, path_of
from kheishd.objects.talk.bounds import ancestors
from kheishd.objects.talk.input import origins_read
from kheishd.records.writer import Origin, SessionWriter
from kheishd.store.tables import RUNS, SESSIONS
from protocol.errors.refusal import Refusal
from protocol.limits.mailbox import MAX_MAIL_PAYLOAD_BYTES, MAX_MAIL_SUBJECT_BYTES
from protocol.limits.names import MAX_REASON_BYTES
from protocol.objects.question import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.store.environment import Transaction
    from protocol.objects.question import QuestionRequest

DEFAULT_CLARIFICATION_S: Final = 3600.0
"""How long a child waits for an answer at most, unless it says otherwise."""

AgentName = Annotated[
    str, Meta(min_length=1, max_length=512, description="An agent: its id, path or nickname.")
]


class MessageArguments(Arguments, frozen=True):
    """Arguments of ``message_agent``."""

    agent: AgentName
    subject: Annotated[
        str, Meta(min_length=1, max_length=MAX_MAIL_SUBJECT_BYTES, description="The matter, in a few words.")
    ]
    message: Annotated[str, Meta(min_length=1, max_length=MAX_MAIL_PAYLOAD_BYTES, description="The text.")]
    message_type: Annotated[
        str, Meta(min_length=1, max_length=64, description="The kind of the message, for the recipient.")
    ] = "message"


class AgentAnswer(Arguments, frozen=True):
    """The answer to one question of an agent."""

    key: Annotated[str, Meta(description="The key of the question, such as q1.")]
    choose: Annotated[list[str], Meta(description="The labels or ids of the options that you choose.")] = []
    text: Annotated[str, Meta(description="An answer in your own words.")] = ""


class AnswerArguments(Arguments, frozen=True):
    """Arguments of ``answer_agent``."""

    agent: AgentName
    answers: Annotated[list[AgentAnswer], Meta(description="An answer to each question.")] = []
    decline: Annotated[bool, Meta(description="Give no answer; the agent goes on without.")] = False
    justification: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


class MailTools(SubHook):
    """The tools for mail and questions between the agents of one tree."""

    name = "mail"

    def agent_subject(self, call: Invocation, arguments: MessageArguments | AnswerArguments) -> str:
        """Return the agent as it was named."""
        return arguments.agent

    def offer(self, context: RunContext) -> Sequence[Tool]:
        """Return the tools; only a child has a parent to ask."""
        if context.session.parent_session_id is not None:
            return self.tools
        return [row for row in self.tools if row is not self.request_parent_clarification]

    @tool(
        "message_agent",
        description="Post a message to another agent of your tree. It is durable, and the agent reads it in "
        "a run of its own when it is not busy. You do not wait; an agent below you reports when it is done.",
        kind="coordinate",
        repeatable=True,
        in_plan=True,
        subject=agent_subject,
    )
    async def message_agent(self, call: Invocation, arguments: MessageArguments) -> Outcome:
        """Post a message. Errors: ToolError."""
        own = call.context.session
        if arguments.message_type.strip().casefold() in (NOTICE, CLARIFICATION):
            raise ToolError(
                f"messages of type '{arguments.message_type}' are the daemon's; name another type"
            )
        payload = {"type": arguments.message_type, "message": arguments.message}
        size = len(msgspec.json.encode(payload))
        if size > MAX_MAIL_PAYLOAD_BYTES:
            raise ToolError(
                f"the message takes {size} bytes; the limit is {MAX_MAIL_PAYLOAD_BYTES}: put it in a file"
            )

        def decide(tx: Transaction) -> Outcome:
            recipient = find_relative(tx, own, arguments.agent)
            if recipient.session_id == own.session_id:
                raise ToolError("this is yourself; name another agent")
            posted = post(
                tx,
                message_id=f"msg.{call.key}",
                sender=own.session_id,
                recipient=recipient.session_id,
                subject=arguments.subject,
                payload=payload,
                origin=Origin(f"agent:{own.session_id}"),
            )
            result = {
                "queued": posted.accepted,
                "message_id": posted.message_id,
                "duplicate": posted.duplicate,
                "agent_id": recipient.session_id,
                "path": path_of(tx, recipient),
                "subject": arguments.subject,
                "message_type": arguments.message_type,
            }
            return Outcome(msgspec.json.encode(result).decode())

        return decide_at_commit(decide)

    # Questions.

    @tool(
        "request_parent_clarification",
        description="Ask the agent that gave you this task for something that only it can know or decide. "
        "Work waits until there is an answer, so ask everything at once, and nothing that you can find out. "
        "The result is JSON: the chosen options and the text of the answer, or that there is none.",
        kind="coordinate",
        in_plan=True,
    )
    async def request_parent_clarification(self, call: Invocation, arguments: AskQuestions) -> Outcome:
        """Raise ToolError: a call is never dispatched, because the answer is its result."""
        raise ToolError("a question is answered by your parent")

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Turn a call of the tool into a question to the parent. An invalid one is denied with the reason."""
        name, context = self.request_parent_clarification.name, call.context
        if call.tool.name != name:
            return None
        parent_id = context.session.parent_session_id
        with context.state.read() as store:
            parent = store.get(SESSIONS, parent_id) if parent_id is not None else None
            if parent is None or not is_open(store, parent):
                return Deny("you have no parent that could answer; decide by yourself")
        questions = [open_call.call_id for open_call in context.run.calls if open_call.tool == name]
        if questions[:1] != [call.call_id]:
            return Deny(f"{name} is called once in a message: ask everything in one call")
        arguments: AskQuestions = call.arguments
        seconds = arguments.expires_after_s or DEFAULT_CLARIFICATION_S
        try:
            return NeedsAnswer(make_questions(arguments), max(round(seconds * 1000), 1), parent_id)
        except ToolError as error:
            return Deny(str(error))

    @tool(
        "answer_agent",
        description="Answer the question of an agent below you, which waits for it. The first answer counts.",
        kind="coordinate",
        repeatable=True,
        in_plan=True,
        subject=agent_subject,
    )
    async def answer_agent(self, call: Invocation, arguments: AnswerArguments) -> Outcome:
        """Answer or decline the question of an agent. Errors: ToolError."""
        own = call.context.session

        def decide(tx: Transaction) -> Outcome:
            session = find_relative(tx, own, arguments.agent)
            if own.session_id not in {parent.session_id for parent in ancestors(tx, session)}:
                raise ToolError(f"'{arguments.agent}' is not an agent below you")
            request = find_question_to_agent(tx, session)
            if request is None:
                raise ToolError(
                    f"{path_of(tx, session)} has no open question: it may have its answer already"
                )
            answers = match_answers(request, arguments.answers)
            rules.require_valid_answers(request.questions, answers, declined=arguments.decline)
            reply = rules.format_reply(
                request.questions,
                answers,
                declined=arguments.decline,
                justification=arguments.justification,
                message=rules.DECLINED_BY_AGENT,
            )
            writer = SessionWriter(
                tx,
                session.session_id,
                session=session,
                run=tx.need(RUNS, request.run_id),
                origin=Origin(f"agent:{own.session_id}"),
            )
            writer.carry_out(
                AnswerQuestion(
                    request.call_id,
                    answers,
                    arguments.decline,
                    arguments.justification,
                    reply,
                    join_origins(origins_read(tx, tx.need(SESSIONS, own.session_id)), ["agent"]),
                )
            )
            writer.write()
            status = "declined" if arguments.decline else "answered"
            result = {"question_id": request.question_id, "path": path_of(tx, session), "status": status}
            return Outcome(msgspec.json.encode(result).decode())

        return decide_at_commit(decide)


def match_answers(request: QuestionRequest, answers: Sequence[AgentAnswer]) -> list[Answer]:
    """Return answers with the ids of the options that are named by id or label."""
    options = {
        question.key: {option.label.casefold(): option.option_id for option in question.options}
        for question in request.questions
    }
    return [
        Answer(
            key=answer.key,
            selected=[options.get(answer.key, {}).get(name.casefold(), name) for name in answer.choose],
            text=answer.text,
        )
        for answer in answers
    ]


def decide_at_commit(decide: Callable[[Transaction], Outcome]) -> Outcome:
    """Return an outcome that is decided at its commit, where a refusal is an error for the model."""

    def decide_or_refuse(tx: Transaction) -> Outcome:
        try:
            return decide(tx)
        except Refusal as refusal:
            raise ToolError(refusal.message) from None

    return Outcome("", decide=decide_or_refuse)
