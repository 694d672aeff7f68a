#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# usage: ruby.sh prepare|run FOLDER [ROUNDS]
set -eu
case $1 in
    prepare) ln -s "$(ldd "$(command -v ruby)" | sed -n 's/.*libruby.* => \(.*\) (.*/\1/p')" "$2/libruby.so" ;;
    run) ruby --disable=gems ruby.rb "$3" ;;
esac
