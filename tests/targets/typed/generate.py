# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Writes a program in C, C++ or Rust whose functions have parameters and results of many types, with known values.

usage: generate.py c|cc|rs [SEED]

With an argument, the program prints a table or calls each function once. Else each line of its standard input is an
order, answered by ".":

    once N    calls each function once, N times
    primes N  calls each function as often as the table says, N times
    spin N    does nothing

The table has a line of JSON for each function: its name, the line of its code where the arguments are in their places,
the prime number of its calls, arguments, result, which of them functrace may leave out and why, whether there are
integers of 128 bits, and the bits of other integers. Of the values, "?" is one that cannot be shown, and "*" one
that only the compiler knows how to describe.
"""

import random
import sys

from c import write_c
from rust import write_rust


def main():
    language = sys.argv[1]
    rng = random.Random(f"{language} {sys.argv[2] if len(sys.argv) > 2 else 7}")
    print(write_rust(rng) if language == "rs" else write_c(rng, language == "cc"), end="")


if __name__ == "__main__":
    main()
