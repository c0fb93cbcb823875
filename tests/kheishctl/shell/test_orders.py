"""The commands of the chat about tools and people."""

import asyncio
from typing import Any, get_args

import pytest

from kheishctl.contract import Json
from kheishctl.shell.answering import Answering
from kheishctl.shell.orders import MODES, Orders
from kheishctl.shell.slash import Slash, parse
from kheishctl.shell.waiting import Item
from protocol.objects.permission import PermissionMode

OPTIONS = [{"option_id": "r", "label": "red"}, {"option_id": "b", "label": "blue"}]
QUESTION = {
    "question_id": "qst_1",
    "questions": [{"key": "c", "question": "Which?", "options": OPTIONS, "multi_select": True}],
}


class Desk:
    """A conversation that answers what it is told to, and all that was shown."""

    def __init__(self, *records: Json, doubts: int = 0) -> None:
        self.session_id: str | None = "ses_1"
        self.asked: list[tuple[str, Json]] = []
        self.shown: list[str] = []
        self.answers: dict[str, Any] = {}
        self.answering = Answering(self.call, lambda piece: None, self._note, self.shown.append)
        named = [{"indoubt_id": f"idt_{number}", "tool": "bash"} for number in range(1, doubts + 1)]
        self.answering.waits(records, named)
        self.orders = Orders(self, self.answering, self._note, self._whole, self._doubt)

    def address(self) -> Json:
        """The params that name the conversation."""
        return {"agent": "default", "sender": "ada"}

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Ask the daemon."""
        given = params or {}
        self.asked.append((method, {name: given[name] for name in given if name != "idempotency_key"}))
        return self.answers.get(method, {})

    def _note(self, text: str, style: str) -> None:
        self.shown.append(text)

    def _whole(self, which: str, item: Item) -> None:
        self.shown.append(f"{which}: {item.key}")

    def _doubt(self, which: str, doubt: Json) -> None:
        self.shown.append(f"{which}: {doubt['indoubt_id']}")

    def obey(self, line: str) -> None:
        """Type a command."""
        slash = parse(f"/{line}")
        assert isinstance(slash, Slash)
        asyncio.run(self.orders.obey(slash))

    @property
    def resolved(self) -> list[Json]:
        """All answers to approvals that were sent."""
        return [
            each
            for method, params in self.asked
            if method == "approval.resolve"
            for each in params["resolutions"]
        ]


def approval(number: int) -> Json:
    """An approval that waits."""
    return {"approval_id": f"apr_{number}", "run_id": "run_1", "tool": "bash", "created_cursor": number}


def test_approvals() -> None:
    """Everything that waits, by number; where nothing does, that."""
    desk = Desk(approval(1), QUESTION | {"created_cursor": 2})
    desk.obey("approvals")
    assert desk.shown == ["1 of 2: apr_1", "2 of 2: qst_1"]
    empty = Desk()
    empty.obey("approvals")
    assert empty.shown == ["nothing waits for you"]


@pytest.mark.parametrize(
    ("line", "answered"),
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
def test_allow_and_deny(line: str, answered: list[str]) -> None:
    """The first, one by its number among all that waits, or all; a denial may say why."""
    desk = Desk(approval(1), QUESTION | {"created_cursor": 2}, approval(3))
    desk.obey(line)
    resolved = [f"{each['approval_id']} {each['decision']} {each.get('note', '')}" for each in desk.resolved]
    assert resolved == answered


@pytest.mark.parametrize("line", ["allow 2", "allow 9", "allow 0", "allow please"])
def test_what_is_no_approval(line: str) -> None:
    """A question, a number that is none, words that mean nothing: nothing is answered."""
    desk = Desk(approval(1), QUESTION | {"created_cursor": 2})
    desk.obey(line)
    assert desk.asked == []
    assert len(desk.shown) == 1


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
    """By number of its options, else in words."""
    desk = Desk(approval(1), QUESTION | {"created_cursor": 2})
    desk.obey(line)
    [(method, params)] = desk.asked
    assert method == "question.answer"
    assert params["answers"] == [answer]


def test_decline() -> None:
    """That is an answer, too; without a question there is nothing to decline."""
    desk = Desk(QUESTION)
    desk.obey("answer")
    assert "it is '/answer 2'" in desk.shown[0]
    desk.obey("decline")
    assert desk.asked[0][1]["declined"]
    desk.obey("decline")
    assert desk.shown[1:] == ["no question waits for you"]


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
    """The only call in doubt, or one by its number; anything else is explained."""
    desk = Desk(doubts=doubts)
    desk.obey(line)
    assert desk.asked == ([("indoubt.resolve", params)] if params else [])
    assert len(desk.shown) == (0 if params else 1)


def test_doubts() -> None:
    """Each, by number."""
    desk = Desk(doubts=2)
    desk.obey("doubts")
    assert desk.shown == ["1 of 2: idt_1", "2 of 2: idt_2"]
    none = Desk()
    none.obey("doubts")
    assert none.shown == ["no call is in doubt"]


def test_steer_and_compact() -> None:
    """They are about this conversation."""
    desk = Desk()
    desk.obey("steer")
    desk.obey("steer leave the tests")
    desk.obey("compact")
    assert desk.asked == [
        ("conversation.steer", {"agent": "default", "sender": "ada", "content": "leave the tests"}),
        ("conversation.compact", {"agent": "default", "sender": "ada", "wait": "settled"}),
    ]
    desk.answers["conversation.compact"] = {"note": "it is short"}
    desk.obey("compact")
    assert desk.shown[1:] == ["nothing was done: it is short"]


def test_modes_are_the_contracts() -> None:
    """What may be asked for is what there is."""
    assert set(MODES) == set(get_args(PermissionMode))


def test_mode() -> None:
    """Shown, changed; what is no mode is not sent, and a session must be there."""
    desk = Desk()
    desk.answers["permission.why"] = {"mode": "default"}
    for line in ("mode", "mode fast", "mode plan"):
        desk.obey(line)
    assert desk.shown[0] == "the permission mode is default"
    assert "acceptEdits" in desk.shown[1]
    assert desk.asked[-1] == ("session.update", {"session_id": "ses_1", "permission_mode": "plan"})
    desk.session_id = None
    desk.obey("mode plan")
    assert "say something first" in desk.shown[2]


def test_why() -> None:
    """Line by line, and the end of it; of a conversation that is new, for a new session."""
    desk = Desk()
    steps = [
        {"source": "managed", "says": "ask", "text": "a rule"},
        {"source": "mode", "says": None, "text": "-"},
    ]
    found = {"decision": "ask", "why": "managed rule", "note": "others see it", "mode": "default"}
    desk.answers["permission.why"] = found | {"lines": steps}
    desk.obey("why")
    desk.obey("why bash git push")
    assert desk.shown[1:] == [
        "managed: ask: a rule",
        "mode: -: -",
        "so: ask, by managed rule: others see it, in mode default",
    ]
    desk.session_id = None
    desk.obey("why bash")
    place = {"session_id": "ses_1"}
    assert [params for _, params in desk.asked] == [
        {"tool": "bash", "subject": "git push"} | place,
        {"tool": "bash", "subject": ""},
    ]


def test_what_is_none_of_them() -> None:
    """The chat obeys the others itself."""
    with pytest.raises(AssertionError, match="help"):
        Desk().obey("help")


def test_tasks() -> None:
    """What is to be done in the session, a line each; and where to see the rest."""
    desk = Desk()
    desk.answers["task.list"] = {
        "tasks": [
            {"task_id": "tsk_1", "status": "blocked", "title": "Paint"},
            {"task_id": "tsk_2", "status": "in_progress", "title": "npm run dev", "kind": "shell"},
        ],
        "next": "9",
    }
    desk.obey("tasks")
    assert desk.shown == [
        "tsk_1 blocked: Paint",
        "tsk_2 shell, in_progress: npm run dev",
        "and more: kheishctl task list --session ses_1",
    ]
    assert desk.asked[0][1]["session_id"] == "ses_1"
    empty = Desk()
    empty.answers["task.list"] = {"tasks": [], "next": None}
    empty.obey("tasks")
    assert empty.shown == ["nothing is to be done"]


def test_no_session_no_tasks() -> None:
    """Nothing is asked for."""
    desk = Desk()
    desk.session_id = None
    desk.obey("tasks")
    assert (desk.asked, desk.shown) == ([], ["nothing is to be done"])
