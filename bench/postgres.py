"""PostgreSQL: Stepvault against pg_dump with rclone, at equal connections; and the raw limits.

``python -m bench.postgres [--runs 5] [--megabytes 1000] [--connections 3]``

Stepvault runs at its default level and at the peers' level 3; what each stored stands beside its
time. The limits are what no tool on this machine gets below: COPY to nowhere, zstd alone, the
upload alone. A second contest backs up one large table over one, two and three connections.
"""

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.harness import Contest, options, shell, taken
from bench.measuring import ROOT
from bench.object_store import SCRATCH, ObjectStore
from devtools.servers.postgres import PostgresServer

ARCH = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
CLIENT = ROOT / f"build/layers/postgres_client-{ARCH}"

#: Rows as applications have them: narrow ones, documents, long texts with pictures. Words are
#: drawn from a vocabulary, as random letters would not compress and repeated ones too well.
SHOP = """
SET synchronous_commit = off;
CREATE TABLE word AS SELECT i, translate(md5(i::text), '0123456789', 'aeiouaeiou') AS word
  FROM generate_series(0, 4095) i;
UPDATE word SET word = left(word, 3 + i % 7);
CREATE UNIQUE INDEX ON word (i);
CREATE FUNCTION words(seed int, count int) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT string_agg(word, ' ') FROM generate_series(1, count) n
    JOIN word ON word.i = (hashint4(seed * 131 + n) & 4095) $$;
CREATE TABLE sale AS
  SELECT i AS id, (hashint4(i) & 1048575) AS customer,
    timestamp '2020-01-01' + i * interval '37 seconds' AS at,
    round((hashint4(i + 1) & 65535) / 7.0, 2) AS price,
    (ARRAY['new', 'paid', 'sent', 'back'])[1 + (hashint4(i + 2) & 3)] AS state, md5(i::text) AS code
  FROM generate_series(1, :megabytes * 5000) i;
CREATE TABLE event AS
  SELECT i AS id, jsonb_build_object('kind', (ARRAY['click', 'view', 'buy'])[1 + i % 3],
    'at', i * 17, 'ip', '10.0.' || i % 255 || '.' || i % 251, 'page', words(i, 5),
    'user', hashint4(i)) AS body
  FROM generate_series(1, :megabytes * 1400) i;
CREATE TABLE article AS
  SELECT i AS id, words(i, 250) AS body,
    decode(md5(i::text) || md5((i + 1)::text) || md5((i + 2)::text), 'hex') AS digest
  FROM generate_series(1, :megabytes * 130) i;
ALTER TABLE sale ADD PRIMARY KEY (id);
ANALYZE;
"""


def make_shop(server: PostgresServer, megabytes: int) -> int:
    """Make the database ``shop``; return how many bytes COPY prints of it."""
    server.psql("CREATE DATABASE shop")
    script = server.folder / "shop.sql"
    script.write_text(SHOP)
    server.run("psql", "-Xq", "-v", f"megabytes={megabytes}", "-f", script, database="shop")
    return sum(
        len(
            subprocess.run(
                [CLIENT / "bin/psql", "-XqAtc", f"COPY {table} TO STDOUT"],
                env=server.environment("shop"),
                capture_output=True,
                check=True,
            ).stdout
        )
        for table in ("sale", "event", "article")
    )


def source(name: str, connections: int, **settings: object) -> dict[str, object]:
    """Return the settings of the source, as in stepvault.toml."""
    return {
        "engine": "postgres",
        "name": name,
        "connection": {"url_env": "BENCH_POSTGRES"},
        "connections": connections,
        "split_above_mb": 64,
        "globals": False,
        **settings,
    }


def against_peers(
    store: ObjectStore, folder: Path, raw: int, connections: int, environment: dict[str, str]
) -> Contest:
    """Return the contest of ours, the two peers and the three limits."""
    rclone = Path(sys.executable).with_name("rclone")
    contest = Contest(
        "postgres",
        f"PostgreSQL 18, {raw / 1e6:,.0f} MB of COPY text, {connections} connections",
        bytes=raw,
        connections=connections,
    )
    contest.add_ours(store, "stepvault", source("shop", connections))
    third = source("shop-3", connections, compression_level=3)
    contest.add_ours(store, "stepvault, zstd level 3", third)
    dump = folder / "dump"
    contest.add(
        f"pg_dump -Fd -j{connections} -Z zstd:3, rclone copy",
        lambda turn: shell(
            f"rm -rf {dump}; pg_dump -Fd -j{connections} -Z zstd:3 -f {dump} shop; "
            f"{rclone} copy --transfers {connections} {dump} s3:{store.bucket}/fd-{turn}"
        ),
        after=lambda turn: taken(store, f"fd-{turn}"),
    )
    contest.add(
        "pg_dump -Fc -Z zstd:3 | rclone rcat",
        lambda turn: shell(
            f"pg_dump -Fc -Z zstd:3 shop | {rclone} rcat s3:{store.bucket}/fc-{turn}"
        ),
        after=lambda turn: taken(store, f"fc-{turn}"),
    )
    plain, packed = folder / "plain", folder / "packed"
    tables = ("sale", "event", "article")
    for table in tables:
        copy = f"psql -XqAtc 'COPY {table} TO STDOUT' shop >>{plain}"
        subprocess.run(shell(copy), env={**os.environ, **environment}, check=True)
    subprocess.run(["zstd", "-q", "-3", "-f", "-o", packed, plain], check=True)
    at_once = " ".join(f"psql -XqAtc {shlex.quote(f'COPY {t} TO STDOUT')} shop &" for t in tables)
    contest.add("limit: COPY to nowhere", lambda turn: shell(f"({at_once} wait) >/dev/null"))
    contest.add("limit: zstd -3 alone", lambda turn: shell(f"zstd -q -3 -c {plain} >/dev/null"))
    contest.add(
        "limit: upload alone",
        lambda turn: shell(f"{rclone} copyto {packed} s3:{store.bucket}/up-{turn}"),
        after=lambda turn: taken(store, f"up-{turn}"),
    )
    return contest


def one_table(store: ObjectStore) -> Contest:
    """Return the contest of the largest table alone, over fewer and fewer connections."""
    contest = Contest("postgres-connections", "One table in pieces, over 3, 2 and 1 connections")
    for connections in (3, 2, 1):
        settings = source(f"one-{connections}", connections, tables=["public.sale"])
        contest.add_ours(store, f"{connections} connections", settings)
    return contest


def main() -> None:
    """Measure, and write the results."""
    chosen = options(__doc__ or "", megabytes=1000, connections=3)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, ROOT / "layers/postgres_client/build.py", "--arch", ARCH, "--out", CLIENT],
        check=True,
    )
    with (
        tempfile.TemporaryDirectory(dir=SCRATCH) as folder,
        ObjectStore() as store,
        PostgresServer(settings={"shared_buffers": "512MB"}) as server,
    ):
        raw = make_shop(server, chosen.megabytes)
        environment = {
            **{k: v for k, v in server.environment("shop").items() if k.startswith("PG")},
            **store.environment,
            "BENCH_POSTGRES": server.url("shop"),
            "PATH": f"{CLIENT / 'bin'}:{os.environ['PATH']}",
        }
        contest = against_peers(store, Path(folder), raw, chosen.connections, environment)
        contest.run(chosen.runs, environment)
        contest.report()
        contest = one_table(store)
        contest.run(chosen.runs, environment)
        contest.report()


if __name__ == "__main__":
    main()
