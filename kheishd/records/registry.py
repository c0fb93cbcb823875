"""All projections and derived indexes, and the projections that an event concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kheishd.records.agent import AGENT_RECORDS
from kheishd.records.approval import APPROVAL_RECORDS
from kheishd.records.conversation import CONVERSATION_RECORDS
from kheishd.records.cron import CRON_RECORDS
from kheishd.records.definition import DEFINITION_RECORDS
from kheishd.records.event import EVENT_WAIT_RECORDS, PUBLICATION_RECORDS, TRIGGER_RECORDS
from kheishd.records.file_checkpoint import FILE_CHECKPOINT_RECORDS
from kheishd.records.goal import GOAL_RECORDS
from kheishd.records.hook import HOOK_RECORDS
from kheishd.records.indoubt import INDOUBT_RECORDS
from kheishd.records.mailbox import MAIL_RECORDS, MAILBOX_RECORDS
from kheishd.records.mcp import SERVER_RECORDS
from kheishd.records.memory import NOTE_RECORDS, NOTEBOOK_RECORDS
from kheishd.records.permission import PERMISSION_RECORDS
from kheishd.records.persona import PERSONA_RECORDS
from kheishd.records.projection import DerivedIndex, Projection, stream_kind
from kheishd.records.question import QUESTION_RECORDS
from kheishd.records.route import DEFAULT_ROUTE_RECORDS, ROUTE_RECORDS
from kheishd.records.run import READY_RUNS, RUN_RECORDS
from kheishd.records.secret import SECRET_RECORDS
from kheishd.records.session import SESSION_RECORDS
from kheishd.records.task import TASK_RECORDS
from kheishd.records.token import TOKEN_RECORDS
from kheishd.records.workspace import TRUSTED_ROOT_RECORDS
from protocol.journal.line import JournalEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kheishd.store.table import Table

PROJECTIONS: Final[tuple[Projection[Any], ...]] = (
    SESSION_RECORDS,
    RUN_RECORDS,
    AGENT_RECORDS,
    CONVERSATION_RECORDS,
    APPROVAL_RECORDS,
    QUESTION_RECORDS,
    INDOUBT_RECORDS,
    TASK_RECORDS,
    MAIL_RECORDS,
    MAILBOX_RECORDS,
    TOKEN_RECORDS,
    PERMISSION_RECORDS,
    TRUSTED_ROOT_RECORDS,
    PERSONA_RECORDS,
    DEFINITION_RECORDS,
    ROUTE_RECORDS,
    DEFAULT_ROUTE_RECORDS,
    GOAL_RECORDS,
    HOOK_RECORDS,
    CRON_RECORDS,
    SECRET_RECORDS,
    SERVER_RECORDS,
    PUBLICATION_RECORDS,
    TRIGGER_RECORDS,
    EVENT_WAIT_RECORDS,
    NOTE_RECORDS,
    NOTEBOOK_RECORDS,
    FILE_CHECKPOINT_RECORDS,
)

DERIVED: Final[tuple[DerivedIndex[Any], ...]] = (READY_RUNS,)


class Registry:
    """A set of projections, arranged by table and by event."""

    def __init__(
        self, projections: Iterable[Projection[Any]], derived: Iterable[DerivedIndex[Any]] = ()
    ) -> None:
        self.projections = tuple(projections)
        self.derived = tuple(derived)
        self.by_table: dict[Table[Any], Projection[Any]] = {
            projection.table: projection for projection in self.projections
        }
        self._by_event: dict[str, dict[type[Any], tuple[Projection[Any], ...]]] = {
            kind: {
                event: tuple(
                    projection
                    for projection in self.projections
                    if projection.stream == kind and (projection.events is None or event in projection.events)
                )
                for event in JournalEvent.__args__
            }
            for kind in {projection.stream for projection in self.projections}
        }

    def of_stream(self, stream: str) -> Mapping[type[Any], tuple[Projection[Any], ...]]:
        """Return the projections whose records the events of a stream may change, by type of event."""
        return self._by_event.get(stream_kind(stream), {})

    def find(self, stream: str, event: JournalEvent) -> tuple[Projection[Any], ...]:
        """Return the projections whose records an event of a stream may change."""
        return self.of_stream(stream).get(type(event), ())


REGISTRY: Final = Registry(PROJECTIONS, DERIVED)
