"""An import-linter contract that lists what modules may import, instead of what they may not.

A list of forbidden modules lets everything through that nobody has thought of, new modules first
of all. Here everything is forbidden that is neither on the list, nor in the package itself, nor in
Python's standard library.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from grimp import ImportGraph
from importlinter.application import output
from importlinter.domain import fields
from importlinter.domain.contract import Contract, ContractCheck
from importlinter.domain.helpers import module_expressions_to_modules


class AllowList(Contract):
    """Packages of which each imports only itself and what is listed.

    Options:
        packages: the packages; ``*`` stands for one name.
        allowed: modules and external packages that all of them may import.
        also_allowed: what one of them may import beside, as ``package -> module``.
        not_of_python: modules of the standard library that they may not import.
    """

    type_name = "allow_list"

    packages = fields.SetField(subfield=fields.ModuleExpressionField())
    allowed = fields.SetField(subfield=fields.StringField())
    also_allowed = fields.SetField(subfield=fields.StringField(), required=False, default=set())
    not_of_python = fields.SetField(subfield=fields.StringField(), required=False, default=set())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002
        """Look at every import that leaves a package."""
        options: Any = self  # import-linter puts plain sets where the class has fields
        common = set(options.allowed) | (set(sys.stdlib_module_names) - options.not_of_python)
        own = [line.split(" -> ") for line in options.also_allowed]
        packages = module_expressions_to_modules(graph, options.packages)
        broken = [
            line
            for package in sorted(module.name for module in packages)
            for line in _refused(graph, package, {*common, *(m for p, m in own if p == package)})
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print one line per import that is not allowed."""
        for line in check.metadata["broken"]:
            output.print_error(f"{line}: not on the list of what may be imported")


def _refused(graph: ImportGraph, package: str, allowed: Iterable[str]) -> Iterator[str]:
    for module in sorted({package} | graph.find_descendants(package)):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            if imported in allowed or f"{imported}.".startswith(f"{package}."):
                continue
            details = graph.get_import_details(importer=module, imported=imported)
            yield f"{module} -> {imported} (l.{min(d['line_number'] for d in details)})"
