"""Limits of tokens."""

# Existing tokens. Each is a row, and every upgrade request reads the list.
MAX_TOKENS = 10_000
