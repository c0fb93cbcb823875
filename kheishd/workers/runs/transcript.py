"""What a model is shown, read from the store: a session's checkpoint, and what happened since.

A session that branched off another one begins with that one's transcript, and with its checkpoint, if that is
from before the two parted.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import trio

from kheishd.core.context.transcript import (
    CHECKPOINT_EVENTS,
    Transcript,
    decode_checkpoint,
    encode_checkpoint,
    find_guests,
    format_framing,
    frame_messages,
)
from kheishd.core.contract import format_instruction
from kheishd.core.run.answers import owed
from kheishd.core.run.retry import room_of
from kheishd.kernel.runtime import ModelRequest
from kheishd.objects.talk.contract import schema_text
from kheishd.objects.talk.lineage import Segment, entries_of, lineage
from kheishd.store.tables import BLOBS, CHECKPOINTS, SESSIONS
from protocol.errors.store import StorageFull
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.store import MAX_CHECKPOINT_BYTES, MAX_SEPARATE_CHECKPOINT_BYTES
from protocol.transcript import ToolCall, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.hook import Hook, RunContext
    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.run import Pinned
    from protocol.transcript import Item

log = logging.getLogger("kheishd.runs")

EVENTS_AT_ONCE = 256
"""Events read before others get their turn: about a millisecond of the loop."""

BYTES_AT_ONCE = 1024 * 1024
"""And as much of them, since a line may hold 200 KiB: about two milliseconds."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A transcript written down, to be kept in place of the session's last."""

    session_id: str
    cursor: int
    content: bytes

    def write(self, tx: Transaction) -> None:
        """Keep it, unless the session's next run wrote down more meanwhile."""
        kept = [key for key, _ in tx.scan(CHECKPOINTS, self.session_id)]
        if any(key[1] > self.cursor for key in kept):
            return
        for key in kept:
            tx.delete(CHECKPOINTS, *key)
        tx.put(CHECKPOINTS, self.session_id, self.cursor, value=self.content)


class TranscriptReader:
    """A session's transcript while one run needs it: read once, then only what came since."""

    def __init__(self, state: State, session_id: str) -> None:
        self._state = state
        self._session_id = session_id
        self._stretches: list[Segment] = []
        self._transcript: Transcript | None = None
        self._folded = 0

    async def request(self, run: RunRecord, hooks: Hook, place: RunContext) -> ModelRequest:
        """The model call that is due: what the run pinned, and the transcript as its speaker reads it."""
        transcript = await self.transcript()
        digest = place.pinned.instructions_digest
        with self._state.read() as store:
            kept = store.get(BLOBS, digest, 0) if digest is not None else None
        sections = [kept.decode()] if kept is not None else []
        sections += [*hooks.sections(place), *self._owed(run, place.pinned)]
        speaker = run.guest or run.agent
        guests = find_guests(transcript.messages)
        return ModelRequest(
            pinned=place.pinned,
            instructions="\n\n".join(filter(None, sections))
            + format_framing(speaker=speaker, primary=run.agent, guests=guests),
            messages=frame_messages(transcript.messages, speaker=speaker, primary=run.agent),
            tools=hooks.offer(place),
            withheld=run.follow_up == "output_contract",
            session_id=run.session_id,
            run_id=run.run_id,
            turn=run.turn + 1,
            attempt=run.attempt,
        )

    def _owed(self, run: RunRecord, pinned: Pinned) -> Iterator[str]:
        """What the run is told from the beginning of what it must do and give."""
        todo, bound = owed(run, pinned), pinned.output_contract
        if todo:
            yield f"Before you are done you must {' and '.join(todo)}."
        if bound is not None:
            with self._state.read() as store:
                yield format_instruction(schema_text(store, bound.digest))

    def call_ids(self) -> frozenset[str]:
        """The ids of the calls that the transcript holds."""
        messages = self.last.messages
        return frozenset(
            item.call_id for message in messages for item in message.items if isinstance(item, ToolCall)
        )

    @property
    def last(self) -> Transcript:
        """The transcript as it was last read. It is this reading's own: nobody else may change it."""
        return self._transcript or Transcript()

    async def transcript(self) -> Transcript:
        """The transcript as it is now."""
        while True:
            transcript, whole = self._read_some()
            if whole:
                return transcript
            await trio.lowlevel.checkpoint()

    def _read_some(self) -> tuple[Transcript, bool]:
        """Fold the next events of the session; whether those were all there are."""
        with self._state.read() as store:
            transcript = self._transcript or self._begin(store)
            events = size = 0
            found = entries_of(store, self._stretches, transcript.cursor)
            for _, _, line in islice(found, EVENTS_AT_ONCE):
                transcript.fold(decode_envelope(line), decode_event(line))
                events += 1
                size += len(line)
                if size >= BYTES_AT_ONCE:
                    break
        self._folded += events
        return transcript, events < EVENTS_AT_ONCE and size < BYTES_AT_ONCE

    def _begin(self, store: Snapshot) -> Transcript:
        session = store.need(SESSIONS, self._session_id)
        self._stretches = lineage(store, session)
        self._transcript = newest_checkpoint(store, self._stretches)
        return self._transcript

    # Checkpoints.

    def became_shorter(self) -> None:
        """What is shown is much less than what happened: a checkpoint is worth its bytes."""
        self._folded = max(self._folded, CHECKPOINT_EVENTS)

    def checkpoint(self, answer: list[Item], room: int = MAX_ANSWER_BYTES) -> Checkpoint | None:
        """A checkpoint to write with an answer, when enough was folded and both fit into ``room``."""
        return self._written_down(min(MAX_CHECKPOINT_BYTES, room - room_of(answer)))

    async def keep(self) -> None:
        """Write a checkpoint that no answer had room for, in a transaction of its own, if it is worth that.

        It is only a cache: on a full disk it is done without.
        """
        checkpoint = self._written_down(MAX_SEPARATE_CHECKPOINT_BYTES)
        if checkpoint is not None:
            with suppress(StorageFull):
                await self._state.update(checkpoint.write)

    def _written_down(self, room: int) -> Checkpoint | None:
        if self._transcript is None or self._folded < CHECKPOINT_EVENTS:
            return None
        # Looked at first, for it is quickly seen that a long transcript does not fit.
        if sum(len(text_of(message.items)) for message in self._transcript.messages) > room:
            return None
        try:
            content = encode_checkpoint(self._transcript)
        except (OverflowError, RecursionError):
            # What it cannot hold is read from the journal each time.
            return None
        if len(content) > room:
            return None
        self._folded = 0
        return Checkpoint(self._session_id, self._transcript.cursor, content)


def newest_checkpoint(store: Snapshot, stretches: Sequence[Segment]) -> Transcript:
    """The transcript of the newest checkpoint of a lineage that can be read; an empty one without any."""
    for session_id, upto in reversed(stretches):
        for key, checkpoint in store.scan(CHECKPOINTS, session_id, reverse=True):
            if upto is not None and key[1] > upto:
                continue
            try:
                return decode_checkpoint(checkpoint)
            except ValueError:
                said = {"session_id": session_id}
                log.warning("a checkpoint cannot be read and is passed over", extra=said)
    return Transcript()
