"""A real MySQL server for the tests: MySQL 9 from Debian unstable, in a folder of its own.

``python devtools/servers/mysql.py`` fetches ``mysql-server-core`` and all it needs, its C library
included, from the mirror this system uses (apt checks Debian's signatures) and unpacks them to
``build/mysql``. Nothing is installed. Its own loader starts it, so this system's libraries may be older.
"""

import re
import tempfile
from pathlib import Path

from devtools.servers.mariadb import MariaDb
from devtools.servers.server import run_program

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build/mysql"
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIBRARIES = "usr/lib/*-linux-gnu", "usr/lib/mysql/private"


def unpack() -> Path:
    """Return the folder with MySQL's programs and libraries; make it at first use.

    Raises:
        RuntimeError: apt cannot fetch the packages; quotes what it printed.
    """
    if HOME.is_dir():
        return HOME
    HOME.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME.parent) as name:
        folder = Path(name)
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()  # as if nothing were installed: fetch the C library, too
        (folder / "sources").write_text(f"deb [signed-by={_KEYS}] {_mirror()} unstable main\n")
        options = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Install-Recommends": "0",
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "1",
        }
        apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
        run_program([*apt, "update"])
        run_program([*apt, "install", "--yes", "--download-only", "mysql-server-core"])
        unpacked = folder / "unpacked"
        for package in (folder / "cache/archives").glob("*.deb"):
            run_program(["dpkg-deb", "--extract", str(package), str(unpacked)])
        unpacked.chmod(0o755)
        unpacked.rename(HOME)
    return HOME


def _mirror() -> str:
    """Where this system gets Debian's packages from."""
    for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        text = path.read_text() if path.is_file() else ""
        if mirror := re.search(r"^(?:deb\b.*?|URIs:)\s(\w+://\S+/debian/?)(?:\s|$)", text, re.M):
            return mirror[1]
    raise RuntimeError("no mirror of Debian's packages is named under /etc/apt")


#: A subquery in place of a table of MariaDB's sequence engine.
_SEQUENCE = r"""(WITH RECURSIVE s (seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM s WHERE seq < \1)
 SELECT /*+ SET_VAR(cte_max_recursion_depth = 1000000) */ seq FROM s) AS seq_1_to_\1"""


#: What MariaDB says otherwise; MD5 and SHA1 are gone since MySQL 9.6.
_WORDS = (
    (r" PERSISTENT\b", " STORED"),
    (r"\bMD5\((\w+)\)", r"LEFT(SHA2(\1, 256), 32)"),
    (r"\bSHA1\((\w+)\)", r"LEFT(SHA2(\1, 256), 40)"),
    (r"\bBINLOG MONITOR\b", "REPLICATION CLIENT, SHOW_ROUTINE"),
    (r" ENGINE=Aria\b", " ENGINE=MyISAM"),
    (r"\bTEXT COMPRESSED\b", "TEXT"),
    (r"^CREATE SEQUENCE .*", "DO 0"),
    (r"\bNEXTVAL\(\w+\)", "1"),
)


class MySql(MariaDb):
    """Run one MySQL server: ``with MySql() as server``, as ``MariaDb``."""

    title = "MySQL"
    daemon = "mysqld"
    programs = ()
    small_and_fast = (
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--mysqlx=OFF",
        "--secure-file-priv=NULL",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-flush-method=nosync",
        "--innodb-doublewrite=OFF",
        "--innodb-buffer-pool-size=64M",
        "--innodb-redo-log-capacity=64M",
        "--innodb-buffer-pool-dump-at-shutdown=OFF",
        "--sync-binlog=0",
    )

    def dialect(self, statement: str) -> list[str]:
        """Translate MariaDB's statement for MySQL."""
        statement = re.sub(r"\bseq_1_to_(\d+)", _SEQUENCE, statement)
        for theirs, ours in _WORDS:
            statement = re.sub(theirs, ours, statement)
        if replaced := re.match(r"CREATE OR REPLACE (USER|DATABASE) (\S+)(.*)", statement, re.S):
            kind, name, rest = replaced.groups()
            return [f"DROP {kind} IF EXISTS {name}", f"CREATE {kind} {name}{rest}"]
        return [statement]

    def _make_data(self) -> None:
        program = self._program("mysqld")
        # Fixed for good when the data folder is made.
        fixed = [o for o in self.options if o.startswith("--lower-case-table-names")]
        run_program([*program, "--initialize-insecure", "--innodb-flush-method=nosync", *fixed])
        self._set_passwords("CREATE USER")

    def _program(self, program: str) -> list[str]:
        home = unpack()
        loader = next((home / "usr").glob("lib*/ld-linux-*.so.*"))
        libraries = ":".join(str(p) for pattern in _LIBRARIES for p in home.glob(pattern))
        return [
            *(str(loader), "--library-path", libraries, str(home / "usr/sbin" / program)),
            *("--no-defaults", f"--basedir={home / 'usr'}", f"--datadir={self.data}"),
            *self._user(),
        ]


if __name__ == "__main__":
    unpack()
