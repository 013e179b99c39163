/* Debug information as no compiler makes it, by hand: a function `deep` in one compilation unit.
 * DEPTH: so many inlined calls, one in the other. FLAGS: so many attributes of no size on each of a million entries. */
#ifndef DEPTH
#define DEPTH 0
#endif
#ifndef FLAGS
#define FLAGS 0
#endif
	.text
	.globl deep
	.type deep, @function
deep:	.skip 64, 0x90
	ret
deep_end:
	.size deep, . - deep

	.section .debug_abbrev,"",@progbits
.Labbreviations:
	/* Compilation unit: low_pc, high_pc (size), stmt_list. */
	.uleb128 1, 0x11; .byte 1
	.uleb128 0x11, 0x01, 0x12, 0x07, 0x10, 0x17, 0, 0
	/* Subprogram: name, low_pc, high_pc (size). */
	.uleb128 2, 0x2e; .byte 1
	.uleb128 0x03, 0x08, 0x11, 0x01, 0x12, 0x07, 0, 0
	/* Inlined subroutine, without attributes. */
	.uleb128 3, 0x1d; .byte 1
	.uleb128 0, 0
	/* Variable: so many times external (flag_present). */
	.uleb128 4, 0x34; .byte 0
	.rept FLAGS
	.uleb128 0x3f, 0x19
	.endr
	.uleb128 0, 0
	.uleb128 0

	.section .debug_info,"",@progbits
	.long .Linfo_end - .Linfo
.Linfo:	.short 4
	.long .Labbreviations
	.byte 8
	.uleb128 1; .quad deep, deep_end - deep; .long 0
	.uleb128 2; .asciz "deep"; .quad deep, deep_end - deep
	.rept DEPTH
	.uleb128 3
	.endr
	.rept DEPTH
	.uleb128 0
	.endr
	.uleb128 0
#if FLAGS
	.rept 1000000
	.uleb128 4
	.endr
#endif
	.uleb128 0
.Linfo_end:

	.section .debug_line,"",@progbits
	.long .Lline_end - .Lline
.Lline:	.short 4
	.long .Lprogram - .Lheader
.Lheader:
	.byte 1, 1, 1, -5, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1
	.byte 0
	.asciz "hostile.S"
	.byte 0, 0, 0, 0
.Lprogram:
	.byte 0, 9, 2; .quad deep
	.byte 1
	.byte 2; .uleb128 65
	.byte 0, 1, 1
.Lline_end:
	.section .note.GNU-stack,"",@progbits
