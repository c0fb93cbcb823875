"""Tests of the slash commands."""

import asyncio
import re
from typing import Any, get_args

import pytest

from kheishctl.client import ConnectionLost, Failure, RequestRefused
from kheishctl.contract import PERMISSION_MODES, Json
from kheishctl.render.changes import DisplayChange
from kheishctl.render.layout import Display
from kheishctl.shell.answers import AnswerSender
from kheishctl.shell.pending import PendingRequest
from kheishctl.shell.slash_commands import (
    ALIASES,
    COMMANDS,
    DECISION_STYLES,
    DIRECTIVES,
    SlashCommand,
    SlashHandler,
    UnknownCommand,
    escape,
    format_help,
    format_keys,
    parse,
    unescape,
)
from kheishd.providers import offline
from protocol.objects.permission import Decision

OPTIONS = [{"option_id": "r", "label": "red"}, {"option_id": "b", "label": "blue"}]
QUESTION = {
    "question_id": "qst_1",
    "questions": [{"key": "c", "question": "Which?", "options": OPTIONS, "multi_select": True}],
}


class FakeChat:
    """A conversation with prepared results, and a view that records its output."""

    def __init__(self, *records: Json, doubts: int = 0) -> None:
        self.session_id: str | None = "ses_1"
        self.presets: Json = {}
        self.calls: list[tuple[str, Json]] = []
        self.output: list[str] = []
        self.results: dict[str, Any] = {}
        self.is_running = False
        self.has_left = False
        self.is_vi = False
        self.keys: tuple[tuple[str, str], ...] = (("Ctrl-D", "leave this chat"),)
        self.queue: dict[str, str] = {}
        self.outbox: list[tuple[str, str]] = []
        self.sending = ""
        self.sender, self.agent = "ada", "default"
        self.workspace: str | None = "/srv/shop"
        self.has_unsent = False
        self.answers = AnswerSender(self.call, self)
        rows = [{"indoubt_id": f"idt_{number}", "tool": "bash"} for number in range(1, doubts + 1)]
        self.answers.replace(records, rows)
        self.slash = SlashHandler(self, self.answers, self)

    def address(self) -> Json:
        """Return the params that name the conversation."""
        return {"agent": self.agent, "sender": self.sender}

    async def resume(self, session_id: str) -> None:
        """Resume a session, whose replay is a line of the output."""
        await self.call("conversation.resume", self.address() | {"session_id": session_id})
        self.output.append(f"replay of {session_id}")

    def send(self, text: str) -> None:
        """Record a message."""
        self.output.append(f"sent {text}")

    def copy(self, text: str) -> None:
        """Record a text for the clipboard."""
        self.output.append(f"copied {text}")

    async def move(self, path: str) -> None:
        """Move, or fail as the result of session.update says."""
        await self.call("session.update", {"session_id": self.session_id, "workspace": path})
        self.workspace = path

    def switch_sender(self, sender: str, agent: str | None = None) -> bool:
        """Switch, unless messages are unsent."""
        self.sender = self.sender if self.has_unsent else sender
        self.agent = agent or self.agent
        return not self.has_unsent

    def preset(self, **properties: Any) -> None:
        """Keep the properties."""
        self.presets = self.presets | properties

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Record a call and return its prepared result."""
        visible = {name: value for name, value in (params or {}).items() if name != "idempotency_key"}
        self.calls.append((method, visible))
        result = self.results.get(method, {})
        if isinstance(result, Exception):
            raise result
        return result

    def show(self, change: DisplayChange) -> None:
        """Ignore changes."""

    def edit_text(self, text: str) -> None:
        """Ignore texts for the prompt."""

    def note(self, text: str, style: str = "dim") -> None:
        """Record a note."""
        self.output.append(text)

    def print(self, text: str) -> None:
        """Record a text."""
        self.output.append(text)

    def print_messages(self, messages: list[Json]) -> None:
        """Record messages."""
        self.output.append(f"messages {messages}")

    def print_request(self, request: PendingRequest) -> None:
        """Record a request."""
        self.output.append(request.key)

    def print_doubt(self, doubt: Json) -> None:
        """Record a call in doubt."""
        self.output.append(doubt["indoubt_id"])

    def display(self) -> Display:
        """Return the properties of a terminal."""
        return Display(80, False, 0)

    def interrupt(self) -> bool:
        """Return whether a run is running."""
        return self.is_running

    def expand(self, number: int) -> bool:
        """Record an expansion; there are two texts."""
        self.output.append(f"expand {number}")
        return number <= 2

    async def view_transcript(self) -> None:
        """Record the view."""
        self.output.append("transcript")

    def unsend(self, key: str) -> bool:
        """Remove a message, unless it is being sent."""
        self.outbox = [row for row in self.outbox if row[0] != key or key == self.sending]
        return key != self.sending

    def return_text(self, text: str) -> None:
        """Record a text for the prompt."""
        self.output.append(f"line {text}")

    def toggle_vi(self) -> bool:
        """Switch the keys."""
        self.is_vi = not self.is_vi
        return self.is_vi

    def leave(self) -> None:
        """Record the end of the chat."""
        self.has_left = True

    def run(self, line: str) -> None:
        """Run a command."""
        command = parse(f"/{line}")
        assert isinstance(command, SlashCommand)
        asyncio.run(self.slash.run(command))

    @property
    def resolutions(self) -> list[Json]:
        """The resolutions of approvals that were sent."""
        return [
            resolution
            for method, params in self.calls
            if method == "approval.resolve"
            for resolution in params["resolutions"]
        ]


def make_approval(number: int) -> Json:
    """Return the record of an approval."""
    return {"approval_id": f"apr_{number}", "run_id": "run_1", "tool": "bash", "created_cursor": number}


# Parsing.


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_parsed_and_explained(name: str) -> None:
    """Every command is parsed with its argument and listed in the help."""
    assert parse(f"/{name}") == SlashCommand(name)
    assert parse(f"  /{name}  50 ") == SlashCommand(name, "50")
    assert f"/{name} " in format_help()


@pytest.mark.parametrize("alias", ALIASES)
def test_alias(alias: str) -> None:
    """An alias means its command, whose summary names it."""
    name = ALIASES[alias]
    assert parse(f"/{alias}") == SlashCommand(name)
    assert f"/{alias}" in COMMANDS[name].summary


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "/etc/hosts is odd",
        "/slow 3 100",
        '/call bash {"x": 1}',
        "//help",
        "/help\nand more",
        "a /help",
        "/",
    ],
)
def test_other_lines_are_messages(text: str) -> None:
    """A path, a directive to the agent, several lines and an escaped command are messages."""
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("/hlep", "did you mean /help?"),
        ("/resett now", "did you mean /reset?"),
        ("/quiet", "did you mean /quit?"),
        ("/perm", "did you mean /permissions?"),
        ("/xyzzy", "/help lists the commands"),
        ("/tmp", "no command /tmp"),
    ],
)
def test_unknown_command_is_not_sent(text: str, suggestion: str) -> None:
    """The problem of an unknown command suggests similar ones and explains how to send the line."""
    unknown = parse(text)
    assert isinstance(unknown, UnknownCommand)
    assert (f"/{unknown.name} {unknown.argument}".strip(), suggestion in unknown.problem) == (text, True)
    assert "Enter sends the line" in unknown.problem


def test_directives_of_the_stand_in_are_messages() -> None:
    """The words to which the offline stand-in reacts, other than a command's, are those of its directives."""
    documented = set(re.findall(r"^``/([a-z]+)", str(offline.__doc__), re.MULTILINE))
    assert documented - COMMANDS.keys() == DIRECTIVES


