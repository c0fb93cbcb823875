"""The language that the daemon and its clients share."""

__version__ = "0.2.0"
