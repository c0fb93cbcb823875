"""Format the status of the daemon."""

from kheishctl.contract import Json
from kheishctl.render.layout import Display, format_pairs, paint, wrap
from kheishctl.render.methods import name_commands
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


RELATED = "ID"
"""The word of a command that stands for the object of a warning."""

HEALTH_HINTS: dict[str, tuple[str, ...]] = {
    "after_crash": ("daemon", "logs"),
    "close_stuck": ("daemon", "logs"),
    "configuration": ("daemon", "config"),
    "cron_failing": ("cron", "list"),
    "hook_failing": ("hook", "dead-letters"),
    "loop_lag": ("top",),
    "mail_undelivered": ("mailbox", "dead-letters", RELATED),
    "mcp_failed": ("mcp", "list"),
    "mcp_needs_login": ("mcp", "login", RELATED),
    "reload_refused": ("daemon", "reload"),
    "route_not_ready": ("route", "list"),
    "run_not_started": ("run", "list", "--active"),
    "run_parked": ("daemon", "logs"),
    "run_stuck": ("run", "show", RELATED),
    "secret_unreadable": ("secret", "list"),
    "skill": ("skill", "reload"),
    "store_damaged": ("daemon", "doctor", "--repair"),
    "store_growth": ("daemon", "compact"),
    "store_nearly_full": ("session", "list"),
    "trigger_troubled": ("trigger", "list"),
    "unanswerable": ("run", "list", "--active"),
    "unattended": ("run", "list", "--active"),
    "unknown_name": ("definition", "list"),
}
"""The command that helps with a health warning, for each code; others need none of kheishctl's."""


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


def format_health(result: Json, display: Display) -> list[str]:
    """Return the lines of a status's warnings, each with its remedy below it."""
    width = display.width
    health = result.get("health")
    if health is None:
        # An older daemon reports sentences only.
        warnings = [one_line(f"warning: {warning}") for warning in result["warnings"]]
        return [paint(warning, "yellow", display.color) for warning in warnings]
    lines = []
    for warning in health["warnings"]:
        severity = warning["severity"]
        color = {"critical": "red", "warning": "yellow"}.get(severity, "cyan")
        text = wrap(name_commands(one_line(f"{severity}: {warning['message']}")), width, 2)
        lines += [paint(line, color, display.color) for line in text]
        lines += wrap(f"  {name_commands(one_line(warning['remedy']))}", width, 2)
        related_id = warning.get("related_id")
        words = [related_id if word == RELATED else word for word in HEALTH_HINTS.get(warning["code"], ())]
        if words and None not in words:
            lines.append(one_line(f"  kheishctl {' '.join(words)}"))
    return lines


def format_metrics(result: Json, display: Display) -> str:
    """Format the daemon's metrics, one line for each sample; metrics without any are left out."""
    lines = []
    for metric in result["metrics"]:
        for sample in metric["samples"]:
            labels = ",".join(f"{key}={value}" for key, value in sample.get("labels", {}).items())
            name = f"{metric['name']}{{{labels}}}" if labels else metric["name"]
            text = (
                f"{sample['value']:g}"
                if sample["value"] != int(sample["value"])
                else f"{sample['value']:.0f}"
            )
            if metric["measure"] == "histogram":
                mean = sample["sum"] / sample["value"] if sample["value"] else 0.0
                text += f", mean {mean:.4g}"
            lines.append((one_line(name), text))
    return format_pairs(lines, display)


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
    lines = [paint(one_line(alert), "yellow", display.color) for alert in alerts]
    lines += format_health(result, display)
    if not result["warnings"] and display.width is not None:
        lines.append(paint("healthy", "green", display.color))
    return "\n".join([format_pairs(pairs, display), *lines])
