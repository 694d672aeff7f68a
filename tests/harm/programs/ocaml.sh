#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# usage: ocaml.sh prepare|run FOLDER [ROUNDS]
set -eu
case $1 in
    prepare)
        cp ocaml.ml "$2"
        cd "$2"
        ocamlopt -I +threads unix.cmxa threads.cmxa ocaml.ml -o ocaml
        ;;
    run) "$2/ocaml" "$3" ;;
esac
