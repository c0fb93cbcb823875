"""What was captured of a run's model calls: listed for who may read, shown to who may operate."""

from kheishd.kernel.call import Call, control
from kheishd.objects.talk.run import find_run
from protocol.objects import run as rows
from protocol.objects.run import Captured, RunDebug


@control(rows.DEBUG)
async def debug(call: Call, params: RunDebug) -> Captured:
    """List what was captured of a run, or read a part of one artifact.

    Errors: RunNotFound, DebugNotFound, ArtifactNotFound; ScopeMissing for who may only list.
    """
    with call.state.read() as store:
        run = find_run(store, call, params.run_id)
    captures = call.control.captures()
    if params.artifact is None:
        found = await captures.artifacts(run.run_id)
        return Captured(run_id=run.run_id, debug=run.pinned.debug, artifacts=found)
    call.caller.need("operate")
    artifact, text, following = await captures.text(run.run_id, params.artifact, params.offset, params.limit)
    return Captured(
        run_id=run.run_id, debug=run.pinned.debug, artifacts=[artifact], text=text, next=following
    )


HANDLERS = (debug,)