@pytest.mark.parametrize(
    "text", ["!rm -rf ~", "!!x", "/undo force", " /undo", "//x", "!a\nb", "/etc/hosts is odd"]
)
def test_escape(text: str) -> None:
    """A message that returns to the line is no command, whoever wrote it, and is the same message."""
    assert parse(escape(text)) is None
    assert unescape(escape(text)) == text.lstrip()
    assert escape(f"x {text}") == f"x {text}"


def test_unescape() -> None:
    """A line with two slashes is sent with one; other lines are unchanged."""
    assert unescape("//help me") == "/help me"
    assert unescape("/slow 1 1") == "/slow 1 1"
    assert unescape("hi") == "hi"


# The chat.


def test_failure_is_shown() -> None:
    """The failure of a command is a note; the chat continues."""
    chat = FakeChat()
    chat.results["daemon.status"] = ConnectionLost("no connection")
    chat.run("status")
    assert chat.output == ["no connection"]


@pytest.mark.parametrize(
    ("line", "limit"), [("history", 20), ("history 50", 50), ("history 9999", 500), ("history 0", 20)]
)
def test_history(line: str, limit: int) -> None:
    """The history shows 20 messages, or as many as the argument says, up to a limit."""
    chat = FakeChat()
    chat.results["conversation.history"] = {"messages": [2, 1]}
    chat.run(line)
    assert chat.calls[0][1]["limit"] == limit
    assert chat.output == ["messages [1, 2]"]


