"""Debug captures of a run: listing requires the scope ``read``, reading ``operate``."""

from kheishd.kernel.call import Call, control
from kheishd.objects.talk.run import find_run
from kheishd.store.tables import PINNED
from protocol.objects import run as rows
from protocol.objects.run import DebugCapture, RunDebug


@control(rows.DEBUG)
async def debug(call: Call, params: RunDebug) -> DebugCapture:
    """List the artifacts captured of a run, or read a part of one.

    Errors: RunNotFound, DebugNotFound, ArtifactNotFound; ScopeMissing for a caller who may only list.
    """
    with call.state.read() as store:
        run = find_run(store, call, params.run_id)
        level = store.need(PINNED, run.run_id).debug
    captures = call.services.captures
    if params.artifact is None:
        artifacts = await captures.list_artifacts(run.run_id)
        return DebugCapture(run_id=run.run_id, debug=level, artifacts=artifacts)
    call.caller.need("operate")
    artifact, text, next_offset = await captures.read_text(
        run.run_id, params.artifact, params.offset, params.limit
    )
    return DebugCapture(run_id=run.run_id, debug=level, artifacts=[artifact], text=text, next=next_offset)


HANDLERS = (debug,)
