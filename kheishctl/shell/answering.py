"""What the person answers, carried out; and who answered what, told.

Whoever answers first counts. So an answer of ours is ours only once the daemon took it: what the journal
tells of it until then is held back, and told with the right name when that is known.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, assert_never
from uuid import uuid4

from kheishctl.client import ConnectionLost, RequestRefused
from kheishctl.contract import Json
from kheishctl.render.pieces import (
    ApprovalClosing,
    ApprovalOpening,
    DoubtClosing,
    DoubtOpening,
    Piece,
    QuestionClosing,
    QuestionOpening,
)
from kheishctl.render.units import name_actor
from kheishctl.shell.waiting import Action, Actions, Edit, Reply, Resolve, Waiting

# Refusals that the journal explains better: it says who was first.
EXPLAINED = ("approval_already_resolved", "approval_expired", "question_closed", "question_expired")

# Longer than this, an input is not changed on a terminal's line.
MAX_EDITED_CHARACTERS = 8 * 1_024

YOU = "you"

Closed = ApprovalClosing | QuestionClosing | DoubtClosing


class Answering:
    """What waits for the person, and their answers on the way to the daemon.

    ``call`` asks the daemon; ``show`` shows a piece, ``note`` something about it in a style; ``edit`` puts
    a text where it can be changed.
    """

    def __init__(
        self,
        call: Callable[[str, Json], Awaitable[Any]],
        show: Callable[[Piece], None],
        note: Callable[[str, str], None],
        edit: Callable[[str], None],
    ) -> None:
        self.waiting = Waiting()
        self.doubts: dict[str, Json] = {}
        self._call = call
        self._show = show
        self._note = note
        self._edit = edit
        self._asked: set[str] = set()
        self._ours: set[str] = set()
        self._held: dict[str, Closed] = {}

    # What is heard.

    def waits(self, asked: Iterable[Json], doubts: Iterable[Json]) -> None:
        """This is all that waits, and all that is in doubt."""
        self.waiting.replace(asked)
        self.doubts = {str(doubt["indoubt_id"]): doubt for doubt in doubts}

    def heard(self, piece: Piece) -> Piece | None:
        """Take in what happened: the piece to be shown now, with who did it; None: it is shown later."""
        match piece:
            case ApprovalOpening(record) | QuestionOpening(record):
                self.waiting.put(record)
            case ApprovalClosing(key) | QuestionClosing(key) | DoubtClosing(key):
                self.waiting.drop(key)
                self.doubts.pop(key, None)
                if key in self._asked:
                    self._held[key] = piece
                    return None
                return self._signed(piece, key)
            case DoubtOpening(doubt):
                self.doubts[str(doubt["indoubt_id"])] = doubt
            case _:
                pass  # Nothing that a person is to answer.
        return piece

    def _signed(self, piece: Closed, key: str) -> Closed:
        ours = key in self._ours and bool(piece.by)
        self._ours.discard(key)
        return replace(piece, by=YOU if ours else name_actor(piece.by))

    # What is answered.

    async def carry_out(self, actions: Actions) -> None:
        """Do what was answered, in order. What the daemon refuses is said, and waits on."""
        for action in actions:
            try:
                await self._carry_out(action)
            except (RequestRefused, ConnectionLost) as failure:
                if not isinstance(failure, RequestRefused) or failure.reason not in EXPLAINED:
                    self._note(str(failure), "red")
                elif isinstance(action, Resolve) and len(action.ids) > 1:
                    self._note("one of them was answered meanwhile, so none of them is yet", "yellow")

    async def _carry_out(self, action: Action) -> None:
        match action:
            case Resolve(resolutions):
                params: Json = {"resolutions": list(resolutions)}
                await self._answered(action.ids, "approval.resolve", params)
            case Reply(question_id, answers, declined):
                params = {"question_id": question_id, "answers": list(answers), "declined": declined}
                await self._answered([question_id], "question.answer", params)
            case Edit(approval_id):
                found = await self._call("approval.get", {"approval_id": approval_id})
                self._open(approval_id, found.get("arguments", {}))
            case _:
                assert_never(action)

    async def resolve(self, params: Json) -> None:
        """Say what became of a call in doubt. Errors: Refused, Lost."""
        await self._answered([str(params["indoubt_id"])], "indoubt.resolve", params)

    async def _answered(self, keys: list[str], method: str, params: Json) -> None:
        self._asked.update(keys)
        try:
            await self._call(method, params | {"idempotency_key": f"kheishctl-{uuid4().hex}"})
            self._ours.update(keys)
        except (RequestRefused, ConnectionLost):
            self.waiting.refused(keys)
            raise
        finally:
            self._asked.difference_update(keys)
            for key in keys:
                if (held := self._held.pop(key, None)) is not None:
                    self._show(self._signed(held, key))

    def _open(self, approval_id: str, arguments: Json) -> None:
        text = json.dumps(arguments, ensure_ascii=False, indent=2)
        if len(text) > MAX_EDITED_CHARACTERS:
            self._note("its input is too long to be changed here; deny it and say what to change", "yellow")
        elif self.waiting.edit(approval_id):
            self._edit(text)
