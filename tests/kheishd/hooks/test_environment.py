"""The environment of a command: what passes, and that nothing else does."""

from kheishd.hooks.environment import DEFAULT_PATH, cleaned


def test_little_passes() -> None:
    """Where programs are, how to speak, what time it is; no credential under any name."""
    environ = {
        "PATH": "/opt/bin:/usr/bin",
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "TZ": "Europe/Berlin",
        "HOME": "/home/ada",
        "ANTHROPIC_API_KEY": "canary",
        "MY_LANG": "canary",
        "https_proxy": "http://ada:canary@proxy",
        "LD_PRELOAD": "canary.so",
        "BASH_FUNC_ls%%": "() { canary; }",
        "KHEISH_CALL": "canary",
        "TERM": "xterm-canary",
    }
    passed = cleaned(environ, "/srv/project")
    assert "canary" not in repr(passed)
    assert passed == {
        "PATH": "/opt/bin:/usr/bin",
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "TZ": "Europe/Berlin",
        "HOME": "/srv/project",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
    }


def test_a_bare_environment_is_enough() -> None:
    """Started by nobody in particular, a command still finds its programs and writes UTF-8."""
    assert cleaned({}, "/w")["PATH"] == DEFAULT_PATH
    assert cleaned({}, "/w")["LANG"] == "C.UTF-8"
