/* SPDX-License-Identifier: Apache-2.0
 *
 * What of fibers depends on the processor (fiber_switch.S) and on the tool that watches
 * (sanitizers, valgrind). For fiber.c only.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Saves the callee-saved registers on the current stack and its pointer in *save_sp, then goes on
 * at `sp`. Returns when somebody switches back. The floating-point control words are not switched:
 * nothing here changes them. */
void fiber_switch(void **save_sp, void *sp);

/* First code of every fiber; calls fiber_main(). */
void fiber_entry(void);
_Noreturn void fiber_main(void);

/* Lays out `stack_end`'s last words so that fiber_switch(.., returned) enters fiber_entry. */
static inline void *fiber_stack_prepare(void *stack_end)
{
    uintptr_t *sp = stack_end;
#if defined(__x86_64__)
    *--sp = 0; /* keeps the stack 16-byte aligned as the ABI wants it inside fiber_entry */
    *--sp = 0; /* return address of fiber_entry: the end for unwinders */
    *--sp = (uintptr_t)fiber_entry;
    for (int i = 0; i < 6; i++) /* rbp, rbx, r12-r15 */
        *--sp = 0;
#elif defined(__aarch64__)
    for (int i = 0; i < 20; i++) /* x19-x30, d8-d15 */
        *--sp = 0;
    sp[11] = (uintptr_t)fiber_entry; /* x30, the link register */
#else
#error "fiber_switch.S knows x86-64 and aarch64"
#endif
    return sp;
}

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FIBER_TSAN 1
#endif
#endif

#ifdef FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#define FIBER_STACK_FACTOR 4 /* red zones need room */
#else
#define FIBER_STACK_FACTOR 1
#endif
#ifdef FIBER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#define FIBER_VALGRIND 1
#endif
#endif
