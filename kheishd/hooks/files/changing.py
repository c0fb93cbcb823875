"""One call that changes files, from what is there to what became of it: shown, noted, done, looked into.

All four begin with what is found and what the orders make of it. These functions wait for the disk; they run
in threads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kheishd.hooks.files.applying import apply, locked, put_back, tidy
from kheishd.hooks.files.confine import Root, open_root
from kheishd.hooks.files.diffs import diff_of
from kheishd.hooks.files.looking import Found, look
from kheishd.hooks.files.planning import Change, Order, binding_of, paths_of, plan
from kheishd.kernel.hook import ProbeResult, Stale, ToolError
from protocol.objects.approval import Preview


def shown(workspace: str, orders: Sequence[Order]) -> Preview:
    """What would happen, bound to the files as they are. Errors: ToolError if it could not be done."""
    with open_root(workspace) as root:
        founds = _found(root, orders)
    return Preview(kind="diff", text=diff_of(plan(orders, founds)), binding=binding_of(founds))


def noted(workspace: str, orders: Sequence[Order]) -> dict[str, Any]:
    """Digests of the files, in order of their paths, before and after; nothing where it cannot be done."""
    try:
        with open_root(workspace) as root:
            changes = plan(orders, _found(root, orders))
    except ToolError:
        return {}
    return {
        "before": [change.found.digest for change in changes],
        "after": [change.digest for change in changes],
    }


def changed(workspace: str, orders: Sequence[Order], key: str, binding: str | None) -> list[Change]:
    """Do it: all of it or nothing.

    Errors: ToolError; Stale if the files are not those that ``binding`` was made from.
    """
    with open_root(workspace) as root, locked(root):
        founds = _found(root, orders)
        if binding is not None and binding_of(founds) != binding:
            raise Stale("the files are no longer what they were when the change was shown")
        changes = plan(orders, founds)
        apply(root, changes, key)
        return changes


def looked_into(
    workspace: str, orders: Sequence[Order], key: str, evidence: Mapping[str, Any]
) -> ProbeResult:
    """What became of a call that the daemon died in. One that was half done is undone, where it can be."""
    paths = paths_of(orders)
    before, after = evidence.get("before", ()), evidence.get("after", ())
    if not len(paths) == len(before) == len(after):
        return ProbeResult("unknown", "nothing was noted before it began")
    with open_root(workspace) as root, locked(root):
        founds = _found(root, orders)
        digests = [founds[path].digest for path in paths]
        if digests not in (before, after) and all(map(_either, digests, before, after)):
            for path, digest in zip(paths, before, strict=True):
                put_back(root, path, key, digest)
            digests = [found.digest for found in _found(root, orders).values()]
        for path in paths:
            tidy(root, path, key)
    return _finding(digests, list(before), list(after))


def _either(digest: str, before: str, after: str) -> bool:
    return digest in (before, after)


def _finding(digests: list[str], before: list[str], after: list[str]) -> ProbeResult:
    if digests == after:
        return ProbeResult("done", "every file is what the call was to make of it")
    if digests == before:
        return ProbeResult("not_done", "every file is what it was before the call")
    return ProbeResult(
        "unknown", "the files are neither what they were nor what they were to be", {"found": digests}
    )


def _found(root: Root, orders: Sequence[Order]) -> dict[str, Found]:
    return {path: look(root, path) for path in paths_of(orders)}
