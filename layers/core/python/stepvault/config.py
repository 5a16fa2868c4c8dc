"""Read stepvault.toml: the TOML that a person writes, or the JSON that the deployment carries.

``validation_messages.py`` and ``config_rules.py`` say what is wrong with it, all at once; here are
the file, the normalised JSON, the JSON Schema for editors and the small command that synth uses.

::

    python -m stepvault.config check [--json] PATH    a summary, or the normalised JSON
    python -m stepvault.config schema                 the JSON Schema for editors
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stepvault import config_rules, validation_messages
from stepvault.engines.files.tree.globs import without_effect
from stepvault.errors import ConfigInvalid, StepvaultError
from stepvault.settings import Config, DatabaseSettings, FilesSource, Retention


def load(path: str | Path) -> Config:
    """Read the configuration in that file.

    Raises:
        ConfigInvalid: the file cannot be read, or one line per mistake in it.
    """
    path = Path(path)
    return parse(_read(path), origin=path.name)


def parse(raw: dict[str, Any], origin: str = "the configuration") -> Config:
    """Return the configuration in a mapping as TOML or JSON gives it.

    Args:
        raw: the mapping.
        origin: names it in errors.

    Raises:
        ConfigInvalid: with one line per mistake.
    """
    try:
        lines = mistakes(raw)
    except RecursionError:
        raise _too_deep(origin) from None
    if lines:
        count = "a mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise ConfigInvalid("\n  ".join([f"{origin} has {count}:", *lines]))
    return Config.model_validate(raw)


def mistakes(raw: dict[str, Any]) -> list[str]:
    """Return a line for each mistake in a mapping as TOML or JSON gives it."""
    return list(dict.fromkeys([*validation_messages.find(raw), *config_rules.find(raw)]))


def to_json(config: Config) -> str:
    """Return the normalised form: every default written out, keys as in the TOML."""
    return config.model_dump_json(by_alias=True, indent=2)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of stepvault.toml, for editors that complete and check while typing."""
    schema = Config.model_json_schema(by_alias=True)
    _tidy(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "stepvault.toml",
        **{k: v for k, v in schema.items() if k != "title"},
    }


def summary(config: Config) -> list[str]:
    """Return a few lines for the person who asked whether the file is right."""

    def counted(things: Sequence[Any], what: str) -> str:
        return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"

    schedules = [
        f"  {s.name}: {s.expression} {s.timezone}, {', '.join(s.sources) or 'all sources'}"
        for s in config.schedules
    ]
    return [
        f"{counted(config.sources, 'source')}: "
        + ", ".join(f"{s.name} ({s.engine})" for s in config.sources),
        counted(config.schedules, "schedule") + (":" if schedules else ""),
        *schedules,
        counted(config.targets, "restore target")
        + (": " + ", ".join(t.name for t in config.targets) if config.targets else ""),
        *(f"note: {note}" for note in notes(config)),
    ]


def notes(config: Config) -> list[str]:
    """Return what is allowed, and may still not be what the person meant."""
    return [*_source_notes(config), *_other_notes(config)]


def _source_notes(config: Config) -> Iterator[str]:
    mount = config.network.efs_mount if config.network.efs_access_point_arn else None
    for source in config.sources:
        if isinstance(source, FilesSource):
            for pattern in without_effect(source.exclude):
                yield (
                    f"{source.name}: exclude: {pattern!r} takes nothing back; put it after the pattern "
                    "that excludes, and let that one end in /*: an excluded directory is not entered"
                )
        if isinstance(source, DatabaseSettings):
            if source.connection.url_env:
                yield f"{source.name}: url_env is for a terminal; functions on AWS have no such variable"
        elif not source.path.startswith("s3://") and not (
            mount and Path(source.path).is_relative_to(mount)
        ):
            seen = (
                f"only {mount}"
                if mount
                else "no folder of yours without network.efs_access_point_arn"
            )
            yield f"{source.name}: functions on AWS see {seen}, not {source.path}"


def _other_notes(config: Config) -> Iterator[str]:
    if not config.schedules:
        yield "no schedules: a run starts only when somebody starts it"
    rules = [config.retention, *(s.retention for s in config.sources if s.retention)]
    if all(rule == Retention() for rule in rules):
        yield "no retention: every backup is kept"


def _too_deep(origin: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"{origin} is nested too deeply", "Remove the tables or lists within tables or lists"
    )


# Reading


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigInvalid(
            f"There is no configuration at {path}",
            "Copy examples/stepvault.toml there and edit it, or name another file with --config",
        ) from None
    except IsADirectoryError:
        raise ConfigInvalid(
            f"{path} is a folder", f"Name the file in it, such as {path / 'stepvault.toml'}"
        ) from None
    except OSError as e:
        raise ConfigInvalid(
            f"{path} cannot be read: {e.strerror}", "Make the file readable for this user"
        ) from None
    except UnicodeDecodeError as e:
        raise ConfigInvalid(
            f"{path} is not UTF-8 (byte {e.start})", "Save the file with UTF-8 encoding"
        ) from None
    try:
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except json.JSONDecodeError as e:
        raise ConfigInvalid(
            f"{path}, line {e.lineno}, column {e.colno}: {e.msg}", "Correct the JSON there"
        ) from None
    except tomllib.TOMLDecodeError as e:
        raise ConfigInvalid(_toml_mistake(path, str(e), text), _toml_fix(str(e))) from None
    except RecursionError:
        raise _too_deep(path.name) from None
    except ValueError as e:  # a number of thousands of digits
        raise ConfigInvalid(f"{path} holds a value that is none: {e}", "Correct it") from None
    if not isinstance(raw, dict):
        raise ConfigInvalid(
            f"{path} holds a JSON {type(raw).__name__}, not an object",
            "Make it with: stepvault config check --json stepvault.toml",
        )
    return raw


def _toml_mistake(path: Path, message: str, text: str) -> str:
    where = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if where:
        return f"{path}, line {where[1]}, column {where[2]}: {message[: where.start()]}"
    return f"{path}, line {text.count('\n') + 1}: {message.removesuffix(' (at end of document)')}"


def _toml_fix(message: str) -> str:
    if "Invalid value" in message:
        return 'Text needs quotes: name = "shop"'
    if "Cannot" in message or "overwrite" in message:
        return "Each key and each [table] may stand there once; [[sources]] begins another source"
    return "Correct the TOML there"


def _tidy(node: Any) -> None:
    """Drop what only makes sense to Python: null beside a type, titles made of key names."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    if not isinstance(node, dict):
        return
    choices = node.get("anyOf")
    if isinstance(choices, list):
        kept = [c for c in choices if c != {"type": "null"}]
        node.pop("anyOf")
        node.update(kept[0] if len(kept) == 1 else {"anyOf": kept})
        if node.get("default", "") is None:
            del node["default"]
    if isinstance(node.get("title"), str):
        del node["title"]
    for value in node.values():
        _tidy(value)


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a file or print the schema; 0 if all is well, else 2 and the mistakes on stderr."""
    parser = argparse.ArgumentParser(prog="python -m stepvault.config")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say whether the file is right, and what is not")
    check.add_argument("path", type=Path)
    check.add_argument("--json", action="store_true", help="print the normalised configuration")
    commands.add_parser("schema", help="print the JSON Schema")
    given = parser.parse_args(arguments)
    if given.command == "schema":
        sys.stdout.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
        return 0
    try:
        config = load(given.path)
    except StepvaultError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    sys.stdout.write((to_json(config) if given.json else "\n".join(summary(config))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
