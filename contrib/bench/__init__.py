"""Measurements of the running daemon, each beside a yardstick from the same run."""
