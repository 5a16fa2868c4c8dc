"""docs/restore.md and the README tell what a restore may leave out, and how it exits, as it is."""

import re
from pathlib import Path

from stepvault.engines.mysql import target
from stepvault.engines.postgres import omit
from stepvault_cli import common

ROOT = Path(__file__).parents[2]
RESTORE = (ROOT / "docs" / "restore.md").read_text()
README = (ROOT / "README.md").read_text()


def kinds(engine: str) -> set[str]:
    row = next(line for line in RESTORE.splitlines() if line.startswith(f"| {engine}"))
    return set(re.findall(r"`([^`]+)`", row))


def test_the_kinds_of_postgresql_are_those_of_the_engine() -> None:
    assert kinds("PostgreSQL") == {*omit._KINDS, omit.TABLESPACES, f"{omit._EXTENSION}NAME"}


def test_the_kinds_of_mysql_are_those_of_the_engine() -> None:
    plural = {kind for kind in kinds("MySQL") if ":" not in kind}
    assert plural == {*target._SINGULAR, "accounts"}
    for single in kinds("MySQL") - plural:
        assert single.partition(":")[0] in target._SINGULAR.values()


def test_every_exit_code_is_in_the_readme_and_in_the_help() -> None:
    codes = {common.FAILED, common.INTERRUPTED, *common._CODES.values()}
    listed = README.partition("Exit codes: ")[2].partition(".\n")[0]
    assert {int(code) for code in re.findall(r"\b(\d+) ", listed)} == {0, *codes}
    assert {int(code) for code in re.findall(r"^  (\d+) ", common.EXIT_CODES, re.M)} == {0, *codes}
