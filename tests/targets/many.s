// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// 100,003 functions.
.altmacro
.macro many number
.globl many_\number
.type many_\number, %function
many_\number:
	nop
	ret
.size many_\number, . - many_\number
.endm

.text
.set index, 0
.rept 100003
many %index
.set index, index + 1
.endr
.section .note.GNU-stack, "", %progbits
