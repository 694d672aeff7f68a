#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# usage: java.sh prepare|run FOLDER [ROUNDS]
set -eu
case $1 in
    prepare)
        cp Java.java "$2"
        java=$(readlink -f "$(command -v java)")
        ln -s "${java%/bin/java}/lib/server/libjvm.so" "$2"
        ;;
    run) java -Xmx256m "$2/Java.java" "$3" ;;
esac
