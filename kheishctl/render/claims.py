"""The parts of a call that are judged, and the circumstances in which an approval holds, for people."""

from collections.abc import Mapping
from typing import Any

from protocol.text import one_line, reveal_line


def format_claim(claim: Mapping[str, Any]) -> str:
    """Format a part of a call: the words of a command, each as it was read, or a destination."""
    return " ".join(f"[{reveal_line(word)}]" for word in claim.get("words", ())) or reveal_line(
        claim["subject"]
    )


def format_facts(facts: Mapping[str, Any]) -> str:
    """Format the circumstances in which a grant holds, behind a comma; empty if there are none."""
    parts = [
        *([f"in {facts['workdir']}"] if "workdir" in facts else []),
        *(["in the background"] if facts.get("background") else []),
        *([f"sandbox {facts['sandbox']}"] if "sandbox" in facts else []),
        *facts.get("network", ()),
        *facts.get("other", ()),
    ]
    return "".join(f", {one_line(part)}" for part in parts)
