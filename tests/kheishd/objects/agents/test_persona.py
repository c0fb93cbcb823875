"""Personas over the socket: every outcome of the methods."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.objects.agents import persona
from kheishd.store.tables import BLOBS
from protocol.errors.persona import PersonaExists, PersonaInvalid, PersonaLimit, PersonaNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionBusy
from protocol.errors.token import ScopeMissing, ScopeWouldWiden
from protocol.limits.persona import MAX_SOUL_BYTES
from tests.support.household import Household, household, pages, refusal_of, require_session_not_found
from tests.support.skills import make_skills, write_skill

JEEVES: dict[str, Any] = {"persona_id": "jeeves", "display_name": "Jeeves", "soul": "Be polite."}
FILE: dict[str, Any] = {"content": "# A critic\n\nBe strict.", "filename": "critic.md"}


async def create(house: Household, **params: Any) -> Any:
    """Create a persona."""
    return await house.call("persona.create", **(JEEVES | params))


@pytest.fixture
async def skilled(tmp_path: Path) -> AsyncIterator[Household]:
    """Provide a household whose runs stay queued, with the skills a, b and forks."""
    root = tmp_path / "roots"
    write_skill(root, "a")
    write_skill(root, "b")
    write_skill(root, "forks", runtime="context: fork")
    skills = make_skills(tmp_path / "home", root)
    async with household(tmp_path, work=False, tcp=True, load_skills=lambda: skills) as house:
        yield house


# persona.create, .import


async def test_persona_create_ok(idle: Household) -> None:
    """A persona is version 1, with an id of its own unless one is chosen, and its soul exactly."""
    made = await create(idle, scope={"tools": ["a"], "skills": ["s"]}, metadata={"k": 1})
    assert (made["persona_id"], made["version"], made["soul_bytes"]) == ("jeeves", 1, 10)
    view = await idle.call("persona.get", persona_id="jeeves")
    assert view == made | {"soul": "Be polite."}
    assert (await create(idle, persona_id=None, soul=" \n"))["persona_id"].startswith("per_")
    assert await idle.kinds() == ["persona_created", "persona_created"]


async def test_persona_create_persona_exists(idle: Household) -> None:
    """An id is used once at a time; after a deletion it is free again."""
    await create(idle)
    assert isinstance(await idle.refusal_of("persona.create", **JEEVES), PersonaExists)
    await idle.call("persona.delete", persona_id="jeeves")
    assert (await create(idle))["version"] == 1


async def test_persona_create_persona_invalid(skilled: Household) -> None:
    """Default skills differ, are installed, can be active in a session, and are in the scope."""
    bad: tuple[tuple[list[str], Any, int, str], ...] = (
        (["a", "a"], {}, 1, "twice"),
        (["a", "b"], {"skills": ["a"]}, 1, "it has only a"),
        (["a"], {"skills": []}, 0, "it has none"),
        (["a", "nowhere"], {}, 1, "there is no skill 'nowhere'"),
        (["forks"], {}, 0, "needs an agent of its own"),
    )
    for skills, scope, index, text in bad:
        refusal = await skilled.refusal_of("persona.create", **JEEVES, default_skills=skills, scope=scope)
        assert isinstance(refusal, PersonaInvalid)
        assert refusal.field == f"$.params.default_skills[{index}]"
        assert text in refusal.message
    refusal = await skilled.refusal_of("persona.create", **(JEEVES | {"display_name": " "}))
    assert isinstance(refusal, InvalidParams)
    made = await create(skilled, default_skills=["b", "a"], scope={"skills": ["a", "b"]})
    assert made["default_skills"] == ["b", "a"]


async def test_persona_create_persona_limit(idle: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of personas is limited; deleting one makes room."""
    monkeypatch.setattr(persona, "MAX_PERSONAS", 1)
    await create(idle)
    assert isinstance(await idle.refusal_of("persona.create", **(JEEVES | {"persona_id": "x"})), PersonaLimit)
    await idle.call("persona.delete", persona_id="jeeves")
    await create(idle, persona_id="x")


