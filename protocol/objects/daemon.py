"""The daemon: its status, and the operations of an operator."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.errors.daemon import ConfigInvalid, PathRefused
from protocol.errors.store import StorageFull
from protocol.ids import Cursor
from protocol.rpc.method import Method, NoParams, Params


class Counts(Struct, frozen=True, kw_only=True):
    """Numbers of objects. ``approvals`` and ``questions`` are pending ones, ``indoubts`` open ones."""

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
    """Disk use of the store, in bytes. ``used_bytes`` is data; ``file_bytes`` is the size of the file."""

    path: str
    used_bytes: int
    file_bytes: int
    free_bytes: int
    map_bytes: int


class RestoreStatus(Struct, frozen=True, kw_only=True):
    """The newest restore: the time of the backup and of the restore, and the newest cursor of the backup.

    ``runs`` counts the runs that were open in the backup, ``indoubts`` their calls that were running.
    """

    backup_at_ms: int
    restored_at_ms: int
    cursor: Cursor
    runs: int
    indoubts: int


class SandboxStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sandbox of commands, as of its last trial.

    ``works``: commands run in it. ``required``: it does not work and is required, so no command runs.
    ``off``: it is switched off. ``unavailable``: it does not work, and commands run without it. ``untested``:
    the daemon has not tried it yet. ``mode`` is the configured ``workspace.sandbox``. ``network``: whether
    commands reach only the hosts that rules or a person allow, or the machine's whole network.
    """

    state: Literal["works", "required", "off", "unavailable", "untested"]
    mode: Literal["auto", "required", "off"]
    network: Literal["closed", "open"] = "closed"
    problem: str = ""


class HealthWarning(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that needs attention, and its remedy.

    ``info``: worth knowing; ``warning``: some work fails, waits or is at risk; ``critical``: nothing is
    written, or soon nothing will be. ``code`` is stable. ``related_id`` is the object concerned.
    """

    severity: Literal["info", "warning", "critical"]
    code: str
    message: str
    remedy: str
    related_id: str | None = None


class DaemonHealth(Struct, frozen=True, kw_only=True):
    """The health of the daemon. ``ok``: no warning is more severe than ``info``."""

    ok: bool
    warnings: list[HealthWarning]


class DaemonStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The status of the daemon. ``warnings`` are those of ``health`` as sentences, each with its remedy.

    ``epoch`` is the id of the store's line of history: a cursor counts only together with its epoch.
    ``restored`` is the restore that began the line, if one did.
    ``starting``: messages are accepted, but no run is begun yet.
    ``damage`` is present if the store is damaged: it is read-only then.
    """

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
    starting: bool = False
    default_agent: str = "default"
    default_route: str = "offline"
    damage: str | None = None
    epoch: str = ""
    restored: RestoreStatus | None = None
    sandbox: SandboxStatus | None = None
    health: DaemonHealth | None = None


class Bucket(Struct, frozen=True):
    """The number of values of a histogram that are at most ``le``."""

    le: float
    count: int


class MetricSample(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value of a metric for some labels; of a histogram, the number of values, their sum and buckets."""

    value: float
    labels: dict[str, str] = {}
    sum: float | None = None
    buckets: list[Bucket] = []


class Metric(Struct, frozen=True, kw_only=True):
    """A metric. A ``counter`` only rises until the daemon ends; a ``gauge`` is a present value."""

    name: str
    measure: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[MetricSample]


class DaemonMetrics(Struct, frozen=True, kw_only=True):
    """All metrics at one time. Their names and labels are those of the Prometheus text."""

    started_at_ms: int
    at_ms: int
    metrics: list[Metric]


class Reloaded(Struct, frozen=True, kw_only=True):
    """The new runtime: its generation and the warnings of building it."""

    generation: int
    warnings: list[str]


class DaemonShutdown(Params, frozen=True, kw_only=True):
    """Params of ``daemon.shutdown``. ``drain_s``: the time that runs in flight have to finish."""

    drain_s: Annotated[float, Meta(ge=0, le=3600)] | None = None


class ShutdownStarted(Struct, frozen=True):
    """Confirmation that the daemon is shutting down; it closes this connection at the end."""

    pid: int


class DaemonConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The configuration in force, with defaults; credentials appear by reference only."""

    config: dict[str, Any]
    generation: int
    path: str | None = None


class DaemonBackup(Params, frozen=True, kw_only=True):
    """Params of ``daemon.backup``: an absolute path that does not exist, in an existing directory."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]


class BackupResult(Struct, frozen=True, kw_only=True):
    """A complete and verified backup: the state at ``cursor`` in the line of history ``epoch``.

    ``sealed_slots`` secrets are in it that only the master key opens, which is not in it.
    """

    path: str
    bytes: int
    cursor: Cursor
    took_ms: int
    epoch: str = ""
    sealed_slots: int = 0


class DoctorParams(Params, frozen=True, kw_only=True):
    """Params of ``daemon.doctor``. ``deep`` reads the whole journal, otherwise only its newest part."""

    deep: bool = False


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fault, and its remedy."""

    kind: str
    message: str
    remedy: str
    stream: str | None = None
    cursor: Cursor | None = None


class Diagnosis(Struct, frozen=True, kw_only=True):
    """The result of an examination; no findings means healthy."""

    streams: int
    events: int
    records: int
    findings: list[Finding]
    complete: bool = True


STATUS = Method("daemon.status", "query", NoParams, DaemonStatus, "Show the status of the daemon.")
METRICS = Method(
    "daemon.metrics",
    "query",
    NoParams,
    DaemonMetrics,
    "Show counters since the start of the daemon, and gauges of its present state.",
)
RELOAD = Method(
    "daemon.reload",
    "control",
    NoParams,
    Reloaded,
    "Reload the configuration and agents; runs in flight keep the old ones.",
    scope="admin",
    errors=(ConfigInvalid,),
)
SHUTDOWN = Method(
    "daemon.shutdown",
    "control",
    DaemonShutdown,
    ShutdownStarted,
    "Shut the daemon down cleanly.",
    scope="admin",
)
CONFIG = Method(
    "daemon.config", "query", NoParams, DaemonConfig, "Show the configuration in force.", scope="operate"
)
BACKUP = Method(
    "daemon.backup",
    "control",
    DaemonBackup,
    BackupResult,
    "Back up the store while the daemon runs.",
    scope="admin",
    errors=(PathRefused, StorageFull),
)
DOCTOR = Method(
    "daemon.doctor",
    "control",
    DoctorParams,
    Diagnosis,
    "Verify the pages, the journal's hash chain, and the records and indexes against the journal.",
    scope="operate",
)

METHODS = (STATUS, METRICS, RELOAD, SHUTDOWN, CONFIG, BACKUP, DOCTOR)
