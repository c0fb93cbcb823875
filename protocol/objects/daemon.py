"""The daemon itself: how it is, and the levers an operator has."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from protocol.errors.daemon import ConfigInvalid, PathRefused
from protocol.errors.store import StorageFull
from protocol.ids import Cursor
from protocol.rpc.method import Method, Params


class Counts(Struct, frozen=True, kw_only=True):
    """How many there are, now. ``approvals`` and ``questions`` wait for a person, ``indoubts`` are open."""

    sessions: int
    conversations: int
    runs: int
    runs_active: int
    runs_ready: int
    tokens: int
    connections: int
    subscriptions: int
    approvals: int = 0
    questions: int = 0
    indoubts: int = 0


class Disk(Struct, frozen=True, kw_only=True):
    """Disk use of the store, in bytes. ``used_bytes`` is data; ``file_bytes`` is what the file takes."""

    path: str
    used_bytes: int
    file_bytes: int
    free_bytes: int
    map_bytes: int


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the daemon is. ``warnings`` are sentences, each with what to do; none is good health."""

    version: str
    pid: int
    uptime_s: float
    started_at_ms: int
    schema: int
    generation: int
    home: str
    listeners: list[str]
    counts: Counts
    disk: Disk
    cursor: Cursor
    memory_bytes: int
    warnings: list[str]
    draining: bool = False
    default_agent: str = "default"
    default_route: str = "offline"


class Reloaded(Struct, frozen=True, kw_only=True):
    """The new runtime: its number and what was skipped in making it."""

    generation: int
    warnings: list[str]


class Shutdown(Params, frozen=True, kw_only=True):
    """Params of ``daemon.shutdown``. ``drain_s``: how long runs in flight may take to finish."""

    drain_s: Annotated[float, Meta(ge=0, le=3600)] | None = None


class Stopping(Struct, frozen=True):
    """The daemon is stopping; this connection ends when it has."""

    pid: int


class DaemonConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The configuration in force, defaults filled in, credentials by reference only."""

    config: dict[str, Any]
    generation: int
    path: str | None = None


class Backup(Params, frozen=True, kw_only=True):
    """Params of ``daemon.backup``: an absolute path that does not exist yet, in a directory that does."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]


class BackedUp(Struct, frozen=True, kw_only=True):
    """A backup that was written whole and can be read."""

    path: str
    bytes: int
    cursor: Cursor
    took_ms: int


class DoctorParams(Params, frozen=True, kw_only=True):
    """Params of ``daemon.doctor``. ``deep`` reads the whole journal; otherwise the newest of it."""

    deep: bool = False


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is not as it should be, and what mends it."""

    kind: str
    message: str
    remedy: str
    stream: str | None = None
    cursor: Cursor | None = None


class Diagnosis(Struct, frozen=True, kw_only=True):
    """What was examined and what was found; no findings is good health."""

    streams: int
    events: int
    records: int
    findings: list[Finding]
    complete: bool = True


class Nothing(Params, frozen=True, kw_only=True):
    """No params."""


STATUS = Method("daemon.status", "query", Nothing, Status, "Show how the daemon is.")
RELOAD = Method(
    "daemon.reload",
    "control",
    Nothing,
    Reloaded,
    "Read the configuration and agents again; runs in flight finish on the old ones.",
    scope="admin",
    errors=(ConfigInvalid,),
)
SHUTDOWN = Method(
    "daemon.shutdown", "control", Shutdown, Stopping, "Stop the daemon in an orderly way.", scope="admin"
)
CONFIG = Method(
    "daemon.config", "query", Nothing, DaemonConfig, "Show the configuration in force.", scope="operate"
)
BACKUP = Method(
    "daemon.backup",
    "control",
    Backup,
    BackedUp,
    "Write a consistent copy of the store while running.",
    scope="admin",
    errors=(PathRefused, StorageFull),
)
DOCTOR = Method(
    "daemon.doctor",
    "control",
    DoctorParams,
    Diagnosis,
    "Verify the journal's hash chain, and the records and indexes against it.",
    scope="operate",
)

METHODS = (STATUS, RELOAD, SHUTDOWN, CONFIG, BACKUP, DOCTOR)
