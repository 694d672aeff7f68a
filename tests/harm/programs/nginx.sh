#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# An nginx with two workers under ab, which are replaced meanwhile.
# usage: nginx.sh prepare|run FOLDER [ROUNDS]
set -eu
folder=$2/nginx
PATH=$PATH:/usr/sbin

case $1 in
    prepare)
        mkdir "$folder"
        seq 1000 >"$folder/numbers"
        cat >"$folder/nginx.conf" <<CONF
worker_processes 2;
pid $folder/pid;
error_log $folder/error.log;
events {}
http {
    access_log $folder/access.log;
    client_body_temp_path $folder;
    proxy_temp_path $folder;
    fastcgi_temp_path $folder;
    uwsgi_temp_path $folder;
    scgi_temp_path $folder;
    gzip on;
    gzip_types *;
    server {
        listen 127.0.0.1:48211;
        location / { root $folder; }
        location ~ ^/back/(.*)$ { proxy_pass http://127.0.0.1:48211/\$1; }
    }
}
CONF
        chmod -R a+rX "$folder"
        ;;
    run)
        load() {
            ab -q -s 120 -H 'Accept-Encoding: gzip' -n "$1" -c 7 "http://127.0.0.1:48211/$2" | grep -E '^(Complete|Failed|Non-2xx|Document L)'
        }
        nginx -p "$folder" -c "$folder/nginx.conf" -e "$folder/error.log"
        trap 'nginx -p "$folder" -c "$folder/nginx.conf" -e "$folder/error.log" -s quit; while [ -e "$folder/pid" ]; do sleep 0.1; done' EXIT
        load $((53 * $3)) numbers
        nginx -p "$folder" -c "$folder/nginx.conf" -e "$folder/error.log" -s reload
        load $((31 * $3)) back/numbers
        load 17 nothing
        ;;
esac
