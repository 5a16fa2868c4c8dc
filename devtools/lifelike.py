"""Sources that look like real ones: a shop's database, a busy SQLite file, a folder of files.

``Traffic`` writes to both databases while they are backed up. Every transaction moves money
between two tables and leaves their sum unchanged, so a copy that mixes two moments shows.
"""

import json
import os
import random
import select
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

#: What every transaction of the traffic preserves: the sum of both tables.
TOTAL = 1_000_000

#: About 200 MB as COPY text at scale 1; made by the server, which is quicker than sending it.
SHOP = """
CREATE EXTENSION IF NOT EXISTS plpgsql;
CREATE SCHEMA sales;
CREATE TYPE sales.state AS ENUM ('new', 'paid', 'sent', 'returned');
CREATE DOMAIN sales.email AS text CHECK (VALUE LIKE '%@%');
CREATE TYPE sales.address AS (street text, city text, zip varchar(10));

CREATE TABLE sales.customer (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL, email sales.email NOT NULL, home sales.address,
  settings jsonb NOT NULL DEFAULT '{}', born date, joined timestamptz NOT NULL,
  name_length int GENERATED ALWAYS AS (length(name)) STORED);
INSERT INTO sales.customer (name, email, home, settings, born, joined)
SELECT (ARRAY['Ada','Grace','Edsger','Jörg','Søren','Łukasz','李','Zoë'])[1+n%8] || ' ' || md5(n::text),
       'user' || n || '@example.com', ROW('Main St ' || n%400, 'Town ' || n%90, lpad((n%99999)::text,5,'0'))::sales.address,
       jsonb_build_object('theme', n%3, 'tags', jsonb_build_array(md5((n*7)::text), n%11), 'beta', n%2=0),
       date '1950-01-01' + (n%20000)::int, timestamptz '2020-01-01' + n * interval '37 seconds'
FROM generate_series(1, 60000 * :scale) n;

CREATE TABLE sales.product (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text NOT NULL, price numeric(12,4) NOT NULL,
  tags text[], weight double precision, photo bytea, valid daterange);
INSERT INTO sales.product (title, price, tags, weight, photo, valid)
SELECT 'Product "' || n || E'"\\t' || repeat(md5(n::text) || ' ', 12), (n * 1.37)::numeric(12,4),
       ARRAY['a' || n%5, NULL, 'x,y{' || n%3], sqrt(n), decode(repeat(md5((n*3)::text), 60), 'hex'),
       daterange('2024-01-01', date '2024-02-01' + (n%300)::int)
FROM generate_series(1, 12000 * :scale) n;

CREATE TABLE sales.orders (
  id bigint, customer bigint NOT NULL, state sales.state NOT NULL,
  placed timestamp(6) NOT NULL, total numeric(12,2) NOT NULL, note text);
INSERT INTO sales.orders
SELECT n, 1 + (n*7919::bigint)%(60000 * :scale), (ARRAY['new','paid','sent','returned'])[1+n%4]::sales.state,
       timestamp '2021-01-01' + n * interval '53.123457 seconds', (n%100000)/7.0,
       CASE WHEN n%9=0 THEN 'leave at ' || md5(n::text) || E'\\nring twice' END
FROM generate_series(1, 350000 * :scale) n;

CREATE TABLE sales.line (
  orders bigint NOT NULL, position int NOT NULL, sku text NOT NULL,
  quantity int NOT NULL, price numeric(12,4) NOT NULL);
INSERT INTO sales.line
SELECT 1 + n/3, n%3, 'SKU-' || md5((n%5000)::text), 1 + n%7, (n%10000)/3.0
FROM generate_series(0, 1050000 * :scale - 1) n;

CREATE TABLE sales.visit (at timestamptz NOT NULL, path text, agent text, ip inet) PARTITION BY RANGE (at);
CREATE TABLE sales.visit_2025 PARTITION OF sales.visit FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE sales.visit_2026 PARTITION OF sales.visit FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO sales.visit
SELECT timestamptz '2025-01-02' + n * interval '45 seconds', '/p/' || md5((n%3000)::text) || '?q=' || n,
       'Mozilla/5.0 (X11; Linux x86_64) visit/' || n%40, ('10.' || n%250 || '.' || n%199 || '.7')::inet
FROM generate_series(1, 600000 * :scale) n;

CREATE TABLE sales.account (id int PRIMARY KEY, cents bigint NOT NULL);
CREATE TABLE sales.wallet (id int PRIMARY KEY, cents bigint NOT NULL);
INSERT INTO sales.account SELECT n, 5000 FROM generate_series(1, 100) n;
INSERT INTO sales.wallet SELECT n, 5000 FROM generate_series(1, 100) n;
CREATE TABLE sales.nothing_yet (id int, note text);

ALTER TABLE sales.orders ADD PRIMARY KEY (id), ADD FOREIGN KEY (customer) REFERENCES sales.customer;
ALTER TABLE sales.line ADD PRIMARY KEY (orders, position), ADD FOREIGN KEY (orders) REFERENCES sales.orders;
CREATE INDEX ON sales.orders (customer);
CREATE INDEX ON sales.orders (placed);
CREATE INDEX ON sales.customer USING gin (settings);
CREATE VIEW sales.open_orders AS SELECT * FROM sales.orders WHERE state = 'new';
CREATE MATERIALIZED VIEW sales.turnover AS
  SELECT date_trunc('month', placed) AS month, sum(total) AS total FROM sales.orders GROUP BY 1;
CREATE FUNCTION sales.stamp() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.note := coalesce(NEW.note, 'checked'); RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE INSERT ON sales.orders FOR EACH ROW EXECUTE FUNCTION sales.stamp();
CREATE SEQUENCE sales.invoice START 4711;
SELECT nextval('sales.invoice');
SELECT lo_from_bytea(0, decode(repeat('00ff10', 30000), 'hex'));
COMMENT ON TABLE sales.orders IS 'What customers bought; it''s "quoted"';
"""


