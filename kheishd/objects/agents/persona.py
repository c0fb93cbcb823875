"""Personas: create, import, change and delete records, and bind them to sessions.

A change of a record is a new version. Sessions are bound to a version; none is changed with the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET
from msgspec.structs import asdict, replace

from kheishd.core.persona import MARKDOWN, name_from_markdown
from kheishd.core.scope import Restriction
from kheishd.core.skill import SkillError
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.kernel.skills import Catalogue
from kheishd.objects.agents.skill import make_activation
from kheishd.objects.agents.tree import live_children
from kheishd.objects.pages import id_after, page_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import find_session
from kheishd.objects.talk.persona import bind, find_persona, is_same_snapshot
from kheishd.objects.talk.session import row_of
from kheishd.records.writer import SessionWriter, StreamWriter
from kheishd.store.blobs import blob_name, put_chunk
from kheishd.store.tables import AGENTS_LIVE, BLOBS, MAILBOXES, PERSONAS
from protocol import ids
from protocol.errors.persona import PersonaExists, PersonaInvalid, PersonaLimit
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionBusy
from protocol.errors.skill import SkillNotInline, SkillUnusable
from protocol.errors.token import ScopeWouldWiden
from protocol.events.persona import PersonaBound, PersonaCreated, PersonaDeleted, PersonaUpdated
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.names import MAX_METADATA_BYTES
from protocol.limits.persona import MAX_PERSONA_NAMES_BYTES, MAX_PERSONAS, MAX_SOUL_BYTES
from protocol.objects import persona as rows
from protocol.objects.persona import (
    Persona,
    PersonaBind,
    PersonaCreate,
    PersonaDelete,
    PersonaImport,
    PersonaList,
    PersonaListParams,
    PersonaProperties,
    PersonaRef,
    PersonaUnbind,
    PersonaUpdate,
    PersonaView,
)
from protocol.structs import Value, fields_of

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction
    from protocol.objects.session import PersonaBinding, Session, SessionRow


class _Changes(Value, frozen=True):
    """The validated properties that params set, by name, and the soul to store with them."""

    persona_id: str
    properties: dict[str, Any]
    soul: bytes | None


def _require_unrestricted(call: Call) -> None:
    """Reject a caller whose token covers only some agents or senders. Errors: ScopeWouldWiden."""
    if not call.caller.is_unrestricted:
        raise ScopeWouldWiden("personas are for every agent and sender, and the token covers only some")


def _prepare(call: Call, params: PersonaCreate | PersonaImport | PersonaUpdate) -> _Changes:
    """Validate the properties of a persona.

    Errors: ScopeWouldWiden, InputTooLarge, InvalidParams, PersonaInvalid.
    """
    _require_unrestricted(call)
    properties = {name: value for name, value in asdict(params).items() if value is not UNSET}
    soul_field = "soul"
    if isinstance(params, PersonaImport):
        soul_field = "content"
        properties["soul"] = params.content
        name = name_from_markdown(params.content, params.filename)
        if name is None:
            text = f"the file is not Markdown by its name, which ends in {' or '.join(MARKDOWN)}"
            raise InvalidParams(text, field="$.params.filename")
        properties["display_name"] = params.display_name or name
    if not properties.get("display_name", "-").strip():
        raise InvalidParams("the name is blank", field="$.params.display_name")
    if "metadata" in properties:
        require_storable(properties["metadata"], MAX_METADATA_BYTES, "metadata", "$.params.metadata")
    for name in ("scope", "default_skills"):
        if name in properties:
            require_storable(properties[name], MAX_PERSONA_NAMES_BYTES, name, f"$.params.{name}")
    _require_usable(call, properties.get("default_skills", []))
    soul = properties["soul"].encode() if "soul" in properties else None
    if soul is not None:
        if len(soul) > MAX_SOUL_BYTES:
            text = f"the soul takes {len(soul)} bytes; the limit is {MAX_SOUL_BYTES}"
            raise InputTooLarge(text, field=f"$.params.{soul_field}")
        # A journal holds no secret, and neither does a prompt.
        soul = call.services.live.scrubber.scrub_bytes(soul)
        properties |= {"soul_sha256": blob_name(soul), "soul_bytes": len(soul)}
    names = PersonaProperties.__struct_fields__
    return _Changes(
        properties.get("persona_id") or call.state.new_id(ids.PERSONA),
        {name: properties[name] for name in names if name in properties},
        soul,
    )


def _require_usable(call: Call, names: list[str]) -> None:
    """Require default skills that are installed and can be active in a session. Errors: PersonaInvalid."""
    skills = call.runtime.skills
    catalogue = skills.catalogue(fresh=True) if names else Catalogue()
    for index, name in enumerate(names):
        field = f"$.params.default_skills[{index}]"
        skill = catalogue.skills.get(name)
        if skill is None:
            text = f"there is no skill '{name}'; skill.list names the skills"
            raise PersonaInvalid(text, field=field)
        try:
            make_activation(skills.read(skill), "", "")
        except (SkillUnusable, SkillNotInline, SkillError) as error:
            raise PersonaInvalid(str(error), field=field) from None


def _require_consistent(properties: PersonaProperties) -> None:
    """Require default skills that differ and that the scope allows. Errors: PersonaInvalid, InputTooLarge."""
    require_storable(
        [properties.scope, properties.default_skills],
        MAX_PERSONA_NAMES_BYTES,
        "scope with the default skills",
        "$.params.scope",
    )
    skills = properties.default_skills
    for index, skill in enumerate(skills):
        problem = Restriction(properties.scope).find_problem("skill", skill)
        if skill in skills[:index]:
            problem = "it is there twice"
        if problem is not None:
            text = f"the skill '{skill}' cannot be a default skill of the persona: {problem}"
            raise PersonaInvalid(text, field=f"$.params.default_skills[{index}]")


def create(tx: Transaction, call: Call, changes: _Changes) -> Persona:
    """Create a persona. Errors: PersonaExists, PersonaLimit, PersonaInvalid, InputTooLarge."""
    if tx.get(PERSONAS, changes.persona_id) is not None:
        text = f"there is a persona '{changes.persona_id}' already; choose another id, or update it"
        raise PersonaExists(text, field="$.params.persona_id")
    if tx.count(PERSONAS) >= MAX_PERSONAS:
        raise PersonaLimit(f"there are {MAX_PERSONAS} personas, the maximum; delete some first")
    event = PersonaCreated(persona_id=changes.persona_id, **changes.properties)
    _require_consistent(event)
    return _append(tx, call, event, changes.soul)


create_persona, import_persona = (
    mutation(row, prepare=_prepare)(create) for row in (rows.CREATE, rows.IMPORT)
)


@query(rows.GET)
def get(call: Call, params: PersonaRef) -> PersonaView:
    """Show a persona with its soul. Errors: PersonaNotFound."""
    with call.state.read() as store:
        persona = find_persona(store, params.persona_id)
        soul = store.need(BLOBS, persona.soul_sha256, 0).decode()
    return PersonaView(**fields_of(Persona, persona), soul=soul)


@query(rows.LIST)
def list_(call: Call, params: PersonaListParams) -> PersonaList:
    """List personas, by id."""
    last_id, query_text = id_after(params.after), params.query.casefold()
    with call.state.read() as store:
        personas = store.scan(PERSONAS, after=None if last_id is None else (last_id,))
        page, following = page_of(
            personas,
            params.limit,
            lambda persona: query_text in f"{persona.persona_id}\n{persona.display_name}".casefold(),
        )
    return PersonaList(page, following)


@mutation(rows.UPDATE, prepare=_prepare)
def update(tx: Transaction, call: Call, changes: _Changes) -> Persona:
    """Change a persona, if anything differs. Errors: PersonaNotFound, PersonaInvalid, InputTooLarge."""
    persona = find_persona(tx, changes.persona_id)
    changed = replace(persona, **changes.properties)
    if changed == persona:
        return persona
    _require_consistent(changed)
    event = PersonaUpdated(persona_id=persona.persona_id, **fields_of(PersonaProperties, changed))
    return _append(tx, call, event, changes.soul)


@mutation(rows.DELETE)
def delete(tx: Transaction, call: Call, params: PersonaDelete) -> Persona:
    """Delete a persona and return its last version. Errors: ScopeWouldWiden, PersonaNotFound."""
    _require_unrestricted(call)
    persona = find_persona(tx, params.persona_id)
    writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
    writer.append(PersonaDeleted(persona_id=persona.persona_id))
    writer.write()
    return persona


def _append(
    tx: Transaction, call: Call, event: PersonaCreated | PersonaUpdated, soul: bytes | None
) -> Persona:
    """Store a persona's soul, append its event, and return the persona after it."""
    if soul is not None:
        put_chunk(tx, event.soul_sha256, 0, soul)
    writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
    writer.append(event)
    persona = writer.need(PERSONAS, event.persona_id)
    writer.write()
    return persona


