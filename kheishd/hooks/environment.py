"""The environment that a command gets: little, and nothing of the daemon's but what is named here.

A list of what may pass, not of what may not: whoever starts the daemon puts credentials into variables of
any name.
"""

from collections.abc import Mapping

PASSED = frozenset(("PATH", "LANG", "LANGUAGE", "TZ"))
PASSED_PREFIX = "LC_"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def cleaned(environ: Mapping[str, str], workspace: str) -> dict[str, str]:
    """The environment of a command that works in a workspace, out of the daemon's own.

    ``~`` is the workspace: the user's own home holds what is none of a command's business. Nobody is there to
    page through output or to type a password, so programs that would ask are told so.
    """
    passed = {
        name: value for name, value in environ.items() if name in PASSED or name.startswith(PASSED_PREFIX)
    }
    return {
        "PATH": DEFAULT_PATH,
        "LANG": "C.UTF-8",
        **passed,
        "HOME": workspace,
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
    }
