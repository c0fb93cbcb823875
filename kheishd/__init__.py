"""The daemon: one long-lived process that owns sessions, runs and integrations."""

from protocol import __version__

__all__ = ["__version__"]
