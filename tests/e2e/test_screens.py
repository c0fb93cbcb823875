"""Screens of the chat as text files, which a review can read: ``screens/*.txt``.

A test waits until the screen is exactly that of its file. After a change on purpose, a run with
``WRITE_SCREENS=1`` writes the files anew.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chat_daemon import ChatDaemon, make_approval, serve_chat
from tests.support.daemons import short_home
from tests.support.terminal import Terminal

SCREENS = Path(__file__).parent / "screens"

ANSWER = """# Findings

The loop in `total` never ends:

```python
def total(rows):
    while rows:
        yield sum(rows)
```

| file | line |
|---|---|
| shop.py | 12 |
| cart.py | 340 |
"""

DIFF = """--- shop.py
+++ shop.py
@@ -1,2 +1,2 @@
-    while rows:
+    for row in rows:
         yield sum(rows)
"""


@pytest.fixture
def daemon() -> Iterator[ChatDaemon]:
    """Provide the fake daemon of a conversation with an answer."""
    with short_home() as home, serve_chat(home) as daemon:
        for cursor, role, text in ((1, "user", "Why does it hang?"), (2, "assistant", ANSWER)):
            message = {"role": role, "items": [{"kind": "text", "text": text}]}
            daemon.history.append({"cursor": cursor, "message": message})
        yield daemon


def fill(daemon: ChatDaemon) -> None:
    """Emit a failed command and an edit that needs approval."""
    daemon.request_call("call_1", command="make tests")
    daemon.emit("tool_called", call_id="call_1", tool="bash", attempt=1)
    output = "".join(f"test {number} passed\n" for number in range(20)) + "test 20 failed\n"
    result = json.dumps({"exit_code": 2, "stdout": output, "stderr": ""})
    daemon.emit("tool_returned", call_id="call_1", tool="bash", how="returned", text=result, took_ms=2_000)
    preview = {"kind": "diff", "text": DIFF}
    daemon.emit("approval_requested", **make_approval(2, "", tool="edit_file", preview=preview))


@pytest.mark.parametrize(
    ("columns", "rows", "environ"),
    [
        (40, 12, {}),
        (80, 24, {}),
        (200, 50, {}),
        (80, 24, {"LANG": "C", "LC_ALL": "C"}),
        (80, 24, {"NO_COLOR": "1"}),
        (80, 24, {"COLORFGBG": "0;15"}),
    ],
    ids=["small", "usual", "large", "C", "plain", "light"],
)
def test_screen(daemon: ChatDaemon, tmp_path: Path, columns: int, rows: int, environ: dict[str, str]) -> None:
    """The screen is the one in the file of its size, with every locale and background."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "chat"]
    path = SCREENS / f"{columns}x{rows}.txt"
    environ = {"XDG_STATE_HOME": str(tmp_path), **environ}
    with Terminal(command, environ, columns=columns, rows=rows) as terminal:
        fill(daemon)
        if os.environ.get("WRITE_SCREENS"):
            terminal.sees("deny")
            path.write_text("\n".join(terminal.lines).rstrip() + "\n")
        screen = path.read_text()
        terminal.until(lambda _: "\n".join(terminal.lines).rstrip() + "\n" == screen, f"the screen of {path}")
        assert ("\x1b[31m" in terminal.raw) is ("NO_COLOR" not in environ)


def test_plain_screen(daemon: ChatDaemon, tmp_path: Path) -> None:
    """A dumb terminal has the same texts as lines, each once, and no escape sequence."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "chat"]
    path = SCREENS / "plain.txt"
    environ = {"XDG_STATE_HOME": str(tmp_path), "TERM": "dumb", "LANG": "C", "LC_ALL": "C"}
    with Terminal(command, environ, columns=80, rows=50) as terminal:
        fill(daemon)
        terminal.sees("type: allow")
        terminal.sees("user>")
        if os.environ.get("WRITE_SCREENS"):
            path.write_text(f"{terminal.text}\n")
        assert f"{terminal.text}\n" == path.read_text()
        assert "\x1b" not in terminal.raw
