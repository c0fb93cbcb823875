"""Figures of the running daemon, each beside a yardstick that was taken in the same run."""
