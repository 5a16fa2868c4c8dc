"""Where the stack goes, and all that differs in the emulator, each with its reason.

``cdk deploy`` is for AWS; ``cdk deploy -c local=1`` puts the same stack into MiniStack.
"""

import os
import platform as machine
from dataclasses import dataclass
from pathlib import Path

from aws_cdk import CliCredentialsStackSynthesizer, IStackSynthesizer

from infra.settings import Settings

#: Holds the code of the functions in the emulator; ``devtools/emulator.py`` makes it.
LOCAL_ASSETS = "stepvault-local-assets"


@dataclass(frozen=True)
class Platform:
    """What AWS gets."""

    local: bool = False
    retry_after_seconds: int = 5
    """Before the first retry of a transient error."""
    away_after_seconds: int = 15
    """Before the first retry where a server is away; doubled each time, up to eight times this."""
    away_attempts: int = 5
    """Retries where a server is away: six minutes in all."""

    def synthesizer(self) -> IStackSynthesizer | None:
        """CDK's own, with the roles and the bucket of ``cdk bootstrap``."""
        return None

    def architecture(self, settings: Settings) -> str:
        """Name the processor of the functions."""
        return settings.architecture

    def environment(self, layers: list[Path]) -> dict[str, str]:  # noqa: ARG002
        """Variables that a function with these layers needs beside its own."""
        return {}


@dataclass(frozen=True)
class Emulator(Platform):
    """What MiniStack gets instead."""

    local: bool = True
    # Nobody wants to watch a demonstration sleep, and nothing here is overloaded for long.
    retry_after_seconds: int = 1
    away_after_seconds: int = 1
    away_attempts: int = 3

    def synthesizer(self) -> IStackSynthesizer | None:
        """Use one bucket instead of the bootstrap stack."""
        # One bucket instead of the whole bootstrap stack, whose roles the emulator would not
        # ask for: saves ten seconds.
        return CliCredentialsStackSynthesizer(file_assets_bucket_name=LOCAL_ASSETS)

    def architecture(self, settings: Settings) -> str:  # noqa: ARG002
        """Name this machine's processor."""
        # The functions run on this machine's processor.
        return "arm64" if machine.machine() in {"arm64", "aarch64"} else "x86_64"

    def environment(self, layers: list[Path]) -> dict[str, str]:
        """Point the functions at the built layers in place."""
        # The emulator unzips layers at each cold start and loses their exec bits: the
        # functions use the built folders in place.
        return {
            "PYTHONPATH": ":".join(str(layer / "python") for layer in layers),
            "PATH": ":".join([*(str(layer / "bin") for layer in layers), os.environ["PATH"]]),
            # There is no X-Ray daemon to send to.
            "POWERTOOLS_TRACE_DISABLED": "true",
        }


def platform(local: bool) -> Platform:
    """Choose the emulator or AWS."""
    return Emulator() if local else Platform()
