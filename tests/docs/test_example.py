"""examples/stepvault.toml: every setting that it comments out can be switched on as it stands."""

import re
from pathlib import Path

import pytest

from stepvault import config

LINES = (Path(__file__).parents[2] / "examples" / "stepvault.toml").read_text().splitlines()
#: Line number to the commented setting.
SETTINGS = {n: m[1] for n, line in enumerate(LINES) if (m := re.match(r"# (\w+ = .*)", line))}
#: What a setting needs beside it, as its comment says.
BESIDE = {"existing": ("bucket", "kms_key_arn")}


@pytest.mark.parametrize("number", SETTINGS, ids=lambda n: SETTINGS[n].split()[0])
def test_a_setting_that_is_commented_out_can_be_switched_on(number: int, tmp_path: Path) -> None:
    name = SETTINGS[number].split()[0]
    lines = list(LINES)
    for other, text in SETTINGS.items():
        if other == number or text.split()[0] in BESIDE.get(name, ()):
            lines[other] = text
    if "with wildcards in path" in SETTINGS[number]:
        lines[:number] = [re.sub(r'^(path = ".*)tickets', r"\1*", x) for x in lines[:number]]
    file = tmp_path / "stepvault.toml"
    file.write_text("\n".join(lines))
    config.load(file)


def test_there_are_such_settings() -> None:
    assert len(SETTINGS) > 6
