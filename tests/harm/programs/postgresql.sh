#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# A PostgreSQL server under pgbench, with errors in PL/pgSQL, which leave functions by longjmp.
# usage: postgresql.sh prepare|run FOLDER [ROUNDS]
set -eu
programs=$(echo /usr/lib/postgresql/*/bin | tr ' ' '\n' | tail -1)
folder=$2/postgresql
export PGHOST="$folder" PGUSER=nobody PGDATABASE=postgres

# The server refuses to run as root.
as_nobody() {
    program=$1
    shift
    setpriv --reuid 65534 --regid 65534 --clear-groups "$programs/$program" "$@"
}

serve() {
    as_nobody pg_ctl -D "$folder/data" -o "-c listen_addresses= -c fsync=off -k $folder" -l "$folder/log" -w -t 120 -s start
    # The workers of an interrupted run would wait for ever.
    trap 'as_nobody pg_ctl -D "$folder/data" -m fast -w -t 120 -s stop' EXIT
}

case $1 in
    prepare)
        mkdir "$folder"
        chown 65534:65534 "$folder"
        as_nobody initdb --auth=trust --username=nobody --no-sync --no-locale -D "$folder/data" >/dev/null
        serve
        as_nobody pgbench -i -q 2>/dev/null
        ;;
    run)
        serve
        as_nobody pgbench --no-vacuum --random-seed=1 --client=3 --transactions=$((17 * $3)) 2>/dev/null |
            grep -E '^number of (transactions|failed)'
        as_nobody psql --no-psqlrc --quiet --no-align --tuples-only --file=- <<SQL
\set VERBOSITY terse
DO \$\$
DECLARE caught int := 0;
BEGIN
    FOR i IN 1..$((53 * $3)) LOOP
        BEGIN PERFORM 1 / (i % 2); EXCEPTION WHEN division_by_zero THEN caught := caught + 1; END;
    END LOOP;
    CREATE TEMPORARY TABLE results AS SELECT caught;
END \$\$;
SELECT caught FROM results;
SELECT sum(length(md5(i::text))), count(DISTINCT i % 17) FROM generate_series(1, $((211 * $3))) i;
SQL
        ;;
esac
