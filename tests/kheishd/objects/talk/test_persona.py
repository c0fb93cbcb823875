"""Snapshots of personas in sessions."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.objects.talk.persona import is_same_snapshot
from protocol.errors.persona import PersonaNotFound
from protocol.objects.session import PersonaBinding
from tests.support.desk import Scripted
from tests.support.household import AGENTS, Household, agent, household

DEFINITIONS = AGENTS | {
    "butler": agent("butler", "persona: jeeves", "Serve."),
    "odd": agent("odd", "persona: a b"),
}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Household]:
    """Provide a household whose agent butler has a persona, and whose models answer."""
    async with household(tmp_path, definitions=DEFINITIONS) as house:
        yield house


async def create(house: Household, persona_id: str, soul: str = "Be polite.", **params: Any) -> Any:
    """Create a persona."""
    return await house.call(
        "persona.create", persona_id=persona_id, display_name=persona_id.title(), soul=soul, **params
    )


async def instructions(house: Household, **params: Any) -> str:
    """Return the instructions that the model got for an input."""
    await house.ask(**params)
    assert isinstance(house.models, Scripted)
    return house.models.requests[-1].instructions


async def test_conversation_send_persona_not_found(served: Household) -> None:
    """Without the persona of its agent, a conversation does not begin: the persona's scope is unknown."""
    refusal = await served.refusal_of("conversation.send", content="x", agent="butler")
    assert isinstance(refusal, PersonaNotFound)
    assert "the agent 'butler' has the persona 'jeeves'" in refusal.message
    assert isinstance(await served.refusal_of("conversation.send", content="x", agent="odd"), PersonaNotFound)


async def test_agent_spawn_persona_not_found(served: Household) -> None:
    """A child of such an agent is not spawned, either."""
    root = (await served.call("session.create"))["session_id"]
    spawn = {"parent": root, "name": "x", "prompt": "x", "agent": "butler"}
    assert isinstance(await served.refusal_of("agent.spawn", **spawn), PersonaNotFound)
    explained = await served.call("agent.explain", spawn=spawn)
    assert (explained["allowed"], explained["reason"]) == (False, "persona_not_found")


async def test_the_persona_of_an_agent_is_bound_at_creation(served: Household) -> None:
    """A later version does not reach the session, and neither does the deletion."""
    await create(served, "jeeves", scope={"tools": ["read_file"]})
    assert await instructions(served, agent="butler") == "Serve.\n\nBe polite."
    await served.call("persona.update", persona_id="jeeves", soul="Be rude.", scope={})
    assert await instructions(served, agent="butler") == "Serve.\n\nBe polite."
    await served.call("persona.delete", persona_id="jeeves")
    assert await instructions(served, agent="butler") == "Serve.\n\nBe polite."
    (session,) = (await served.call("session.list", persona_id="jeeves"))["sessions"]
    assert (session["persona"]["version"], session["effective_scope"]) == (1, {"tools": ["read_file"]})
    assert "soul" not in session["persona"]
    assert (await served.call("session.list", persona_id="other"))["sessions"] == []


async def test_a_child_gets_a_copy_of_its_parents_snapshot(served: Household) -> None:
    """A child has its parent's persona of then, also with an agent that has another one; a fork, too."""
    await create(served, "jeeves")
    await create(served, "critic", soul="Be strict.", scope={"skills": []})
    root = (await served.call("session.create", persona_id="critic"))["session_id"]
    child = await served.call("session.create", parent_session_id=root, agent="butler")
    assert child["persona"]["persona_id"] == "critic"
    assert child["scope"] == {"skills": []}
    await served.call("session.end", session_id=child["session_id"])
    await served.call("persona.unbind", session_id=root)
    spawned = await served.call("agent.spawn", parent=root, name="x", prompt="x", agent="butler")
    session = await served.call("session.get", session_id=spawned["agent_id"])
    assert session["persona"]["persona_id"] == "jeeves"
    fork = await served.call("session.fork", session_id=child["session_id"])
    assert fork["persona"] == child["persona"]


async def test_session_import_persona_not_found(served: Household) -> None:
    """An export is imported as an agent only if the persona of that agent exists."""
    sent = await served.ask()
    exported = await served.call("session.export", session_id=sent["session_id"])
    refusal = await served.refusal_of("session.import", lines=exported["lines"], agent="butler")
    assert isinstance(refusal, PersonaNotFound)


async def test_an_export_of_a_bound_session_is_imported(served: Household) -> None:
    """The events of a binding are part of an export; the new session is bound as its own agent says."""
    await create(served, "jeeves")
    await create(served, "critic")
    sent = await served.ask(agent="butler")
    await served.call("persona.bind", session_id=sent["session_id"], persona_id="critic")
    exported = await served.call("session.export", session_id=sent["session_id"])
    imported = await served.call("session.import", lines=exported["lines"])
    session = await served.call("session.get", session_id=imported["session_id"])
    assert session["persona"]["persona_id"] == "jeeves"


def test_the_time_and_the_skills_of_a_snapshot_do_not_count() -> None:
    """A run that freezes the default skills makes no other snapshot; another version is one."""
    binding = PersonaBinding(
        persona_id="p", version=1, display_name="P", soul_sha256="a", bound_at_ms=5, default_skills=["s"]
    )
    assert is_same_snapshot(binding, replace(binding, bound_at_ms=6, skills=[]))
    assert is_same_snapshot(None, None)
    assert not is_same_snapshot(binding, replace(binding, version=2))
    assert not is_same_snapshot(binding, None)


async def test_a_blank_soul_adds_nothing(served: Household) -> None:
    """The instructions are the agent's; a guest has no soul of the session."""
    await create(served, "jeeves", soul=" \n")
    assert await instructions(served, agent="butler") == "Serve."
    await create(served, "loud", soul="Shout.")
    (session,) = (await served.call("session.list"))["sessions"]
    await served.call("persona.bind", session_id=session["session_id"], persona_id="loud")
    assert await instructions(served, agent="butler") == "Serve.\n\nShout."
    assert "Shout." not in await instructions(served, agent="butler", guest="critic")


async def test_an_existing_session_of_another_persona_is_another_one(served: Household) -> None:
    """Creating a session again returns it only with the same persona."""
    await create(served, "jeeves")
    await served.call("session.create", session_id="s", persona_id="jeeves")
    await served.call("session.create", session_id="s", persona_id="jeeves")
    await create(served, "critic")
    refusal = await served.refusal_of("session.create", session_id="s", persona_id="critic")
    assert "another persona" in refusal.message
