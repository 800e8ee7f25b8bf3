/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What an accelerator must prove: that it runs 64-bit code with paging on, at speed. A multiboot
 * kernel that enters long mode, works through what kernels do (loops, memory, cpuid, MSRs, page
 * table changes) and leaves by isa-debug-exit with status (0x31 << 1) | 1 = 99.
 */
	.set MAGIC, 0x1badb002
	.set EFER, 0xc0000080

	.section .text
	.code32
	.align 4
	.long MAGIC, 0, -MAGIC

	.globl _start
_start:
	mov $stack_top, %esp
	/* identity-map the first 4 GiB with 2 MiB pages */
	mov $pdpt, %eax
	or $3, %eax
	mov %eax, pml4
	mov $pd, %eax
	or $3, %eax
	xor %ecx, %ecx
1:	mov %eax, pdpt(,%ecx,8)
	add $0x1000, %eax
	inc %ecx
	cmp $4, %ecx
	jne 1b
	mov $0x83, %eax
	xor %ecx, %ecx
2:	mov %eax, pd(,%ecx,8)
	add $0x200000, %eax
	inc %ecx
	cmp $2048, %ecx
	jne 2b
	mov $pml4, %eax
	mov %eax, %cr3
	mov %cr4, %eax
	or $0x20, %eax		/* PAE */
	mov %eax, %cr4
	mov $EFER, %ecx
	rdmsr
	or $0x100, %eax		/* LME */
	wrmsr
	mov %cr0, %eax
	or $0x80000001, %eax	/* PG, PE */
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $8, $long_mode

	.code64
long_mode:
	xor %eax, %eax
	mov %eax, %ds
	mov %eax, %ss
	mov $1000000, %r8d
	mov $scratch, %ebx
	xor %r9, %r9
3:	lea (%r9,%r8), %r9
	mov %r9, (%rbx)
	xor (%rbx), %r9
	mov %r8, %rax
	and $0xffff, %eax
	jnz 4f
	push %rbx
	xor %eax, %eax
	cpuid
	pop %rbx
	mov $EFER, %ecx
	rdmsr
	wrmsr
	mov %cr3, %rax
	mov %rax, %cr3
4:	dec %r8d
	jnz 3b
	mov $0x31, %al
	mov $0xf4, %dx
	out %al, %dx
5:	hlt
	jmp 5b

	.section .data
	.align 8
gdt:	.quad 0
	.quad 0x00af9a000000ffff
gdt_pointer:
	.word 15
	.long gdt

	.section .bss
	.align 4096
pml4:	.skip 4096
pdpt:	.skip 4096
pd:	.skip 4 * 4096
scratch: .skip 64
	.skip 4096
stack_top:
