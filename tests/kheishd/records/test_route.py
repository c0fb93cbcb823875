"""Records of the routes in the store."""

from kheishd.records.route import DEFAULT_ROUTE_RECORDS, ROUTE_RECORDS
from protocol.events.route import DefaultRouteChanged, RouteDeleted, RouteStored
from protocol.journal.envelope import Envelope
from protocol.limits.route import MAX_ROUTE_REVISIONS
from protocol.objects.route import RouteSettings
from tests.support.records import fold_record


def stored(revision: int) -> RouteStored:
    """Return an event whose settings name the revision."""
    return RouteStored(route_id="r", revision=revision, settings=RouteSettings(model=f"m{revision}"))


def test_the_newest_revisions_are_kept() -> None:
    """A record holds the current revision and the newest earlier ones."""
    record = fold_record(ROUTE_RECORDS, *map(stored, range(1, MAX_ROUTE_REVISIONS + 4)))
    assert record.current.settings.model == f"m{MAX_ROUTE_REVISIONS + 3}"
    kept = [revision.revision for revision in record.former]
    assert kept == list(range(MAX_ROUTE_REVISIONS + 2, 2, -1))
    assert (record.created_cursor, record.updated_cursor) == (1, MAX_ROUTE_REVISIONS + 3)


def test_a_deleted_route_has_no_record() -> None:
    """A route that is deleted leaves no record."""
    record = fold_record(ROUTE_RECORDS, stored(1))
    assert ROUTE_RECORDS.evolve(record, Envelope(cursor=2, at_ms=0), RouteDeleted(route_id="r")) is None


def test_the_last_default_counts() -> None:
    """The record of the default route is that of the last change."""
    record = fold_record(
        DEFAULT_ROUTE_RECORDS, DefaultRouteChanged(route_id="r"), DefaultRouteChanged(route_id=None)
    )
    assert (record.route_id, record.updated_cursor) == (None, 2)
