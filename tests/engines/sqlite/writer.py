"""A program that keeps committing to an SQLite file until its standard input closes.

``python writer.py <file> <journal mode> <autocheckpoint pages> [commits per second]``,
without the last as many as it can. Every transaction moves
money between two tables, so that their sum stays, appends to a growing journal and cuts it
back now and then, so that the file grows and its pages are used again. At the end it prints the
number of commits, the seconds they took in all and the longest one.
"""

import random
import select
import sqlite3
import sys
import time

TOTAL = 1_000_000


def prepare(connection: sqlite3.Connection) -> None:
    connection.executescript(
        f"""
        BEGIN;
        CREATE TABLE IF NOT EXISTS checking (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL);
        CREATE TABLE IF NOT EXISTS savings (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL);
        CREATE TABLE IF NOT EXISTS journal (id INTEGER PRIMARY KEY, note BLOB NOT NULL);
        CREATE INDEX IF NOT EXISTS journal_note ON journal (substr(note, 1, 8));
        INSERT OR IGNORE INTO checking VALUES (1, {TOTAL});
        INSERT OR IGNORE INTO savings VALUES (1, 0);
        COMMIT;
        """
    )


def main(path: str, mode: str, autocheckpoint: str, rate: str = "0") -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {int(autocheckpoint)}")
    connection.execute("PRAGMA synchronous = OFF")
    prepare(connection)
    print("ready", flush=True)
    commits, busy, longest = 0, 0.0, 0.0
    first, every = time.monotonic(), 1 / float(rate) if float(rate) else 0.0
    while not select.select([sys.stdin], [], [], 0)[0]:
        cents, note = random.randrange(100), random.randbytes(random.randrange(9_000))
        started = time.monotonic()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE checking SET cents = cents - ?", (cents,))
        connection.execute("INSERT INTO journal (note) VALUES (?)", (note,))
        if commits % 50 == 49:
            connection.execute("DELETE FROM journal WHERE id % 7 = ?", (commits % 7,))
        connection.execute("UPDATE savings SET cents = cents + ?", (cents,))
        connection.execute("COMMIT")
        commits += 1
        took = time.monotonic() - started
        busy += took
        longest = max(longest, took)
        time.sleep(max(0.0, first + commits * every - time.monotonic()) if every else 0.0)
    print(commits, busy, longest, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