LARGE: tuple[dict[str, Any], ...] = (
    {"soul": "é" * (MAX_SOUL_BYTES // 2 + 1)},
    {"metadata": {"a": "b" * 20_000}},
    {"scope": {"tools": ["t" * 100] * 30}},
)


async def test_persona_create_input_too_large(idle: Household) -> None:
    """The soul, the names and the metadata have limits."""
    for params in LARGE:
        refusal = await idle.refusal_of("persona.create", **(JEEVES | params))
        assert isinstance(refusal, InputTooLarge)
        assert refusal.field in [f"$.params.{name}" for name in params]
    assert (await create(idle, soul="é" * (MAX_SOUL_BYTES // 2)))["soul_bytes"] == MAX_SOUL_BYTES


async def test_persona_import_ok(idle: Household) -> None:
    """The whole file is the soul; the name is the given one, the first heading, or the file's stem."""
    made = await idle.call("persona.import", **FILE, persona_id="critic", scope={"tools": []})
    assert (made["display_name"], made["persona_id"], made["scope"]) == ("A critic", "critic", {"tools": []})
    assert (await idle.call("persona.get", persona_id="critic"))["soul"] == FILE["content"]
    assert (await idle.call("persona.import", **FILE, display_name="B"))["display_name"] == "B"
    plain = await idle.call("persona.import", content="Be.", filename="plain.markdown")
    assert plain["display_name"] == "plain"
    refusal = await idle.refusal_of("persona.import", content="x", filename="a.txt")
    assert refusal.field == "$.params.filename"


async def test_persona_import_persona_exists(idle: Household) -> None:
    """An import does not replace a persona."""
    await create(idle)
    refusal = await idle.refusal_of("persona.import", **FILE, persona_id="jeeves")
    assert isinstance(refusal, PersonaExists)


async def test_persona_import_persona_invalid(idle: Household) -> None:
    """The same rules hold."""
    refusal = await idle.refusal_of("persona.import", **FILE, default_skills=["a"])
    assert isinstance(refusal, PersonaInvalid)


async def test_persona_import_persona_limit(idle: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limit holds."""
    monkeypatch.setattr(persona, "MAX_PERSONAS", 0)
    assert isinstance(await idle.refusal_of("persona.import", **FILE), PersonaLimit)


async def test_persona_import_input_too_large(idle: Household) -> None:
    """The refusal names the field of the file's text."""
    refusal = await idle.refusal_of("persona.import", **(FILE | {"content": "é" * 40_000}))
    assert isinstance(refusal, InputTooLarge)
    assert refusal.field == "$.params.content"


# persona.get, .list


async def test_persona_get_ok(idle: Household) -> None:
    """The soul is shown with the record only."""
    await create(idle)
    assert (await idle.call("persona.get", persona_id="jeeves"))["soul"] == "Be polite."
    assert "soul" not in (await idle.call("persona.list"))["personas"][0]


async def test_persona_get_persona_not_found(idle: Household) -> None:
    """An unknown id is refused."""
    assert isinstance(await idle.refusal_of("persona.get", persona_id="x"), PersonaNotFound)


async def test_persona_list_ok(idle: Household) -> None:
    """Personas are listed by id, page by page, and filtered by a part of their id or name."""
    for name in ("b", "a", "c"):
        await create(idle, persona_id=name, display_name=f"The {name.upper()}")
    listed = await pages(idle.client, "persona.list", "personas", limit=2)
    assert [row["persona_id"] for row in listed] == ["a", "b", "c"]
    assert [row["persona_id"] for row in (await idle.call("persona.list", query="the b"))["personas"]] == [
        "b"
    ]
    assert len((await idle.call("persona.list", query="THE"))["personas"]) == 3


# persona.update, .delete


async def test_persona_update_ok(idle: Household) -> None:
    """A change is a version, and an update that changes nothing is none."""
    made = await create(idle, metadata={"k": 1})
    assert await idle.call("persona.update", persona_id="jeeves", soul="Be polite.") == made
    changed = await idle.call("persona.update", persona_id="jeeves", soul="Be rude.", scope={"tools": []})
    assert (changed["version"], changed["scope"], changed["metadata"]) == (2, {"tools": []}, {"k": 1})
    assert (await idle.call("persona.get", persona_id="jeeves"))["soul"] == "Be rude."
    with idle.state.read() as store:
        assert store.get(BLOBS, made["soul_sha256"], 0) == b"Be polite."


async def test_persona_update_persona_not_found(idle: Household) -> None:
    """An unknown id is refused."""
    refusal = await idle.refusal_of("persona.update", persona_id="x", soul="x")
    assert isinstance(refusal, PersonaNotFound)


async def test_persona_update_persona_invalid(skilled: Household) -> None:
    """A scope that no longer allows the default skills is refused."""
    await create(skilled, default_skills=["a"])
    refusal = await skilled.refusal_of("persona.update", persona_id="jeeves", scope={"skills": []})
    assert isinstance(refusal, PersonaInvalid)


async def test_persona_update_input_too_large(idle: Household) -> None:
    """The same limits hold, also together with what the persona has."""
    await create(idle)
    for params in LARGE:
        refusal = await idle.refusal_of("persona.update", persona_id="jeeves", **params)
        assert isinstance(refusal, InputTooLarge)


async def test_persona_delete_ok(idle: Household) -> None:
    """A deleted persona is gone; a session that is bound to it keeps its snapshot."""
    made = await create(idle)
    await idle.call("session.create", session_id="s", persona_id="jeeves")
    assert await idle.call("persona.delete", persona_id="jeeves") == made
    assert (await idle.call("persona.list"))["personas"] == []
    bound = (await idle.call("session.get", session_id="s"))["persona"]
    assert (bound["display_name"], bound["version"]) == ("Jeeves", 1)


async def test_persona_delete_persona_not_found(idle: Household) -> None:
    """An unknown id is refused."""
    assert isinstance(await idle.refusal_of("persona.delete", persona_id="x"), PersonaNotFound)


# persona.bind, .unbind


async def bound(house: Household, session_id: str = "s") -> Any:
    """Create a persona and a session that is bound to it."""
    await create(house, scope={"tools": ["read_file"]})
    return await house.call("session.create", session_id=session_id, persona_id="jeeves")


async def test_persona_bind_ok(idle: Household) -> None:
    """The newest version is bound; the same snapshot stays as it is; a scope narrows the session."""
    first = (await bound(idle))["persona"]
    again = await idle.call("persona.bind", session_id="s", persona_id="jeeves")
    assert again["persona"] == first
    assert again["effective_scope"] == {"tools": ["read_file"]}
    await idle.call("persona.update", persona_id="jeeves", scope={"tools": []})
    assert (await idle.call("session.get", session_id="s"))["effective_scope"] == {"tools": ["read_file"]}
    second = await idle.call("persona.bind", session_id="s", persona_id="jeeves")
    assert (second["persona"]["version"], second["effective_scope"]) == (2, {"tools": []})
    assert await idle.kinds(session_id="s") == ["session_created", "persona_bound"]
    explanation = await idle.call("permission.why", tool="read_file", session_id="s")
    assert (explanation["decision"], explanation["why"]) == ("deny", "persona jeeves")
    child = await idle.call("session.create", parent_session_id="s")
    where = {"tool": "read_file", "session_id": child["session_id"]}
    sources = [line["source"] for line in (await idle.call("permission.why", **where))["lines"]]
    assert sources[1:4] == ["persona jeeves", f"session {child['session_id']}", "parent s persona jeeves"]


async def test_persona_bind_session_not_found(idle: Household) -> None:
    """An unknown session is refused like one that the token does not cover."""
    await create(idle)
    await require_session_not_found(idle, "persona.bind", persona_id="jeeves")


async def test_persona_bind_persona_not_found(idle: Household) -> None:
    """An unknown persona is refused."""
    await idle.call("session.create", session_id="s")
    refusal = await idle.refusal_of("persona.bind", session_id="s", persona_id="x")
    assert isinstance(refusal, PersonaNotFound)


async def test_persona_bind_session_already_ended(idle: Household) -> None:
    """An ended session stays as it is."""
    await bound(idle)
    await idle.call("session.end", session_id="s")
    refusal = await idle.refusal_of("persona.bind", session_id="s", persona_id="jeeves")
    assert isinstance(refusal, SessionAlreadyEnded)


async def test_persona_bind_session_busy(idle: Household) -> None:
    """A session with an open run, or with a live agent below it, keeps its persona."""
    await create(idle)
    busy = (await idle.send())["session_id"]
    refusal = await idle.refusal_of("persona.bind", session_id=busy, persona_id="jeeves")
    assert isinstance(refusal, SessionBusy)
    assert "1 runs" in refusal.message
    await idle.call("session.create", session_id="s")
    child = await idle.call("agent.spawn", parent="s", name="x", prompt="x")
    refusal = await idle.refusal_of("persona.bind", session_id="s", persona_id="jeeves")
    assert isinstance(refusal, SessionBusy)
    assert child["agent_id"] in refusal.message


async def test_persona_unbind_ok(idle: Household) -> None:
    """A session without a persona has its own scope only; unbinding again changes nothing."""
    await bound(idle)
    for _ in range(2):
        session = await idle.call("persona.unbind", session_id="s")
        assert ("persona" in session, session["effective_scope"]) == (False, {})
    assert await idle.kinds(session_id="s") == ["session_created", "persona_bound"]


async def test_persona_unbind_session_not_found(idle: Household) -> None:
    """An unknown session is refused like one that the token does not cover."""
    await require_session_not_found(idle, "persona.unbind")


async def test_persona_unbind_session_already_ended(idle: Household) -> None:
    """An ended session stays as it is."""
    await bound(idle)
    await idle.call("session.end", session_id="s")
    assert isinstance(await idle.refusal_of("persona.unbind", session_id="s"), SessionAlreadyEnded)


async def test_persona_unbind_session_busy(idle: Household) -> None:
    """A persona is not removed from under a run."""
    await bound(idle)
    await idle.call("session.send", session_id="s", content="x")
    assert isinstance(await idle.refusal_of("persona.unbind", session_id="s"), SessionBusy)


async def require_unrestricted(house: Household, method: str, **params: Any) -> None:
    """Require that a token for one agent is refused: the persona of others is not its own."""
    limited = await house.connect_limited(agents=["critic"], scopes=["read", "operate"])
    assert isinstance(await refusal_of(limited, method, **params), ScopeWouldWiden)


async def test_persona_create_scope_would_widen(idle: Household) -> None:
    """A token that covers only some agents creates no persona."""
    await require_unrestricted(idle, "persona.create", **JEEVES)


async def test_persona_import_scope_would_widen(idle: Household) -> None:
    """A token that covers only some agents imports no persona."""
    await require_unrestricted(idle, "persona.import", **FILE)


async def test_persona_update_scope_would_widen(idle: Household) -> None:
    """A token that covers only some agents changes no persona."""
    await create(idle)
    await require_unrestricted(idle, "persona.update", persona_id="jeeves", soul="Obey me.")


async def test_persona_delete_scope_would_widen(idle: Household) -> None:
    """A token that covers only some agents deletes no persona."""
    await create(idle)
    await require_unrestricted(idle, "persona.delete", persona_id="jeeves")


async def test_mutations_need_operate(idle: Household) -> None:
    """A caller that may only converse does not shed a persona: neither by unbinding nor by a reset."""
    limited = await idle.connect_limited(scopes=["read", "converse"])
    assert isinstance(await refusal_of(limited, "persona.create", **JEEVES), ScopeMissing)
    sent = await idle.send()
    await idle.call("run.cancel", run_id=sent["run_id"])
    await create(idle)
    await idle.call("persona.bind", session_id=sent["session_id"], persona_id="jeeves")
    assert isinstance(await refusal_of(limited, "conversation.reset", sender="user"), ScopeMissing)
