"""Methods in messages."""

import click

from kheishctl.contract import METHODS
from kheishctl.program import root
from kheishctl.render import methods


def test_every_method_has_a_command() -> None:
    """The command of a method exists, and it calls the method or does more than that."""
    ctx = click.Context(root, info_name="kheishctl")
    without = {"rpc.ping", "rpc.cancel", "journal.unsubscribe", "event.unsubscribe"}
    for method in set(METHODS) - without:
        command: click.Command | None = root
        for word in str(methods.find_command(method)).split():
            if isinstance(command, click.Group):
                command = command.get_command(ctx, word)
        assert command is not None, method
        assert getattr(command, "method", None) in (method, None), method


def test_messages_name_commands() -> None:
    """Methods in a message become commands; file names, hosts and other words with dots stay."""
    text = "there is no cron entry 'x.y'; cron.list shows them, see 'memory.recall' and config.toml"
    assert methods.name_commands(text) == (
        "there is no cron entry 'x.y'; 'kheishctl cron list' shows them, see 'kheishctl memory search' and "
        "config.toml"
    )
    words = methods.name_commands("see run.get", lambda *words: " ".join(("ctl", *words)))
    assert words == "see 'ctl run show'"
    for unchanged in ("https://run.get", "run.get/x", "a.run.get", "run.getter"):
        assert methods.name_commands(unchanged) == unchanged
