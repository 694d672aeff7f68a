#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# usage: php.sh prepare|run FOLDER [ROUNDS]
[ "$1" = prepare ] || exec php php.php "$3"