def test_cancel() -> None:
    """The command interrupts the run, and says so if nothing is running."""
    chat = FakeChat()
    chat.run("cancel")
    chat.is_running = True
    chat.run("cancel")
    assert chat.output == ["nothing is running"]


def test_quit() -> None:
    """The command ends the chat."""
    chat = FakeChat()
    chat.run("quit")
    assert chat.has_left


def test_steer_and_compact() -> None:
    """Both commands act on this conversation; a compaction without effect gives its note."""
    chat = FakeChat()
    chat.run("steer")
    chat.run("steer leave the tests")
    chat.run("compact")
    assert chat.calls == [
        ("conversation.steer", {"agent": "default", "sender": "ada", "content": "leave the tests"}),
        ("conversation.compact", {"agent": "default", "sender": "ada", "wait": "settled"}),
    ]
    chat.results["conversation.compact"] = {"note": "it is short"}
    chat.run("compact")
    assert chat.output == ["usage: /steer MESSAGE", "not compacted: it is short"]


# Approvals and questions.


def test_approvals() -> None:
    """All pending requests are shown with their numbers."""
    chat = FakeChat(make_approval(1), QUESTION | {"created_cursor": 2})
    chat.run("approvals")
    assert chat.output == ["1 of 2", "apr_1", "2 of 2", "qst_1"]
    empty = FakeChat()
    empty.run("approvals")
    assert empty.output == ["nothing is pending"]


@pytest.mark.parametrize(
    ("line", "resolutions"),
    [
        ("allow", ["apr_1 allow "]),
        ("allow 3", ["apr_3 allow "]),
        ("allow all", ["apr_1 allow ", "apr_3 allow "]),
        ("deny", ["apr_1 deny "]),
        ("deny 3", ["apr_3 deny "]),
        ("deny 3 not that", ["apr_3 deny not that"]),
        ("deny too risky", ["apr_1 deny too risky"]),
        ("deny all no", ["apr_1 deny no", "apr_3 deny no"]),
    ],
)
def test_allow_and_deny(line: str, resolutions: list[str]) -> None:
    """Both commands resolve the first approval, one by its number, or all; a denial may have a note."""
    chat = FakeChat(make_approval(1), QUESTION | {"created_cursor": 2}, make_approval(3))
    chat.run(line)
    rows = [f"{row['approval_id']} {row['decision']} {row.get('note', '')}" for row in chat.resolutions]
    assert rows == resolutions


