#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# usage: node.sh prepare|run FOLDER [ROUNDS]
[ "$1" = prepare ] || exec node node.js "$3"
