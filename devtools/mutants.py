"""Mutation testing of the core: small mistakes are put into it, and the tests must notice each.

cosmic-ray knows the mistakes (another comparison, ``and`` for ``or``, a number off by one, a loop
that never runs, …). All of them would take hours, so a seeded sample of each module is tried.
It lives in its own environment, ``build/mutants-venv``; ``make mutants`` makes it.

::

    python -m devtools.mutants [--each 12] [--seed 1] [--only retention,prune]

Prints each survivor as a difference, then the score: the share that a test noticed.
"""

import argparse
import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "layers" / "core" / "python"
PYTHON = ROOT / ".venv" / "bin" / "python"
#: The modules and the files in tests/core that must notice a mistake in them.
MODULES = {
    "retention": ["retention"],
    "keys": ["keys", "plan_and_seal"],
    "compress": ["compress"],
    "profiling": ["profiling"],
    "deadline": ["deadline", "faults"],
    "multipart": ["multipart", "two_at_once", "faults"],
    "claim": ["two_at_once", "untrusted_records"],
    "objects": ["catalog", "prune", "untrusted_records", "faults"],
    "catalog": ["catalog", "plan_and_seal", "untrusted_records", "prune"],
    "seal": ["plan_and_seal", "untrusted_records", "two_at_once"],
    "prune": ["prune", "untrusted_records"],
    "backup": ["backup", "two_at_once", "faults"],
}
#: ``|`` is mostly in annotations, where every mistake is noticed by the import alone.
_LEFT_OUT = re.compile(r"BitOr|RShift|LShift|Is_(?!IsNot)|IsNot_(?!Is$)|_Is(Not)?$")
#: Seconds for the tests of one mutant; a mutant that makes them hang is noticed.
_PATIENCE = 300


@dataclass(frozen=True)
class Mutant:
    """One mistake."""

    module: str
    source: str
    mutated: str

    def difference(self) -> str:
        """Return what it changes."""
        lines = difflib.unified_diff(
            self.source.splitlines(),
            self.mutated.splitlines(),
            self.module,
            "mutant",
            "",
            "",
            0,
            "",
        )
        return "\n".join(lines)


def mutants(module: str) -> list[Mutant]:
    """Return every mistake that cosmic-ray knows for the module."""
    path = CORE / "stepvault" / f"{module}.py"
    source, nodes = path.read_text(), list(ast_nodes(get_ast_from_path(path)))
    made: dict[str, Mutant] = {}
    for name in operator_names():
        if _LEFT_OUT.search(name):
            continue
        try:
            operator = get_operator(name)()
        except TypeError:  # one that wants arguments
            continue
        places = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        for occurrence in range(places):
            mutated = mutate_code(source, operator, occurrence)
            if mutated and mutated != source:
                made[mutated] = Mutant(module, source, mutated)
    return list(made.values())


@contextmanager
def emulator() -> Iterator[str]:
    """Start the emulator once for all mutants and give its endpoint."""
    with subprocess.Popen(
        [PYTHON, "-m", "devtools.emulator"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if line.startswith("export AWS_ENDPOINT_URL="):
                    yield line.strip().partition("=")[2]
                    return
            raise SystemExit("The emulator did not start")
        finally:
            process.terminate()


def is_noticed(module: str, mutated: str, endpoint: str) -> bool:
    """Tell whether a test fails with the module replaced."""
    with tempfile.TemporaryDirectory(prefix="stepvault-mutant-") as scratch:
        core = Path(scratch) / "core"
        shutil.copytree(CORE, core, ignore=shutil.ignore_patterns("__pycache__"))
        (core / "stepvault" / f"{module}.py").write_text(mutated)
        path = f"{ROOT} {core} {ROOT / 'cli'}"
        command: list[str | Path] = [
            PYTHON, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
            "-o", f"pythonpath={path}", "--timeout=60", f"--basetemp={scratch}/tests",
            *(f"tests/core/test_{name}.py" for name in MODULES[module]),
        ]  # fmt: skip
        environment = os.environ | {
            "STEPVAULT_TEST_ENDPOINT": endpoint,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": path.replace(" ", os.pathsep),
        }
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, timeout=_PATIENCE
            )
        except subprocess.TimeoutExpired:
            return True
    if done.returncode and mutated == (CORE / "stepvault" / f"{module}.py").read_text():
        print(done.stdout.decode(errors="replace")[-2000:])
    return done.returncode != 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Try a sample of mutants and print the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--each", type=int, default=12, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(MODULES), help="modules, with commas")
    chosen = parser.parse_args(arguments)
    rng, totals = random.Random(chosen.seed), [0, 0]
    with emulator() as endpoint:
        for module in chosen.only.split(","):
            source = (CORE / "stepvault" / f"{module}.py").read_text()
            if is_noticed(module, source, endpoint):
                sys.exit(f"The tests of {module} fail without any mutant")
            known = mutants(module)
            sample = rng.sample(known, min(chosen.each, len(known)))
            noticed = 0
            for mutant in sample:
                if is_noticed(module, mutant.mutated, endpoint):
                    noticed += 1
                else:
                    print(f"survived: {mutant.difference()}\n", flush=True)
            print(f"{module}: {noticed} of {len(sample)} noticed ({len(known)} known)", flush=True)
            totals = [totals[0] + noticed, totals[1] + len(sample)]
    print(f"score: {totals[0]} of {totals[1]}, {100 * totals[0] / max(1, totals[1]):.0f} %")


if __name__ == "__main__":
    main()
