"""``kheishctl completion``: completion scripts for bash, zsh and fish."""

import click

from kheishctl.cli import App, command

PROGRAM = "kheishctl"
VARIABLE = "_KHEISHCTL_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


# If zsh loads the file from $fpath, it runs the file as the function's body at every call. click's own test
# holds only at the first call, so that every second Tab would do nothing.
_ZSH_LOADED = ("[[ $zsh_eval_context[-1] == loadautofunc ]]", f"[[ $funcstack[1] == _{PROGRAM} ]]")


def build_script(shell: str) -> str:
    """Return the completion script for one of :data:`SHELLS`."""
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None, shell
    generator = completer(click.Group(PROGRAM), {}, PROGRAM, VARIABLE)
    # Not ``source()``: for bash that runs this machine's bash to find its version.
    return generator.source_template.replace(*_ZSH_LOADED) % generator.source_vars()


@command(
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

    The names of agents, sessions, runs and tokens come from the daemon. If it is not running, they are not
    completed, and completion does not wait.
    """
    app.print(build_script(shell).strip("\n"))
