"""stepvault.toml: what is right is read, and what is wrong is all said, with place and fix."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepvault import config, expressions
from stepvault.errors import ConfigInvalid
from stepvault.settings import Config, FilesSource, PostgresSource

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
EXAMPLES = Path(__file__).parents[2] / "examples"

SHOP = """
[[sources]]
name = "shop"
engine = "postgres"
connection = { secret = "prod/shop" }
"""


def complaints(tmp_path: Path, text: str) -> str:
    file = tmp_path / "stepvault.toml"
    file.write_text(text)
    with pytest.raises(ConfigInvalid) as refused:
        config.load(file)
    return str(refused.value)


def test_the_annotated_example_is_valid_and_names_every_engine() -> None:
    loaded = config.load(EXAMPLES / "stepvault.toml")
    assert {s.engine for s in loaded.sources} == {"postgres", "mysql", "sqlite", "files"}


def test_the_annotated_example_mentions_every_key() -> None:
    text = (EXAMPLES / "stepvault.toml").read_text()

    def keys(schema: dict[str, Any]) -> set[str]:
        inner = schema.get("$defs", {}).values()
        return {k for s in [schema, *inner] for k in s.get("properties", {})}

    missing = [k for k in keys(config.json_schema()) if k not in text]
    assert missing == ["url_env"], "for terminals only, all others belong into the example"


def test_the_published_json_schema_is_the_models_own() -> None:
    published = json.loads((EXAMPLES / "stepvault.schema.json").read_text())
    assert published == config.json_schema(), (
        "run: python -m stepvault.config schema > examples/stepvault.schema.json"
    )


def test_the_json_schema_speaks_the_files_own_keys() -> None:
    schema = config.json_schema()
    postgres = schema["$defs"]["PostgresSource"]
    assert {"schema", "data"} <= postgres["properties"].keys()
    assert "with_schema" not in postgres["properties"]
    assert "when" in schema["$defs"]["Schedule"]["required"]
    assert schema["properties"]["sources"]["items"]["discriminator"]["propertyName"] == "engine"
    assert "EventBridge" in schema["$defs"]["Schedule"]["properties"]["when"]["description"]


def test_normalised_json_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    loaded = config.load(EXAMPLES / "stepvault.toml")
    file = tmp_path / "stepvault.json"
    file.write_text(config.to_json(loaded))
    assert config.load(file) == loaded
    assert json.loads(file.read_text())["sources"][0]["schema"] is True


def test_every_mistake_is_said_at_once(tmp_path: Path) -> None:
    said = complaints(
        tmp_path,
        """
        log_retention_day = 3
        [[sources]]
        name = "shop"
        engine = "postgres"
        compression_level = 30
        connection = { host = "db", port = 99999, tsl = "require" }
        [[sources]]
        name = "docs"
        engine = "files"
        path = "data"
        optional = "no"
        [[schedules]]
        name = "nightly"
        when = "cron(0 3 * * *)"
        sources = ["shp"]
        """,
    )
    assert said.splitlines()[0] == "stepvault.toml has 9 mistakes:"
    for line in (
        "log_retention_day: unknown key; did you mean log_retention_days?",
        "sources.shop.compression_level = 30: has to be at most 19 (zstd level)",
        "sources.shop.connection.port = 99999: has to be at most 65535",
        "sources.shop.connection.tsl: unknown key; did you mean tls?",
        "sources.shop.connection: give exactly one of secret, parameter, url_env or iam; found none",
        'sources.docs.optional = "no": has to be true or false, without quotes',
        'sources.docs.path = "data": has to be absolute',
        "schedules.nightly.when",
        'schedules.nightly.sources: there is no source "shp"; did you mean shop?',
    ):
        assert f"\n  {line}" in said, line


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('engine = "postgrs"', "did you mean postgres? known: postgres, mysql, sqlite, files"),
        ('engine = "mariadb"', "unknown engine 'mariadb'; did you mean mysql?"),
        ('engine = "zork"', "unknown engine 'zork'; known: postgres, mysql, sqlite, files"),
        ("", "sources.a.engine: missing; one of postgres, mysql, sqlite, files"),
        ("engine = 7", "sources.a.engine: unknown engine '7'"),
        ('engine = "sqlite"\npath = "/a"\nformat = "sqll"', "did you mean sql? one of file, sql"),
        ('engine = "sqlite"', "sources.a.path: missing (The database file"),
        ('engine = "files"\npath = "s3://B"', 'sources.a.path = "s3://B": has to be s3://bucket'),
        (
            'engine = "mysql"\nconnection = { secret = "s" }\ndefiner = "bob"',
            'sources.a.definer = "bob"',
        ),
        ('engine = "files"\npath = "/a"\ninclude = "*.txt"', "sources.a.include"),
        ('engine = "files"\npath = "/a"\nmax_file_size = "5 GB"', "a whole number without quotes"),
        (
            'engine = "postgres"\nconnection = { secret = "s" }\nschema = false\ndata = false',
            "there is nothing to back up",
        ),
        (
            'engine = "postgres"\nconnection = { iam = true, host = "h", user = "u", tls = "disable" }',
            "IAM authentication needs TLS",
        ),
        (
            'engine = "postgres"\nconnection = { iam = true, host = "h", user = "u" }',
            "iam needs host, port and user beside it",
        ),
        (
            'engine = "postgres"\nconnection = { secret = "s", parameter = "p" }',
            "found secret and parameter",
        ),
    ],
)
def test_a_wrong_source_is_told_by_name_value_and_fix(
    tmp_path: Path, written: str, said: str
) -> None:
    assert said in complaints(tmp_path, f'[[sources]]\nname = "a"\n{written}\n')


@pytest.mark.parametrize("name", ["a/b", "../x", ".hidden", "", "a b", "ü", "x" * 64])
def test_a_name_that_is_no_safe_key_is_refused(tmp_path: Path, name: str) -> None:
    said = complaints(tmp_path, SHOP.replace('"shop"', json.dumps(name, ensure_ascii=False)))
    assert "sources[0].name" in said
    assert "not a safe name; use 1 to 63 letters" in said


def test_two_sources_with_one_name_are_told_apart_by_their_places(tmp_path: Path) -> None:
    said = complaints(tmp_path, SHOP + SHOP)
    assert "sources[0] and sources[1]: both named 'shop'; give each a name of its own" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("password", "hunter2"),
        ("url", "postgres://shop:hunter2@db/shop"),
        ("secret", '{\\"password\\": \\"hunter2\\"}'),
        ("secret", "postgres://shop:hunter2@db/shop"),
        ("url_env", "mysql://shop:hunter2@db/shop"),
        ("host", "postgres://shop:hunter2@db/shop"),
        ("tls", "postgres://shop:hunter2@db/shop"),
    ],
)
def test_a_credential_in_the_file_is_pointed_at_and_never_shown(
    tmp_path: Path, key: str, value: str
) -> None:
    said = complaints(
        tmp_path, SHOP.replace('{ secret = "prod/shop" }', f'{{ {key} = "{value}" }}')
    )
    assert "hunter2" not in said
    assert f"sources.shop.connection.{key}" in said
    assert "not shown" in said


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ('when = "every day"', "write rate(1 day), cron(0 3 * * ? *)"),
        ('when = "rate(1 days)"', "write rate(1 day)"),
        ('when = "rate(0 hours)"', "a rate is a whole number"),
        ('when = "cron(0 3 * * *)"', "cron has six fields"),
        ('when = "cron(0 25 * * ? *)"', "'25' is no hours: 0 to 23"),
        ('when = "cron(0 3 * * * *)"', "exactly one of day of month and day of week has to be ?"),
        ('when = "at(tomorrow)"', "at(2026-12-31T23:00:00)"),
        ('when = "rate(1 day)"\ntimezone = "Berlin"', "did you mean Europe/Berlin?"),
        ('when = "rate(1 day)"\ntimezone = "Europe/Berln"', "did you mean Europe/Berlin?"),
        ('when = "rate(1 day)"\nwindow_hours = 169', "has to be at most 168"),
        ('when = "rate(1 day)"\nevery = 3', "schedules.n.every: unknown key; known: name, when"),
        ('expression = "rate(1 day)"', "schedules.n.expression: unknown key; did you mean when?"),
    ],
)
def test_a_wrong_schedule_is_told(tmp_path: Path, schedule: str, said: str) -> None:
    assert said in complaints(tmp_path, f'{SHOP}\n[[schedules]]\nname = "n"\n{schedule}\n')


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("log_retention_days = 100", "the nearest is 90"),
        ('[vault]\nbucket = "My_Bucket"', 'vault.bucket = "My_Bucket"'),
        ('[vault]\nkms_key_arn = "my-key"', "vault.kms_key_arn"),
        ('[network]\nsubnet_ids = ["subnet-1"]', "has no effect without network.vpc_id"),
        ('[network]\nvpc_id = "vpc-1"', "has no effect without network.subnet_ids"),
        ('[notifications]\nemail = ["ops"]', 'notifications.email: "ops" is no address'),
        ('[[targets]]\nname = "t"', "targets.t: give exactly one of connection or path"),
    ],
)
def test_what_aws_would_refuse_in_mid_deployment_is_refused_here(
    tmp_path: Path, written: str, said: str
) -> None:
    assert said in complaints(tmp_path, f"{written}\n{SHOP}")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[[sources]]\nname = shop\n", "line 2, column 8: Invalid value. Text needs quotes"),
        ("[vault]\n[vault]\n", "line 2, column 7: Cannot declare ('vault',) twice"),
        ('a = "x', "line 1"),
        ("", "sources: missing"),
        ("sources = []", "sources = []: needs at least 1"),
        ("sources = 3", "sources = 3: has to be a list"),
        ("sources = [3]", "sources[0]: has to be a table, found 3"),
    ],
)
def test_bad_toml_is_told_by_line_and_column(tmp_path: Path, text: str, where: str) -> None:
    assert where in complaints(tmp_path, text)


def test_bad_json_is_told_by_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "stepvault.json"
    file.write_text('{\n  "sources": [,]\n}')
    with pytest.raises(ConfigInvalid, match="line 2, column 15"):
        config.load(file)
    file.write_text("[]")
    with pytest.raises(ConfigInvalid, match="holds a JSON list, not an object"):
        config.load(file)


def test_a_file_that_cannot_be_read_is_told_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"There is no configuration at .*none\.toml\. Copy"):
        config.load(tmp_path / "none.toml")
    with pytest.raises(ConfigInvalid, match="is a folder"):
        config.load(tmp_path)
    file = tmp_path / "stepvault.toml"
    file.write_bytes(b'name = "caf\xe9"')
    with pytest.raises(ConfigInvalid, match=r"is not UTF-8 \(byte 11\)"):
        config.load(file)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "stepvault.toml"
    file.write_bytes(b"\xef\xbb\xbf" + SHOP.encode())
    assert isinstance(config.load(file).sources[0], PostgresSource)


@pytest.mark.parametrize(
    "expression",
    [
        *("rate(1 minute)", "rate(30 minutes)", "rate(7 days)", "at(2026-12-31T23:00:00)"),
        *("cron(0 3 * * ? *)", "cron(0/15 8-18 ? * MON-FRI *)", "cron(0 3 L * ? *)"),
        *("cron(0 3 ? * 6#3 *)", "cron(30 2 1,15W * ? 2026-2030)", "cron(0 22 ? JAN,JUL SUN *)"),
    ],
)
def test_good_expressions_pass(expression: str) -> None:
    assert expressions.problem(expression) is None


@UNHURRIED
@given(st.text(alphabet="rate(con)0123456789 */?,-#LWMONday:T", max_size=30))
def test_no_expression_breaks_the_check(text: str) -> None:
    expressions.problem(text)
    expressions.problem(f"cron({text})")


def test_what_is_allowed_but_hardly_meant_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "stepvault.toml"
    file.write_text(
        """
        [[sources]]
        name = "shop"
        engine = "postgres"
        connection = { url_env = "SHOP" }
        [[sources]]
        name = "docs"
        engine = "files"
        path = "/srv/docs"
        [[schedules]]
        name = "monthly"
        when = "rate(30 days)"
        """
    )
    assert config.notes(config.load(file)) == [
        "shop: url_env is for a terminal; functions on AWS have no such variable",
        "docs: functions on AWS see no folder of yours without network.efs_access_point_arn, not /srv/docs",
        "no retention: every backup is kept",
    ]
    assert config.notes(config.load(EXAMPLES / "stepvault.toml")) == []


TOML_VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.text(max_size=8), st.floats(allow_nan=False)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [*Config.model_fields, *FilesSource.model_fields, "connection", "when", "secret"]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)


@UNHURRIED
@given(st.dictionaries(st.sampled_from([*Config.model_fields, "x"]), TOML_VALUES, max_size=5))
def test_whatever_stands_in_the_file_ends_in_lines_or_in_a_configuration(
    raw: dict[str, Any],
) -> None:
    found = config.mistakes(raw)
    if not found:
        Config.model_validate(raw)
    assert all(line and "\n" not in line for line in found)


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "stepvault.config", *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2] / "layers" / "core" / "python"),
        },
    )


def test_the_command_checks_prints_and_says_mistakes_with_exit_2(tmp_path: Path) -> None:
    good = run("check", "--json", str(EXAMPLES / "stepvault.toml"))
    assert good.returncode == 0
    assert json.loads(good.stdout)["sources"][0]["name"] == "shop"
    bad = tmp_path / "stepvault.toml"
    bad.write_text(SHOP + "optonal = true\n")
    refused = run("check", str(bad))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "sources.shop.optonal: unknown key; did you mean optional?" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 20_000,
        "a = " + "[" * 400 + "]" * 400,
        "a = " + "{b=" * 3_000 + "1" + "}" * 3_000,
        "a" + ".a" * 5_000 + " = 1",
        "".join(f"[{'a.' * n}a]\n" for n in range(0, 300, 20)),
        "[" + "a." * 5_000 + "a]",
        "a = " + "9" * 10_000,
        "a = 0x" + "f" * 10_000,
        "a = 2026-02-31",
        "a = 1e999999",
        'a = "\\ud800"',
    ],
    ids=lambda text: f"{text[:12]}…{len(text)}",
)
def test_toml_that_no_person_writes_is_refused_without_a_traceback(
    tmp_path: Path, text: str
) -> None:
    assert "stepvault.toml" in complaints(tmp_path, text)
    file = tmp_path / "deep.json"
    file.write_text('{"sources": ' * 60_000)
    with pytest.raises(ConfigInvalid, match=r"deep\.json"):
        config.load(file)


@pytest.mark.parametrize("key", ["path", "engine", "name"])
def test_control_characters_in_a_value_are_a_mistake(tmp_path: Path, key: str) -> None:
    source = {"name": "a", "engine": "files", "path": "/data"}
    source[key] += "\\u0000b"
    lines = "\n".join(f'{k} = "{v}"' for k, v in source.items())
    assert "sources" in complaints(tmp_path, f"[[sources]]\n{lines}")
