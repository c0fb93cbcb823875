"""Format the status of the daemon."""

from kheishctl.contract import Json
from kheishctl.render.layout import Display, format_pairs, paint
from kheishctl.render.units import format_duration, format_local, format_size
from protocol import __version__
from protocol.text import one_line

# The kinds of pending requests in the daemon's counts, with their names for one and for several.
PENDING = (
    ("approvals", "approval", "approvals"),
    ("questions", "question", "questions"),
    ("indoubts", "call in doubt", "calls in doubt"),
)

SANDBOX_STATES = {
    "works": "works",
    "required": "does not work, so no command runs",
    "off": "off: commands run without it",
    "unavailable": "does not work, and commands run without it",
    "untested": "not tried yet",
}
"""The states of the sandbox of commands."""


def describe_version_difference(version: str) -> str:
    """Return a sentence that names the versions of the daemon and of this program."""
    return f"the daemon is version {version}, this kheishctl is {__version__}"


def _format_restore(restored: Json | None) -> str:
    """Describe the newest restore; empty if there was none."""
    if restored is None:
        return ""
    runs, indoubts = restored["runs"], restored["indoubts"]
    made, at = format_local(restored["backup_at_ms"]), format_local(restored["restored_at_ms"])
    return (
        f"{at}, from a backup of {made}; "
        f"{runs} {'run' if runs == 1 else 'runs'} interrupted, {indoubts} "
        f"{'call' if indoubts == 1 else 'calls'} in doubt"
    )


def format_daemon_status(result: Json, display: Display) -> str:
    """Format the daemon's status in a few lines; warnings come last, where people notice them."""
    counts, disk = result["counts"], result["disk"]
    version = str(result["version"])
    conversations = f"{counts['conversations']} conversation" + "s" * (counts["conversations"] != 1)
    # An older daemon does not count pending requests.
    numbers = [(counts.get(name, 0), singular, plural) for name, singular, plural in PENDING]
    pending = [
        f"{count} {singular if count == 1 else plural}" for count, singular, plural in numbers if count
    ]
    agent, route = result.get("default_agent", "default"), result.get("default_route", "offline")
    # An older daemon does not report the sandbox of commands.
    status = result.get("sandbox")
    sandbox = ""
    if status is not None:
        sandbox = f"{SANDBOX_STATES.get(status['state'], status['state'])} (mode {status['mode']})"
        sandbox += f": {status['problem']}" if status.get("problem") else ""
        sandbox += f"; network {status.get('network', 'closed')}"
    pairs = [
        ("daemon", f"version {version}, pid {result['pid']}, up {format_duration(result['uptime_s'])}"),
        ("home", result["home"]),
        ("listening", ", ".join(result["listeners"])),
        ("default", f"agent {agent}, route {route}"),
        ("sessions", f"{counts['sessions']} in {conversations}"),
        ("runs", f"{counts['runs']}, {counts['runs_active']} active, {counts['runs_ready']} ready"),
        ("waiting", ", ".join(pending)),
        ("clients", f"{counts['connections']} connected, {counts['subscriptions']} following"),
        ("disk", f"{format_size(disk['used_bytes'])} used, {format_size(disk['free_bytes'])} free"),
        ("memory", format_size(result["memory_bytes"])),
        ("sandbox", sandbox),
        ("journal", f"at cursor {result['cursor']}"),
        ("restored", _format_restore(result.get("restored"))),
    ]
    alerts = [] if version == __version__ else [describe_version_difference(version)]
    if result.get("draining"):
        alerts.append("The daemon is stopping and accepts no new work.")
    alerts += [f"warning: {warning}" for warning in result["warnings"]]
    lines = [paint(one_line(alert), "yellow", display.color) for alert in alerts]
    if not result["warnings"] and display.width is not None:
        lines.append(paint("healthy", "green", display.color))
    return "\n".join([format_pairs(pairs, display), *lines])
