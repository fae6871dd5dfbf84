/* SPDX-License-Identifier: Apache-2.0
 *
 * The smallest env: a clock that the test moves, numbers that repeat, and nothing else. For tests of what lies below the
 * real envs. fake_env_run() runs `fn` as a fiber until nothing is ready and no timer is left.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/env_impl.h"

struct fake_env {
    struct env env;
    uint64_t now_ns, random;
};

static uint64_t fake_now_ns(struct env *env)
{
    return ((struct fake_env *)env)->now_ns;
}

static void fake_env_random(struct env *env, void *buf, size_t len_bytes)
{
    struct fake_env *fake = (struct fake_env *)env;
    for (size_t i = 0; i < len_bytes; i++) {
        fake->random = fake->random * 6364136223846793005ull + 1442695040888963407ull;
        ((uint8_t *)buf)[i] = (uint8_t)(fake->random >> 56);
    }
}

static const struct env_ops fake_env_ops = {
    .random = fake_env_random,
    .now_ns = fake_now_ns,
    .boottime_ns = fake_now_ns,
    .realtime_ns = fake_now_ns,
};

static inline void fake_env_init(struct fake_env *fake)
{
    env_init(&fake->env, &fake_env_ops);
    fake->env.mem_track = true;
    fake->now_ns = 1000;
}

/* Runs fibers and timers, jumping to the next deadline, until all is quiet. */
static inline void fake_env_loop(struct fake_env *fake)
{
    for (;;) {
        fiber_run_ready();
        if (fiber_any_ready())
            continue;
        uint64_t next_ns = env_timer_next_ns(&fake->env);
        if (next_ns == UINT64_MAX)
            return;
        if (next_ns > fake->now_ns)
            fake->now_ns = next_ns;
        env_timer_run(&fake->env, fake->now_ns);
    }
}

static inline void fake_env_run(struct fake_env *fake, fiber_fn *fn, void *arg)
{
    fiber_set_default_env(&fake->env);
    fiber_spawn_on(&fake->env, "test", fn, arg);
    fake_env_loop(fake);
}
