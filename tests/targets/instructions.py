# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Writes x86-64 functions of one instruction and a `ret`, and a table of them, as assembly for instructions.c.

Every combination of prefix, REX prefix, opcode and operand is a function. Not all are valid instructions.
"""

ALU = [row + column for row in range(0, 0x40, 8) for column in range(4)]
# Opcodes with a ModRM byte; the values are the bytes of their immediate operand.
PLAIN = dict.fromkeys([*ALU, 0x63, *range(0x84, 0x8C), *range(0xD0, 0xD4)], 0)
PLAIN |= {0x69: 4, 0x6B: 1, 0x80: 1, 0x81: 4, 0x83: 1, 0xC0: 1, 0xC1: 1, 0xC6: 1, 0xC7: 4}
TWO_BYTES = dict.fromkeys([0x10, 0x11, 0x1F, 0x28, 0x29, *range(0x40, 0x60), *range(0x90, 0xA0), 0x6F, 0x7F, 0xEF, 0xD4, 0xFE], 0)
TWO_BYTES |= dict.fromkeys([0xA3, 0xA5, 0xAB, 0xAD, 0xAF, 0xB0, 0xB1, 0xB3, *range(0xB6, 0xB8), *range(0xBB, 0xC2)], 0)
TWO_BYTES |= {0x70: 1, 0xA4: 1, 0xAC: 1, 0xBA: 1}
# Without ModRM byte: nop, xchg and sign extensions.
SINGLE = range(0x90, 0x9A)
# Reg is %rdx (or %r10, %r2x); the operand is %rcx, 16(%rsi), or relative to the instruction pointer.
OPERANDS = {"r": [0xD1], "m": [0x56, 16], "p": [0x15]}
PREFIXES = [[], [0x66], [0xF2], [0xF3]]
REX = [[], [0x48], [0x4F]]


def emit(name, code, relative=None):
    print(f".globl {name}; .type {name}, @function; {name}:\n.cfi_startproc\n.byte {','.join(map(hex, code))}")
    if relative is not None:
        print(f".long memory + 2048 - . - {4 + len(relative)}")
        if relative:
            print(f".byte {','.join(map(hex, relative))}")
    print(f"ret\n.cfi_endproc\n.size {name}, . - {name}")


def main():
    names = []
    print(".text")
    for prefix in PREFIXES:
        for rex in REX:
            start = prefix + rex
            label = "i_" + "".join(f"{byte:02x}" for byte in start)
            for opcode in SINGLE:
                names.append(f"{label}_{opcode:02x}")
                emit(names[-1], [*start, opcode])
            for escape, opcodes in ([], PLAIN), ([0x0F], TWO_BYTES):
                for opcode, immediate in opcodes.items():
                    # An immediate of two bytes, with 0x66, is left out.
                    if immediate == 4 and 0x66 in prefix and 0x48 not in rex and 0x4F not in rex:
                        continue
                    for kind, operand in OPERANDS.items():
                        names.append(f"{label}_{''.join(f'{b:02x}' for b in [*escape, opcode])}{kind}")
                        code = [*start, *escape, opcode, *operand]
                        rest = [7] * immediate
                        if kind == "p":
                            emit(names[-1], code, rest)
                        else:
                            emit(names[-1], code + rest)
    print('.section .note.GNU-stack,"",@progbits\n.data\n.globl instructions; instructions:')
    for name in names:
        print(f".quad {name}, 1f\n.section .rodata\n1: .asciz \"{name}\"\n.data")
    print(".quad 0, 0")


main()
