# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""The program in C and C++."""

import json

from model import LONG_TEXT, PRIMES, Function, Type, floats, functions, integers, known_to_gdb, shown

def c_literal(number, name):
    # The lowest number has no literal, and none is wider than 64 bits.
    bits = number & ((1 << 128) - 1)
    if "int128" in name:
        return f"({name})((unsigned __int128){bits >> 64:#x}u << 64 | {bits & ((1 << 64) - 1):#x}u)"
    return f"({name}){bits & ((1 << 64) - 1):#x}u"


def c_integer(name, bits, signed):
    return Type(name, [(c_literal(number, name), shown(number, bits)) for number in integers(bits, signed)])


C_INTEGERS = [
    c_integer(name, bits, signed)
    for name, bits, signed in [
        ("signed char", 8, True), ("unsigned char", 8, False), ("short", 16, True), ("unsigned short", 16, False),
        ("int", 32, True), ("unsigned int", 32, False), ("long", 64, True), ("unsigned long", 64, False),
    ]
]  # fmt: skip


def c_scalars(is_cc):
    yield Type("char", [("'a'", "a"), ("'~'", "~")])
    yield Type("bool" if is_cc else "_Bool", [("1", True), ("0", False)])
    yield Type("enum small", [("SMALL_ONE", "SMALL_ONE"), ("SMALL_TWO", "SMALL_TWO")])
    yield Type("enum negative", [("MINUS", "MINUS"), ("PLUS", "PLUS"), ("(enum negative)3", 3)])
    yield Type("enum wide", [("WIDE_LAST", "WIDE_LAST"), ("WIDE_FIRST", "WIDE_FIRST")])
    yield Type("void *", [("(void *)0x1230", "0x1230"), ("0", None)])
    yield Type("unsigned long *", [("(unsigned long *)0x4560", "0x4560")])
    yield floats("float", "f")
    yield floats("double")


# gdb reads the arguments here: they are in their places by then.
MARK = '\tasm volatile("nop");\n'
C_START = """#include <stdio.h>
#include <string.h>
#ifdef __clang__
#define KEEP __attribute__((noinline))
#else
#define KEEP __attribute__((noipa))
#endif
"""
CC_HEADERS = ["array", "chrono", "functional", "memory", "optional", "string", "string_view", "tuple", "utility", "variant", "vector"]

C_OTHERS = """typedef int vector16 __attribute__((vector_size(16)));
static int twice(int number)
{
	return 2 * number;
}
"""
C_ENUMS = """enum small { SMALL_ONE = 1, SMALL_TWO };
enum negative { MINUS = -5, PLUS = 5 };
enum wide { WIDE_FIRST, WIDE_LAST = 0x100000000 };
"""


class Structure(Type):
    """A structure of C or C++ with a number of random values."""

    def __init__(self, rng, name, members, packed=False):
        lines = "".join(f"\t{declarator};\n" for declarator, _ in members)
        attribute = " __attribute__((packed))" if packed else ""
        values = [self.value(rng, name, members) for _ in range(3)]
        super().__init__(f"struct {name}", values, f"struct{attribute} {name} {{\n{lines}}};\n")

    @staticmethod
    def value(rng, name, members):
        picked = [pick(rng) for _, pick in members]
        names = [declarator.split("[")[0].split(" :")[0].split()[-1].lstrip("*") for declarator, _ in members]
        inner = ", ".join(expression for expression, _ in picked)
        return f"{{ {inner} }}", dict(zip(names, [value for _, value in picked]))


def bit_field(bits, signed):
    return lambda rng: (lambda number: (str(number), number))(rng.choice(integers(bits, signed)[:-1]))


def array(of, count):
    def pick(rng):
        items = [of.pick(rng) for _ in range(count)]
        return "{ " + ", ".join(item for item, _ in items) + " }", [value for _, value in items]

    return pick


def text(rng):
    value = rng.choice(["", "seven", "ninety7"])
    return json.dumps(value), value


