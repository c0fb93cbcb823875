"""The handlers of all methods."""

from kheishd.build.handlers import handlers
from protocol.rpc.catalogue import METHODS


def test_every_method_has_one_handler() -> None:
    """The daemon handles exactly the methods of the contract."""
    names = [handler.row.name for handler in handlers()]
    assert sorted(names) == sorted(METHODS)
