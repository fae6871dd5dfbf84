/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volume/fanout.h"

#include "common/check.h"
#include "common/mem.h"

/* Helpers that get their fiber late may find the caller gone: so this outlives the call, and only
 * a fiber that took an index touches ctx. */
struct fanout {
    unsigned references;
    unsigned count, next, finished;
    void (*fn)(void *ctx, unsigned i);
    void *ctx;
    struct fiber *caller;
};

static void fanout_put(struct fanout *fanout)
{
    if (--fanout->references == 0)
        mem_free(fanout);
}

static MAY_SUSPEND void fanout_work(struct fanout *fanout)
{
    while (fanout->next < fanout->count) {
        fanout->fn(fanout->ctx, fanout->next++);
        if (++fanout->finished == fanout->count && fanout->caller != fiber_self())
            fiber_wake(fanout->caller);
    }
}

static void fanout_help(void *arg)
{
    struct fanout *fanout = arg;
    fanout_work(fanout);
    fanout_put(fanout);
}

void fanout_run(
    const char *name, unsigned count, unsigned width, void (*fn)(void *ctx, unsigned i), void *ctx)
{
    CHECK(width > 0);
    if (count == 1)
        fn(ctx, 0);
    if (count <= 1)
        return;

    unsigned helpers = fiber_helpers(MIN(count, width) - 1);
    struct fanout *fanout = NEW(struct fanout);
    *fanout = (struct fanout){
        .references = 1 + helpers,
        .count = count,
        .fn = fn,
        .ctx = ctx,
        .caller = fiber_self(),
    };
    for (unsigned i = 0; i < helpers; i++)
        fiber_spawn(name, fanout_help, fanout);
    fanout_work(fanout);
    while (fanout->finished < count)
        fiber_suspend();
    fanout_put(fanout);
}
