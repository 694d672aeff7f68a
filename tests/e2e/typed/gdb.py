# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Run by gdb: calls each function of a program of tests/targets/typed/ once, and adds a line of JSON to a file for each
end of a call, with the arguments or the result as gdb shows them, in the format of functrace.

An optimized-out value is missing.
"""

import json
import math
import os

import gdb

# Deepest pointers and structures that functrace shows.
POINTERS, STRUCTURES = 2, 3
# gdb ends when it is to read more than there is memory.
MOST_TEXT = 4096


def convert(value, pointers=POINTERS, structures=STRUCTURES):
    kind = value.type.strip_typedefs()
    code = kind.code
    if code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
        return address(value, kind, pointers, structures)
    if code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        return structure(value, kind, pointers, structures)
    if code == gdb.TYPE_CODE_ARRAY:
        low, high = kind.range()
        items = [value[index] for index in range(low, high + 1)]
        if is_char(kind.target()):
            return bytes(int(item) & 0xFF for item in items).split(b"\0")[0].decode()
        return [convert(item, pointers, structures) for item in items]
    if code == gdb.TYPE_CODE_FLT:
        return finite(float(value)) if kind.sizeof <= 8 else "?"
    if code == gdb.TYPE_CODE_BOOL:
        return bool(value)
    if code == gdb.TYPE_CODE_ENUM:
        names = {field.enumval: field.name.split("::")[-1] for field in kind.fields()}
        return names.get(int(value), int(value))
    if is_char(kind):
        return chr(int(value))
    return number(value, kind)


def finite(value):
    """JSON has no other numbers, and the programs do not use them."""
    if not math.isfinite(value):
        raise ValueError(value)
    return value


def number(value, kind):
    """Neither functrace nor gdb shows numbers of more than 64 bits."""
    if kind.sizeof <= 8:
        return int(value)
    return "?"


def is_char(kind):
    return kind.strip_typedefs().unqualified().name in ("char", "char16_t", "char32_t")


def address(value, kind, pointers, structures):
    target = kind.target().strip_typedefs()
    is_pointer = kind.code == gdb.TYPE_CODE_PTR
    is_outermost = (pointers, structures) == (POINTERS, STRUCTURES)
    if not int(value if is_pointer else value.address):
        return None
    if is_pointer and is_char(target) and is_outermost:
        return value.string()
    is_shown = not is_pointer or target.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION)
    if is_shown and is_outermost:
        return convert(value.referenced_value(), pointers - 1, structures)
    return hex(int(value if is_pointer else value.address))


def structure(value, kind, pointers, structures):
    shown = text(value, kind)
    if shown is not None:
        return shown
    if not structures:
        return None
    members = {}
    for field in kind.fields():
        if field.is_base_class:
            base = structure(value[field], field.type, pointers, structures)
            repeated = {own.name for own in kind.fields() if not own.is_base_class}
            for name, member in (base or {}).items():
                members[f"{field.type.name}::{name}" if name in repeated else name] = member
        elif not field.artificial and hasattr(field, "bitpos"):
            # Rust calls the members of a tuple __0, __1, ...
            name = field.name.lstrip("_") if (field.name or "").lstrip("_").isdigit() else field.name
            members[name] = convert(value[field], pointers, structures - 1)
    return members or None


def text(value, kind):
    """The text of a string of C++ or Rust."""
    name = kind.unqualified().name or ""
    if name.startswith("std::__cxx11::basic_string<char,"):
        start, length = value["_M_dataplus"]["_M_p"], value["_M_string_length"]
    elif name.startswith("std::basic_string_view<char,"):
        start, length = value["_M_str"], value["_M_len"]
    elif name == "&str" or name.startswith("alloc::boxed::Box<str,"):
        start, length = value["data_ptr"], value["length"]
    elif name == "alloc::string::String":
        vector = value["vec"]
        start, length = vector["buf"]["inner"]["ptr"]["pointer"]["pointer"], vector["len"]
    else:
        return None
    count = int(length)
    if count > MOST_TEXT:
        raise ValueError("not a text")
    return bytes(gdb.selected_inferior().read_memory(int(start), count)).decode() if count else ""


def read(value):
    """The value as JSON, in a list that is empty if it cannot be read."""
    try:
        return [convert(value)]
    except (gdb.error, ArithmeticError, RuntimeError, ValueError, TypeError):
        return []


def report(function, key, value):
    # gdb writes to standard output, too.
    with open(os.environ["VALUES"], "a") as file:
        print(json.dumps({"function": function, key: value}), file=file)


class Result(gdb.FinishBreakpoint):
    def __init__(self, frame, function):
        super().__init__(frame, internal=True)
        self.function = function

    def stop(self):
        value = self.return_value
        report(self.function, "retval", [None] if value is None else read(value))
        return False


class Entry(gdb.Breakpoint):
    def __init__(self, function, line, with_results):
        super().__init__(line=line, internal=True)
        self.function, self.with_results = function, with_results

    def stop(self):
        frame = gdb.selected_frame()
        values = {}
        for symbol in frame.block():
            if symbol.is_argument:
                try:
                    values[symbol.name] = read(symbol.value(frame))
                except gdb.error:
                    values[symbol.name] = []
        report(self.function, "args", values)
        if self.with_results:
            Result(frame, self.function)
        return False


def main(lines, with_results):
    gdb.execute("set pagination off")
    gdb.execute("set breakpoint pending off")
    gdb.execute("set language auto")
    # Else it writes and removes all of them at each stop.
    gdb.execute("set breakpoint always-inserted on")
    for function, line in lines.items():
        Entry(function, line, with_results)
    gdb.execute("run once")


main(**json.loads(os.environ["WANTED"]))
