"""The catalogue of all methods, by name. The dispatcher serves it, OpenRPC describes it, tests walk it."""

from protocol.objects import (
    agent,
    approval,
    conversation,
    daemon,
    definition,
    indoubt,
    journal,
    mailbox,
    output,
    permission,
    persona,
    question,
    route,
    rpc,
    run,
    session,
    skill,
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
        agent,
        approval,
        question,
        indoubt,
        permission,
        task,
        mailbox,
        journal,
        definition,
        persona,
        skill,
        route,
        token,
    )
    for method in module.METHODS
}
