#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# usage: go.sh prepare|run FOLDER [ROUNDS]
case $1 in
    prepare) go build -o "$2/go" go.go ;;
    run) "$2/go" "$3" ;;
esac
