# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Types with values, and functions with parameters and results of them."""

import json

PRIMES = [2, 3, 5, 7, 11, 13]
LONG_TEXT = "long text, " * 20


class Type:
    """A type with values of it: pairs of an expression in the language and the value in JSON."""

    def __init__(self, name, values, declaration="", passed="{}", stored=None):
        self.name, self.values, self.declaration = name, values, declaration
        # How an object is passed, and the type in which it is kept: "" for one that is made for each call.
        self.passed, self.stored = passed, name if stored is None else stored

    def pick(self, rng):
        return rng.choice(self.values)

    def unseen(self, is_rust):
        """Why functrace may not show a value that is passed in registers."""
        parts = leaves(self.values[0][1])
        if any(isinstance(part, float) for part in parts):
            return "in a floating-point register"
        is_pair = is_rust and isinstance(self.values[0][1], dict) and len(parts) == 2
        return "in pieces of odd sizes" if is_pair else None

    def is_large(self):
        return self.declaration or "double" in self.name or "vector" in self.name or "float" in self.name or "128" in self.name


def integers(bits, signed):
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return sorted({low, low + 1, *([-1, -7] if signed else []), 1, 97, high - 1, high})


def shown(number, bits):
    return number if bits <= 64 else "?"


def floats(name, suffix=""):
    values = (0.5, -1.25, 1048576.0, -0.0078125)
    return Type(name, [(f"{value}{suffix}", "?" if "long" in name else value) for value in values])


def leaves(value):
    if isinstance(value, (dict, list)):
        return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in leaves(part)]
    return [value]


def known_to_gdb(name, *expressions):
    return Type(name, [(expression, "*") for expression in expressions], stored="")


class Function:
    def __init__(self, name, number, params, result, times):
        self.name, self.number, self.params, self.result, self.times = name, number, params, result, times

    def used(self):
        """Some functions do not use every parameter."""
        return self.params[:: 2 if self.number % 5 == 4 else 1]

    def shown_args(self):
        return {name: value for name, _, (_, value) in self.params}

    def row(self, is_rust=False):
        # Where the optimizer gives no place of a parameter, functrace may trust none of the others.
        default = "beside one that is not used" if self.used() != self.params else None
        reasons = {name: kind.unseen(is_rust) or default for name, kind, _ in self.params}
        unseen = {name: reason for name, reason in reasons.items() if reason}
        if self.result and self.result[0].unseen(is_rust):
            unseen["retval"] = self.result[0].unseen(is_rust)
        return json.dumps({
            "function": self.name, "line": self.line, "times": self.times,
            "args": self.shown_args(), "retval": self.result and self.result[1][1],
            "unseen": unseen, "wide": any("int128" in kind.name for _, kind, _ in self.params),
        })  # fmt: skip


def functions(rng, types, mixed):
    """A function that takes and returns each type, and some with random parameters."""
    made = []
    for number, kind in enumerate(types):
        params = [("a", kind, kind.pick(rng)), ("b", types[0], types[0].pick(rng))]
        made.append(Function(f"t_one{number}", number, params, (kind, kind.pick(rng)), rng.choice(PRIMES)))
    for number in range(mixed):
        picked = [rng.choice(types) for _ in range(rng.randint(3, 11))]
        params = [(f"p{place}", kind, kind.pick(rng)) for place, kind in enumerate(picked)]
        result = rng.choice(types)
        result = None if number % 7 == 3 else (result, result.pick(rng))
        made.append(Function(f"t_mixed{number}", number, params, result, rng.choice(PRIMES)))
    return made
