"""Lifecycle hooks: programs and servers that watch what happens, and may veto or amend it."""
