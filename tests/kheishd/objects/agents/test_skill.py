"""Skills over a socket: every outcome of the methods of kheishd/objects/agents/skill.py."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from trio.testing import MockClock

from kheishd.core.definition import built_in, parse
from kheishd.core.permissions.judge import ToolFacts, judge
from kheishd.objects.agents import skill as skills_of
from kheishd.objects.people.permission import layers_of
from kheishd.objects.talk import fork, session
from kheishd.objects.talk.bounds import bounds_of
from kheishd.store.blobs import read_blob
from protocol.errors.refusal import Refusal
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionNotFound
from protocol.errors.skill import (
    SkillNotActive,
    SkillNotFound,
    SkillNotInline,
    SkillsTooLarge,
    SkillUnusable,
)
from protocol.limits.skill import MAX_ACTIVE_SKILLS, MAX_ACTIVE_TEXT_BYTES, MAX_SKILL_ARGUMENTS_BYTES
from protocol.objects.session import CapabilityScope, Session, SessionCreate, SessionUpdate
from protocol.objects.skill import SkillActivate, SkillDeactivate
from tests.support.desk import Desk, open_desk
from tests.support.rpc_server import RpcServer, rpc_server
from tests.support.runtimes import make_runtime
from tests.support.skills import make_skills, write_skill

REVIEW = (
    "---\nname: review\ndescription: Review code.\nallowed-tools: Read Bash(git:*)\n---\nReview $ARGUMENTS.\n"
)


class Served:
    """A server with skills, and a client with an open session ``s``."""

    def __init__(self, server: RpcServer, client: Any, root: Path) -> None:
        self.state = server.services.state
        self.client = client
        self.root = root

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method."""
        return await self.client.call(method, **params)

    async def activate(self, name: str = "review", session_id: str = "s", **params: Any) -> Any:
        """Activate a skill."""
        return await self.call("skill.activate", session_id=session_id, name=name, **params)

    def text(self, digest: str) -> str:
        """Return a stored text."""
        with self.state.read() as store:
            content = read_blob(store, digest)
        assert content is not None
        return content.decode()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """Serve three skills: ``plan`` is a fork, ``review`` and ``style`` are inline."""
    root = tmp_path / "home" / "skills"
    write_skill(root, "review", REVIEW)
    write_skill(root, "style")
    write_skill(root, "plan", "Plan the work.", "context: fork")
    skills = make_skills(tmp_path / "home")
    runtime = make_runtime(load_skills=lambda: skills)
    handlers = (*skills_of.HANDLERS, *session.HANDLERS, *fork.HANDLERS)
    async with rpc_server(tmp_path, handlers, runtimes=runtime) as server:
        client = await server.connect()
        await client.call("session.create", session_id="s")
        yield Served(server, client, root)


async def refused(served: Served, kind: type[Refusal], method: str, match: str = ".", **params: Any) -> None:
    """Require a refusal of a request."""
    with pytest.raises(kind, match=match):
        await served.call(method, **params)


async def test_skill_list_ok(served: Served) -> None:
    """Skills are listed by name, in pages without gaps; a query selects."""
    first = await served.call("skill.list", limit=2)
    second = await served.call("skill.list", limit=2, after=first["next"])
    assert [skill["name"] for skill in first["skills"] + second["skills"]] == ["plan", "review", "style"]
    assert second["next"] is None
    found = await served.call("skill.list", query="CODE")
    assert [skill["name"] for skill in found["skills"]] == ["review"]
    write_skill(served.root, "late")
    assert len((await served.call("skill.list"))["skills"]) == 4


async def test_skill_get_ok(served: Served) -> None:
    """A skill is shown with its instructions, its file and its tools by kheish's names."""
    skill = await served.call("skill.get", name="review")
    assert skill["instructions"] == "Review $ARGUMENTS."
    assert skill["path"] == f"{served.root}/review/SKILL.md"
    assert skill["allowed_tools"] == [
        {"tool": "read_file"},
        {"tool": "bash", "subject": "git"},
        {"tool": "bash", "subject": "git *"},
    ]


async def test_skill_get_skill_not_found(served: Served) -> None:
    """A name that is a path is just no name."""
    await refused(served, SkillNotFound, "skill.get", "no skill '../review'", name="../review")


