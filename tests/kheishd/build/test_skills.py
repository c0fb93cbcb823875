"""Discovery: roots and their precedence, limits, bad files, and changes while a daemon runs."""

import os
from pathlib import Path
from threading import Lock

import pytest

from kheishd.build import skills as skills_module
from kheishd.build.skills import ConfiguredSkills, SkillRegistry
from kheishd.config.sections.skills import SkillsSection
from kheishd.home import Home
from protocol.errors.skill import SkillUnusable
from protocol.limits.skill import MAX_SKILL_DEPTH, MAX_SKILL_FILE_BYTES
from tests.support.skills import COLLECTION, make_skills, settle, write_skill


def names(skills: ConfiguredSkills, *workspaces: str) -> list[str]:
    """Return the names in the catalogue."""
    return list(skills.catalogue(workspaces).skills)


def test_a_public_collection_loads_unchanged(tmp_path: Path) -> None:
    """Every skill of a collection is found by its own name; a template's name is not its directory's."""
    for directory, text in COLLECTION.items():
        write_skill(tmp_path / "skills", directory, text)
    (tmp_path / "skills" / "document-skills" / "pdf" / "FORMS.md").write_text("Forms.")
    catalogue = make_skills(tmp_path).catalogue()
    assert list(catalogue.skills) == [
        "commit",
        "pdf",
        "plain",
        "skill-creator",
        "spreadsheet",
        "template-skill",
    ]
    # Only the text with a colon and without quotes is odd.
    (warning,) = catalogue.warnings
    assert warning.startswith(f"{tmp_path}/skills/document-skills/pdf/SKILL.md:3: ")


def test_roots_and_precedence(tmp_path: Path) -> None:
    """Configured roots come first, then the workspace's, the home's and the user's."""
    config, workspace, user = tmp_path / "config", tmp_path / "workspace", tmp_path / "user"
    roots = {
        "config": config,
        "workspace": workspace / "skills",
        "workspace-claude": workspace / ".claude/skills",
        "workspace-agents": workspace / ".agents/skills",
        "home": tmp_path / "skills",
        "user": user / ".claude/skills",
        "user-agents": user / ".agents/skills",
    }
    for name, root in roots.items():
        write_skill(root, name)
        write_skill(root, "same", f"---\nname: same\ndescription: from {name}\n---\n")
    skills = make_skills(tmp_path, config, user=user)
    assert set(names(skills)) == {"config", "home", "user", "user-agents", "same"}
    catalogue = skills.catalogue([str(workspace)])
    assert set(catalogue.skills) == {*roots, "same"}
    assert catalogue.skills["same"].description == "from config"
    assert [catalogue.skills[name].origin for name in ("config", "workspace", "home", "user")] == [
        "config",
        "workspace",
        "home",
        "user",
    ]
    assert len(catalogue.warnings) == 6
    assert f"there is a skill 'same' already, in {config}/same/SKILL.md" in catalogue.warnings[0]
    section = SkillsSection(user=False)
    assert names(ConfiguredSkills(SkillRegistry(), section, Home(tmp_path), user=user)) == ["home", "same"]


def test_a_workspace_shadows_no_skill_of_the_daemon(tmp_path: Path) -> None:
    """Agents write in their workspace: a skill there that has the name of another one is a warning."""
    for root in ("home/skills", "user/.claude/skills"):
        write_skill(tmp_path / root, root[:4], "---\ndescription: d\nallowed-tools: Read\n---\n")
        write_skill(tmp_path / "work" / "skills", root[:4], "---\ndescription: loose\n---\n")
    skills = make_skills(tmp_path / "home", user=tmp_path / "user")
    catalogue = skills.catalogue([str(tmp_path / "work")])
    assert [(skill.name, skill.origin) for skill in catalogue.skills.values()] == [
        ("home", "home"),
        ("user", "user"),
    ]
    assert all(
        f"{tmp_path}/work/skills/" in warning and "already" in warning for warning in catalogue.warnings
    )


def test_one_root_by_two_names_counts_once(tmp_path: Path) -> None:
    """Roots are compared by their real paths, and so are the skills in nested roots."""
    write_skill(tmp_path / "real", "collection/a")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    skills = make_skills(tmp_path, tmp_path / "link", tmp_path / "real", tmp_path / "real" / "collection")
    catalogue = skills.catalogue()
    assert list(catalogue.skills) == ["collection:a", "a"] or list(catalogue.skills) == ["a", "collection:a"]
    assert catalogue.warnings == ()


def test_a_missing_configured_root_is_a_warning(tmp_path: Path) -> None:
    """Only roots in the configuration must exist."""
    catalogue = make_skills(tmp_path, tmp_path / "none").catalogue()
    assert catalogue.warnings == (
        f"the skill root {tmp_path}/none does not exist; create it, or remove it from skills.roots",
    )


