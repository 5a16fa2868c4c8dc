"""The script in every backup that restores it without Stepvault, with the plain client."""

import shlex
from collections.abc import Sequence

from stepvault.engines.mysql.definitions import END
from stepvault.records import StoredObject

_HEAD = r"""#!/bin/sh
# Restores this folder without Stepvault. Needs sh, zstd, sed and the mysql or mariadb client.
#
#   sh restore.sh --defaults-extra-file=~/target.cnf      (host, user and password in [client])
#   sh restore.sh -h HOST -u USER                         (password in MYSQL_PWD)
#
# All arguments go to the client. It stops at the first error. Tables that exist are an error:
# restore into a server that does not have these databases.
set -eu
cd "$(dirname "$0")"
client=$(command -v mariadb || command -v mysql) || { echo "no mysql client found" >&2; exit 1; }
run() { "$client" "$@" --default-character-set=utf8mb4 --binary-mode --comments --max-allowed-packet=1G; }
check() { zstd -tq "$1" || { echo "$1 is damaged" >&2; exit 1; }; }
# define DATABASE FILE: runs definitions, which end with a delimiter of our own.
define() {
    db=$1 file=$2; shift 2; check "$file"
    zstd -dcq "$file" | sed 's#;/\*\*/$#;#' | run "$@" --delimiter='DELIMITER_TEXT' ${db:+"$db"}
}
load() {
    db=$1 file=$2; shift 2; check "$file"
    { echo 'SET autocommit=0;'; zstd -dcq "$file"; echo 'COMMIT;'; } | run "$@" "$db"
}

"""

#: The order of the kinds; views come last, as they may use everything else.
ORDER = ("database", "sequence", "table", "placeholder", "data", "post", "triggers", "view")


def restore_script(objects: Sequence[StoredObject]) -> str:
    """Return a script that restores these objects in the right order."""
    lines = []
    for kind in ORDER:
        for stored in sorted(objects, key=lambda o: (o.facts.get("order", 0), o.name)):
            if stored.facts.get("kind") != kind:
                continue
            database = "" if kind == "database" else str(stored.facts["database"])
            verb = "load" if kind == "data" else "define"
            line = f'{verb} {shlex.quote(database)} {shlex.quote(stored.name)} "$@"'
            if stored.facts.get("broken"):
                line += f" || echo {shlex.quote(stored.name)}: broken when it was backed up >&2"
            lines.append(line + "\n")
    head = _HEAD.replace("DELIMITER_TEXT", END.strip())
    return head + "".join(lines) + 'echo "restored"\n'
