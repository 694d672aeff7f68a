# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""The program in Rust."""

import json

from model import LONG_TEXT, Type, floats, functions, integers, known_to_gdb, shown

RUST_SCALARS = [
    *(
        Type(f"{'i' if signed else 'u'}{bits}", [(str(number), shown(number, bits)) for number in integers(bits, signed)])
        for bits in (8, 16, 32, 64, 128)
        for signed in (True, False)
    ),
    Type("usize", [("usize::MAX", (1 << 64) - 1), ("97", 97)]),
    Type("bool", [("true", True), ("false", False)]),
    Type("char", [("'a'", "a"), ("'\u00df'", "\u00df"), ("'\u2603'", "\u2603")]),
    floats("f32"),
    floats("f64"),
    Type("Plain", [("Plain::First", "First"), ("Plain::Last", "Last")], "enum Plain { First, Last = 200 }"),
    Type("*const u8", [("0x1230 as *const u8", "0x1230"), ("std::ptr::null()", None)]),
]
RUST_TYPES = [
    Type("&'static str", [('""', ""), ('"text"', "text"), (json.dumps(LONG_TEXT), LONG_TEXT)]),
    Type("String", [("String::new()", ""), ('String::from("owned")', "owned")]),
    Type("Box<str>", [('Box::from("boxed")', "boxed")]),
    known_to_gdb("Option<u32>", "Some(7)", "None"),
    known_to_gdb("Option<u64>", "Some(9)", "None"),
    known_to_gdb("Option<&'static u32>", "None"),
    known_to_gdb("Option<Box<u32>>", "Some(Box::new(3))", "None"),
    known_to_gdb("Result<u8, i64>", "Ok(3)", "Err(-4)"),
    known_to_gdb("Data", "Data::Nothing", "Data::Number(5)", "Data::Both(1, 2)"),
    # rustc does not describe its name.
    known_to_gdb("()", "()"),
    known_to_gdb("Vec<u16>", "vec![1, 2, 3]"),
    known_to_gdb("&'static [u16]", "&[1, 2, 3]"),
    known_to_gdb("std::num::NonZeroU32", "std::num::NonZeroU32::MIN"),
    known_to_gdb("std::time::Duration", "std::time::Duration::new(3, 5)"),
    known_to_gdb("std::ops::Range<u32>", "3..7"),
    known_to_gdb("std::rc::Rc<u32>", "std::rc::Rc::new(4)"),
    known_to_gdb("fn(u32) -> u32", "twice"),
    Type("(u8, u32)", [("(3, 70000)", {"0": 3, "1": 70000})]),
    Type("(u64, i64)", [("(u64::MAX, -5)", {"0": (1 << 64) - 1, "1": -5})]),
    Type("(u64, u8, u16)", [("(1, 2, 3)", {"0": 1, "1": 2, "2": 3})]),
    Type("(f64, u8)", [("(0.5, 2)", {"0": 0.5, "1": 2})]),
    Type("[u8; 4]", [("[1, 2, 3, 255]", [1, 2, 3, 255])]),
    Type("[i32; 5]", [("[1, -2, 3, -4, 5]", [1, -2, 3, -4, 5])]),
    Type("[u64; 2]", [("[1, 2]", [1, 2])]),
]
RUST_START = """#![allow(unused_must_use)]
use std::hint::black_box;
use std::io::BufRead;

#[derive(Clone, Copy)]
#[allow(dead_code)]
enum Data { Nothing, Number(u32), Both(u8, u64) }

fn twice(number: u32) -> u32 {
    2 * number
}
"""
RUST_MAIN = """
fn main() {
    // These use the variants and fields of all types.
    black_box((Data::Nothing, Data::Number(black_box(1)), Data::Both(1, 2), twice as fn(u32) -> u32));
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("table") => return print!("{TABLE}"),
        Some(_) => return each(false),
    }
    for order in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (what, times) = order.split_once(' ').unwrap_or((&order, "1"));
        for _ in 0..times.parse().unwrap_or(0) {
            if what == "once" || what == "primes" {
                each(what == "primes");
            }
        }
        println!(".");
    }
}
"""


def rust_structure(rng, name, types, attribute=""):
    members = [(f"m{number}", kind) for number, kind in enumerate(types)]
    values = []
    for _ in range(3):
        picked = [(member, kind.pick(rng)) for member, kind in members]
        expression = ", ".join(f"{member}: {expression}" for member, (expression, _) in picked)
        values.append((f"{name} {{ {expression} }}", {member: value for member, (_, value) in picked}))
    fields = ", ".join(f"{member}: {kind.name}" for member, kind in members)
    return Type(name, values, f"{attribute}#[allow(dead_code)]\nstruct {name} {{ {fields} }}")


def rust_function(function):
    params = ", ".join(f"{name}: {kind.name}" for name, kind, _ in function.params)
    uses = "".join(f"    black_box(&{name});\n" for name, *_ in function.used())
    # Else the compiler merges functions with the same code.
    uses += f"    black_box({json.dumps(function.name)});\n"
    result = last = ""
    if function.result:
        kind, (expression, _) = function.result
        result, last = f" -> {kind.name}", f"    black_box({expression})\n"
    return f"#[inline(never)]\nfn {function.name}({params}){result} {{\n{uses}{RUST_MARK}{last}}}\n\n"


RUST_MARK = '    unsafe { std::arch::asm!("nop") };\n'


def rust_call(function):
    args = ", ".join(f"black_box({expression})" for _, _, (expression, _) in function.params)
    times = f"for _ in 0..if is_primes {{ {function.times} }} else {{ 1 }}"
    return f"    {times} {{\n        black_box({function.name}({args}));\n    }}\n"


def write_rust(rng):
    plain = RUST_SCALARS + RUST_TYPES[-7:]
    structures = [
        rust_structure(rng, f"S{number}", [rng.choice(plain) for _ in range(1 + number % 5)], "#[repr(C)]\n" if number % 3 == 2 and number % 5 else "")
        for number in range(16)
    ]
    references = [
        Type(f"&'static {reference}{each.name}", [(f"Box::leak(Box::new({expression}))", value) for expression, value in each.values])
        for each, reference in zip(structures, ["", "mut "] * 4)
    ]
    types = RUST_SCALARS + RUST_TYPES + structures + references
    text = RUST_START + "".join(each.declaration + "\n" for each in types)
    made = functions(rng, types, 60)
    for function in made:
        text += rust_function(function)
        function.line = text[: text.rindex(RUST_MARK)].count("\n") + 1
    text += f"#[inline(never)]\nfn each(is_primes: bool) {{\n{''.join(map(rust_call, made))}}}\n"
    rows = "".join(function.row(is_rust=True) + "\n" for function in made)
    return text + f'const TABLE: &str = r#"{rows}"#;\n{RUST_MAIN}'