@pytest.mark.parametrize("line", ["allow 2", "allow 9", "allow 0", "allow please", "deny 2"])
def test_argument_that_names_no_approval(line: str) -> None:
    """The number of a question, an unknown number and other words resolve nothing."""
    chat = FakeChat(make_approval(1), QUESTION | {"created_cursor": 2})
    chat.run(line)
    assert chat.calls == []
    assert len(chat.output) == 1


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("answer 2", {"key": "c", "selected": ["b"]}),
        ("answer 2, 1 2", {"key": "c", "selected": ["b", "r"]}),
        ("answer neither", {"key": "c", "text": "neither"}),
        ("answer 3", {"key": "c", "text": "3"}),
    ],
)
def test_answer(line: str, answer: Json) -> None:
    """Numbers of options select them; any other argument is the text of the answer."""
    chat = FakeChat(make_approval(1), QUESTION | {"created_cursor": 2})
    chat.run(line)
    [(method, params)] = chat.calls
    assert method == "question.answer"
    assert params["answers"] == [answer]


def test_decline() -> None:
    """A question can be declined once; an answer without an argument shows the usage."""
    chat = FakeChat(QUESTION)
    chat.run("answer")
    assert "usage: /answer" in chat.output[0]
    chat.run("decline")
    assert chat.calls[0][1]["declined"]
    chat.run("decline")
    assert chat.output[1:] == ["no question is pending"]


# Calls in doubt.


@pytest.mark.parametrize(
    ("doubts", "line", "params"),
    [
        (1, "resolve done", {"indoubt_id": "idt_1", "outcome": "done"}),
        (1, "resolve not-done", {"indoubt_id": "idt_1", "outcome": "not_done"}),
        (
            2,
            "resolve 2 done I looked",
            {"indoubt_id": "idt_2", "outcome": "done", "justification": "I looked"},
        ),
        (2, "resolve done", None),
        (1, "resolve", None),
        (1, "resolve 2 done", None),
        (1, "resolve perhaps", None),
        (0, "resolve done", None),
    ],
)
def test_resolve(doubts: int, line: str, params: Json | None) -> None:
    """The command resolves the only call in doubt, or one by its number; other arguments resolve nothing."""
    chat = FakeChat(doubts=doubts)
    chat.run(line)
    assert chat.calls == ([("indoubt.resolve", params)] if params else [])
    assert len(chat.output) == (0 if params else 1)


def test_doubts() -> None:
    """All calls in doubt are shown with their numbers."""
    chat = FakeChat(doubts=2)
    chat.run("doubts")
    assert chat.output == ["1 of 2", "idt_1", "2 of 2", "idt_2"]
    empty = FakeChat()
    empty.run("doubts")
    assert empty.output == ["no call is in doubt"]


# Tasks, permissions and routes.


def test_mode() -> None:
    """The command shows or changes the mode of an existing session; an unknown mode lists the modes."""
    chat = FakeChat()
    chat.results["permission.why"] = {"mode": "default"}
    for line in ("mode", "mode plna", "mode plan"):
        chat.run(line)
    assert chat.output == [
        "the permission mode is default",
        f"no mode 'plna'; modes: {', '.join(PERMISSION_MODES)}",
    ]
    assert chat.calls[-1] == ("session.update", {"session_id": "ses_1", "permission_mode": "plan"})
    chat.session_id = None
    chat.run("mode plan")
    assert "send a message first" in chat.output[2]


def test_route() -> None:
    """The command lists the routes, or changes the route of an existing session."""
    chat = FakeChat()
    ready = {"route_id": "gpt", "driver": "responses", "model": "m", "default": True}
    broken = {"route_id": "claude", "driver": "anthropic", "model": "n", "problem": "no key"}
    chat.results["route.list"] = {"routes": [ready, broken], "next": "gpt"}
    chat.run("route")
    assert chat.output == [
        "gpt (default): m by responses",
        "claude: n by anthropic, not ready: no key",
        "more: kheishctl route list",
    ]
    chat.run("route claude")
    expected = {"session_id": "ses_1", "route": "claude", "model": None}
    assert chat.calls[-1] == ("session.update", expected)


