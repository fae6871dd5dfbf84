/* SPDX-License-Identifier: Apache-2.0
 *
 * epoll, level-triggered. There are few descriptors (the FUSE device, one or a few connections for
 * each open volume) and fewer timers, so timers are a plain list.
 */
#include "fuse/loop.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "common/mem.h"

#define EVENTS_MAX 32

struct loop {
    int epoll_fd;
    struct list timers, laters;
    /* The turn's events not handled yet: loop_unwatch() removes its source from here too. */
    struct epoll_event events[EVENTS_MAX];
    int events_count;
};

int64_t loop_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

struct loop *loop_new(void)
{
    struct loop *loop = NEW(struct loop);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    CHECK_MSG(loop->epoll_fd >= 0, "epoll_create1: errno %d", errno);
    list_init(&loop->timers);
    list_init(&loop->laters);
    return loop;
}

void loop_free(struct loop *loop)
{
    close(loop->epoll_fd);
    mem_free(loop);
}

void loop_watch(struct loop *loop, struct loop_source *source, uint32_t events)
{
    if (source->events == events)
        return;
    int op = source->events != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    struct epoll_event event = {.events = events, .data.ptr = source};
    int r = epoll_ctl(loop->epoll_fd, op, source->fd, &event);
    CHECK_MSG(r == 0, "epoll_ctl: errno %d", errno);
    source->events = events;
}

void loop_unwatch(struct loop *loop, struct loop_source *source)
{
    if (source->events == 0)
        return;
    source->events = 0;
    /* Fails harmlessly where the descriptor is closed already. */
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    for (int i = 0; i < loop->events_count; i++)
        if (loop->events[i].data.ptr == source)
            loop->events[i].data.ptr = NULL;
}

void loop_timer_init(struct loop_timer *timer, void (*fire)(struct loop_timer *timer))
{
    list_init(&timer->link);
    timer->fire = fire;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t delay_ms)
{
    list_remove(&timer->link);
    timer->due_ms = loop_now_ms() + delay_ms;
    list_push_back(&loop->timers, &timer->link);
}

void loop_timer_cancel(struct loop_timer *timer)
{
    list_remove(&timer->link);
}

void loop_later_init(struct loop_later *later, void (*run)(struct loop_later *later))
{
    list_init(&later->link);
    later->run = run;
}

void loop_later_set(struct loop *loop, struct loop_later *later)
{
    if (list_empty(&later->link))
        list_push_back(&loop->laters, &later->link);
}

void loop_later_cancel(struct loop_later *later)
{
    list_remove(&later->link);
}

static int wait_ms(const struct loop *loop)
{
    if (!list_empty(&loop->laters))
        return 0;
    if (list_empty(&loop->timers))
        return -1;
    int64_t first_ms = INT64_MAX;
    list_for_each (it, &loop->timers)
        first_ms = MIN(first_ms, list_entry(it, struct loop_timer, link)->due_ms);
    int64_t left_ms = first_ms - loop_now_ms();
    return left_ms < 0 ? 0 : (int)MIN(left_ms, 1 << 30);
}

static void fire_timers(struct loop *loop)
{
    if (list_empty(&loop->timers))
        return;
    /* Those due now are set aside first: a timer may set itself or cancel another when it fires. */
    int64_t now_ms = loop_now_ms();
    struct list due;
    list_init(&due);
    list_for_each_safe (it, &loop->timers) {
        if (list_entry(it, struct loop_timer, link)->due_ms <= now_ms) {
            list_remove(it);
            list_push_back(&due, it);
        }
    }
    for (struct list *it; (it = list_pop_front(&due)) != NULL;) {
        struct loop_timer *timer = list_entry(it, struct loop_timer, link);
        timer->fire(timer);
    }
}

void loop_turn(struct loop *loop)
{
    int n = epoll_wait(loop->epoll_fd, loop->events, EVENTS_MAX, wait_ms(loop));
    CHECK_MSG(n >= 0 || errno == EINTR, "epoll_wait: errno %d", errno);
    loop->events_count = n;
    for (int i = 0; i < n; i++) {
        struct loop_source *source = loop->events[i].data.ptr;
        if (source != NULL)
            source->ready(source, loop->events[i].events);
    }
    loop->events_count = 0;
    fire_timers(loop);
    for (struct list *it; (it = list_pop_front(&loop->laters)) != NULL;) {
        struct loop_later *later = list_entry(it, struct loop_later, link);
        later->run(later);
    }
}
