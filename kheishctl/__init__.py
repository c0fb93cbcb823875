"""kheishctl: the command-line client of the daemon."""

from protocol import __version__

__all__ = ["__version__"]
