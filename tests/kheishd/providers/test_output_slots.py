"""The items of a response: an event finds its item by any of the names that servers send."""

import pytest

from kheishd.providers.output_slots import OutputSlot, OutputSlots


def add(slots: OutputSlots, kind: str, item_id: str | None = None, index: int | None = None) -> OutputSlot:
    """Add an item, and return it."""
    slot = OutputSlot(kind)
    slots.add(slot, item_id, index)
    return slot


def finish(slot: OutputSlot) -> None:
    """Complete an item."""
    slot.item = {"type": slot.kind}


def test_an_item_is_found_by_its_id_or_its_index() -> None:
    """Either name is enough, and the id comes first."""
    slots = OutputSlots()
    first, second = add(slots, "message", "msg_1", 0), add(slots, "message", "msg_2", 1)
    assert slots.find("message", "msg_1", None) is first
    assert slots.find("message", None, 1) is second
    assert slots.find("message", "another id", 0) is first
    assert slots.find("message", "msg_1", 1) is first


def test_an_index_of_several_items() -> None:
    """If several items have one index, the type decides, then the order."""
    slots = OutputSlots()
    thought, message = add(slots, "reasoning", "rs_1", 0), add(slots, "message", "msg_1", 0)
    assert slots.find("reasoning", "x", 0) is thought
    assert slots.find("message", "x", 0) is message
    assert slots.find("function_call", "x", 0) is None


@pytest.mark.parametrize("item_id", [None, "", "an unknown id"])
def test_without_an_index(item_id: str | None) -> None:
    """An event without an index belongs to the newest item of its type that is in progress."""
    slots = OutputSlots()
    assert slots.find("message", item_id, None) is None
    message = add(slots, "message", "msg_1")
    add(slots, "reasoning", "rs_1")
    assert slots.find("message", item_id, None) is message
    finish(message)
    assert slots.find("message", item_id, None) is None


def test_a_new_index_is_a_new_item() -> None:
    """An event with an unknown index belongs to none of the items, and one with a complete item's to none."""
    slots = OutputSlots()
    call = add(slots, "function_call", "fc_1", 0)
    assert slots.find("function_call", "fc_2", 1) is None
    finish(call)
    assert slots.find("function_call", "fc_2", 0) is None
    assert slots.find("function_call", "fc_1", 0) is call


def test_the_first_name_of_an_item() -> None:
    """An item without any name is the one that a new id and index belong to."""
    slots = OutputSlots()
    message = add(slots, "message")
    assert slots.find("message", "msg_1", 1) is message
    slots.name(message, "msg_1", 1)
    assert slots.find("message", "msg_2", 2) is None


def test_an_item_is_known_by_its_ids() -> None:
    """An item with a known id, or a known id of a call, is that item; another type is none."""
    slots = OutputSlots()
    call = add(slots, "function_call", "fc_1", 0)
    call.call_id = "call_1"
    assert slots.find_named("function_call", "fc_1", None) is call
    assert slots.find_named("function_call", "fc_2", "call_1") is call
    assert slots.find_named("function_call", "fc_2", "call_2") is None
    assert slots.find_named("message", "fc_1", None) is None


def test_a_late_announcement() -> None:
    """An item whose pieces came first is the one that is announced afterwards; an announced one is not."""
    slots = OutputSlots()
    message = add(slots, "message", "x", 0)
    assert slots.find_unannounced("message", "msg_1", 0) is message
    message.begun = {"type": "message"}
    assert slots.find_unannounced("message", "msg_1", 0) is None


def test_a_place_among_the_others() -> None:
    """An item that is only in the complete output has its place there."""
    slots = OutputSlots()
    last = add(slots, "message")
    first = OutputSlot("reasoning")
    slots.add(first, None, None, 0)
    assert slots.slots == [first, last]


def test_the_complete_output_is_matched() -> None:
    """Entries match by their ids, by the ids of calls, and else by order among those of their type."""
    slots = OutputSlots()
    thought = add(slots, "reasoning", "rs_1")
    first, second, third = (add(slots, "function_call", f"fc_{n}") for n in range(3))
    third.call_id = "call_3"
    output = [
        ("message", "msg_1", None),
        ("reasoning", "rs_other", None),
        ("function_call", None, None),
        ("function_call", "fc_0", None),
        ("function_call", "fc_9", "call_3"),
        ("function_call", "fc_8", "call_8"),
    ]
    assert slots.match(output) == [None, thought, second, first, third, None]
