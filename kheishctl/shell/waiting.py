"""What waits for a person in a conversation, and what their keys mean. Knows no screen and no connection.

Theory of operation. Approvals and questions are kept in the order in which they were asked; one at a time is
shown, the oldest. What is shown takes a key only where nothing is typed, and only once it has stood there for
a moment: who is typing when it appears, or presses a key twice, has not seen what they would answer. A
question also takes a line, unless the line was begun before the question was there.

A key gives actions, which somebody else carries out; what is being answered is no longer shown. It comes back
if the daemon refuses the answer, and is gone for good once the journal says so.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from kheishctl.contract import Json

# How long something must have been seen before a key can answer it.
GRACE_SECONDS = 0.4

# The keys that can mean something, where nothing is typed.
KEYS = "arsdDeAXn123456789 b"

_REMEMBER = {"a": "once", "r": "run", "s": "session"}


@dataclass(frozen=True, slots=True)
class Resolve:
    """Answer approvals of one run."""

    resolutions: tuple[Json, ...]

    @property
    def ids(self) -> list[str]:
        """What is being answered."""
        return [str(each["approval_id"]) for each in self.resolutions]


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a question, or decline to."""

    question_id: str
    answers: tuple[Json, ...] = ()
    declined: bool = False


@dataclass(frozen=True, slots=True)
class Edit:
    """Put the input of an approval's call where it can be changed."""

    approval_id: str


Action = Resolve | Reply | Edit
Actions = tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Entered:
    """What comes of a line: what is to be done, or what is wrong with it; ``again``: it can be mended."""

    actions: Actions = ()
    problem: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Typing:
    """What the line that is typed now is for: the reason of a denial, or another input of the call."""

    what: Literal["reason", "input"]
    approval_id: str


@dataclass(slots=True)
class Item:
    """One approval or question. Of a question's parts ``step`` is the one that is shown."""

    record: Json
    step: int = 0
    chosen: list[str] = field(default_factory=list)
    answers: list[Json] = field(default_factory=list)

    @property
    def is_question(self) -> bool:
        """Whether it is a question; else it is an approval."""
        return "question_id" in self.record

    @property
    def key(self) -> str:
        """Its id."""
        return str(self.record["question_id" if self.is_question else "approval_id"])

    @property
    def question(self) -> Json:
        """The part of a question that is shown."""
        questions: list[Json] = self.record["questions"]
        return questions[self.step]

    @property
    def options(self) -> list[Json]:
        """What can be chosen there."""
        return list(self.question.get("options", ()))