def test_model() -> None:
    """The command shows the model and the route of an existing session by their names, or changes them."""
    chat = FakeChat()
    chat.results["route.get"] = {"model": "r"}
    chat.results["daemon.status"] = {"default_route": "main"}
    chat.run("model")
    chat.results["definition.get"] = {"route": "claude", "model": "a"}
    chat.run("model")
    chat.results["session.get"] = {"route": "gpt"}
    chat.run("model")
    chat.results["session.get"] = {"route": "gpt", "model": "m"}
    chat.run("model")
    assert chat.output == [
        "the model is r, on route main; /route lists the routes",
        "the model is a, on route claude; /route lists the routes",
        "the model is r, on route gpt; /route lists the routes",
        "the model is m, on route gpt; /route lists the routes",
    ]
    chat.run("model n")
    assert chat.calls[-1] == ("session.update", {"session_id": "ses_1", "model": "n"})


def test_why() -> None:
    """The explanation of a verdict is shown line by line; without a session it is that of a new session."""
    chat = FakeChat()
    lines = [
        {"source": "managed", "says": "ask", "text": "a rule"},
        {"source": "mode", "says": None, "text": "-"},
    ]
    verdict = {"decision": "ask", "why": "managed rule", "note": "others see it", "mode": "default"}
    chat.results["permission.why"] = verdict | {"lines": lines}
    chat.run("why")
    chat.run("why bash git push")
    assert chat.output[1:] == [
        "managed: ask, a rule",
        "mode: -",
        "verdict: ask, by managed rule: others see it, in mode default",
    ]
    chat.session_id = None
    chat.run("why bash")
    assert [params for _, params in chat.calls] == [
        {"tool": "bash", "subject": "git push", "session_id": "ses_1"},
        {"tool": "bash", "subject": ""},
    ]


def test_every_decision_has_a_style() -> None:
    """The styles of verdicts cover every decision of the contract."""
    assert DECISION_STYLES.keys() == set(get_args(Decision))


def test_tasks() -> None:
    """The open tasks of the session are shown one per line, with the command for the rest."""
    chat = FakeChat()
    chat.results["task.list"] = {
        "tasks": [
            {"task_id": "tsk_1", "status": "blocked", "title": "Paint"},
            {"task_id": "tsk_2", "status": "in_progress", "title": "npm run dev", "kind": "shell"},
        ],
        "next": "9",
    }
    chat.run("tasks")
    assert chat.output == [
        "tsk_1 blocked: Paint",
        "tsk_2 shell, in_progress: npm run dev",
        "more: kheishctl task list --session ses_1",
    ]
    assert chat.calls[0][1]["session_id"] == "ses_1"
    empty = FakeChat()
    empty.results["task.list"] = {"tasks": [], "next": None}
    empty.run("tasks")
    assert empty.output == ["no open tasks"]


def test_tasks_without_a_session() -> None:
    """A conversation without a session has no tasks, so the daemon is not called."""
    chat = FakeChat()
    chat.session_id = None
    chat.run("tasks")
    assert (chat.calls, chat.output) == ([], ["no open tasks"])


def test_route_and_model_before_the_first_message() -> None:
    """Without a session, they are kept for the first message, and shown; an unknown route is refused."""
    chat = FakeChat()
    chat.session_id = None
    chat.results["route.get"] = {"model": "tiny"}
    for line in ("model", "route local", "model small", "model"):
        chat.run(line)
    assert chat.output == [
        "the model is tiny, on route offline; /route lists the routes",
        "the route is local, from the first message on",
        "the model is small, from the first message on",
        "the model is small, on route local; /route lists the routes",
    ]
    chat.results["route.get"] = RequestRefused({"code": 1404, "message": "no route", "data": {}})
    chat.run("route nowhere")
    assert chat.presets == {"route": "local", "model": "small"}


