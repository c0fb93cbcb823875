"""All methods there are, by name: what the dispatcher serves, OpenRPC describes and tests walk."""

from protocol.method import AnyMethod
from protocol.objects import (
    conversation,
    daemon,
    definition,
    journal,
    permission,
    route,
    rpc,
    run,
    session,
    token,
)

METHODS: dict[str, AnyMethod] = {
    method.name: method
    for module in (rpc, daemon, conversation, session, run, permission, journal, definition, route, token)
    for method in module.METHODS
}