def c_structures(rng, scalars):
    """All classes of the calling conventions, and random ones."""
    by_name = {scalar.name: scalar for scalar in scalars}

    def members(*names):
        return [(f"{name} m{number}", by_name[name].pick) for number, name in enumerate(names)]

    fixed = [
        members("signed char"), members("int"), members("int", "int"), members("long"), members("long", "long"),
        members("double"), members("float", "float"), members("double", "double"), members("double", "long"),
        members("int", "float", "double"), members("float", "int"), members("long", "float"),
        members("long", "long", "long"), members("double", "double", "double"), members("char", "long", "char"),
        members("short", "short", "short"), members("void *", "enum small"), members("enum wide", "enum negative"),
        [("char m0[8]", text), ("int m1", by_name["int"].pick)],
        [("char m0[24]", text), ("short m1", by_name["short"].pick)],
        [("int m0[3]", array(by_name["int"], 3))], [("float m0[2]", array(by_name["float"], 2))],
        [("unsigned short m0[5]", array(by_name["unsigned short"], 5)), *members("long")[:0]],
        [("unsigned int m0 : 3", bit_field(3, False)), ("int m1 : 7", bit_field(7, True)),
         ("unsigned long m2 : 40", bit_field(40, False))],
        [("unsigned char m0 : 4", bit_field(4, False)), ("unsigned char m1 : 4", bit_field(4, False)),
         ("long m2", by_name["long"].pick)],
    ]  # fmt: skip
    structures = [Structure(rng, f"fixed{number}", each) for number, each in enumerate(fixed)]
    plain = [scalar for scalar in scalars]
    for number in range(10):
        packed = number % 3 == 2
        picked = [rng.choice(plain + structures[:8]) for _ in range(rng.randint(1, 5))]
        each = [(f"{kind.name} m{place}", kind.pick) for place, kind in enumerate(picked)]
        structures.append(Structure(rng, f"random{number}", each, packed))
    return structures


def made(name, values, members=""):
    """A class whose objects are made for each call, from a number."""
    declaration = f"struct {name} {{\n\tint n;\n\texplicit {name}(int n) : n(n) {{}}\n{members}}};\n" if members else ""
    return Type(name, values, declaration, stored="")


def numbered(name, members, more=None):
    return made(name, [(f"{name}({number})", {"n": number, **(more or {})}) for number in (7, -97)], members)


CLASSES = [
    numbered("Copies", "\tCopies(const Copies &other) : n(other.n) {}\n"),
    numbered("Moves", "\tMoves(Moves &&other) : n(other.n) {}\n"),
    numbered("MovesTrivially", "\tMovesTrivially(MovesTrivially &&) = default;\n"),
    numbered("Defaulted", "\tDefaulted(const Defaulted &) = default;\n\t~Defaulted() = default;\n"),
    numbered("Destroyed", "\t~Destroyed() { asm volatile(\"\"); }\n"),
    numbered("Holds", "\tCopies other = Copies(5);\n", {"other": {"n": 5}}),
    numbered("Virtual", "\tvirtual int number() { return n; }\n"),
    numbered("Assigned", "\tAssigned(const Assigned &) = default;\n\tAssigned &operator=(const Assigned &other) { n = other.n; return *this; }\n"),
    Type("Template<long>", [("Template<long>{ 71 }", {"of": 71})], "template <typename T> struct Template {\n\tT of;\n};\n", stored=""),
    Type("Empty", [("Empty()", "*")], "struct Empty {};\n", stored=""),
    Type("Derived", [("Derived(3)", {"a": 3, "b": "b", "c": "c"})], "struct Base {\n\tint a;\n\tchar b = 'b';\n"
         "\tBase(int a) : a(a) {}\n};\nstruct Derived : Base {\n\tchar c = 'c';\n\tDerived(int a) : Base(a) {}\n};\n", stored=""),
    Type("WithEmpty", [("WithEmpty{ {}, 11 }", {"n": 11})], "struct WithEmpty : Empty {\n\tint n;\n};\n", stored=""),
    Type("Color", [("Color::RED", "RED"), ("Color::BLUE", "BLUE")], "enum class Color : unsigned char { RED, BLUE = 200 };\n"),
    Type("int &", [("number", 31)], "int number = 31;\n"),
    Type("long &&", [("41", 41)], passed="std::move({})"),
    Type("char16_t", [("u'\\u00df'", "\u00df")]),
    Type("char32_t", [("U'\\u2603'", "\u2603")]),
    Type("std::string", [('std::string("text")', "text"), ("std::string()", ""), (f"std::string({json.dumps(LONG_TEXT)})", LONG_TEXT)], stored=""),
    Type("std::string &", [("words", "some words")], 'std::string words("some words");\n'),
    Type("std::string_view", [('"view"', "view"), ("std::string_view()", "")]),
    known_to_gdb("std::optional<int>", "std::optional<int>(7)"),
    known_to_gdb("std::optional<long>", "std::optional<long>(-7)"),
    known_to_gdb("std::chrono::seconds", "std::chrono::seconds(83)"),
    known_to_gdb("std::chrono::nanoseconds", "std::chrono::nanoseconds(-5)"),
    known_to_gdb("std::chrono::system_clock::time_point", "std::chrono::system_clock::time_point(std::chrono::seconds(9))"),
    known_to_gdb("std::array<int, 3>", "std::array<int, 3>{ 1, -2, 3 }"),
    Type("std::pair<int, short>", [("{ 3, 4 }", {"first": 3, "second": 4})]),
    known_to_gdb("std::tuple<int, long>", "std::make_tuple(3, 4L)"),
    known_to_gdb("std::unique_ptr<int>", "std::make_unique<int>(3)"),
    known_to_gdb("std::shared_ptr<int>", "std::make_shared<int>(3)"),
    known_to_gdb("std::vector<int>", "std::vector<int>(3)"),
    Type("int Copies::*", [("&Copies::n", "*")]),
    # Words without members are not passed.
    Type("LongAndEmpty", [("LongAndEmpty{ 5, {} }", {"n": 5, "e": None})], "struct LongAndEmpty {\n\tlong n;\n\tEmpty e;\n};\n", stored=""),
    Type("DoubleAndEmpty", [("DoubleAndEmpty{ 0.5, {} }", {"d": 0.5, "e": None})], "struct DoubleAndEmpty {\n\tdouble d;\n\tEmpty e;\n};\n",
         stored=""),
    Type("Nowhere", [("Nowhere{ {}, 5, 6 }", {"e": None, "n": 5, "m": 6})],
         "struct Nowhere {\n\t[[no_unique_address]] Empty e;\n\tint n;\n\tlong m;\n};\n", stored=""),
    Type("Repeated", [("Repeated(3)", {"Root::n": 3, "n": 4})], "struct Root {\n\tint n;\n};\nstruct Repeated : Root {\n\tint n;\n"
         "\tRepeated(int n) : Root{ n }, n(n + 1) {}\n};\n", stored=""),
    known_to_gdb("std::variant<int, long>", "std::variant<int, long>(3L)"),
    known_to_gdb("std::variant<std::string, int>", 'std::variant<std::string, int>("text")'),
    known_to_gdb("std::function<int(int)>", "std::function<int(int)>(twice)"),
]


