"""What is done to a store while no daemon runs: under the home's lock, without an event loop."""

import sys


def discover() -> int:
    """Print the contract."""
    import msgspec

    from kheishd import __version__
    from protocol.catalogue import METHODS
    from protocol.openrpc import document

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document(METHODS.values(), __version__))).decode() + "\n")
    return 0
