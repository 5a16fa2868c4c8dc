"""The stack, synthesized once for everything and once for the least."""

import subprocess
import sys

import pytest

from tests.infra.synth import HERE, ROOT, Template, synthesize


@pytest.fixture(scope="session")
def layers() -> None:
    """The layers of the default architecture, built if they are not there."""
    for layer in ("deps", "postgres_client"):
        subprocess.run(
            [
                sys.executable,
                ROOT / "layers" / layer / "build.py",
                "--arch",
                "arm64",
                "--out",
                ROOT / "build" / "layers" / f"{layer}-arm64",
            ],
            check=True,
        )


@pytest.fixture(scope="session")
def everything(layers: None, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The stack of ``everything.toml``."""
    out = tmp_path_factory.mktemp("everything")
    synthesize(HERE / "everything.toml", out)
    return Template.read(out)


@pytest.fixture(scope="session")
def minimal(layers: None, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The stack of one tree of files and nothing else."""
    out = tmp_path_factory.mktemp("minimal")
    synthesize(HERE / "minimal.toml", out)
    return Template.read(out)


@pytest.fixture(scope="session")
def adopted(layers: None, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A stack that takes over the vault of an earlier one."""
    out = tmp_path_factory.mktemp("adopted")
    config = out.with_suffix(".toml")
    config.write_text(
        (HERE / "minimal.toml").read_text()
        + """
[vault]
existing = true
bucket = "acme-stepvault"
kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef"
"""
    )
    synthesize(config, out)
    return Template.read(out)