C_MAIN = """
__attribute__((noinline)) static void each(int is_primes)
{
%s}

int main(int argc, char **argv)
{
	char order[64], what[32];
	int times;

	if (argc > 1 && !strcmp(argv[1], "table"))
		return fputs(table, stdout) < 0;
	if (argc > 1)
		return each(0), 0;
	while (fgets(order, sizeof(order), stdin)) {
		if (sscanf(order, "%%31s %%d", what, &times) != 2)
			return 2;
		while (times-- > 0 && (!strcmp(what, "once") || !strcmp(what, "primes")))
			each(what[0] == 'p');
		puts(".");
		fflush(stdout);
	}
	return 0;
}
"""


class Values:
    """Objects that are passed and returned. The compiler does not know their values, as they are not constant."""

    def __init__(self):
        self.text = ""

    def expression(self, name, kind, expression):
        if not kind.stored:
            return expression
        self.text += f"{kind.stored} {name} = {expression};\n"
        return kind.passed.format(name)


class Member(Function):
    """A function of a class, or a template."""

    FORMS = ["method", "virtual", "static", "template", "constructor"]

    def __init__(self, form, number, rng, *arguments):
        super().__init__(f"t_{form}{number}", number, *arguments)
        self.form, self.object = form, rng.randint(1, 1000)
        self.owner = self.name if form == "constructor" else f"Owner_{form}{number}"

    def has_object(self):
        return self.form in ("method", "virtual")

    def shown_args(self):
        # What a constructor finds in its object is not known.
        return ({"this": {"n": self.object}} if self.has_object() else {}) | super().shown_args()

    def head(self, result, params):
        """What is before the body: the class and the name."""
        if self.form == "template":
            kind = self.params[0][1].name
            _, rest = params.split(f"{kind} {self.params[0][0]}", 1)
            return f"template <typename T> KEEP {result} {self.name}(T {self.params[0][0]}{rest})\n"
        before = {"static": "static ", "virtual": "virtual "}.get(self.form, "")
        result = "" if self.form == "constructor" else f"{result} "
        text = f"struct {self.owner} {{\n\tint n;\n\tKEEP {before}{result}{self.name}({params});\n"
        if self.form == "virtual":
            text += f"\texplicit {self.owner}(int n) : n(n) {{}}\n"
        text += "};\n"
        if self.has_object():
            text += f"{self.owner} object_{self.name}{{ {self.object} }};\n"
        return f"{text}KEEP {result}{self.owner}::{self.name}({params})\n"

    def call(self, arguments):
        before = {"method": f"object_{self.name}.", "static": f"{self.owner}::"}.get(self.form, "")
        if self.form == "virtual":
            before = f"(&object_{self.name})->"
        after = f"<{self.params[0][1].name}>" if self.form == "template" else ""
        return f"(void){before}{self.name}{after}({arguments})"


