"""The app: its messages, its checks, and what differs in the emulator."""

import textwrap
from pathlib import Path

import pytest

from devtools import emulator
from infra import bundles, local
from infra.settings import SettingsError
from tests.docs.test_commands import blocks
from tests.infra.synth import HERE, Template, synthesize


def test_a_mistake_in_the_configuration_ends_the_synth_with_its_message(tmp_path: Path) -> None:
    config = tmp_path / "stepvault.toml"
    config.write_text('[[sources]]\nname = "tree"\nengine = "filez"\n')
    done = synthesize(config, tmp_path / "out", check=False)

    assert done.returncode == 1
    assert "did you mean files" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_layer_that_was_not_built_is_named_with_the_command_that_builds_it() -> None:
    with pytest.raises(SettingsError, match=r"nothing-arm64.*make layers ARCH=arm64"):
        bundles.layer("nothing", "arm64")


def test_the_functions_carry_the_configuration_and_only_handlers() -> None:
    folder = bundles.functions('{"sources": []}')
    names = {p.name for p in folder.iterdir()}

    assert {"plan.py", "seal.py", "stepvault.json"} <= names
    assert "__init__.py" not in names
    assert (folder / "stepvault.json").read_text() == '{"sources": []}'


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Template:
    emulator.build_layers()
    out = tmp_path_factory.mktemp("local")
    synthesize(HERE / "everything.toml", out, local="1")
    return Template.read(out)


def test_the_emulator_gets_the_same_machines(everything: Template, emulated: Template) -> None:
    for name in ("backup", "restore"):
        here, there = emulated.machine(name), everything.machine(name)

        assert list(here["States"]) == list(there["States"])
        assert here["States"]["Fan out" if name == "backup" else "Data"].keys() == (
            there["States"]["Fan out" if name == "backup" else "Data"].keys()
        )


def test_the_emulator_runs_functions_on_the_built_folders(emulated: Template) -> None:
    for function in emulated.functions.values():
        variables = function["Environment"]["Variables"]

        assert "Layers" not in function
        assert "VpcConfig" not in function
        assert all(Path(p).is_dir() for p in variables["PYTHONPATH"].split(":")[:2])
        assert function["Architectures"] == [emulator.architecture()]
    path = emulated.functions["back_up_postgres"]["Environment"]["Variables"]["PATH"]
    assert any((Path(p) / "pg_dump").is_file() for p in path.split(":"))


def test_the_emulator_and_the_stack_agree_on_the_assets_bucket() -> None:
    assert emulator.ASSETS == local.LOCAL_ASSETS


def test_the_configuration_of_the_readme_becomes_a_stack(layers: None, tmp_path: Path) -> None:
    (block,) = [b for b in blocks("toml") if b.page.name == "README.md"]
    config = tmp_path / "stepvault.toml"
    config.write_text(textwrap.dedent(block.text))
    synthesize(config, tmp_path / "out")
    stack = Template.read(tmp_path / "out")

    assert len(stack.of_type("AWS::StepFunctions::StateMachine")) == 2
    assert len(stack.of_type("AWS::Scheduler::Schedule")) >= 1
