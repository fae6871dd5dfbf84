/* SPDX-License-Identifier: Apache-2.0
 *
 * The one event loop of the mount: file descriptors, timers, and work put off to the end of a turn.
 * Single-threaded; every call is from the loop's thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/list.h"

struct loop;

struct loop_source {
    int fd;
    uint32_t events; /* EPOLLIN, EPOLLOUT: what it waits for; 0 = not in the loop */
    void (*ready)(struct loop_source *source, uint32_t events);
};

struct loop_timer {
    struct list link;
    int64_t due_ms;
    void (*fire)(struct loop_timer *timer);
};

/* Runs once at the end of the turn in which it was asked for: what many events of one turn share
 * (one sendmsg for all their requests). */
struct loop_later {
    struct list link;
    void (*run)(struct loop_later *later);
};

struct loop *loop_new(void);
void loop_free(struct loop *loop);

/* Waits for `events` on source->fd (which `ready` then reports, with EPOLLERR and EPOLLHUP). */
void loop_watch(struct loop *loop, struct loop_source *source, uint32_t events);
/* To be called before or right after the descriptor is closed; no report comes afterwards. */
void loop_unwatch(struct loop *loop, struct loop_source *source);

void loop_timer_init(struct loop_timer *timer, void (*fire)(struct loop_timer *timer));
void loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t delay_ms);
void loop_timer_cancel(struct loop_timer *timer);

void loop_later_init(struct loop_later *later, void (*run)(struct loop_later *later));
void loop_later_set(struct loop *loop, struct loop_later *later);
void loop_later_cancel(struct loop_later *later);

/* One turn: waits until something is ready, handles it, runs what was put off. */
void loop_turn(struct loop *loop);

int64_t loop_now_ms(void);
