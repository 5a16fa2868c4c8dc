"""What the documents tell a reader to type exists: commands, options, targets, files, settings."""

import re
import shlex
import subprocess
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from stepvault import config
from stepvault_cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/*.md")])
    if path.name != "CHANGELOG.md"  # tells of commands as they were
]


@dataclass(frozen=True)
class Block:
    """A fenced block; without a language it holds shell commands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], match[3])
        for page in PAGES
        for text in [page.read_text()]
        for match in fence.finditer(text)
        if match[2] in languages
    ]


def commands() -> Iterator[tuple[str, str]]:
    """Where a ``stepvault`` command stands, and the command: in shell blocks and in the prose."""
    for block in blocks("", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if match := re.match(r" *(?:\$ )?(?:\S*/)?(stepvault .*)", line):
                yield str(block), match[1]
    for page in PAGES:
        prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for match in re.finditer(r"`(stepvault [^`]*)`", prose):
            yield str(page.relative_to(ROOT)), match[1].replace("\n", " ")


def parse(words: list[str]) -> None:
    """Parse the words as the command would, without running it.

    Raises:
        click.UsageError: there is no such command or option.
    """
    context = cli.make_context("stepvault", words)
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        assert name
        assert command
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize(("place", "command"), list(commands()))
def test_a_command_of_ours_can_be_typed_as_it_stands(place: str, command: str) -> None:
    words = [w for w in shlex.split(command, comments=True) if w not in {"…", "..."}][1:]
    try:
        parse(words)
    except click.exceptions.Exit:
        pass  # --help and --version
    except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):
        assert "--" not in command or "…" in command, f"{place}: {command} lacks an argument"


def test_the_documents_do_hold_commands() -> None:
    assert len(list(commands())) > 30


@pytest.mark.parametrize("wrong", ["restor shop --to x", "restore shop --too x", "run --limit 3"])
def test_a_command_that_does_not_exist_would_be_noticed(wrong: str) -> None:
    with pytest.raises(click.UsageError):
        parse(shlex.split(wrong))


@pytest.mark.parametrize("block", blocks("", "console", "sh", "bash"), ids=str)
def test_a_block_of_commands_is_shell(block: Block) -> None:
    text = re.sub(r"^\$ ", "", block.text, flags=re.MULTILINE)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"{block}: {done.stderr}"
    assert done.stderr == "", f"{block}: {done.stderr}"
    for script in re.findall(r"python3 - <<'EOF'.*?\n(.*?)^EOF$", text, re.DOTALL | re.MULTILINE):
        compile(script, str(block), "exec")


def test_a_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"(?:^ *|`|&& )make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= targets, page.name


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_are_ones_that_a_configuration_may_have(block: Block, tmp_path: Path) -> None:
    text = textwrap.dedent(block.text)  # some stand in a numbered list
    settings = tomllib.loads(text)
    if "sources" not in settings:
        text += '\n[[sources]]\nname = "any"\nengine = "files"\npath = "/mnt/any"\n'
    file = tmp_path / "stepvault.toml"
    file.write_text(text)
    config.load(file)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_link_or_path_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"
    for path in re.findall(r"`((?:docs|examples|bench|layers|infra|cli|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
