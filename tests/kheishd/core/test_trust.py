"""Origin and trust: the frames of inputs that are no instructions, and the rules of origins."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.trust import (
    RANKS,
    add_origin,
    escape_attribute,
    format_trust,
    frame,
    join_origins,
    rule_applies,
    trust_of,
)
from protocol.objects.permission import Decision, Rule
from protocol.transcript import AssetReference, InputOrigin, Item, Message, Text, text_of

ORIGINS: tuple[InputOrigin, ...] = get_args(InputOrigin)
SETS = st.sets(st.sampled_from(ORIGINS))
TAG = re.compile(r"<\s*/?\s*(?:from|data|task)\b", re.IGNORECASE)


def test_every_origin_has_a_trust() -> None:
    """People and programs instruct, another agent delegates, everything else is data."""
    assert set(RANKS) == set(ORIGINS)
    trusts = {origin: trust_of(origin) for origin in ORIGINS}
    assert [origin for origin in ORIGINS if trusts[origin] == "instruction"] == ["person", "program"]
    assert [origin for origin in ORIGINS if trusts[origin] == "delegated"] == ["agent"]
    assert sum(trust == "data" for trust in trusts.values()) == 5


@pytest.mark.parametrize("origin", ["person", "program"])
def test_an_instruction_is_not_framed(origin: InputOrigin) -> None:
    """The message itself is returned, so that nothing of its encoding is made anew."""
    message = Message("user", [Text("<data>hello</data>")], origin=origin, source="ada")
    assert frame(message) is message


def test_data_is_framed() -> None:
    """The tag names origin and source; other items stay."""
    items: list[Item] = [Text("hello"), AssetReference("ast_1"), Text("there")]
    framed = frame(Message("user", [*items], origin="connector", source='mail "x"'))
    begin = '<data origin="connector" source="mail &quot;x&quot;">'
    assert framed.items == [Text(f"{begin}\nhello\n</data>"), items[1], Text(f"{begin}\nthere\n</data>")]
    assert text_of(frame(Message("user", [Text("x")], origin="event")).items) == (
        '<data origin="event">\nx\n</data>'
    )


def test_a_delegated_task_is_framed_as_one() -> None:
    """The tag names the agent, if it is known."""
    task = Message("user", [Text("look")], origin="agent", source="ses_1/lead")
    assert text_of(frame(task).items) == '<task source="ses_1/lead">\nlook\n</task>'
    assert text_of(frame(Message("user", [Text("look")], origin="agent")).items) == "<task>\nlook\n</task>"


@given(
    st.sampled_from([origin for origin in ORIGINS if trust_of(origin) != "instruction"]),
    st.lists(st.sampled_from(["<", "/", " ", "DATA", "data", "task", "from", ">", "\n", '"', "x"])).map(
        "".join
    ),
    st.lists(st.sampled_from(["<", "/", "data", "task", ">", "\n", '"', " ", "\x00"])).map("".join),
)
def test_no_text_leaves_its_frame(origin: InputOrigin, text: str, source: str) -> None:
    """Whatever a text and a source contain, the frame has one opening and one closing tag."""
    content = text_of(frame(Message("user", [Text(text)], origin=origin, source=source)).items)
    first, *middle, last = content.split("\n")
    assert len(TAG.findall(content)) == 2
    assert re.fullmatch(r'<(data origin="[a-z_]+"|task)( source="[^"\n]*")?>', first)
    assert last in ("</data>", "</task>")
    assert not any(map(TAG.search, middle))


def test_attributes_stay_in_their_quotes() -> None:
    """A quote, a tag and a control character are escaped."""
    assert escape_attribute('a"b</data>\n') == "a&quot;b&lt;/data>\\n"


def test_the_model_is_told_only_of_tags_that_it_sees() -> None:
    """There is a note for each kind of tag."""
    assert format_trust(["person", "program"]) == []
    assert [note[:16] for note in format_trust(["person", "agent", "event"])] == [
        "Texts in <data> ",
        "Texts in <task> ",
    ]


def test_origins_are_joined_in_one_order() -> None:
    """Each origin occurs once, and a run without any is a person's."""
    assert join_origins(["connector", "person"], ["agent", "person"]) == ["person", "agent", "connector"]
    origins: list[InputOrigin] = ["program"]
    assert add_origin(origins, "program") is origins
    assert add_origin([], "event") == ["person", "event"]


@pytest.mark.parametrize(
    ("decision", "origin", "origins", "applies"),
    [
        ("ask", None, ["person"], True),
        ("ask", "connector", ["person"], False),
        ("ask", "connector", ["person", "connector"], True),
        ("deny", "event", ["connector"], False),
        ("deny", "tool_output", ["person", "tool_output"], True),
        ("allow", "person", ["person"], True),
        ("allow", "person", ["person", "tool_output"], True),
        ("allow", "person", ["person", "connector"], False),
        ("allow", "person", ["connector"], False),
        ("allow", "agent", ["person", "agent"], True),
        ("allow", "agent", ["person", "agent", "mailbox"], False),
        ("allow", "connector", ["connector"], True),
        ("allow", "connector", ["connector", "event"], False),
    ],
)
def test_rules_of_origins(
    decision: Decision, origin: InputOrigin | None, origins: list[InputOrigin], applies: bool
) -> None:
    """A deny or an ask applies once the origin was read, an allow while nothing less trusted was."""
    assert rule_applies(Rule(tool="*", decision=decision, origin=origin), origins) is applies


@given(st.sampled_from(["allow", "ask", "deny"]), st.sampled_from(ORIGINS), SETS, SETS)
def test_another_input_never_loosens_a_rule(
    decision: Decision, origin: InputOrigin, origins: set[InputOrigin], more: set[InputOrigin]
) -> None:
    """With more origins, an allow may cease to apply, and a deny or an ask may begin to; not the reverse."""
    rule = Rule(tool="*", decision=decision, origin=origin)
    current, later = rule_applies(rule, origins), rule_applies(rule, origins | more)
    assert current or not later if decision == "allow" else later or not current
