/* SPDX-License-Identifier: Apache-2.0
 *
 * What clients of one volume asked for and saw, and whether a disk can have behaved like that.
 *
 * Every block (4 KiB) is a register; every write brings a content of its own, so a read says which
 * write it saw. Checked, with the times at which calls began and ended (a counter of all such moments):
 *
 *  H1 Linearizable, per block: an order of its writes and reads exists in which each read sees the
 *     write before it and nothing that ended before something began comes after it. A write without an
 *     answer may have happened, at any time after it began. (Gibbons and Korach: with unique contents
 *     it is enough that no two zones overlap; see history.c.)
 *  H2 A prefix, over all blocks, whenever the volume was down (promise b): if something is there that
 *     was asked for at T, then so is everything acknowledged before T.
 *  H3 After a loss of power everywhere: everything covered by a flush that has been answered.
 *  H4 Content that nobody wrote to that block is never read.
 *  H5 The size only grows, by what was asked for: what was acknowledged, or seen once, is there for whoever asks
 *     later, also after crashes and losses of power; new blocks read as zeroes until they are written.
 *
 * The memory is plain malloc: it outlives nodes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HISTORY_BLOCK_BYTES 4096u

struct history;

struct history *history_new(const char *name, uint32_t block_count);
void history_free(struct history *history);

/* H5. A larger size was asked for; what becomes of that is known once it is there. */
void history_grow(struct history *history, uint32_t block_count);
/* It was acknowledged, or something beyond the size so far has been read or written. */
void history_grown(struct history *history, uint32_t block_count);
/* At least so many blocks are there, at most so many can be. */
uint32_t history_size(const struct history *history);
uint32_t history_size_max(const struct history *history);

/* A write, or zeroes (`buf` NULL: trim, write zeroes); fills `buf` (count blocks). The number is the
 * write's; it is given to history_written once, or never. */
uint64_t history_write(
    struct history *history, uint32_t first, uint32_t count, void *buf, bool fua);
/* It was acknowledged. Not called: it may have happened. */
void history_written(struct history *history, uint64_t number);
/* It was refused, and surely has not happened. */
void history_refused(struct history *history, uint64_t number);

/* Moments: when a read or a flush begins. */
uint64_t history_now(struct history *history);
/* A read that began at `since` is answered with `buf`. CHECKs H1 and H4. */
void history_read(
    struct history *history, uint64_t since, uint32_t first, uint32_t count, const void *buf);
/* A flush that began at `since` is answered: what was acknowledged before it is durable. */
void history_flushed(struct history *history, uint64_t since);

/* No client is there and everything was down: all processes were killed, or lost their power. */
void history_crashed(struct history *history, bool power_lost);
/* After that, before anything is written: the blocks as they are read now, piece by piece, then
 * history_settled() CHECKs H2 and H3. From then on what was found is the state, nothing of before comes
 * back. */
void history_found(struct history *history, uint32_t first, uint32_t count, const void *buf);
void history_settled(struct history *history);
/* What is found next is the state, whatever it is: of what was settled last nothing was durable yet, and the power went. */
void history_forget(struct history *history);
/* Instead of history_found: more was lost than the code can bear, and the volume says so. Nothing is judged of it. */
void history_unreadable(struct history *history, uint32_t block);
/* Before that, where growth was asked for: the size as it is now. One that has not come will not come. */
void history_found_size(struct history *history, uint32_t block_count);

/* Writes acknowledged, reads checked, of all time. */
uint64_t history_writes(const struct history *history);
uint64_t history_reads(const struct history *history);
