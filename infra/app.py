"""The CDK app: ``cdk synth``, ``cdk deploy`` and, with ``-c local=1``, the emulator.

Context:
    config: path of stepvault.toml; ./stepvault.toml when left out, else the example.
    stack: name of the stack; Stepvault when left out.
    local: 1 for the emulator.
"""

import sys
from pathlib import Path

from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from infra import settings
from infra.local import platform
from infra.stack import StepvaultStack


def build(app: App) -> StepvaultStack:
    """Make the stack that the app's context asks for.

    Raises:
        SettingsError: the configuration has mistakes, or a layer has not been built.
    """
    config = app.node.try_get_context("config")
    local = str(app.node.try_get_context("local") or "0") not in {"0", "false"}
    return StepvaultStack(
        app,
        app.node.try_get_context("stack") or "Stepvault",
        settings.load(Path(config) if config else _default_config()),
        platform(local),
    )


def _default_config() -> Path:
    ours = Path("stepvault.toml")
    return ours if ours.is_file() else settings.ROOT / "examples" / "stepvault.toml"


def main() -> None:
    """Synthesize the stack, or print what is wrong with the configuration."""
    app = App()
    try:
        build(app)
    except settings.SettingsError as mistake:
        sys.exit(f"\n{mistake}\n")
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()


if __name__ == "__main__":
    main()