def test_default_names_and_nesting(tmp_path: Path) -> None:
    """A skill without a name has that of its path. A root may be a skill, a directory in one is not."""
    root = tmp_path / "skills"
    write_skill(root, "", "At the root.")
    write_skill(root, "a/b", "Nested.")
    write_skill(root, "a/b/inside", "An example within a skill.")
    write_skill(root, ".hidden", "Hidden.")
    write_skill(root, "/".join("abcdef"), "At the limit.")
    write_skill(root, "x/" * MAX_SKILL_DEPTH + "deep", "Too deep.")
    (tmp_path / "elsewhere").mkdir()
    write_skill(tmp_path / "elsewhere", "linked", "Linked.")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    assert names(make_skills(tmp_path)) == ["a:b", "skills"]


@pytest.mark.parametrize(
    ("text", "runtime", "problem"),
    [
        ("---\nname: [\n---\n", None, "SKILL.md:3: while parsing"),
        ("---\nname: ../x\ndescription: d\n---\n", None, "SKILL.md:2: name"),
        (
            "x" * (5 * 1024 * 1024),
            None,
            f"SKILL.md:1: the file is too large; the limit is {MAX_SKILL_FILE_BYTES}",
        ),
        ("d", "context: fork\nmode: x", "agents/kheish.yaml:2: mode: unknown key"),
    ],
)
def test_a_bad_file_is_one_warning(tmp_path: Path, text: str, runtime: str | None, problem: str) -> None:
    """It names the file and the line, is logged once, and the other skills are used."""
    write_skill(tmp_path / "skills", "good")
    write_skill(tmp_path / "skills", "bad", text, runtime)
    skills = make_skills(tmp_path)
    assert skills.warnings == ()
    catalogue = skills.catalogue()
    assert list(catalogue.skills) == ["good"]
    (warning,) = catalogue.warnings
    assert problem in warning
    assert warning.startswith(f"{tmp_path}/skills/bad/")
    assert skills.warnings == catalogue.warnings


def test_files_that_are_no_files(tmp_path: Path) -> None:
    """A pipe waits for nobody, and a workspace's link to a private file shows nothing of it."""
    root = tmp_path / "work" / "skills"
    write_skill(root, "linked").unlink()
    (tmp_path / "private").write_text("secret words")
    (root / "linked" / "SKILL.md").symlink_to(tmp_path / "private")
    write_skill(root, "pipe").unlink()
    os.mkfifo(root / "pipe" / "SKILL.md")
    catalogue = make_skills(tmp_path).catalogue([str(tmp_path / "work")])
    assert not catalogue.skills
    assert [warning.split(": ", 1)[1] for warning in catalogue.warnings] == [
        "a symbolic link, which is not followed in a workspace",
        "not a regular file",
    ]


