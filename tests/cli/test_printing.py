"""Names in a source are somebody else's: a terminal shows them and never obeys them."""

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvault import keys
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.errors import TargetUnsupported, listed
from stepvault.plan import RunRequest
from stepvault.records import Execution, Manifest, Unrestored
from stepvault.seal import SealRequest, seal
from stepvault.settings import Config
from stepvault_cli import output, restoring
from stepvault_cli.progress import Pace, Progress, SourceProgress, picture
from tests.cli.conftest import invoke, units
from tests.planning import whole_plan

#: Sets the terminal's title, then a colour; C1's own CSI; a lone surrogate, as of a file name that
#: is not UTF-8; text that runs backwards; Rich's markup, closed and never opened.
NASTY = "a\x1b]0;owned\x07\x1b[31m\x9b2J\udcff\u202e[bold]b[/bold] [/nope] [link=x]\rc\x85\u2028d"
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\u2028\u2029]"
)


def safe(text: str) -> bool:
    return CONTROL.search(text) is None


@given(st.text(st.characters(codec=None)))
@settings(deadline=None)
def test_what_is_printed_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    assert safe(output.printable(text))
    assert "\n" not in output.printable(text)
    output.printable(text).encode()
    assert output.printable(output.printable(text)) == output.printable(text)


@pytest.mark.parametrize(
    "text", ["plain", "Zoë's [draft] 100 %.txt", "日本語", "👩‍👩‍👧", "a\u00a0b", "C:\\dir"]
)
def test_ordinary_names_stay_as_they_are(text: str) -> None:
    assert output.printable(text) == text


@given(st.recursive(st.text(st.characters(codec=None)) | st.integers() | st.none(), st.lists))
@settings(deadline=None)
def test_json_is_safe_too_and_reads_back_the_same(value: Any) -> None:
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        output.print_json({"value": value})
    assert safe(stream.getvalue().replace("\n", ""))
    stream.getvalue().encode()
    assert json.loads(stream.getvalue())["value"] == value


def shown_by_rich(*drawn: Any) -> str:
    stream = io.StringIO()
    console = output.console(stderr=False)
    console.file = stream
    for what in drawn:
        console.print(what)
    return stream.getvalue()


def test_markup_in_a_cell_a_line_or_a_live_picture_is_text() -> None:
    now = datetime.now(UTC)
    source = SourceProgress(name=NASTY, engine=NASTY, message=NASTY)
    progress = Progress(run="r", state="running", started=now, now=now, sources=[source])
    told = shown_by_rich(
        output.table(("name",), [(NASTY,)]), f"warning: {NASTY}", picture(progress, Pace())
    )
    assert safe(told.replace("\n", ""))
    assert told.count("[bold]b[/bold] [/nope] [link=x]") >= 4


@pytest.fixture
def run(vault: Vault, tmp_path: Path) -> str:
    """The id of a run that backed up a folder with a nasty name in it."""
    home = tmp_path / "uploads"
    home.mkdir()
    (home / "plain.txt").write_text("plain")
    nasty = os.fsencode(home) + b"/" + NASTY.encode("utf-8", "surrogateescape")
    os.makedirs(os.path.dirname(nasty))  # its slashes make folders of it
    with open(nasty, "w") as file:
        file.write("nasty")
    config = Config.model_validate(
        {"sources": [{"name": "uploads", "engine": "files", "path": str(home)}]}
    )
    execution = Execution(name="one", started=datetime(2026, 11, 22, 3, tzinfo=UTC))
    request = RunRequest(execution=execution)
    for unit in units(vault, whole_plan(config, vault, request)):
        back_up(unit, vault)
    seal(vault, SealRequest(run_id=request.run_id))
    return request.run_id


def test_a_nasty_file_name_is_escaped_when_a_comparison_names_it(
    vault: Vault, run: str, tmp_path: Path
) -> None:
    back = tmp_path / "back"
    where = ("--vault", vault.bucket)
    assert invoke("restore", "uploads", "--to", str(back), *where).exit_code == 0
    os.unlink(os.fsencode(back) + b"/" + NASTY.encode("utf-8", "surrogateescape"))
    told = invoke("verify", "uploads", "--restored", str(back), *where)
    assert told.exit_code == 4
    assert "[/nope]" in told.stderr
    assert safe((told.stdout + told.stderr).replace("\n", ""))
    as_json = invoke("verify", "uploads", "--restored", str(back), "--json", *where)
    assert safe(as_json.stdout.replace("\n", ""))
    assert any("[/nope]" in line for line in json.loads(as_json.stdout)["differences"])


def test_a_manifest_with_nasty_text_is_shown_as_text(vault: Vault, run: str) -> None:
    key = keys.manifest("uploads", run)
    manifest = Manifest.model_validate_json(vault.get(key) or b"").model_dump(mode="json")
    nasty = NASTY.replace("\udcff", "")  # which no JSON can hold
    manifest["warnings"] = [nasty]
    manifest["units"][0]["facts"][nasty] = nasty
    manifest["objects"][0]["name"] = nasty
    vault.put(key, json.dumps(manifest).encode())
    told = invoke("show", "uploads", "--vault", vault.bucket)
    assert told.exit_code == 0, told.exception
    assert told.stdout.count("[/nope]") >= 3
    assert safe(told.stdout.replace("\n", ""))


def test_what_is_not_restored_and_why_is_printed_as_text(
    vault: Vault, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(*_: object, unrestored: Any, **__: object) -> None:
        unrestored(Unrestored(kind=NASTY, name=NASTY, reason=NASTY, statement=NASTY))

    monkeypatch.setattr(restoring, "restore_here", report)
    told = invoke("restore", "uploads", "--to", f"{tmp_path}/x", "--vault", vault.bucket)
    assert told.exit_code == 5
    assert told.stderr.count("[/nope]") >= 4
    assert safe((told.stdout + told.stderr).replace("\n", ""))


def test_an_error_keeps_its_lines_and_loses_its_controls(
    vault: Vault, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TargetUnsupported(
            listed(
                "The target cannot take", [f"extension postgis: {NASTY}", f"tablespace: {NASTY}"]
            ),
            "Leave them out",
        )

    monkeypatch.setattr(restoring, "restore_here", refuse)
    told = invoke("restore", "uploads", "--to", f"{tmp_path}/x", "--vault", vault.bucket)
    assert told.exit_code == 4
    first, postgis, tablespace, fix = told.stderr.splitlines()
    assert first == "error: The target cannot take:"
    assert postgis.startswith("  extension postgis: ")
    assert tablespace.startswith("  tablespace: ")
    assert fix == "Leave them out."
    assert safe(told.stderr.replace("\n", ""))


def lines_that_print() -> Iterator[tuple[str, str]]:
    for path in sorted(Path(output.__file__).parent.glob("*.py")):
        for line in path.read_text().splitlines():
            if re.search(r"click\.s?echo|sys\.std(out|err)\.write|\bConsole\(|markup=", line):
                yield path.name, line.strip()


def test_all_output_passes_through_one_module() -> None:
    assert {name for name, _ in lines_that_print()} == {"output.py"}
