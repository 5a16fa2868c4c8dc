"""A terminal at which the commands of the documents are typed."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from stepvault.catalog import Vault
from tests.cli.test_restore_by_hand import commands

ROOT = Path(__file__).parents[2]


@dataclass
class Terminal:
    """A shell of someone who has the documents, the credentials and a server's own programs."""

    home: Path
    vault: Vault
    path: list[Path] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tools = self.home / "tools"
        tools.mkdir()
        for name, module in {
            "aws": "tests.docs.aws_commands",
            "stepvault": "stepvault_cli.main",
        }.items():
            program = tools / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            program.chmod(0o755)
        self.path.insert(0, tools)

    def type(self, block: str, **replaced: str) -> str:
        """Run a block of a document as it stands, but for the placeholders that a reader fills in.

        Args:
            block: the commands.
            replaced: assignments of shell variables that get another value.
        """
        environment = os.environ | self.variables | {"HOME": str(self.home)}
        environment["STEPVAULT_VAULT"] = self.vault.bucket
        environment["PATH"] = ":".join([*map(str, self.path), os.environ["PATH"]])
        environment["PYTHONPATH"] = ":".join(
            map(str, [ROOT, *(ROOT / p for p in ("layers/core/python", "cli"))])
        )
        lines = [
            line
            for line in block.splitlines()
            if not line.removeprefix("export ").startswith(tuple(f"{name}=" for name in replaced))
        ]
        settings = [f"export {name}='{value}'" for name, value in replaced.items()]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join([*settings, *lines])],
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def download(self, source: str) -> None:
        """Find the backup, download it and check it, as the page says."""
        where = {"VAULT": self.vault.bucket, "SOURCE": source}
        found = self.type(commands("aws s3api list-objects-v2"), **where).split()
        run_id = found[-1].split("/")[2]
        assert found == [f"backups/{source}/{run_id}/manifest.json"]
        self.type(commands("aws s3 sync"), RUN=run_id, **where)
        assert self.type(commands("damaged:")) == ""
