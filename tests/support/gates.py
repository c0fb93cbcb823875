"""Gates of commands for tests."""

from collections.abc import Collection

from kheishd.core.permissions.claims import Claim
from kheishd.core.permissions.judge import Ruling
from kheishd.hooks.network.gate import Gate


def make_gate(*allowed: str, denied: Collection[str] = (), own_ports: Collection[int] = ()) -> Gate:
    """Return a gate that allows some destinations, denies some, and would ask about all others.

    Shape:  ``HOST:PORT``; an address that is allowed is allowed by a rule that names it.
    """

    def judge(claim: Claim) -> Ruling:
        host = claim.subject.removeprefix("net:")
        if host in denied:
            return Ruling("deny", "deny", "a rule", "the rules deny this")
        if host in allowed:
            return Ruling("allow", "allow", "a rule", exact=True)
        return Ruling("ask", "ask", "the network's default")

    return Gate(judge, own_ports)
