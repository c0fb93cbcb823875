"""Pending approvals and questions of a conversation, and the keys that answer them. Pure.

Theory of operation. Requests are kept in the order of their creation, and the panel shows the oldest one.
Keys answer the shown request only on an empty line, and only after the request was visible for a moment: a
person who is typing when a request appears, or presses a key twice, has not read it. A line answers a
question, unless the line was begun before the question appeared.

A key returns actions, which the caller carries out. A request whose answer is in flight is hidden. It returns
if the daemon refuses the answer, and it is removed when the journal reports that it is closed.
"""

import json
import time
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct, field

from kheishctl.contract import Json
from protocol.structs import Value

# The time for which a request must have been visible before a key can answer it.
GRACE_SECONDS = 0.4

# The keys that may have a meaning on an empty line.
KEYS = "arsdDeAXn123456789 b"

# The keys that allow, which need a request of which the last line was on the screen.
UNREAD_KEYS = "arsA"

_REMEMBER = {"a": "once", "r": "run", "s": "session"}


class ResolveApprovals(Value, frozen=True):
    """Action that resolves approvals of one run."""

    resolutions: tuple[Json, ...]

    @property
    def ids(self) -> list[str]:
        """The ids of the approvals."""
        return [str(resolution["approval_id"]) for resolution in self.resolutions]


class SubmitAnswers(Value, frozen=True):
    """Action that answers or declines a question."""

    question_id: str
    answers: tuple[Json, ...] = ()
    declined: bool = False


class EditInput(Value, frozen=True):
    """Action that puts the input of a call into the prompt, to be edited."""

    approval_id: str


Action = ResolveApprovals | SubmitAnswers | EditInput
Actions = tuple[Action, ...]


class LineResult(Value, frozen=True):
    """The result of a line: actions, or a problem. ``editable``: the line stays in the prompt."""

    actions: Actions = ()
    problem: str = ""
    editable: bool = False


class LineEntry(Value, frozen=True):
    """The purpose of the next line: the note of a denial, or a new input for the call."""

    kind: Literal["note", "input"]
    approval_id: str


class PendingRequest(Struct):
    """An approval or a question; of a question with several parts, the panel shows one at a time."""

    record: Json
    part: int = 0
    selected: list[str] = field(default_factory=list)
    answers: list[Json] = field(default_factory=list)

    @property
    def is_question(self) -> bool:
        """Whether it is a question; otherwise it is an approval."""
        return "question_id" in self.record

    @property
    def key(self) -> str:
        """The id of the approval or question."""
        return str(self.record["question_id" if self.is_question else "approval_id"])

    @property
    def question(self) -> Json:
        """The shown part of the question."""
        questions: list[Json] = self.record["questions"]
        return questions[self.part]

    @property
    def options(self) -> list[Json]:
        """The options of the shown part."""
        return list(self.question.get("options", ()))


