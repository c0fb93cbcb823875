"""A persona: a versioned record with instructions, the soul, that sessions bind as a frozen snapshot."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.errors.persona import PersonaExists, PersonaInvalid, PersonaLimit, PersonaNotFound
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionBusy, SessionNotFound
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.ids import Cursor, Id
from protocol.limits.persona import MAX_DEFAULT_SKILLS, MAX_DISPLAY_NAME_BYTES, MAX_SOUL_BYTES
from protocol.objects.session import CapabilityScope, SessionRow
from protocol.rpc.method import Method, Mutation, Page, Params


class PersonaProperties(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The properties of a persona, as its record and its events hold them.

    ``soul_sha256`` is the SHA-256 (hex) of the soul, which is stored separately. ``scope`` narrows the
    sessions that the persona is bound to. ``default_skills`` are names of skills that are active in them.
    """

    display_name: str
    soul_sha256: str
    soul_bytes: int = 0
    scope: CapabilityScope = CapabilityScope()
    default_skills: list[str] = []
    metadata: dict[str, Any] = {}


class Persona(PersonaProperties, frozen=True, kw_only=True, omit_defaults=True):
    """A persona, as stored. The record is the fold of its events; ``version`` counts its changes from 1."""

    persona_id: str
    version: int
    created_at_ms: int
    updated_at_ms: int
    created_cursor: Cursor = 0
    updated_cursor: Cursor = 0


class PersonaView(Persona, frozen=True, kw_only=True, omit_defaults=True):
    """A persona with its soul."""

    soul: str = ""


class PersonaList(Struct, frozen=True):
    """A page of personas, by id."""

    personas: list[Persona]
    next: str | None


DisplayName = Annotated[str, Meta(min_length=1, max_length=MAX_DISPLAY_NAME_BYTES)]
Soul = Annotated[str, Meta(max_length=MAX_SOUL_BYTES, description="The instructions, exactly.")]
DefaultSkills = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=MAX_DEFAULT_SKILLS)
]


class PersonaCreate(Mutation, frozen=True, kw_only=True):
    """Params of ``persona.create``."""

    display_name: DisplayName
    soul: Soul
    persona_id: Id | None = None
    scope: CapabilityScope = CapabilityScope()
    default_skills: DefaultSkills = []
    metadata: dict[str, Any] = {}


class PersonaImport(Mutation, frozen=True, kw_only=True):
    """Params of ``persona.import``: a Markdown file, whose whole text is the soul.

    Without a ``display_name``, the first heading is the name, else the file's name without its end.
    """

    content: Soul
    filename: Annotated[str, Meta(min_length=1, max_length=255, description="It ends in .md or .markdown.")]
    display_name: DisplayName | None = None
    persona_id: Id | None = None
    scope: CapabilityScope = CapabilityScope()
    default_skills: DefaultSkills = []
    metadata: dict[str, Any] = {}


class PersonaUpdate(Mutation, frozen=True, kw_only=True):
    """Params of ``persona.update``. An absent param leaves its property unchanged."""

    persona_id: Id
    display_name: DisplayName | UnsetType = UNSET
    soul: Soul | UnsetType = UNSET
    scope: CapabilityScope | UnsetType = UNSET
    default_skills: DefaultSkills | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class PersonaRef(Params, frozen=True, kw_only=True):
    """Params that name a persona."""

    persona_id: Id


class PersonaListParams(Page, frozen=True, kw_only=True):
    """Params of ``persona.list``; ``query`` is a part of the id or the name."""

    query: Annotated[str, Meta(max_length=256)] = ""


class PersonaDelete(Mutation, frozen=True, kw_only=True):
    """Params of ``persona.delete``."""

    persona_id: Id


class PersonaBind(Mutation, frozen=True, kw_only=True):
    """Params of ``persona.bind``: the newest version is bound."""

    session_id: Id
    persona_id: Id


class PersonaUnbind(Mutation, frozen=True, kw_only=True):
    """Params of ``persona.unbind``."""

    session_id: Id


_CREATE = (ScopeWouldWiden, PersonaExists, PersonaInvalid, PersonaLimit, InputTooLarge, StorageFull)
_BIND = (SessionNotFound, SessionAlreadyEnded, SessionBusy, StorageFull)

CREATE = Method(
    "persona.create",
    "mutation",
    PersonaCreate,
    Persona,
    "Create a persona: instructions and a scope for the sessions that it is bound to.",
    scope="operate",
    errors=_CREATE,
)
IMPORT = Method(
    "persona.import",
    "mutation",
    PersonaImport,
    Persona,
    "Create a persona from a Markdown file.",
    scope="operate",
    errors=_CREATE,
)
GET = Method(
    "persona.get",
    "query",
    PersonaRef,
    PersonaView,
    "Show a persona.",
    errors=(PersonaNotFound,),
)
LIST = Method("persona.list", "query", PersonaListParams, PersonaList, "List personas, by id.")
UPDATE = Method(
    "persona.update",
    "mutation",
    PersonaUpdate,
    Persona,
    "Change a persona. Sessions keep the version that is bound to them.",
    scope="operate",
    errors=(ScopeWouldWiden, PersonaNotFound, PersonaInvalid, InputTooLarge, StorageFull),
)
DELETE = Method(
    "persona.delete",
    "mutation",
    PersonaDelete,
    Persona,
    "Delete a persona. Sessions keep the version that is bound to them.",
    scope="operate",
    errors=(ScopeWouldWiden, PersonaNotFound, StorageFull),
)
BIND = Method(
    "persona.bind",
    "mutation",
    PersonaBind,
    SessionRow,
    "Bind a snapshot of a persona to an idle session.",
    scope="operate",
    errors=(PersonaNotFound, *_BIND),
)
UNBIND = Method(
    "persona.unbind",
    "mutation",
    PersonaUnbind,
    SessionRow,
    "Remove the persona of an idle session.",
    scope="operate",
    errors=_BIND,
)

METHODS = (CREATE, IMPORT, GET, LIST, UPDATE, DELETE, BIND, UNBIND)
