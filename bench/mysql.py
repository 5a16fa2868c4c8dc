"""MariaDB: Stepvault against mariadb-dump and mydumper, on four kinds of tables and all of them.

``python -m bench.mysql [--runs 5] [--megabytes 500]``; needs Debian's mariadb-server,
mariadb-client and mydumper. Stepvault compresses at its default level, the dump with zstd -3; what
each stored stands beside its time. All ends up in the same S3 server.
"""

import os
import random
import sys
import tempfile
from itertools import accumulate, batched
from pathlib import Path

from bench.harness import Contest, options, shell, taken
from bench.object_store import SCRATCH, ObjectStore
from devtools.servers.mariadb import MariaDb

CONNECTIONS = 3
#: Tables here are a hundredth of real ones, so ours and mydumper's ranges are too.
SPLIT_MB = 32
SPLIT_ROWS = 150_000

_WIDE = ", ".join(f"c{n} VARCHAR(40), n{n} INT" for n in range(13))
_WIDE_VALUES = ", ".join(f"ELT(1 + (seq * {n + 3}) % 7, 'red', 'green', 'blue', MD5(seq), NULL, 'a longer word', ''), (seq * {n + 1}) % 9973" for n in range(13))  # fmt: skip

#: Name: columns, values (none: made here) and how many rows make a megabyte of dump.
TABLES = {
    "narrow": (
        "id INT AUTO_INCREMENT PRIMARY KEY, customer INT, state TINYINT, name VARCHAR(60), total DECIMAL(10,2), placed DATETIME",
        "seq, (seq * 7919) % 100000, seq % 5, CONCAT('order of ', ELT(1 + seq % 6, 'Zoe', 'Bob', 'Ann', 'Eve', 'Max', 'Kim'), ' ', seq % 5000), seq / 7, '2020-01-01' + INTERVAL seq SECOND",
        13_500,
    ),
    "wide": (f"id INT PRIMARY KEY, {_WIDE}", f"seq, {_WIDE_VALUES}", 5_200),
    "text": ("id INT PRIMARY KEY, body TEXT", "", 530),
    "blobs": (
        "id INT PRIMARY KEY, picture LONGBLOB",
        "seq, CONCAT(REPEAT(UNHEX(SHA2(seq, 512)), 40 + seq % 200), RANDOM_BYTES(1000))",
        97,
    ),
}


def make(server: MariaDb, megabytes: int) -> None:
    """Make a database for each kind, and one with half of each."""
    for kind, (columns, values, rows) in TABLES.items():
        server.sql(f"CREATE DATABASE {kind}", f"CREATE TABLE {kind}.{kind} ({columns})")
        if values:
            chosen = f"SELECT {values} FROM seq_1_to_{rows * megabytes}"
            server.sql(f"INSERT INTO {kind} {chosen}", database=kind)
        else:
            insert_prose(server, kind, rows * megabytes)
        server.sql(f"ANALYZE TABLE {kind}", database=kind)
    server.sql("CREATE DATABASE everything")
    for kind, (_, _, rows) in TABLES.items():
        server.sql(
            f"CREATE TABLE {kind} LIKE {kind}.{kind}",
            f"INSERT INTO {kind} SELECT * FROM {kind}.{kind} WHERE id <= {rows * megabytes // 2}",
            f"ANALYZE TABLE {kind}",
            database="everything",
        )