def test_limits_of_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories, entries and bytes of one root are limited; each limit is one warning."""
    for number in range(6):
        write_skill(tmp_path / "skills", f"s{number}")
    for limit, value, found in (
        ("MAX_SKILL_DIRECTORIES", 3, ["s0", "s1", "s2"]),
        ("MAX_SCAN_ENTRIES", 8, ["s0", "s1"]),
        ("MAX_SCAN_BYTES", 100, ["s0", "s1"]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(skills_module, limit, value)
            catalogue = make_skills(tmp_path).catalogue()
        assert len(catalogue.warnings) == 1, limit
        assert list(catalogue.skills)[:2] == found[:2], limit
        assert len(catalogue.skills) < 6, limit
    monkeypatch.setattr(skills_module, "MAX_SCAN_WARNINGS", 2)
    for number in range(6):
        write_skill(tmp_path / "skills", f"s{number}", "---\nname: [\n---\n")
    warnings = make_skills(tmp_path).catalogue().warnings
    assert warnings[2:] == ("and 4 more warnings about skills",)


async def test_new_and_removed_skills_are_found_by_a_refresh(tmp_path: Path) -> None:
    """A skill that is written while the daemon runs is found without reading the others again."""
    root = tmp_path / "skills"
    write_skill(root, "group/a")
    skills = make_skills(tmp_path)
    assert names(skills) == ["group:a"]
    before = skills.catalogue()
    await skills.refresh()
    assert skills.catalogue() is before
    # First the directory, and the file only after the next look.
    (root / "group" / "b").mkdir()
    await skills.refresh()
    assert names(skills) == ["group:a"]
    (root / "group" / "b" / "SKILL.md").write_text("Text.")
    await skills.refresh()
    assert names(skills) == ["group:a", "group:b"]
    (root / "group" / "a" / "SKILL.md").unlink()
    (root / "group" / "a").rmdir()
    await skills.refresh()
    assert names(skills) == ["group:b"]


async def test_a_root_that_appears_later(tmp_path: Path) -> None:
    """A root need not exist at the first look."""
    skills = make_skills(tmp_path)
    assert names(skills) == []
    write_skill(tmp_path / "skills", "late")
    await skills.refresh()
    assert names(skills) == ["late"]


async def test_changed_files_are_read_by_a_reload(tmp_path: Path) -> None:
    """A change in place is noticed by a reload, and by each reading of the skill."""
    path = write_skill(tmp_path / "skills", "a", "Old.")
    settle(tmp_path / "skills")
    skills = make_skills(tmp_path)
    skill = skills.catalogue().skills["a"]
    path.write_text("New and longer.")
    await skills.refresh()
    assert skills.catalogue().skills["a"].description == "Old."
    assert skills.read(skill).instructions == "New and longer."
    assert skills.reload().skills["a"].description == "New and longer."


def test_a_skill_that_was_spoilt_since(tmp_path: Path) -> None:
    """Reading a skill that is gone, renamed or broken names the file and the line."""
    path = write_skill(tmp_path / "skills", "a", "---\nname: a\ndescription: d\n---\n")
    skills = make_skills(tmp_path)
    skill = skills.catalogue().skills["a"]
    for text, problem in (
        ("---\nname: b\ndescription: d\n---\n", "is called 'b' now"),
        ("---\na: [\n---\n", ":3: "),
    ):
        path.write_text(text)
        with pytest.raises(SkillUnusable, match=problem):
            skills.read(skill)
    path.unlink()
    with pytest.raises(SkillUnusable, match=r"a/SKILL\.md:1: No such file"):
        skills.read(skill)


async def test_threads(tmp_path: Path) -> None:
    """By default, a refresh scans in a thread."""
    write_skill(tmp_path / "skills", "a")
    skills = ConfiguredSkills(SkillRegistry(), SkillsSection(), Home(tmp_path))
    await skills.refresh()
    assert names(skills) == ["a"]


def test_workspaces_that_are_no_longer_used_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scans of many workspaces do not add up; one that comes back is scanned again."""
    monkeypatch.setattr(skills_module, "MAX_SCANS", 8)
    write_skill(tmp_path / "w0" / "skills", "first")
    skills = make_skills(tmp_path)
    for number in range(6):
        assert ("first" in names(skills, str(tmp_path / f"w{number}"))) == (number == 0)
    assert len(skills._registry._scans) <= 8
    assert names(skills, str(tmp_path / "w0")) == ["first"]


def test_links_of_a_workspace_are_not_followed(tmp_path: Path) -> None:
    """A root that is a link out of the workspace has no skills until it is a directory."""
    write_skill(tmp_path / "outside", "a")
    workspace = tmp_path / "work"
    workspace.mkdir()
    (workspace / "skills").symlink_to(tmp_path / "outside")
    skills = make_skills(tmp_path)
    (warning,) = skills.catalogue([str(workspace)]).warnings
    assert "a symbolic link is not followed in a workspace" in warning
    (workspace / "skills").unlink()
    write_skill(workspace / "skills", "b")
    assert list(skills.catalogue([str(workspace)], fresh=True).skills) == ["b"]


def test_files_that_take_long_are_read_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan on the event loop reads one file after its time is over, and each look reads more."""
    for name in "abc":
        write_skill(tmp_path / "skills", name)
    monkeypatch.setattr(skills_module, "MAX_READ_SECONDS_AT_ONCE", 1e-9)
    skills = ConfiguredSkills(SkillRegistry(), SkillsSection(), Home(tmp_path))
    for expected in (["a"], ["a", "b"], ["a", "b", "c"]):
        assert list(skills.catalogue(fresh=True).skills) == expected
    assert "takes long" in skills.warnings[0]
    assert list(skills.catalogue(fresh=True).skills) == ["a", "b", "c"]
    assert skills.warnings == ()


def test_a_scan_in_a_thread_holds_up_no_request(tmp_path: Path) -> None:
    """The event loop uses the last scan while a thread scans a root, and scans other roots."""
    write_skill(tmp_path / "skills", "a")
    registry = SkillRegistry()
    skills = ConfiguredSkills(registry, SkillsSection(), Home(tmp_path))
    root = skills_module.SkillRoot(os.path.realpath(tmp_path / "skills"), "home")
    with registry._scanning.setdefault(root, Lock()):
        assert list(skills.catalogue(fresh=True).skills) == []
        write_skill(tmp_path / "work" / "skills", "b")
        assert list(skills.catalogue([str(tmp_path / "work")], fresh=True).skills) == ["b"]
    assert list(skills.catalogue(fresh=True).skills) == ["a"]
