"""What an agent means to do: its todos, its plan, and plan mode, in which it only reads and asks. Pure.

Entering plan mode makes ``plan`` the session's permission mode and remembers the one before; leaving it makes
that one the mode again. It is only ever the session's own mode, so what bounds it from above (the daemon, the
agent's definition, the sessions above) bounds it afterwards as before. A mode that somebody sets meanwhile
counts, and ends plan mode.
"""

from msgspec.structs import replace

from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.journal.envelope import Envelope
from protocol.objects.session import Session


def evolve(session: Session, envelope: Envelope, event: TodosWritten | PlanEntered | PlanExited) -> Session:
    """The session after its agent planned something."""
    match event:
        case TodosWritten():
            return replace(session, todos_cursor=envelope.cursor)
        case PlanEntered():
            if session.plan_mode:
                return session
            mode = session.permission_mode
            return replace(session, plan_mode=True, pre_plan_mode=mode, permission_mode="plan")
        case PlanExited():
            return replace(unplanned(session), plan_cursor=envelope.cursor)


def unplanned(session: Session) -> Session:
    """The session as it is when its agent has left plan mode: what its next run may do at most."""
    if not session.plan_mode:
        return session
    return replace(session, plan_mode=False, pre_plan_mode=None, permission_mode=session.pre_plan_mode)


def mode_set(session: Session) -> Session:
    """The session once somebody has set its permission mode."""
    return replace(session, plan_mode=False, pre_plan_mode=None)