# Agents, skills, the goal and the sender.


def test_agents_are_drawn_as_a_tree() -> None:
    """The tree is that of the session; a long one names the command that shows all."""
    chat = FakeChat()
    agent = {"agent_id": "ses_1", "name": "ses_1", "status": "idle", "state": "open", "definition": "default"}
    chat.results["agent.list"] = {"agents": [agent], "next": "ses_1"}
    chat.run("agents")
    assert chat.output == ["ses_1  idle  default\n\n", "more: kheishctl agent tree ses_1"]
    assert chat.calls == [("agent.list", {"root": "ses_1", "limit": 50})]


def test_skills_are_shown_and_changed() -> None:
    """An active skill is marked, also one that is no longer visible."""
    chat = FakeChat()
    chat.results["session.skills"] = {
        "skills": [{"name": "review", "description": "Reviews."}],
        "active": [{"name": "review"}, {"name": "gone"}],
        "next": None,
    }
    for line in ("skills", "skills on review all of it", "skills off review", "skills on", "skills what"):
        chat.run(line)
    assert chat.output[:2] == ["gone (active)", "review (active): Reviews."]
    assert chat.output[2:4] == ["the skill review is on", "the skill review is off"]
    assert all(text.startswith("usage: /skills") for text in chat.output[4:])
    session = {"session_id": "ses_1", "name": "review"}
    assert chat.calls[1:] == [
        ("skill.activate", session | {"args": "all of it"}),
        ("skill.deactivate", session),
    ]
    chat.results["session.skills"] = {"skills": [], "active": [], "next": None}
    chat.run("skills")
    assert "no skills" in chat.output[-1]


def test_a_goal_is_shown_set_and_changed() -> None:
    """A text sets it; the words pause, resume and clear change it."""
    chat = FakeChat()
    chat.results["goal.get"] = RequestRefused(
        {"code": 1404, "message": "no goal", "data": {"reason": "goal_not_found"}}
    )
    chat.run("goal")
    assert chat.output == ["no goal; '/goal TEXT' sets one"]
    for line in ("goal make it green", "goal pause", "goal resume", "goal clear"):
        chat.run(line)
    assert [method for method, _ in chat.calls[1:]] == ["goal.set", "goal.pause", "goal.resume", "goal.clear"]
    assert chat.calls[1][1] == {"session_id": "ses_1", "objective": "make it green"}
    assert chat.output[1] == "goal set, at most 20 continuations; '/goal clear' ends it"
    chat.results["goal.get"] = {
        "status": "waiting",
        "waits_for": "approval",
        "objective": "make it green",
        "continuations": 2,
    }
    chat.run("goal")
    assert chat.output[-2:] == ["waiting, waits for approval", "make it green (2 continuations)"]


@pytest.mark.parametrize(
    ("word", "change"),
    [("pauze", "pause"), ("Resume", "resume"), ("claer", "clear"), ("off", "clear"), ("stop", "pause")],
)
def test_a_mistyped_change_of_a_goal_sets_none(word: str, change: str) -> None:
    """A word that resembles a change is answered with a suggestion."""
    chat = FakeChat()
    chat.run(f"goal {word}")
    assert (chat.calls, chat.output) == ([], [f"no goal was set; did you mean '/goal {change}'?"])


def test_another_sender_has_another_conversation() -> None:
    """Messages that are still unsent belong to the current sender, so it stays."""
    chat = FakeChat()
    chat.run("as")
    assert "you are ada" in chat.output[0]
    chat.run("as bob")
    assert chat.sender == "bob"
    chat.has_unsent = True
    chat.run("as eve")
    assert (chat.sender, "still being sent" in chat.output[-1]) == ("bob", True)


@pytest.mark.parametrize("line", ["agents", "skills", "goal", "goal x"])
def test_without_a_session_there_is_nothing_to_show(line: str) -> None:
    """The note says what to do."""
    chat = FakeChat()
    chat.session_id = None
    chat.run(line)
    assert (chat.calls, "send a message first" in chat.output[0]) == ([], True)