class PendingRequests:
    """The pending requests, the position within the shown one, and the purpose of the next line.

    The panel sets ``total_lines`` and ``page_lines`` when it draws the shown request from line ``offset``.
    Then it calls ``mark_read``: an approval can be allowed once its last line was on the screen.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self.line_entry: LineEntry | None = None
        self.offset = 0
        self.page_lines = self.total_lines = 0
        self.is_read = False
        self._requests: dict[str, PendingRequest] = {}
        self._in_flight: set[str] = set()
        self._announced: set[str] = set()
        self._visible: tuple[tuple[str, int], float] | None = None
        self._accepts_line = False

    # The requests.

    @property
    def requests(self) -> list[PendingRequest]:
        """The requests without an answer in flight, oldest first."""
        return [request for key, request in self._requests.items() if key not in self._in_flight]

    @property
    def first(self) -> PendingRequest | None:
        """The shown request."""
        return next(iter(self.requests), None)

    @property
    def approvals(self) -> list[PendingRequest]:
        """The requests that are approvals."""
        return [request for request in self.requests if not request.is_question]

    def add(self, record: Json) -> None:
        """Add a request unless it is known. A question without parts is ignored."""
        request = PendingRequest(record)
        if request.key not in self._requests and (not request.is_question or record.get("questions")):
            self._requests[request.key] = request

    def remove(self, key: str) -> None:
        """Remove a request that is closed."""
        self._requests.pop(key, None)
        self._in_flight.discard(key)

    def replace(self, records: Iterable[Json]) -> None:
        """Replace all requests, but keep partial answers to requests that are still pending."""
        previous, self._requests = self._requests, {}
        self._in_flight.clear()
        for record in sorted(records, key=lambda record: int(record.get("created_cursor", 0))):
            self.add(record)
        for key in self._requests.keys() & previous.keys():
            self._requests[key] = previous[key]

    def restore(self, keys: Iterable[str]) -> None:
        """Show requests again whose answer was refused."""
        self._in_flight.difference_update(keys)

    def announce(self) -> bool:
        """Whether a request was added since the last call."""
        has_new = bool(self._requests.keys() - self._announced)
        self._announced = set(self._requests)
        return has_new

    # Visibility.

    def mark_drawn(self, *, empty: bool) -> None:
        """Record that the shown request is drawn now; ``empty``: the line is empty."""
        first = self.first
        current = None if first is None else (first.key, first.part)
        if current is None:
            self._visible = None
        elif self._visible is None or self._visible[0] != current:
            if self._visible is None or self._visible[0][0] != current[0]:
                self._accepts_line = False
            self._visible, self.offset, self.is_read = (current, self._now_s()), 0, False
        self._accepts_line = self._accepts_line or (empty and self.is_armed)

    def mark_read(self) -> None:
        """Record that the lines of the current page are drawn."""
        self.is_read = self.is_read or self.offset + self.page_lines >= self.total_lines

    @property
    def is_armed(self) -> bool:
        """Whether the shown request was visible for long enough to be answered."""
        first = self.first
        if first is None or self._visible is None or self._visible[0] != (first.key, first.part):
            return False
        return self._now_s() - self._visible[1] >= GRACE_SECONDS

    @property
    def accepts_line(self) -> bool:
        """Whether the current line answers the shown question."""
        first = self.first
        return first is not None and first.is_question and self._accepts_line and self.is_armed

    @property
    def must_be_read(self) -> bool:
        """Whether the last line of the shown approval was not on the screen yet."""
        return self.first is not None and not self.first.is_question and not self.is_read

    # Keys.

    def press(self, key: str) -> Actions | None:
        """Handle a key on an empty line; None for a key without a meaning, which is text."""
        first = self.first
        if first is None or self.line_entry is not None or not self.is_armed:
            return None
        if key in (" ", "b"):
            if self.total_lines <= self.page_lines:
                return None
            self.scroll(self.page_lines if key == " " else -self.page_lines)
            return ()
        return self._press_question(first, key) if first.is_question else self._press_approval(first, key)

    def scroll(self, lines: int) -> None:
        """Move the shown part of the request by a number of lines, within its limits."""
        self.offset = max(0, min(self.offset + lines, self.total_lines - self.page_lines))

    def _press_approval(self, request: PendingRequest, key: str) -> Actions | None:
        match key:
            case "a" | "r" | "s" | "A" if not self.is_read:
                # The end of a command decides what it does.
                return ()
            case "a" | "r" | "s":
                return self.resolve([request], "allow", remember=_REMEMBER[key])
            case "d":
                return self.resolve([request], "deny")
            case "A" | "X":
                return self.resolve(self.approvals, "allow" if key == "A" else "deny")
            case "D":
                self.line_entry = LineEntry("note", request.key)
                return ()
            case "e":
                return (EditInput(request.key),)
            case _:
                return None

    def _press_question(self, request: PendingRequest, key: str) -> Actions | None:
        options = request.options
        if key == "n" and options:
            return self.decline(request)
        if key == "enter":
            return self.answer(request, request.selected) if request.selected else ()
        if not key.isdecimal() or not 1 <= int(key) <= len(options):
            return None
        option_id = str(options[int(key) - 1]["option_id"])
        if not request.question.get("multi_select"):
            return self.answer(request, [option_id])
        if option_id in request.selected:
            request.selected.remove(option_id)
        else:
            request.selected.append(option_id)
        return ()

    # Answers.

    def resolve(
        self, requests: Iterable[PendingRequest], decision: str, *, note: str = "", remember: str = "once"
    ) -> Actions:
        """Return the actions that resolve approvals, all with the same decision."""
        resolution: Json = {"decision": decision}
        if note:
            resolution["note"] = note
        if remember != "once":
            resolution["remember"] = remember
        by_run: dict[str, list[Json]] = {}
        for request in requests:
            self._in_flight.add(request.key)
            resolutions = by_run.setdefault(str(request.record.get("run_id")), [])
            resolutions.append({"approval_id": request.key, **resolution})
        return tuple(ResolveApprovals(tuple(resolutions)) for resolutions in by_run.values())

    def answer(self, request: PendingRequest, selected: list[str], text: str = "") -> Actions:
        """Answer the shown part of a question; after the last part, return the action with all answers."""
        answer: Json = {"key": request.question["key"]}
        if selected:
            answer["selected"] = selected
        if text:
            answer["text"] = text
        request.answers.append(answer)
        request.selected = []
        if request.part + 1 < len(request.record["questions"]):
            request.part += 1
            return ()
        answers, request.answers, request.part = tuple(request.answers), [], 0
        self._in_flight.add(request.key)
        return (SubmitAnswers(request.key, answers),)

    def decline(self, request: PendingRequest) -> Actions:
        """Return the action that declines a question."""
        self._in_flight.add(request.key)
        return (SubmitAnswers(request.key, declined=True),)

    # Lines.

    def enter_line(self, text: str) -> LineResult:
        """Handle the line for an approval: the note of its denial, or its new input."""
        entry, self.line_entry = self.line_entry, None
        request = self._requests.get(entry.approval_id) if entry is not None else None
        if entry is None or request is None or request.key in self._in_flight:
            return LineResult(problem="the approval was answered meanwhile; your line was discarded")
        if entry.kind == "note":
            return LineResult(self.resolve([request], "deny", note=" ".join(text.split())))
        try:
            arguments = json.loads(text)
            problem = "" if isinstance(arguments, dict) else "the input of a call is a JSON object"
        except (ValueError, RecursionError) as error:
            problem = f"this is not JSON: {error}"
        if problem:
            self.line_entry = entry
            return LineResult(problem=f"{problem}; Ctrl-C keeps the original input", editable=True)
        self._in_flight.add(request.key)
        resolution = {"approval_id": request.key, "decision": "allow", "updated_input": arguments}
        return LineResult((ResolveApprovals((resolution,)),))

    def cancel_line(self) -> bool:
        """Abandon the line for an approval; whether there was one."""
        entry, self.line_entry = self.line_entry, None
        return entry is not None

    def start_edit(self, key: str) -> bool:
        """Make the next line the new input of an approval's call; whether the approval is still pending."""
        is_pending = any(request.key == key for request in self.approvals)
        if is_pending:
            self.line_entry = LineEntry("input", key)
        return is_pending
