"""Directories of skills for tests, in the shapes of public collections."""

import os
import time
from pathlib import Path

from kheishd.build.skills import ConfiguredSkills, SkillRegistry
from kheishd.config.sections.skills import SkillsSection
from kheishd.home import Home

COLLECTION = {
    # A description longer than a line, a licence file, and scripts beside the text.
    "document-skills/pdf": (
        "---\nname: pdf\ndescription: Work with PDF files: read, merge and fill forms. When a user mentions "
        "a PDF or a form, use this.\nlicense: Proprietary. LICENSE.txt has complete terms\n---\n\n# PDF\n\n"
        "## Overview\n\n"
        "For forms read FORMS.md.\n\n```python\nimport pypdf\n```\n"
    ),
    "document-skills/spreadsheet": (
        '---\nname: spreadsheet\ndescription: "Create spreadsheets (.xlsx, .csv): formulas, charts"\n'
        "---\n\n# Requirements for outputs\n\n- Zero formula errors\n"
    ),
    "skill-creator": (
        "---\nname: skill-creator\ndescription: Guide for creating effective skills. This skill should be "
        "used when users want to create a new skill (or update one) that extends the agent's capabilities.\n"
        "license: Complete terms in LICENSE.txt\n---\n\n# Skill Creator\n\n1. Understand\n2. Plan\n"
    ),
    "template": "---\nname: template-skill\ndescription: Replace it.\n---\n\n# Insert instructions below\n",
    "commit": (
        "---\nname: commit\ndescription: >\n  Write commit messages.\nallowed-tools: Bash(git add:*), "
        "Bash(git commit:*)\nargument-hint: '[message]'\n---\n\nCommit with the message: $ARGUMENTS\n"
    ),
    "plain": "# Plain\n\nA skill without front matter.\n",
}
"""A collection by directory, all of whose files load unchanged."""


def write_skill(root: Path, directory: str, text: str | None = None, runtime: str | None = None) -> Path:
    """Write a skill below a root, as if some time ago; return its ``SKILL.md``."""
    path = root / directory / "SKILL.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        text if text is not None else f"---\ndescription: Does {path.parent.name}.\n---\nDo it.\n"
    )
    if runtime is not None:
        (path.parent / "agents").mkdir(exist_ok=True)
        (path.parent / "agents" / "kheish.yaml").write_text(runtime)
    settle(root)
    return path


def settle(root: Path) -> None:
    """Let a root's directories look old, so that a scan remembers their times."""
    old = time.time() - 10
    for path in (root, *(path for path in root.rglob("*") if path.is_dir())):
        if time.time() - path.stat().st_mtime < 1:
            old += 0.001
            os.utime(path, (old, old))


def make_skills(home: Path, *roots: Path, user: Path | None = None) -> ConfiguredSkills:
    """Return the skills of a home and of configured roots, without threads."""
    section = SkillsSection(roots=[str(root) for root in roots])
    return ConfiguredSkills(SkillRegistry(), section, Home(home), user=user, in_threads=False)
