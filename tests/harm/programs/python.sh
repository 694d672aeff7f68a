#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# usage: python.sh prepare|run FOLDER [ROUNDS]
[ "$1" = prepare ] || exec /usr/bin/python3 python.py "$3"
