"""``kheishctl completion``: scripts that make shells complete commands, options and names."""

import click

from kheishctl.cli import App, verb

PROGRAM = "kheishctl"
VARIABLE = "_KHEISHCTL_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


# Loaded from $fpath, zsh runs the file as the function's body at every call; click's own test is true at the
# first call only, so that every second Tab would do nothing.
_ZSH_LOADED = ("[[ $zsh_eval_context[-1] == loadautofunc ]]", f"[[ $funcstack[1] == _{PROGRAM} ]]")


def script(shell: str) -> str:
    """The completion script of a shell: one of :data:`SHELLS`."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, shell
    generator = found(click.Group(PROGRAM), {}, PROGRAM, VARIABLE)
    # Not ``source()``: for bash that runs the bash of this machine to look at its version.
    return generator.source_template.replace(*_ZSH_LOADED) % generator.source_vars()


@verb(
    None,
    "completion",
    examples=(
        'eval "$(kheishctl completion bash)"',
        'eval "$(kheishctl completion zsh)"',
        "kheishctl completion fish > ~/.config/fish/completions/kheishctl.fish",
    ),
)
@click.argument("shell", type=click.Choice(SHELLS), help="The shell.")
def completion(app: App, shell: str) -> None:
    """Print a shell's completion script.

    Agents, sessions, runs and tokens complete by asking the daemon; without one they do not, and
    nothing waits.
    """
    app.say(script(shell).strip("\n"))
