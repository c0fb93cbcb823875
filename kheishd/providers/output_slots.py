"""The output items of a streamed response: which item an event belongs to.

Events name their item by its id and by its index in the output. Some servers send only one of them, another
id with every event, or one index for several items. An item is found if either is right.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from kheishd.providers.draft import Block


class OutputSlot(Struct, eq=False):
    """One output item of the answer.

    ``kind`` is its type. ``block`` is its part of the transcript; None for types that are not part of it.
    ``part`` identifies the part that arrived last. ``begun`` is the item as it was announced, ``item`` its
    final form.
    """

    kind: str
    block: Block | None = None
    item_id: str | None = None
    index: float | None = None
    call_id: str | None = None
    part: tuple[str, float | None] | None = None
    begun: dict[str, Any] | None = None
    item: dict[str, Any] | None = None


class OutputSlots(Struct):
    """The output items so far, in order."""

    slots: list[OutputSlot] = field(default_factory=list)
    _by_id: dict[str, OutputSlot] = field(default_factory=dict)
    _by_index: dict[float, OutputSlot] = field(default_factory=dict)

    def add(
        self, slot: OutputSlot, item_id: str | None, index: float | None, place: int | None = None
    ) -> None:
        """Add an item, after the others if no place is given."""
        self.slots.insert(len(self.slots) if place is None else place, slot)
        self.name(slot, item_id, index)

    def name(self, slot: OutputSlot, item_id: str | None, index: float | None) -> None:
        """Let an item be found by this id and this index, too."""
        if item_id:
            slot.item_id = item_id
            self._by_id[item_id] = slot
        if index is not None:
            slot.index = index
            self._by_index[index] = slot

    def find(self, kind: str, item_id: str | None, index: float | None) -> OutputSlot | None:
        """Return the item of an event; None if the event begins another one.

        An item that is already complete is found only by its id.
        """
        slot = self._by_id.get(item_id) if item_id else None
        if slot is not None and slot.kind == kind:
            return slot
        slot = self._by_index.get(index) if index is not None else None
        if slot is not None and slot.kind == kind:
            return slot if slot.item is None else None
        newest = next((slot for slot in reversed(self.slots) if slot.kind == kind), None)
        if newest is None or newest.item is not None:
            return None
        # The event has no index, or one of items of several types, or the first name of its item.
        is_new = index is not None and slot is None
        return None if is_new and (newest.item_id or newest.index is not None) else newest

    def find_named(self, kind: str, item_id: str | None, call_id: str | None) -> OutputSlot | None:
        """Return the item with this id or this id of a call; None without one."""
        slot = self._by_id.get(item_id) if item_id else None
        if slot is not None and slot.kind == kind:
            return slot
        same = (slot for slot in self.slots if call_id and slot.kind == kind and slot.call_id == call_id)
        return next(same, None)

    def find_unannounced(self, kind: str, item_id: str | None, index: float | None) -> OutputSlot | None:
        """Return the item of an announcement, if events of the item came before it; else None."""
        slot = self.find(kind, item_id, index)
        return slot if slot is not None and slot.begun is None else None

    def match(self, output: list[tuple[str, str | None, str | None]]) -> list[OutputSlot | None]:
        """Return the item for each entry of a complete output: its type, its id and its call id.

        Entries whose ids are unknown are matched by their order among those of the same type.
        """
        remaining = list(self.slots)
        matched: list[OutputSlot | None] = []
        for kind, item_id, call_id in output:
            same = (
                slot
                for slot in remaining
                if slot.kind == kind
                and ((item_id and slot.item_id == item_id) or (call_id and slot.call_id == call_id))
            )
            matched.append(_take(remaining, next(same, None)))
        for index, (kind, _, _) in enumerate(output):
            if matched[index] is None:
                matched[index] = _take(remaining, next((s for s in remaining if s.kind == kind), None))
        return matched


def _take(remaining: list[OutputSlot], slot: OutputSlot | None) -> OutputSlot | None:
    if slot is not None:
        remaining.remove(slot)
    return slot