def test_vi() -> None:
    """``/vi`` switches between the keys of vi and of emacs."""
    chat = FakeChat()
    chat.run("vi")
    chat.run("vi")
    assert [line.split(";")[0] for line in chat.output] == [
        "the line has the keys of vi now",
        "the line has the keys of emacs now",
    ]


# The queue.


def test_queue() -> None:
    """``/queue`` lists the queued messages, and then those that were not sent."""
    chat = FakeChat()
    chat.run("queue")
    chat.queue, chat.outbox = {"run_1": "first"}, [("key", "second")]
    chat.run("queue")
    assert chat.output == ["no message is queued", "1 of 2, queued: first", "2 of 2, to be sent: second"]


def test_withdraw() -> None:
    """``/withdraw`` takes the last message, or one by its number, back into the line."""
    chat = FakeChat()
    chat.queue, chat.outbox = {"run_1": "first", "run_2": "second"}, [("key", "third")]
    chat.run("withdraw")
    assert (chat.outbox, chat.calls) == ([], [])
    chat.run("withdraw 1")
    assert chat.calls == [("run.cancel", {"run_id": "run_1"})]
    assert chat.output == ["line third", "line first"]


@pytest.mark.parametrize("argument", ["0", "2", "x", "-1"])
def test_withdraw_of_an_unknown_message(argument: str) -> None:
    """A number that no message has changes nothing."""
    chat = FakeChat()
    chat.queue = {"run_1": "first"}
    chat.run(f"withdraw {argument}")
    assert chat.output == ["usage: /withdraw [NUMBER]; /queue lists the numbers"]
    chat.queue = {}
    chat.run("withdraw")
    assert chat.output[1:] == ["no message is queued"]
    assert not chat.calls


def test_withdraw_of_a_message_that_is_being_sent() -> None:
    """A message that the daemon may have accepted is not withdrawn."""
    chat = FakeChat()
    chat.outbox, chat.sending = [("key", "text")], "key"
    chat.run("withdraw")
    assert chat.outbox
    assert "is being sent" in chat.output[0]


def test_withdraw_that_is_refused() -> None:
    """A message whose run cannot be cancelled any more does not return to the line."""
    chat = FakeChat()
    chat.queue = {"run_1": "first"}
    chat.results["run.cancel"] = Failure("it has ended")
    chat.run("withdraw")
    assert chat.output == ["it has ended"]


def test_expand() -> None:
    """``/expand`` shows the last text of which a part was shown, or an earlier one."""
    chat = FakeChat()
    for line in ("expand", "expand 2", "expand 3", "expand 0", "expand x", "transcript"):
        chat.run(line)
    usage = "usage: /expand [NUMBER]; 1 is the last text of which a part was shown"
    none = "there is no such text; Ctrl-O shows the whole conversation"
    assert chat.output == ["expand 1", "expand 2", "expand 3", none, usage, usage, "transcript"]


def test_help_ends_with_the_commands() -> None:
    """The keys come first and the commands last, so that a small screen shows commands."""
    keys, commands = format_help(80).split("\n\n")
    assert keys == format_keys(80)
    assert "/help" in keys.split("\n")[-1]
    assert commands.startswith("  /help ")


def test_help_has_the_keys_of_the_chat() -> None:
    """The help explains the keys that the chat has."""
    chat = FakeChat()
    chat.run("help")
    assert "leave this chat" in chat.output[0]
    assert "Alt-Enter" not in chat.output[0]


def test_help_is_wrapped_at_words() -> None:
    """No line of the help is wider than the terminal, and no word is broken."""
    words = set(format_help().split())
    for columns in (40, 80):
        lines = format_help(columns).split("\n")
        assert max(map(len, lines)) <= columns
        assert set(" ".join(lines).split()) == words
