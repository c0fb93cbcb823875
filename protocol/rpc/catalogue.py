"""The catalogue of all methods, by name. The dispatcher serves it, OpenRPC describes it, tests walk it."""

from protocol.objects import (
    agent,
    approval,
    conversation,
    daemon,
    definition,
    event,
    goal,
    indoubt,
    journal,
    mailbox,
    memory,
    memory_context,
    output,
    permission,
    persona,
    question,
    route,
    rpc,
    run,
    secret,
    session,
    skill,
    task,
    token,
    trigger,
    workspace,
)
from protocol.rpc.method import AnyMethod

METHODS: dict[str, AnyMethod] = {
    method.name: method
    for module in (
        rpc,
        daemon,
        conversation,
        session,
        memory_context,
        run,
        output,
        agent,
        approval,
        question,
        indoubt,
        permission,
        task,
        goal,
        mailbox,
        memory,
        journal,
        definition,
        persona,
        skill,
        route,
        token,
        workspace,
        secret,
        event,
        trigger,
    )
    for method in module.METHODS
}
