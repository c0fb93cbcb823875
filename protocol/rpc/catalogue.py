"""All methods there are, by name: what the dispatcher serves, OpenRPC describes and tests walk."""

from protocol.objects import (
    approval,
    conversation,
    daemon,
    definition,
    indoubt,
    journal,
    output,
    permission,
    question,
    route,
    rpc,
    run,
    session,
    task,
    token,
)
from protocol.rpc.method import AnyMethod

METHODS: dict[str, AnyMethod] = {
    method.name: method
    for module in (
        rpc,
        daemon,
        conversation,
        session,
        run,
        output,
        approval,
        question,
        indoubt,
        permission,
        task,
        journal,
        definition,
        route,
        token,
    )
    for method in module.METHODS
}
