#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# A redis server under redis-benchmark, with Lua errors, which leave functions by longjmp, and a child that saves.
# usage: redis.sh prepare|run FOLDER [ROUNDS]
set -eu
folder=$2/redis
socket=$folder/socket

cli() { redis-cli -s "$socket" "$@"; }

case $1 in
    prepare)
        mkdir "$folder"
        # One program, which is the server by this name.
        ln -s /usr/bin/redis-check-rdb "$folder/redis-server"
        ;;
    run)
        "$folder/redis-server" --port 0 --unixsocket "$socket" --dir "$folder" --save '' --io-threads 2 --daemonize no >/dev/null &
        server=$!
        trap 'cli shutdown nosave; wait "$server"; rm -f "$folder/dump.rdb"' EXIT
        until cli ping 2>/dev/null | grep -q PONG; do :; done
        redis-benchmark -s "$socket" -q -n $((53 * $3)) -c 7 -P 3 -r 100 -t set,get,incr,lpush,lpop,sadd,hset,zadd,mset \
            >"$folder/rates"
        for i in 1 2 3 4 5 6 7; do
            cli eval 'local ok = pcall(error, "left"); return tostring(ok) .. redis.call("incrby", "count", ARGV[1])' 0 "$i"
            cli eval 'return redis.error_reply("no")' 0
        done
        cli bgsave >/dev/null
        until cli info persistence | grep -q rdb_bgsave_in_progress:0; do :; done
        cli info persistence | grep rdb_last_bgsave_status
        cli info errorstats
        ;;
esac
