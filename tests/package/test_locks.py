"""The hashed requirement files hold what the files beside them ask for (``make lock``)."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SKIPPED = {".venv", "build", "node_modules", "cdk.out"}


#: Every file of names that is locked by a file of hashes beside it.
ASKING = [
    path
    for path in sorted(ROOT.glob("**/*.in"))
    if not SKIPPED.intersection(path.relative_to(ROOT).parts)
]


def asked(path: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


@dataclass
class Pin:
    """One package of a locked file."""

    requirement: Requirement
    hashes: list[str]
    via: list[str]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version


def pins(path: Path) -> list[Pin]:
    found: list[Pin] = []
    for line in path.read_text().splitlines():
        if not line.startswith(" "):
            found.append(Pin(Requirement(line.removesuffix("\\").strip()), [], []))
        elif digest := re.fullmatch(r" +--hash=sha256:([0-9a-f]{64})( \\)?", line):
            found[-1].hashes.append(digest[1])
        else:
            comment = re.fullmatch(r" +#( +via)? *(.*)", line)
            assert comment, f"{path.name} holds more than pins, hashes and reasons: {line}"
            if comment[2]:
                found[-1].via.append(comment[2])
    return found


@pytest.mark.parametrize("path", ASKING, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_locked_is_what_was_asked_for(path: Path) -> None:
    locked = {pin.name: pin for pin in pins(path.with_suffix(".txt"))}
    for requirement in asked(path):
        pin = locked.get(canonicalize_name(requirement.name))
        assert pin, f"{requirement.name} is not locked: make lock"
        assert requirement.specifier.contains(pin.version), f"{requirement}: make lock"
    direct = {
        pin.name
        for pin in locked.values()
        if any(reason.startswith("-r ") and reason.endswith(path.name) for reason in pin.via)
    }
    assert direct == {canonicalize_name(r.name) for r in asked(path)}


@pytest.mark.parametrize("path", ASKING, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_pin_has_hashes_and_no_place_it_comes_from(path: Path) -> None:
    text = path.with_suffix(".txt").read_text()
    assert "://" not in text
    assert all(pin.hashes and pin.requirement.url is None for pin in pins(path.with_suffix(".txt")))


def test_what_is_installed_together_agrees_on_every_version() -> None:
    together = re.search(r"^TOGETHER := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert together
    versions: dict[str, dict[str, str]] = {}
    for group in [*together[1].split(), "bench"]:
        for pin in pins(ROOT / group / "requirements.txt"):
            versions.setdefault(pin.name, {})[group] = pin.version
    assert {n: by for n, by in versions.items() if len(set(by.values())) > 1} == {}


def test_make_lock_knows_every_file_of_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for path in ASKING:
        name = path.relative_to(ROOT)
        known = name.parent if name.name == "requirements.in" else name.with_suffix("")
        assert re.search(rf"^(TOGETHER|ALONE) .*{known}\b", makefile, re.MULTILINE) or (
            f"$(TOGETHER) {known}" in makefile
        ), f"make lock leaves {name} out"
