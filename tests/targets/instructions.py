# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Writes x86-64 functions of one instruction and a `ret`, and a table of them, as assembly for instructions.c.

Every combination of prefix, REX prefix, opcode and operand is a function. Not all are valid instructions. The names of
those whose meaning the kernel changes begin with `x_`, all others with `i_`.
"""

import itertools

ALU = [row + column for row in range(0, 0x40, 8) for column in range(4)]
# Opcodes with a ModRM byte; the values are the bytes of their immediate operand.
PLAIN = dict.fromkeys([*ALU, 0x63, *range(0x84, 0x8C), *range(0xD0, 0xD4)], 0)
PLAIN |= {0x69: 4, 0x6B: 1, 0x80: 1, 0x81: 4, 0x83: 1, 0xC0: 1, 0xC1: 1, 0xC6: 1, 0xC7: 4}
TWO_BYTES = dict.fromkeys([0x10, 0x11, 0x1F, 0x28, 0x29, *range(0x40, 0x60), *range(0x90, 0xA0), 0x6F, 0x7F, 0xEF, 0xD4, 0xFE], 0)
TWO_BYTES |= dict.fromkeys([0xA3, 0xA5, 0xAB, 0xAD, 0xAF, 0xB0, 0xB1, 0xB3, *range(0xB6, 0xB8), *range(0xBB, 0xC2)], 0)
TWO_BYTES |= {0x70: 1, 0xA4: 1, 0xAC: 1, 0xBA: 1}
# Behind 0F 38, and behind 0F 3A with an immediate of one byte.
MAP_38 = [*range(0x0C), 0x10, 0x14, 0x15, 0x17, *range(0x1C, 0x1F), *range(0x20, 0x26), *range(0x28, 0x2B)]
MAP_38 += [*range(0x30, 0x36), *range(0x37, 0x42), *range(0xC8, 0xCE), 0xCF, *range(0xDB, 0xE0), 0xF0, 0xF1, 0xF6]
MAP_3A = [*range(0x08, 0x10), *range(0x14, 0x18), *range(0x20, 0x23), *range(0x40, 0x43), 0x44, *range(0x60, 0x64)]
MAP_3A += [0xCC, 0xCE, 0xCF, 0xDF]
# With a VEX or EVEX prefix, by the number of the map. The first one has an immediate for a few opcodes.
VECTOR_MAPS = {
    1: [*range(0x10, 0x18), 0x28, 0x29, 0x2E, 0x2F, *range(0x51, 0x77), *range(0x78, 0x80), 0xC2, 0xC6, *range(0xD0, 0x100)],
    2: [*MAP_38, 0x0C, 0x0D, 0x16, 0x18, 0x19, 0x36, *range(0x45, 0x48), *range(0x50, 0x54), 0x58, 0x59, 0x65, *range(0x75, 0x7E)]
    + [*range(0x96, 0xA0), *range(0xA6, 0xB0), *range(0xB6, 0xC0), 0xF2, 0xF3, 0xF5, 0xF7],
    3: [*MAP_3A, *range(0x00, 0x08), 0x18, 0x19, 0x25, *range(0x38, 0x3C), 0x4A, 0x4B, 0x4C, 0x70, 0x72, 0xF0],
}
VECTOR_IMMEDIATES = [0x70, 0x71, 0x72, 0x73, 0xC2, 0xC4, 0xC5, 0xC6]
# Opcodes of which the kernel ignores that they are behind VEX or EVEX, so that it sees a push, a jump, a return.
MISTAKEN_VECTOR = [*range(0x50, 0x58), *range(0x70, 0x80), 0x90, 0x9A, 0x9D, 0xC2, 0xC3, 0xCA, 0xCB, *range(0xE8, 0xEC), 0xFF]
# Of which it ignores the operand behind F2 or F3.
MISTAKEN_REPEATED = [0x41, 0x42, *range(0x44, 0x48), 0x4A, 0x4B, *range(0x90, 0x94), 0x98, 0x99]
# movs, cmps, stos, lods and scas.
STRINGS = [*range(0xA4, 0xA8), *range(0xAA, 0xB0)]
COUNT = 5
# push and pop of registers, numbers, flags and operands, without those of the stack pointer, and popf, which would set
# flags at random. pushf stores the trap flag of the step.
PUSHES = [*([0x50 + number] for number in range(8) if number != 4), [0x68, 7, 0, 0, 0], [0x6A, 0x87], [0x9C]]
PUSHES += [[0xFF, 0xF1], [0xFF, 0x76, 32]]
POPS = [*([0x58 + number] for number in range(8) if number != 4), [0x8F, 0xC1], [0x8F, 0x46, 32]]
# Without ModRM byte: nop, xchg and sign extensions.
SINGLE = range(0x90, 0x9A)
# Reg is %rdx (or %r10, %r2x); the operand is %rcx, 32(%rsi), or relative to the instruction pointer.
OPERANDS = {"r": [0xD1], "m": [0x56, 32], "p": [0x15]}
PREFIXES = [[], [0x66], [0xF2], [0xF3]]
REX = [[], [0x48], [0x4F]]


def emit(name, code, relative=None, then=""):
    print(f".globl {name}; .type {name}, @function; {name}:\n.cfi_startproc\n.byte {','.join(map(hex, code))}")
    if relative is not None:
        print(f".long memory + 2048 - . - {4 + len(relative)}")
        if relative:
            print(f".byte {','.join(map(hex, relative))}")
    print(f"{then}ret\n.cfi_endproc\n.size {name}, . - {name}")


def text(code):
    return "".join(f"{byte:02x}" for byte in code)


def with_operands(start, opcode, immediate, mistaken=lambda kind: False):
    """Functions of an instruction with each kind of operand."""
    for kind, operand in OPERANDS.items():
        name = f"{'x' if mistaken(kind) else 'i'}_{text(start)}_{text(opcode)}{kind}"
        code = [*start, *opcode, *operand]
        rest = [7] * immediate
        if kind == "p":
            emit(name, code, rest)
        else:
            emit(name, code + rest)
        yield name, 0


def general():
    for prefix, rex in itertools.product(PREFIXES, REX):
        start = prefix + rex
        for opcode in SINGLE:
            # xchg with %sp: the address of the stack varies.
            if opcode == 0x94 and rex != [0x4F]:
                continue
            mistaken = opcode == 0x90 and rex == [0x4F]
            name = f"{'x' if mistaken else 'i'}_{text(start)}_{opcode:02x}"
            emit(name, [*start, opcode])
            yield name, 0
        maps = ([], PLAIN), ([0x0F], TWO_BYTES), ([0x0F, 0x38], dict.fromkeys(MAP_38, 0))
        for escape, opcodes in (*maps, ([0x0F, 0x3A], dict.fromkeys(MAP_3A, 1))):
            for opcode, immediate in opcodes.items():
                # An immediate of two bytes, with 0x66, is left out.
                if immediate == 4 and prefix == [0x66] and not rex:
                    continue
                repeated = prefix in ([0xF2], [0xF3]) and escape == [0x0F] and opcode in MISTAKEN_REPEATED
                yield from with_operands(
                    start, [*escape, opcode], immediate, lambda kind, repeated=repeated: repeated and kind == "p"
                )


def vectors():
    """With VEX of two and three bytes, and EVEX without a mask. The other operand is register 0."""
    for number, opcodes in VECTOR_MAPS.items():
        for opcode, kind, wide in itertools.product(sorted(set(opcodes)), range(4), (0, 1)):
            immediate = int(number == 3 or number == 1 and opcode in VECTOR_IMMEDIATES)
            last = wide << 7 | 0x78 | kind
            starts = [[0xC4, 0xE0 | number, last], [0xC4, 0xE0 | number, last | 4]]
            starts += [[0x62, 0xF0 | number, last | 4, length << 5 | 8] for length in range(3)]
            if number == 1 and not wide:
                starts.append([0xC5, 0xF8 | kind])
            for start in starts:
                yield from with_operands(start, [opcode], immediate, lambda kind: opcode in MISTAKEN_VECTOR)


def strings():
    for prefix, rex, opcode in itertools.product(PREFIXES, REX[:2], STRINGS):
        # Each repetition hits the probe.
        start = "x" if prefix in ([0xF2], [0xF3]) else "i"
        name = f"{start}_{text(prefix + rex)}_{opcode:02x}"
        emit(name, [*prefix, *rex, opcode])
        yield name, COUNT


def stack():
    """The stack pointer is restored, and what was pushed shows in %rax."""
    restore = "mov kept_stack(%rip), %rsp\nlea -8(%rsp), %rsp\n"
    for prefix, rex in itertools.product([[], [0x66]], [[], [0x41]]):
        for code in PUSHES:
            start = "x" if code == [0x9C] else "i"
            # Registers 4 and 12 share a number. An immediate of two bytes is left out.
            if prefix and code[0] == 0x68:
                continue
            name = f"{start}_{text(prefix + rex)}_{text(code)}"
            emit(name, [*prefix, *rex, *code], None, f"movzwl (%rsp), %eax\n{restore}")
            yield name, 0
        for code in POPS:
            name = f"i_{text(prefix + rex)}_{text(code)}"
            emit(name, [*prefix, *rex, *code], None, restore)
            yield name, 0


def main():
    print(".text")
    functions = [*general(), *vectors(), *strings(), *stack()]
    print('.section .note.GNU-stack,"",@progbits\n.data\n.globl instructions; instructions:')
    for name, count in functions:
        print(f".quad {name}, 1f, {count}\n.section .rodata\n1: .asciz \"{name}\"\n.data")
    print(".quad 0, 0, 0")


main()
