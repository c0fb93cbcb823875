"""Limits of skills."""

from protocol.limits.units import KIB

# A SKILL.md. The ecosystem recommends less than 20 KiB. The text of an active skill, with its arguments put
# in, is one chunk of a blob (192 KiB).
MAX_SKILL_FILE_BYTES = 128 * KIB
MAX_SKILL_TEXT_BYTES = 160 * KIB

# YAML: the front matter of a SKILL.md, and agents/kheish.yaml. Python's parser takes 0.2 ms per KiB.
MAX_SKILL_YAML_BYTES = 16 * KIB

# The specification's limit of names.
MAX_SKILL_NAME_BYTES = 64

# Texts of one line each. The specification permits descriptions of 1,024 characters; longer ones are cut.
MAX_SKILL_DESCRIPTION_CHARACTERS = 1_024

# The tools that one skill allows or blocks, in the session's record while the skill is active.
MAX_SKILL_TOOLS = 64

# About 1,000 tokens; longer data belongs in a file.
MAX_SKILL_ARGUMENTS_BYTES = 4 * KIB

# The active skills of a session: 32 with a few tools each take 6 KiB of the session's record, which each
# event writes again. Their texts take at most 64,000 tokens of a prompt.
MAX_ACTIVE_SKILLS = 32
MAX_ACTIVE_SKILLS_BYTES = 6 * KIB
MAX_ACTIVE_TEXT_BYTES = 256 * KIB

# The scan of one root: a depth and a number of directories that no collection of skills needs.
MAX_SKILL_DEPTH = 6
MAX_SKILL_DIRECTORIES = 2_000

# Configured roots, and the directories from a workspace up to its root that may have skills.
MAX_SKILL_ROOTS = 16

# The list of available skills in a prompt: 2,000 tokens, whatever the number of skills.
MAX_LISTED_SKILL_CHARACTERS = 240
MAX_LISTED_SKILLS_CHARACTERS = 8_000
