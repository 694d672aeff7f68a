#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# usage: java.sh prepare|run FOLDER [ROUNDS]
set -eu
case $1 in
    prepare)
        # The compiler calls more functions of the virtual machine than the program.
        java -m jdk.compiler/com.sun.tools.javac.Main -d "$2" Java.java
        java=$(readlink -f "$(command -v java)")
        ln -s "${java%/bin/java}/lib/server/libjvm.so" "$2"
        ;;
    run) java -Xmx64m -Xss200k -XX:TieredStopAtLevel=1 -XX:CompileThresholdScaling=10 -cp "$2" Java "$3" ;;
esac
