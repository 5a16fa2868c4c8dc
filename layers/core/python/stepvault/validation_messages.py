"""What the settings' models refuse, as sentences for the person who wrote the file. Pure.

Each line holds the path with the source's name, the value, what is wrong and how to correct it.
Credentials that somebody put into the file are named by their place and never shown.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stepvault import expressions
from stepvault.keys import SAFE_NAME
from stepvault.settings import Config, Settings, engine_models

_CREDENTIAL_KEYS = {
    *("password", "passwd", "pass", "pwd", "token", "url", "uri", "dsn", "username_password"),
    *("access_key", "access_key_id", "secret_key", "secret_access_key", "credentials"),
}
#: What other tools call our keys, where the letters alone would not lead there.
_OTHER_WORDS = {
    word: ours
    for ours, words in {
        "user": "username login",
        "database": "dbname db",
        "tls": "sslmode ssl",
        "engine": "type kind",
        "when": "cron rate expression schedule",
        "compression_level": "level",
        "exclude": "ignore",
        "path": "directory file folder",
    }.items()
    for word in words.split()
}
_NO_CREDENTIALS = (
    "credentials do not belong in this file (value not shown); put them into a Secrets Manager "
    'secret and name that: secret = "prod/shop"'
)

Location = tuple[str | int, ...]


def find(raw: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each mistake that the models find.

    A model's own rules are only looked at once its fields are right, so what is wrong is
    taken out (or an engine's name put right) and the rest checked again.
    """
    rest = deepcopy(raw)
    reported: set[Location] = set()
    while True:
        try:
            Config.model_validate(rest)
        except ValidationError as e:
            fresh = [d for d in e.errors(include_url=False) if d["loc"] not in reported]
        else:
            return
        if not fresh:
            return
        for error in fresh:
            reported.add(error["loc"])
            yield _line(raw, error)
            _take_out(rest, error)


def _take_out(rest: dict[str, Any], error: ErrorDetails) -> None:
    loc = _without_tags(error["loc"])
    if error["type"] == "union_tag_invalid":
        source = value_at(rest, loc)
        source["engine"] = _near_engine(str(source["engine"])) or _engine_by_keys(source)
        return
    parent, key = value_at(rest, loc[:-1]), loc[-1] if loc else None
    if isinstance(parent, dict) and key in parent:
        del parent[key]


def _line(raw: dict[str, Any], error: ErrorDetails) -> str:
    loc = _without_tags(error["loc"])
    return label(raw, loc) + _complaint(error, loc)


def _complaint(error: ErrorDetails, loc: Location) -> str:  # noqa: PLR0911 - one per kind
    """Return what follows the path."""
    field = _field_at(error["loc"])
    value = shown(error["input"])
    described = (
        field.description.rstrip(".").replace("``", "") if field and field.description else ""
    )
    about = f" ({described})" if described else ""
    match error["type"]:
        case "extra_forbidden":
            return f": {_unknown_key(error['loc'])}"
        case "missing":
            return f": missing{about}"
        case "union_tag_invalid":
            return f".engine: {_unknown_engine(error['input'])}"
        case "union_tag_not_found":
            return f".engine: missing; one of {', '.join(engine_models())}"
        case "string_pattern_mismatch" if loc[-1] == "name" or "sources" in loc[2:3]:
            return (
                f" = {value}: not a safe name; use 1 to 63 letters, digits, '.', '_' and '-', "
                "the first a letter or digit"
            )
        case "string_pattern_mismatch" if loc[-1] == "when":
            return f" = {value}: no schedule; {expressions.problem('')}"
        case "model_type" | "model_attributes_type":
            return f": has to be a table, found {value}"
        case "value_error":
            rule = error["msg"].removeprefix("Value error, ")
            return f": {rule}" if isinstance(error["input"], dict) else f" = {value}: {rule}"
        case "literal_error":
            known = error["ctx"]["expected"].replace("'", "")
            return f" = {value}: {_known_words(str(error['input']), re.split(', | or ', known))}"
        case kind:
            return f" = {value}: {_MESSAGES.get(kind, error['msg']).format(**error.get('ctx', {}))}{about}"