def make_shop(url: str, scale: int = 1) -> None:
    """Fill an empty PostgreSQL database; about 200 MB of COPY text per unit of scale."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(SHOP.replace(":scale", str(scale)).encode())


def make_tickets(path: Path, rows: int = 60_000) -> None:
    """Make a SQLite file in WAL mode, about 25 MB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(
            """
            CREATE TABLE ticket (id INTEGER PRIMARY KEY, title TEXT, body BLOB, opened REAL);
            CREATE INDEX ticket_title ON ticket (title);
            CREATE TABLE account (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL);
            CREATE TABLE wallet (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL);
            """
        )
        chance = random.Random(1)
        connection.executemany(
            "INSERT INTO ticket (title, body, opened) VALUES (?, ?, ?)",
            ((f"Ticket {n} ✓", chance.randbytes(300), n / 7) for n in range(rows)),
        )
        for table in ("account", "wallet"):
            connection.executemany(
                f"INSERT INTO {table} VALUES (?, ?)", ((n, 5000) for n in range(1, 101))
            )
    connection.close()


def make_files(root: Path, count: int = 4000) -> None:
    """Make a folder of a website's uploads: documents, thumbnails, a large file, odd names."""
    chance = random.Random(2)
    words = [f"{chance.getrandbits(40):x}" for _ in range(2000)]
    for n in range(count):
        folder = root / f"{n % 40:02}" / f"{n % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        if n % 4:
            text = " ".join(chance.choices(words, k=chance.randint(20, 900)))
            (folder / f"note-{n}.txt").write_text(text)
        else:
            (folder / f"thumb-{n}.bin").write_bytes(chance.randbytes(chance.randint(500, 9000)))
    (root / "export.json").write_text(
        json.dumps([{"id": n, "w": chance.choice(words)} for n in range(150_000)])
    )
    (root / "ünïcode näme ✓").write_text("a name that is not ASCII")
    (root / "new\nline").write_text("a name that ends listings by line")
    (root / "latest.json").symlink_to("export.json")
    (root / "empty folder").mkdir()
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)


class Traffic:
    """Write to both databases from a process of its own while the block runs.

    After the block, ``commits`` is how many transactions were committed.

    Raises:
        RuntimeError: the writing process failed; quotes the end of what it printed.
    """

    def __init__(self, postgres_url: str | None, sqlite_path: Path | None) -> None:
        self._settings = {"postgres": postgres_url, "sqlite": str(sqlite_path or "") or None}
        self.commits = 0

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "devtools.lifelike"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"STEPVAULT_TRAFFIC": json.dumps(self._settings)},
        )
        assert self.process.stdout is not None
        if not self.process.stdout.readline():  # comes after the first commits
            self._end()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        """Tell the process to stop by closing its input; read how many commits it made."""
        printed, errors = self.process.communicate("", timeout=30)
        if self.process.returncode:
            raise RuntimeError(f"the traffic's process failed:\n{errors[-2000:]}")
        self.commits = int(printed)


def transfer(execute: Callable[[str], object], first: str, second: str, number: int) -> None:
    """Move cents from an account to a wallet: each table changes, their sum does not."""
    amount, who = number % 17 - 8, number % 100 + 1
    execute(f"UPDATE {first} SET cents = cents - {amount} WHERE id = {who}")
    execute(f"UPDATE {second} SET cents = cents + {amount} WHERE id = {101 - who}")


def _write_until_told_to_stop() -> None:
    """Commit some two hundred transactions a second in each database until input closes."""
    settings = json.loads(os.environ["STEPVAULT_TRAFFIC"])
    shop = psycopg.connect(settings["postgres"]) if settings["postgres"] else None
    tickets = sqlite3.connect(settings["sqlite"], timeout=30) if settings["sqlite"] else None
    commits = 0
    while commits == 0 or not select.select([sys.stdin], [], [], 0.05)[0]:
        for _ in range(10):
            if shop:
                with shop.transaction():
                    transfer(shop.execute, "sales.account", "sales.wallet", commits)
            if tickets:
                with tickets:
                    transfer(tickets.execute, "account", "wallet", commits)
            commits += 1
        if commits == 10:
            print("writing", flush=True)
    print(commits, flush=True)


if __name__ == "__main__":
    _write_until_told_to_stop()
