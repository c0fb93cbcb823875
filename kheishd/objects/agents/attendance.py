"""The person who answers for an agent: anyone, a declared owner, or nobody.

The approvals and questions of a spawned agent, and of forks of it, go to the owner that was declared when it
or an agent above it was spawned. Without one, anyone may answer if it works for a person: its session has the
sender of its parent, or of the run that spawned it. Without both, they go to ``agents.owner`` where
``agents.unattended`` is ``owner``; otherwise they are denied at once, so that no agent waits for nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core.audience import NOBODY
from kheishd.objects.talk.bounds import ancestors
from kheishd.objects.talk.lineage import agent_of
from protocol.audience import Audience

if TYPE_CHECKING:
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from protocol.objects.session import Session

UNATTENDED: Final = (
    "no person is attached to this agent, and no owner is declared, so nobody can be asked: go on without, "
    "or report the problem to your parent"
)
"""The reason of a denial, for the model."""


def find_attendance(store: Snapshot, runtime: Runtime, session: Session) -> Audience | None:
    """Return the audience of requests of an agent to people: None is anyone, an empty one nobody.

    Source: the records of the session and of those above it; none for a root.
    """
    if session.parent_session_id is None:
        return None
    line = (session, *ancestors(store, session))
    agents = (agent_of(store, member) for member in line)
    owner = next((agent.owner for agent in agents if agent is not None and agent.owner is not None), None)
    if owner is None and session.sender is not None:
        return None
    section = runtime.config.agents
    if owner is None and section.unattended == "owner":
        owner = section.owner
    return NOBODY if owner is None else Audience(people=[owner])