def insert_prose(server: MariaDb, kind: str, rows: int) -> None:
    """Insert texts of 300 to 3,300 bytes that compress about as English does.

    Cut at random out of 64 MB, so that what repeats lies further apart than zstd looks back.
    """
    rng = random.Random(rows)
    words = ["".join(rng.choices("etaoinshrdlucmfwyp", k=2 + n % 9)) for n in range(12_000)]
    ends = (20, ", "), (25, ". "), (50, "'s "), (80, ".\n")  # one word in so many has that end
    vocabulary = [
        word + next((end for k, (every, end) in enumerate(ends, 1) if n % every == k), " ")
        for n, word in enumerate(words)
    ]
    often = list(accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))  # Zipf's law
    prose = "".join(rng.choices(vocabulary, cum_weights=often, k=9_000_000))
    with server.connect(kind) as connection, connection.cursor() as cursor:
        for some in batched(range(1, rows + 1), 500, strict=False):
            starts = [rng.randrange(len(prose) - 3_300) for _ in some]
            bodies = [prose[at : at + 300 + at % 3_000] for at in starts]
            cursor.executemany(
                f"INSERT INTO {kind} VALUES (%s, %s)",
                list(zip(some, bodies, strict=True)),
            )
        connection.commit()


def contest(
    store: ObjectStore, server: MariaDb, folder: Path, database: str, megabytes: int, rounds: int
) -> None:
    """Measure all contenders on one database and write the results."""
    client = folder / "client.cnf"
    client.write_text(
        f"[client]\nhost=127.0.0.1\nport={server.port}\nuser=root\npassword={server.password}\n"
    )
    rclone = Path(sys.executable).with_name("rclone")
    source = {
        "engine": "mysql",
        "name": f"mysql-{database}",
        "connection": {"url_env": "BENCH_MYSQL"},
        "databases": [database],
        "connections": CONNECTIONS,
        "split_above_mb": SPLIT_MB,
    }
    dump = f"mariadb-dump --defaults-file={client} --single-transaction --quick --routines --events --max-allowed-packet=1G {database}"
    mydumper = f"mydumper --defaults-file={client} -h 127.0.0.1 -P {server.port} -u root -B {database} -t {CONNECTIONS} -r {SPLIT_ROWS} -v 1"
    where = f"s3:{store.bucket}/peers"

    def copied(compress: str) -> list[str]:
        out = folder / "mydumper"
        return shell(
            f"rm -rf {out}; {mydumper} {compress} -o {out}; {rclone} copy --transfers 4 {out} {where}; rm -rf {out}"
        )

    name = "mysql" if database == "everything" else f"mysql-{database}"
    what = {"everything": "narrow, wide, text and blobs"}.get(database, database)
    total = megabytes * len(TABLES) // 2 if database == "everything" else megabytes
    race = Contest(
        name,
        f"MariaDB, {what}: about {total} MB of SQL to S3",
        connections=CONNECTIONS,
        split_above_mb=SPLIT_MB,
    )
    race.add_ours(store, "stepvault", source)
    race.add(
        "mariadb-dump | zstd -3 | rclone rcat",
        lambda turn: shell(f"{dump} | zstd -3 -T1 -c | {rclone} rcat {where}/dump.sql.zst"),
        after=lambda turn: taken(store, "peers/"),
    )
    race.add(
        f"mydumper -t {CONNECTIONS} -c, then rclone copy",
        lambda turn: copied("-c"),
        after=lambda turn: taken(store, "peers/"),
    )
    race.add(
        f"mydumper -t {CONNECTIONS} (not compressed), then rclone copy",
        lambda turn: copied(""),
        after=lambda turn: taken(store, "peers/"),
    )
    url = f"mysql://root:{server.password}@127.0.0.1:{server.port}/{database}"
    race.run(rounds, {**store.environment, "BENCH_MYSQL": url})
    race.report()


def main() -> None:
    """Measure, and write the results."""
    chosen = options("MariaDB against mariadb-dump and mydumper", megabytes=500)
    only = os.environ.get("BENCH_ONLY", "").split()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=SCRATCH) as folder,
        MariaDb(["--innodb-buffer-pool-size=2G", "--log-bin", "--server-id=1"]) as server,
        ObjectStore() as store,
    ):
        make(server, chosen.megabytes)
        for database in only or [*TABLES, "everything"]:
            contest(store, server, Path(folder), database, chosen.megabytes, chosen.runs)


if __name__ == "__main__":
    main()
