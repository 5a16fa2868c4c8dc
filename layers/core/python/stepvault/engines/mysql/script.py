"""The script in every backup that restores it without Stepvault, with the plain client."""

import shlex
from collections.abc import Sequence

from stepvault.records import StoredObject

_HEAD = r"""#!/bin/sh
# Restores this folder without Stepvault. Needs sh, zstd, sed and the mysql or mariadb client.
#
#   sh restore.sh --defaults-extra-file=~/target.cnf      (host, user and password in [client])
#   sh restore.sh -h HOST -u USER                         (password in MYSQL_PWD)
#
# All arguments go to the client. It stops at the first error. Tables that exist are an error:
# restore into a server that does not have these databases. Accounts are not restored: see
# accounts.grants, if it is there.
set -eu
cd "$(dirname "$0")"
client=$(command -v mariadb || command -v mysql) || { echo "no mysql client found" >&2; exit 1; }
start='SET @stepvault=1'
run() {
    "$client" "$@" --init-command="$start" \
        --default-character-set=utf8mb4 --binary-mode --comments --max-allowed-packet=1G
}
# MariaDB checks rows against constraints that may be younger than the rows.
case $(echo 'SELECT VERSION();' | run "$@" --skip-column-names) in
    *MariaDB*) start='SET check_constraint_checks=0' ;;
esac
check() { zstd -tq "$1" || { echo "$1 is damaged" >&2; exit 1; }; }
# define DATABASE FILE: runs definitions. The last line of the file is /*WORD*/; and ends statements;
# a semicolon at the end of a line inside a statement is followed by /*WORD*/.
define() {
    db=$1 file=$2; shift 2; check "$file"
    end=$(zstd -dcq "$file" | tail -n 1)
    word=${end#/?}; word=${word%??}; word=${word%?}
    zstd -dcq "$file" | sed "s#;/\*$word\*/\$#;#" | run "$@" --delimiter="$end" ${db:+"$db"}
}
load() {
    db=$1 file=$2; shift 2; check "$file"
    { echo 'SET autocommit=0;'; zstd -dcq "$file"; echo 'COMMIT;'; } | run "$@" "$db"
}

"""

#: The order of the kinds; views come last, as they may use everything else.
ORDER = ("database", "sequence", "table", "data", "post", "triggers", "view")


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
            if stored.facts.get("broken"):  # the file may hold others, which do work
                note = f"{stored.name} holds what was broken when it was backed up"
                line += f" --force\necho {shlex.quote(note)} >&2"
            lines.append(line + "\n")
    return _HEAD + "".join(lines) + 'echo "restored"\n'