def members(rng, types):
    for number in range(25):
        picked = [rng.choice(types) for _ in range(rng.randint(2, 6))]
        params = [(f"p{place}", kind, kind.pick(rng)) for place, kind in enumerate(picked)]
        form = Member.FORMS[number % 5]
        result = rng.choice(types)
        result = None if form == "constructor" or number % 7 == 3 else (result, result.pick(rng))
        yield Member(form, number, rng, params, result, rng.choice(PRIMES))


def c_function(function, values):
    params = ", ".join(f"{kind.name} {name}" for name, kind, _ in function.params)
    # Optimizers describe values in registers and in memory in different ways.
    in_memory = function.number % 2
    constraints = [("m" if in_memory or kind.is_large() else "g", name) for name, kind, _ in function.used()]
    if isinstance(function, Member) and function.form in ("method", "virtual", "constructor"):
        constraints.append(("g", "this"))
    operands = ", ".join(f'"{constraint}"({name})' for constraint, name in constraints)
    result, last = "void", ""
    if function.result:
        kind, (expression, _) = function.result
        result, last = kind.name, f"\treturn {values.expression(function.name + '_result', kind, expression)};\n"
    uses = f'\tasm volatile("" : : {operands} : "memory");\n'
    head = function.head(result, params) if isinstance(function, Member) else f"KEEP {result} {function.name}({params})\n"
    return f"{head}{{\n{uses}{MARK}{last}}}\n\n"


def c_call(function, values):
    passed = [values.expression(f"{function.name}_{name}", kind, expression) for name, kind, (expression, _) in function.params]
    times = f"for (int i = 0; i < (is_primes ? {function.times} : 1); i++)"
    arguments = ", ".join(passed)
    call = function.call(arguments) if isinstance(function, Member) else f"{function.name}({arguments})"
    return f"\t{times}\n\t\t{call};\n"


def write_c(rng, is_cc):
    scalars = C_INTEGERS + list(c_scalars(is_cc))
    structures = c_structures(rng, scalars)
    wide = [c_integer("__int128", 128, True), c_integer("unsigned __int128", 128, False)]
    texts = [('""', ""), ("0", None), ('"text"', "text"), (json.dumps(LONG_TEXT), LONG_TEXT)]
    others = [Type("const char *", texts), *wide, floats("long double", "l")]
    others += [Type("_Complex long double", [("(_Complex long double)0.5l", "?")]), Type("_Complex float", [("(_Complex float)0.5f", "?")])]
    others += [Type("vector16", [("{ 1, 2, 3, 4 }", "*")])]
    others += [Type(f"const {each.name} *", objects(each)) for each in structures[::4]]
    if is_cc:
        others += [Type(f"const {each.name} &", objects(each, "")) for each in structures[1::4]] + CLASSES
    types = scalars + structures + others
    text = C_START + ("".join(f"#include <{name}>\n" for name in CC_HEADERS) if is_cc else "") + C_ENUMS + C_OTHERS
    for structure in structures:
        text += structure.declaration
        for number, (expression, _) in enumerate(structure.values):
            text += f"{structure.name} {structure.name.split()[-1]}_{number} = {expression};\n"
    text += "".join(each.declaration for each in CLASSES) if is_cc else ""
    made = functions(rng, types, 60) + (list(members(rng, types)) if is_cc else [])
    values = Values()
    bodies = [c_function(function, values) for function in made]
    calls = "".join(c_call(function, values) for function in made)
    text += values.text
    for function, body in zip(made, bodies):
        text += body
        function.line = text[: text.rindex(MARK)].count("\n") + 1
    text += "static const char table[] =\n"
    text += "".join(f"\t{json.dumps(function.row() + chr(10))}\n" for function in made) + "\t;\n"
    return text + C_MAIN % calls


def objects(structure, operator="&"):
    name = structure.name.split()[-1]
    return [(f"{operator}{name}_{number}", value) for number, (_, value) in enumerate(structure.values)]