async def test_skill_get_skill_unusable(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that breaks between the look and the reading is named with its line."""
    skills = make_skills(served.root.parent)
    catalogue = skills.catalogue()
    monkeypatch.setattr(type(skills), "catalogue", lambda self, *args, **params: catalogue)
    (served.root / "review" / "SKILL.md").write_text("---\nname: [\n---\n")
    await refused(served, SkillUnusable, "skill.get", r"review/SKILL\.md:3: ", name="review")


async def test_skill_reload_ok(served: Served) -> None:
    """A reload counts the skills, names the problems and states its time."""
    (served.root / "style" / "SKILL.md").write_text("---\nname: [\n---\n")
    result = await served.call("skill.reload")
    assert result["skills"] == 2
    assert len(result["warnings"]) == 1
    assert result["took_ms"] > 0


async def test_session_skills_ok(served: Served) -> None:
    """A session sees the skills of its scope; what is active outside of it is not shown either."""
    await served.activate("style")
    await served.activate("review")
    everything = await served.call("session.skills", session_id="s")
    assert [skill["name"] for skill in everything["skills"]] == ["plan", "review", "style"]
    assert [skill["name"] for skill in everything["active"]] == ["style", "review"]
    await served.call("session.update", session_id="s", scope={"skills": ["plan", "style"]})
    narrowed = await served.call("session.skills", session_id="s", query="the work")
    assert [skill["name"] for skill in narrowed["skills"]] == ["plan"]
    assert [skill["name"] for skill in narrowed["active"]] == ["style"]
    # A child sees at most what its parent does.
    await served.call("session.create", session_id="child", parent_session_id="s")
    child = await served.call("session.skills", session_id="child")
    assert [skill["name"] for skill in child["skills"]] == ["plan", "style"]
    assert child["active"] == []


async def test_session_skills_session_not_found(served: Served) -> None:
    """An unknown session has no skills."""
    await refused(served, SessionNotFound, "session.skills", session_id="none")


async def test_skill_activate_ok(served: Served) -> None:
    """The session keeps a snapshot with the arguments; only another text replaces it."""
    active = await served.activate(args="the ``` last commit", note="because")
    assert "Review the ''' last commit." in served.text(active["text"])
    assert active["allowed_tools"][0] == {"tool": "read_file"}
    again = await served.activate(args="the ``` last commit")
    assert again == active
    (served.root / "review" / "SKILL.md").write_text("Changed.")
    (shown,) = (await served.call("session.get", session_id="s"))["active_skills"]
    assert shown == active
    await served.activate("style")
    newer = await served.activate("review")
    assert "Changed." in served.text(newer["text"])
    record = await served.call("session.get", session_id="s")
    assert [skill["name"] for skill in record["active_skills"]] == ["style", "review"]


async def test_a_fork_has_the_active_skills(served: Served) -> None:
    """A fork of the session goes on under the same skills, with what they refuse."""
    active = await served.activate()
    forked = await served.call("session.fork", session_id="s")
    (copy,) = forked["active_skills"]
    assert copy["text"] == active["text"]
    assert copy["allowed_tools"] == active["allowed_tools"]


async def test_skill_activate_session_not_found(served: Served) -> None:
    """An unknown session is refused."""
    await refused(served, SessionNotFound, "skill.activate", session_id="none", name="review")


async def test_skill_activate_session_already_ended(served: Served) -> None:
    """An ended session is not changed."""
    await served.call("session.end", session_id="s")
    await refused(served, SessionAlreadyEnded, "skill.activate", session_id="s", name="review")


async def test_skill_activate_skill_not_found(served: Served) -> None:
    """A skill outside of the session's scope is refused like one that does not exist."""
    await served.call("session.update", session_id="s", scope={"skills": ["style"]})
    for name in ("review", "nothing"):
        await refused(
            served, SkillNotFound, "skill.activate", f"no skill '{name}'", session_id="s", name=name
        )


async def test_skill_activate_skill_unusable(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has become too large is named."""
    skills = make_skills(served.root.parent)
    catalogue = skills.catalogue()
    monkeypatch.setattr(type(skills), "catalogue", lambda self, *args, **params: catalogue)
    (served.root / "review" / "SKILL.md").write_text("x" * 200_000)
    await refused(served, SkillUnusable, "skill.activate", "too large", session_id="s", name="review")


@pytest.mark.parametrize("runtime", ["context: fork", "model: big", "route: r", "agent_profile: plan"])
async def test_skill_activate_skill_not_inline(served: Served, runtime: str) -> None:
    """A skill that needs an agent of its own names the remedy."""
    write_skill(served.root, "own", "Text.", runtime)
    await refused(served, SkillNotInline, "skill.activate", "context 'fork'", session_id="s", name="own")


async def test_skill_activate_skills_too_large(served: Served) -> None:
    """The number of active skills, their texts and their tools are limited together."""
    for number in range(MAX_ACTIVE_SKILLS + 1):
        write_skill(served.root, f"n{number}", "Text.")
    for number in range(2):
        write_skill(served.root, f"long{number}", "d\n\n" + "x" * (MAX_ACTIVE_TEXT_BYTES // 2 - 500))
        tools = " ".join(f"Bash({'x' * 100}{n}:*)" for n in range(30))
        write_skill(served.root, f"tools{number}", f"---\ndescription: d\nallowed-tools: {tools}\n---\n")
    too_large: dict[str, Any] = {"kind": SkillsTooLarge, "method": "skill.activate", "session_id": "s"}
    await refused(served, **too_large, match="the tools of", name="tools0")
    for number in range(2):
        await served.activate(f"long{number}")
    await refused(served, **too_large, match="bytes", name="n0", args="x" * 4000)
    for number in range(2):
        await served.call("skill.deactivate", session_id="s", name=f"long{number}")
    for number in range(MAX_ACTIVE_SKILLS):
        await served.activate(f"n{number}")
    await refused(served, **too_large, match="32 skills", name=f"n{MAX_ACTIVE_SKILLS}")
    # One that is active may be activated anew.
    await served.activate("n0", args="again")


async def test_skill_activate_input_too_large(served: Served) -> None:
    """Arguments are limited in bytes, and by what they make of the text."""
    args = "é" * (MAX_SKILL_ARGUMENTS_BYTES - 10)
    await refused(served, InputTooLarge, "skill.activate", "bytes", session_id="s", name="review", args=args)
    write_skill(served.root, "many", "d\n" + "$ARGUMENTS " * 1000)
    await refused(
        served, InputTooLarge, "skill.activate", "longer", session_id="s", name="many", args="x" * 1000
    )


async def test_skill_deactivate_ok(served: Served) -> None:
    """An ended skill is no longer in the session; its place is free."""
    active = await served.activate()
    ended = await served.call("skill.deactivate", session_id="s", name="review", note="done")
    assert ended == active
    assert "active_skills" not in await served.call("session.get", session_id="s")


async def test_skill_deactivate_session_not_found(served: Served) -> None:
    """An unknown session is refused."""
    await refused(served, SessionNotFound, "skill.deactivate", session_id="none", name="review")


async def test_skill_deactivate_session_already_ended(served: Served) -> None:
    """An ended session is not changed."""
    await served.call("session.end", session_id="s")
    await refused(served, SessionAlreadyEnded, "skill.deactivate", session_id="s", name="review")


async def test_skill_deactivate_skill_not_active(served: Served) -> None:
    """The refusal names the active skills."""
    await served.activate("style")
    await refused(served, SkillNotActive, "skill.deactivate", "active: style", session_id="s", name="review")


# The law: no chain of activations, updates and children gives a right that the root or the parent lacks.

TOOLS = ("read_file", "bash", "grep_search", "web_fetch", "use_skill", "list_skills")
LINES = ("git status", "rm x")
ORDER = ("allow", "ask", "deny")
BASH = ToolFacts("bash", "execute", "ask")


async def change_something(desk: Desk, random: Random, session_ids: list[str]) -> None:
    """Change one of the sessions at random, or create a child; a refusal is as good."""
    session_id, skill = random.choice(session_ids), f"s{random.randrange(4)}"
    child = SessionCreate(session_id=f"c{len(session_ids)}", parent_session_id=session_id)
    scopes = (CapabilityScope(tools=random.sample(TOOLS, 4)), CapabilityScope(skills=["s0", skill]))
    changes = (
        (skills_of.activate, SkillActivate(session_id=session_id, name=skill)),
        (skills_of.deactivate, SkillDeactivate(session_id=session_id, name=skill)),
        (session.update, SessionUpdate(session_id=session_id, scope=random.choice(scopes))),
        (session.create, child),
    )
    with suppress(Refusal):
        made = await desk.do(*random.choice(changes))
        if isinstance(made, Session) and made.session_id not in session_ids:
            session_ids.append(made.session_id)


@pytest.mark.parametrize("seed", range(3))
async def test_no_chain_of_skills_widens(tmp_path: Path, autojump_clock: MockClock, seed: int) -> None:
    """A tool is allowed only if the root's definition and the parent allow it; no verdict is milder."""
    random = Random(seed)
    for number, tools in enumerate(("Read", "Bash(git:*) Read", "Grep WebFetch Bash", "[]")):
        text = f"---\ndescription: d\nallowed-tools: {tools}\n---\n"
        write_skill(tmp_path / "home" / "skills", f"s{number}", text, "blocked_tools: ['Bash(rm:*)']")
    skills = make_skills(tmp_path / "home")
    root = parse("root", f"---\ntools: {[*TOOLS[:2], *TOOLS[4:]]}\n---\n".encode(), "/agents/root.md")
    definitions = {"default": built_in(), "root": root}
    async with open_desk(tmp_path, load_skills=lambda: skills, definitions=definitions) as desk:
        await desk.do(session.create, SessionCreate(session_id="root", agent="root"))
        session_ids = ["root"]
        for _ in range(40):
            await change_something(desk, random, session_ids)
            runtime = desk.holder.current()
            with desk.state.read() as store:
                for record in map(desk.session, session_ids):
                    allowed = {name for name in TOOLS if bounds_of(store, runtime, record).allows_tool(name)}
                    assert allowed <= set(root.tools or ())
                    if record.parent_session_id is None:
                        continue
                    parent = desk.session(record.parent_session_id)
                    bounds = bounds_of(store, runtime, parent)
                    assert all(map(bounds.allows_tool, allowed))
                    for line in LINES:
                        own, above = (
                            judge(
                                ToolFacts("bash", "execute", "ask"), line, layers_of(store, runtime, bounded)
                            )
                            for bounded in (record, parent)
                        )
                        assert ORDER.index(own.decision) >= ORDER.index(above.decision)
