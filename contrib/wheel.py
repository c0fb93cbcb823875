"""The hook of hatchling that builds the wheel: packages, man pages, completions and units.

``protocol`` is a name that other projects use, too. It is short in the source tree; installed, it is the
package ``kheish_protocol``. Only import statements name it, so the wheel has the same lines with another name
in those. An editable install imports from the source tree and is not affected.
"""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAMES = {"kheishd": "kheishd", "kheishctl": "kheishctl", "protocol": "kheish_protocol"}
"""The packages of the source tree, and their names in the wheel."""

SHARED = {
    "contrib/man/*.1": "share/man/man1",
    "contrib/man/*.8": "share/man/man8",
    "contrib/completions/_kheishctl": "share/zsh/site-functions",
    "contrib/completions/*.fish": "share/fish/vendor_completions.d",
    "contrib/systemd/kheishd.*": "share/kheish/systemd/system",
    "contrib/systemd/user/kheishd.*": "share/kheish/systemd/user",
}
"""Files of the source tree, and their directories below the prefix of the installation."""

IMPORT = re.compile(rb"^(\s*from )protocol(?=[. ])", re.MULTILINE)


class WheelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Write the packages of the wheel to a temporary directory, from which it is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the packages to a wheel that is not editable."""
        if version == "editable":
            return
        self._directory = Path(tempfile.mkdtemp())
        for source, name in NAMES.items():
            package = self._directory / name
            shutil.copytree(Path(self.root, source), package, ignore=shutil.ignore_patterns("__pycache__"))
            for path in package.rglob("*.py"):
                path.write_bytes(IMPORT.sub(rb"\1kheish_protocol", path.read_bytes()))
            build_data["force_include"][str(package)] = name
        shared = build_data["shared_data"]
        for pattern, target in SHARED.items():
            shared |= {str(path): f"{target}/{path.name}" for path in Path(self.root).glob(pattern)}
        # bash loads a completion by the name of the command.
        bash = Path(self.root, "contrib/completions/kheishctl.bash")
        shared[str(bash)] = f"share/bash-completion/completions/{bash.stem}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary directory."""
        if version != "editable":
            shutil.rmtree(self._directory)