_MESSAGES = {
    "greater_than_equal": "has to be at least {ge}",
    "less_than_equal": "has to be at most {le}",
    "int_type": "has to be a whole number without quotes",
    "bool_type": "has to be true or false, without quotes",
    "string_type": "has to be text in quotes",
    "list_type": 'has to be a list, such as ["…"]',
    "string_pattern_mismatch": "does not have the form {pattern}",
    "too_short": "needs at least {min_length}",
}


def _unknown_key(loc: Location) -> str:
    key = str(loc[-1])
    if key.lower() in _CREDENTIAL_KEYS:
        return _NO_CREDENTIALS
    known = [
        field.alias or name
        for model in _models_at(loc[:-1])
        for name, field in model.model_fields.items()
    ]
    other = _OTHER_WORDS.get(key.lower())
    near = [other] if other in known else difflib.get_close_matches(key.lower(), known, 1)
    return "unknown key; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


def _unknown_engine(source: dict[str, Any]) -> str:
    given = str(source.get("engine"))
    near = _near_engine(given)
    return (
        f"unknown engine {given!r}; "
        + (f"did you mean {near}? " if near else "")
        + f"known: {', '.join(engine_models())}"
    )


def _near_engine(given: str) -> str | None:
    """Return the engine that the person probably means, or None."""
    for engine, model in engine_models().items():
        if given.lower() in model.other_names:
            return engine
    near = difflib.get_close_matches(given.lower(), engine_models(), 1)
    return near[0] if near else None


def _engine_by_keys(source: dict[str, Any]) -> str:
    """Return the engine whose settings have most keys in common with the source's."""

    def in_common(engine: str) -> int:
        fields = engine_models()[engine].model_fields
        return len(source.keys() & {field.alias or name for name, field in fields.items()})

    return max(engine_models(), key=in_common)


def _known_words(given: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, known, 1)
    return (f"did you mean {near[0]}? " if near else "") + f"one of {', '.join(known)}"


# Paths: what the models call ('sources', 2, 'postgres', 'connection', 'port') is sources.shop.connection.port


def _without_tags(loc: Location) -> Location:
    """Return the path in the file: the models put the engine's name after a source's number."""
    if len(loc) > 2 and loc[0] == "sources" and loc[2] in engine_models():
        return loc[:2] + loc[3:]
    return loc


def value_at(raw: Any, loc: Location) -> Any:
    """Return what stands at that path; None if nothing does."""
    for step in loc:
        try:
            raw = raw[step]
        except (KeyError, IndexError, TypeError):
            return None
    return raw


def label(raw: dict[str, Any], loc: Location) -> str:
    """Return the path as a person would write it; a list's entry goes by its name if it is unique."""
    path = ""
    here: Any = raw
    for step in loc:
        siblings, here = here, value_at(here, (step,))
        if isinstance(step, str):
            path += f".{step}" if path else step
            continue
        name = here.get("name") if isinstance(here, dict) else None
        names = [s.get("name") for s in siblings or () if isinstance(s, dict)]
        ours = isinstance(name, str) and names.count(name) == 1 and SAFE_NAME.fullmatch(name)
        path += f".{name}" if ours else f"[{step}]"
    return path or "the file"


def _models_at(loc: Location) -> list[type[Settings]]:
    """Return the models whose keys may stand at that path."""
    models: list[type[Settings]] = [Config]
    for step in loc:
        if step in engine_models() and len(models) > 1:
            models = [engine_models()[str(step)]]
        elif isinstance(step, str):
            models = [
                inner
                for model in models
                for name, field in model.model_fields.items()
                if step in (field.alias, name)
                for inner in _models_in(field.annotation)
            ]
    return models


def _models_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models_in(arg)]


def _field_at(loc: Location) -> FieldInfo | None:
    for model in _models_at(loc[:-1]):
        for name, field in model.model_fields.items():
            if loc and loc[-1] == (field.alias or name):
                return field
    return None


def shown(value: Any) -> str:
    """Return the value as TOML would write it, cut short; never one that looks like a credential."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "(not shown: too long)"
    if _holds_credential(text):
        return "(not shown: it looks like a credential)"
    return text if len(text) <= 60 else text[:57] + "…"


def _holds_credential(text: str) -> bool:
    return bool(re.search(r"://[^/@\s]*:[^/@\s]*@|passw(or)?d|AKIA[0-9A-Z]{12}", text, re.I))
