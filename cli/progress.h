/* SPDX-License-Identifier: Apache-2.0
 *
 * How far a long copy is, how fast, and how long it will take: one line that is rewritten in place,
 * on terminals only. The arithmetic knows no clock: tests give the times.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label;
    uint64_t total_bytes; /* 0 = unknown */
    uint64_t done_bytes, start_ns;
    uint64_t rate_done_bytes, rate_ns; /* when the rate was last computed */
    double rate;                       /* bytes/s, smoothed */
    bool terminal, shown;
    unsigned width; /* of the terminal */
};

void progress_init(
    struct progress *progress, const char *label, uint64_t total_bytes, uint64_t now_ns);
/* True when the line is due again (ten times a second). */
bool progress_update(struct progress *progress, uint64_t done_bytes, uint64_t now_ns);
/* Seconds left; -1 while unknown. */
int64_t progress_eta_s(const struct progress *progress);

#define PROGRESS_LINE_BYTES 256
/* The line, at most `width` columns. */
void progress_line(const struct progress *progress, unsigned width, char text[PROGRESS_LINE_BYTES]);

/* The same on stderr if that is a terminal. */
void progress_start(struct progress *progress, const char *label, uint64_t total_bytes);
void progress_show(struct progress *progress, uint64_t done_bytes);
/* Wipes the line: messages go there. */
void progress_end(struct progress *progress);
