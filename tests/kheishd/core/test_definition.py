"""Agent files are parsed, and each mistake is named with its line."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.config.validation import Problem
from kheishd.core.definition import DefinitionError, InvalidSettings, built_in, locate_settings, parse
from protocol.budget import Budget
from protocol.limits.names import MAX_SCOPE_BYTES
from protocol.limits.session import MAX_AGENT_FILE_BYTES
from protocol.objects.definition import Definition
from protocol.objects.permission import Rule

REVIEWER = b"""\
---
description: Reviews changes and says what could break.
route: local                 # a comment
tools: [read_file, grep_search, bash]
skills: null
mcp: []
max_turns: 5
---

You review changes. Be brief and concrete.
"""


def find_problems_of(content: bytes, name: str = "a") -> list[tuple[int, str]]:
    """Return the problems for which a file is rejected."""
    with pytest.raises(DefinitionError) as caught:
        parse(name, content, "agents/a.md")
    return caught.value.problems


def test_parse() -> None:
    """An absent or null list means everything, an empty list nothing."""
    instructions = "You review changes. Be brief and concrete."
    assert parse("reviewer", REVIEWER, "agents/reviewer.md") == Definition(
        name="reviewer",
        instructions=instructions,
        source="file",
        digest=hashlib.sha256(instructions.encode()).hexdigest(),
        description="Reviews changes and says what could break.",
        route="local",
        max_turns=5,
        tools=["read_file", "grep_search", "bash"],
        skills=None,
        mcp=[],
        members=None,
        path="agents/reviewer.md",
    )


def test_parse_budget() -> None:
    """Cost is written in currency units; an absent limit is no limit."""
    budget = parse("a", b"---\nmax_tokens: 1000\nmax_work_s: 90\nmax_cost: 0.25\n---\n", "p").budget
    assert budget == Budget(max_tokens=1_000, max_work_s=90.0, max_cost=0.25)
    assert parse("a", b"---\nmax_work_s: 0.5\n---\n", "p").budget == Budget(max_work_s=0.5)
    assert parse("a", b"---\nmodel: m\n---\n", "p").budget is None


def test_parse_files_of_other_editors() -> None:
    """A byte order mark and carriage returns change nothing."""
    content = b"\xef\xbb\xbf" + REVIEWER.replace(b"\n", b"\r\n")
    assert parse("r", content, "p") == parse("r", REVIEWER, "p")


@pytest.mark.parametrize(
    "content", [b"Just talk.", b"---\n---\nJust talk.\n", b"---\n# nothing\n---\nJust talk."]
)
def test_front_matter_is_optional(content: bytes) -> None:
    """A file of instructions alone is an agent that may use everything."""
    assert parse("a", content, "p").instructions == "Just talk."


def test_a_rule_within_the_instructions_is_text() -> None:
    """Only the first two ``---`` lines are fences."""
    assert parse("a", b"---\nmodel: m\n---\none\n---\ntwo\n", "p").instructions == "one\n---\ntwo"


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"---\nmodel: m\ndescripton: x\n---\n", 3, "did you mean 'description'"),
        (b"---\nmodel: m\n\nmax_turns: many\n---\n", 4, "max_turns: expected a whole number"),
        (b"---\nmodel: m\nmax_cost: .nan\n---\n", 3, "max_cost: expected a number > 0"),
        (b"---\nmax_tokens: 0\n---\n", 2, "max_tokens: expected a whole number >= 1"),
        (b"---\ntools: read_file\n---\n", 2, "tools: expected an array"),
        (b"---\ntools:\n  - a\n  - 3\n---\n", 2, "tools: expected a string, got a whole number (at [1])"),
        (b"---\npermission_mode: yolo\n---\n", 2, "permission_mode"),
        (b"---\nmodel: m\nmodel: n\n---\n", 3, "already on line 2"),
        (b"---\nmodel: m\n\ttools: [\n---\n", 3, "cannot start any token"),
        (b"---\nmodel: 'm\n---\n", 2, "quoted scalar"),
        (b"---\n- a\n- b\n---\n", 2, "key: value"),
        (b"---\nmodel: &m x\nroute: *m\n---\n", 2, "anchors, aliases and tags"),
        (b"---\nmodel: !!python/object:os.system x\n---\n", 2, "anchors, aliases and tags"),
        (b"---\npermissions:\n- tool: bash\n  decision: no\n---\n", 4, "permissions[0].decision"),
        (
            b"---\npermissions:\n- {tool: a, decision: ask}\n\n- {tool: a b, decision: ask}\n---\n",
            5,
            "expected a tool's name",
        ),
        (
            b"---\npermissions:\n- {tool: b, decision: ask}\n"
            b"- {tool: a, decision: deny, audience: {}}\n---\n",
            4,
            "permissions[1].audience: only a rule that asks",
        ),
        (b"---\npermissions:\n  - tool: bash\n---\n", 3, "permissions[0]: the key 'decision' is missing"),
        (b"---\npermissions:\n- tool: a\n  decision: ask\n  tool: b\n---\n", 5, "already on line 3"),
        (b"---\npermissions:\n- {tool: *, decision: ask}\n---\n", 3, "in quotes"),
        (b"---\npermissions:\n- {tool: a, subject: *x, decision: ask}\n---\n", 3, "in quotes"),
        (b"---\npermissions: [" + b"{tool: a, decision: ask}," * 65 + b"]\n---\n", 2, "length <= 64"),
        (b"---\nmodel: m\n", 1, "no closing"),
        (b"---\nmodel: m\n---\n\n\xff", 5, "not UTF-8"),
        (b"x" * (MAX_AGENT_FILE_BYTES + 1), 1, "too large"),
        (b"---\nmodel: 2026-13-45\n---\n", 2, "month"),
        (b"---\nroute: x\nmax_turns: 99999999999999999999\n---\n", 3, "more than 64 bits"),
        (b'---\ndescription: "\\ud800"\n---\n', 2, "surrogate"),
        (b'---\ntools: ["\\udfff"]\n---\n', 2, "surrogate"),
    ],
)
def test_a_mistake_has_a_line(content: bytes, line: int, words: str) -> None:
    """Each kind of mistake is reported with its line and an explanation."""
    problems = find_problems_of(content)
    assert problems[0][0] == line
    assert words in problems[0][1]


def test_parse_permissions() -> None:
    """Rules keep their order, in flow and in block style."""
    matter = (
        b"permissions:\n- {tool: bash, subject: 'git *', decision: allow}\n- tool: '*'\n  decision: ask\n"
    )
    assert parse("a", b"---\n" + matter + b"---\n", "p").permissions == [
        Rule(tool="bash", subject="git *", decision="allow"),
        Rule(tool="*", decision="ask"),
    ]


def test_lists_have_the_limit_of_a_scope() -> None:
    """The lists are limited, because each event of a session writes its record again."""
    short, long = (", ".join(f"tool_{n:06}" for n in range(count)) for count in (200, 4_500))
    assert parse("a", f"---\ntools: [{short}]\n---\nx".encode(), "a.md").tools is not None
    with pytest.raises(DefinitionError, match=str(MAX_SCOPE_BYTES)) as caught:
        parse("a", f"---\nskills: []\ntools: [{long}]\n---\nx".encode(), "a.md")
    assert caught.value.problems[0][0] == 3


def test_the_name_must_be_an_id() -> None:
    """The file's name is the agent's, so it must be an id."""
    assert "not a valid agent name" in find_problems_of(b"x", "two words")[0][1]


def test_all_mistakes_are_reported() -> None:
    """All problems of a file are reported together, ordered by line."""
    assert [line for line, _ in find_problems_of(b"---\nb: 1\nmodel: 2\n---\n")] == [2, 3]


def test_the_lines_of_settings() -> None:
    """A problem found after parsing has the line of its key; 1 if the file has no such key."""
    error = InvalidSettings([Problem(("route",), "gone"), Problem(("model",), "gone")])
    assert locate_settings(b"---\ntools: []\nroute: x\n---\n", error).problems == [
        (1, "model: gone"),
        (3, "route: gone"),
    ]


def test_the_built_in_agent() -> None:
    """The built-in agent needs no file and has its own source."""
    assert (built_in().name, built_in().source, built_in().tools) == ("default", "built_in", None)


@given(st.binary(max_size=80) | st.text("-:\n ab&*![]{}'\"#|>\t", max_size=60).map(str.encode))
def test_any_bytes_are_parsed_or_rejected(content: bytes) -> None:
    """Any content is parsed or rejected with a line, never a crash."""
    for text in (content, b"---\n" + content + b"\n---\n"):
        try:
            lines = [(1, parse("a", text, "p").name)]
        except DefinitionError as error:
            lines = error.problems
        assert all(line >= 1 for line, _ in lines)
        assert lines


def test_an_agent_brings_servers() -> None:
    """A file may bring MCP servers for its agent; invalid ones are reported with their line."""
    text = "---\nmcp_servers:\n  own:\n    command: [npx, server]\n---\nBe brief.\n"
    agent = parse("a", text.encode(), None)
    assert agent.mcp_servers["own"].argv == ["npx", "server"]
    for wrong, problem in (
        ("    url: http://a/\n    args: [x]\n", "a server with a URL has none"),
        ("    command: x\n    env: {API_KEY: y}\n", "put it into env_refs"),
        ("    program: x\n", "unknown key"),
    ):
        with pytest.raises(DefinitionError) as caught:
            parse("a", f"---\nmcp_servers:\n  own:\n{wrong}---\n".encode(), None)
        assert problem in str(caught.value)
        assert caught.value.problems[0][0] > 1