# Binding.


@mutation(rows.BIND)
def bind_persona(tx: Transaction, call: Call, params: PersonaBind) -> SessionRow:
    """Bind the newest version of a persona to a session; one that is bound already stays as it is.

    Errors: SessionNotFound, PersonaNotFound, SessionAlreadyEnded, SessionBusy.
    """
    session = find_session(tx, call, params.session_id)
    return _change(tx, call, session, bind(find_persona(tx, params.persona_id), tx.now_ms))


@mutation(rows.UNBIND)
def unbind_persona(tx: Transaction, call: Call, params: PersonaUnbind) -> SessionRow:
    """Remove the persona of a session. Errors: SessionNotFound, SessionAlreadyEnded, SessionBusy."""
    return _change(tx, call, find_session(tx, call, params.session_id), None)


def _change(tx: Transaction, call: Call, session: Session, binding: PersonaBinding | None) -> SessionRow:
    """Change the binding of a session, if it differs in more than its time.

    Errors: SessionAlreadyEnded, SessionBusy.
    """
    current = session.persona
    if current is not None and binding is not None:
        binding = current if is_same_snapshot(current, binding) else binding
    if session.status == "ended":
        raise SessionAlreadyEnded(f"the session {session.session_id} was ended and can no longer be changed")
    if binding == current:
        return row_of(tx, call.runtime, session)
    if session.open_runs:
        text = f"the session has {len(session.open_runs)} runs that have not ended"
        raise SessionBusy(f"{text}; wait for them or cancel them", field="$.params.session_id")
    mailbox = tx.get(MAILBOXES, session.session_id)
    if mailbox is not None and (mailbox.pending or mailbox.delivering):
        text = "the session has mail that it has not read; wait until it has"
        raise SessionBusy(text, field="$.params.session_id")
    # The rows of a root's tree begin with its id.
    tree = ((key[-1]) for key, _ in tx.scan(AGENTS_LIVE, session.session_id))
    live = next(live_children(tx, session), None) or next(tree, None)
    if live is not None:
        text = f"the session has live agents below it, such as {live}; close them first"
        raise SessionBusy(text, field="$.params.session_id")
    writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    writer.append(PersonaBound(binding=binding))
    writer.write()
    return row_of(tx, call.runtime, writer.session)


HANDLERS = (
    create_persona,
    import_persona,
    get,
    list_,
    update,
    delete,
    bind_persona,
    unbind_persona,
)
