"""Limits of tokens."""

# Tokens that can exist at once; each is a row, and a list of them is read at every upgrade request.
MAX_TOKENS = 10_000
