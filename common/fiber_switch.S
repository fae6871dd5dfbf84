/* SPDX-License-Identifier: Apache-2.0
 *
 * Context switch between stacks: only what the ABI calls callee-saved (x86-64: System V psABI 3.2.1;
 * aarch64: AAPCS64 6.1), since the compiler has saved the rest around the call. See fiber_switch.h.
 */
    .text

#if defined(__x86_64__)
    .globl fiber_switch
    .type fiber_switch, @function
    .p2align 4
fiber_switch:
    .cfi_startproc
    pushq %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbp, 0
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbx, 0
    pushq %r12
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r12, 0
    pushq %r13
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r13, 0
    pushq %r14
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r14, 0
    pushq %r15
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r15, 0
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    .cfi_adjust_cfa_offset -8
    popq %r14
    .cfi_adjust_cfa_offset -8
    popq %r13
    .cfi_adjust_cfa_offset -8
    popq %r12
    .cfi_adjust_cfa_offset -8
    popq %rbx
    .cfi_adjust_cfa_offset -8
    popq %rbp
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_endproc
    .size fiber_switch, . - fiber_switch

    .globl fiber_entry
    .type fiber_entry, @function
    .p2align 4
fiber_entry:
    .cfi_startproc
    .cfi_undefined %rip
    call fiber_main
    ud2
    .cfi_endproc
    .size fiber_entry, . - fiber_entry

#elif defined(__aarch64__)
    .globl fiber_switch
    .type fiber_switch, %function
    .p2align 4
fiber_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size fiber_switch, . - fiber_switch

    .globl fiber_entry
    .type fiber_entry, %function
    .p2align 4
fiber_entry:
    .cfi_startproc
    .cfi_undefined x30
    bl fiber_main
    brk #1
    .cfi_endproc
    .size fiber_entry, . - fiber_entry
#else
#error "no context switch for this processor"
#endif

    .section .note.GNU-stack, "", %progbits
