"""Backups of other versions of this tool: which of them can be restored, and with which settings.

A manifest keeps the source's settings as they were. An older or newer tool had other settings.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from stepvault import __version__
from stepvault.errors import ConfigInvalid
from stepvault.records import FORMAT_VERSION, Manifest
from stepvault.settings import Source


def source_settings(manifest: Manifest) -> Source:
    """Return the source as it was configured for the backup.

    Settings that only newer tools know are left out: they do not matter to what is stored, or the
    format's version would be another.

    Raises:
        ConfigInvalid: this version of the tool cannot read the backup.
    """
    if manifest.format_version > FORMAT_VERSION:
        raise _too_new(manifest, f"its format is {manifest.format_version}, not {FORMAT_VERSION}")
    config = deepcopy(manifest.config)
    for problem in _problems(config):
        if problem["type"] == "extra_forbidden":
            _drop(config, problem["loc"][1:])  # without the engine, which says which model it is
    if problems := _problems(config):
        raise _too_new(manifest, problems[0]["msg"])
    return _any_source().validate_python(config)


@cache
def _any_source() -> TypeAdapter[Source]:
    return TypeAdapter(Source)


def _problems(config: dict[str, Any]) -> list[ErrorDetails]:
    try:
        _any_source().validate_python(config)
    except ValidationError as error:
        return error.errors()
    return []


def _drop(config: Any, path: Sequence[Any]) -> None:
    for part in path[:-1]:
        config = config[part]
    del config[path[-1]]


def _too_new(manifest: Manifest, why: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"Run {manifest.run_id} of {manifest.source!r} was made by Stepvault "
        f"{manifest.tool_version}, and this is {__version__}: {why}",
        "Restore it with the version that made it, or a later one",
    )
