"""kheishctl: how people and scripts talk with the daemon."""

from protocol import __version__

__all__ = ["__version__"]
