"""List the handlers of all methods, for the dispatcher."""

from kheishd.kernel.call import Handler


def handlers() -> tuple[Handler, ...]:
    """Import all modules with handlers, and return their handlers."""
    from kheishd.objects.agents import agent, goal, mailbox, memory, memory_context, persona, skill
    from kheishd.objects.node import (
        daemon,
        definition,
        hook,
        journal,
        mcp,
        mcp_login,
        route,
        rpc,
        secret,
        token,
        workspace,
    )
    from kheishd.objects.people import approval, audit, indoubt, permission, question
    from kheishd.objects.talk import (
        compaction,
        conversation,
        fork,
        history,
        output,
        run,
        search,
        send,
        session,
        steer,
        stop,
        transfer,
    )
    from kheishd.objects.wake import cron, event, trigger
    from kheishd.objects.work import checkpoint, task

    talk = (
        conversation,
        session,
        send,
        steer,
        stop,
        compaction,
        history,
        search,
        fork,
        run,
        output,
        transfer,
    )
    people = (approval, question, indoubt, permission, audit)
    node = (rpc, daemon, journal, definition, route, mcp, mcp_login, secret, token, workspace, hook)
    agents = (agent, mailbox, memory, memory_context, persona, skill, goal)
    modules = (*talk, *people, task, checkpoint, *agents, *node, cron, event, trigger)
    return tuple(handler for module in modules for handler in module.HANDLERS)