class Waiting:
    """What waits, what of it is shown, and what was typed for it so far."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self.typing: Typing | None = None
        self.offset = 0
        self.page = self.rows = 0
        self._items: dict[str, Item] = {}
        self._sent: set[str] = set()
        self._rung: set[str] = set()
        self._seen: tuple[tuple[str, int], float] | None = None
        self._takes_line = False

    # What there is.

    @property
    def items(self) -> list[Item]:
        """All that waits and is not being answered now, the oldest first."""
        return [item for key, item in self._items.items() if key not in self._sent]

    @property
    def first(self) -> Item | None:
        """What is shown."""
        return next(iter(self.items), None)

    @property
    def approvals(self) -> list[Item]:
        """The approvals among what waits."""
        return [item for item in self.items if not item.is_question]

    def put(self, record: Json) -> None:
        """Something waits, if it was not known to already."""
        item = Item(record)
        if item.key not in self._items and (not item.is_question or record.get("questions")):
            self._items[item.key] = item

    def drop(self, key: str) -> None:
        """Something waits no longer."""
        self._items.pop(key, None)
        self._sent.discard(key)

    def replace(self, records: Iterable[Json]) -> None:
        """This is all that waits; what was begun of it stays."""
        known, self._items = self._items, {}
        self._sent.clear()
        for record in sorted(records, key=lambda each: int(each.get("created_cursor", 0))):
            self.put(record)
        for key in self._items.keys() & known.keys():
            self._items[key] = known[key]

    def refused(self, keys: Iterable[str]) -> None:
        """The answer to these was not taken: they wait on, if nobody else has answered."""
        self._sent.difference_update(keys)

    def ring(self) -> bool:
        """Whether there is something that nobody was called for yet."""
        fresh = self._items.keys() - self._rung
        self._rung = set(self._items)
        return bool(fresh)

    # What is seen.

    def drawn(self, *, empty: bool) -> None:
        """What is shown is being drawn; ``empty``: nothing is typed."""
        first = self.first
        shown = None if first is None else (first.key, first.step)
        if shown is None:
            self._seen = None
        elif self._seen is None or self._seen[0] != shown:
            if self._seen is None or self._seen[0][0] != shown[0]:
                self._takes_line = False
            self._seen, self.offset = (shown, self._now_s()), 0
        self._takes_line = self._takes_line or (empty and self.armed)

    @property
    def armed(self) -> bool:
        """Whether what is shown has been seen long enough to be answered."""
        first = self.first
        if first is None or self._seen is None or self._seen[0] != (first.key, first.step):
            return False
        return self._now_s() - self._seen[1] >= GRACE_SECONDS

    @property
    def takes_line(self) -> bool:
        """Whether a line that is entered now answers the question that is shown."""
        first = self.first
        return first is not None and first.is_question and self._takes_line and self.armed

    # What is pressed and typed.

    def press(self, key: str) -> Actions | None:
        """What a key means where nothing is typed; None: nothing, it is text."""
        first = self.first
        if first is None or self.typing is not None or not self.armed:
            return None
        if key in (" ", "b"):
            return self._turn(1 if key == " " else -1) if self.rows > self.page else None
        return self._press_question(first, key) if first.is_question else self._press_approval(first, key)

    def _turn(self, pages: int) -> Actions:
        self.offset = max(0, min(self.offset + pages * self.page, self.rows - self.page))
        return ()

    def _press_approval(self, item: Item, key: str) -> Actions | None:
        match key:
            case "a" | "r" | "s":
                return self.resolve([item], "allow", remember=_REMEMBER[key])
            case "d":
                return self.resolve([item], "deny")
            case "A" | "X":
                return self.resolve(self.approvals, "allow" if key == "A" else "deny")
            case "D":
                self.typing = Typing("reason", item.key)
                return ()
            case "e":
                return (Edit(item.key),)
            case _:
                return None

    def _press_question(self, item: Item, key: str) -> Actions | None:
        options = item.options
        if key == "n" and options:
            return self.decline(item)
        if key == "enter":
            return self.answer(item, item.chosen) if item.chosen else ()
        if not key.isdecimal() or not 1 <= int(key) <= len(options):
            return None
        option_id = str(options[int(key) - 1]["option_id"])
        if not item.question.get("multi_select"):
            return self.answer(item, [option_id])
        if option_id in item.chosen:
            item.chosen.remove(option_id)
        else:
            item.chosen.append(option_id)
        return ()

    def resolve(
        self, items: Iterable[Item], decision: str, *, reason: str = "", remember: str = "once"
    ) -> Actions:
        """Answer approvals, all in the same way."""
        answer: Json = {"decision": decision}
        if reason:
            answer["note"] = reason
        if remember != "once":
            answer["remember"] = remember
        by_run: dict[str, list[Json]] = {}
        for item in items:
            self._sent.add(item.key)
            of_run = by_run.setdefault(str(item.record.get("run_id")), [])
            of_run.append({"approval_id": item.key, **answer})
        return tuple(Resolve(tuple(resolutions)) for resolutions in by_run.values())

    def answer(self, item: Item, selected: list[str], text: str = "") -> Actions:
        """Answer the part of a question that is shown; after the last, all of it."""
        answer: Json = {"key": item.question["key"]}
        if selected:
            answer["selected"] = selected
        if text:
            answer["text"] = text
        item.answers.append(answer)
        item.chosen = []
        if item.step + 1 < len(item.record["questions"]):
            item.step += 1
            return ()
        answers, item.answers, item.step = tuple(item.answers), [], 0
        self._sent.add(item.key)
        return (Reply(item.key, answers),)

    def decline(self, item: Item) -> Actions:
        """Say that the question will not be answered."""
        self._sent.add(item.key)
        return (Reply(item.key, declined=True),)

    def entered(self, text: str) -> Entered:
        """A line was typed for an approval."""
        typing, self.typing = self.typing, None
        item = self._items.get(typing.approval_id) if typing is not None else None
        if typing is None or item is None or item.key in self._sent:
            return Entered(problem="it was answered meanwhile; what you typed went nowhere")
        if typing.what == "reason":
            return Entered(self.resolve([item], "deny", reason=" ".join(text.split())))
        try:
            changed = json.loads(text)
            problem = "" if isinstance(changed, dict) else "the input of a call is a JSON object"
        except (ValueError, RecursionError) as error:
            problem = f"that is not JSON: {error}"
        if problem:
            self.typing = typing
            return Entered(problem=f"{problem}; Ctrl-C leaves the input as it was", again=True)
        self._sent.add(item.key)
        resolution = {"approval_id": item.key, "decision": "allow", "updated_input": changed}
        return Entered((Resolve((resolution,)),))

    def leave(self) -> bool:
        """What is typed for an approval is not wanted after all; whether something was."""
        typing, self.typing = self.typing, None
        return typing is not None

    def edit(self, key: str) -> bool:
        """The line that is typed now is another input; whether that approval still waits."""
        waits = any(item.key == key for item in self.approvals)
        if waits:
            self.typing = Typing("input", key)
        return waits
