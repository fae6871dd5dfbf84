/* SPDX-License-Identifier: Apache-2.0
 *
 * An NBD server over volumes in memory, in a simulation of its own: volume "vm1" of 64 MiB and 512
 * bytes, "vm2" of 1 MiB. nbd_test_run() runs `fn` on a fiber beside it, stops the server, and finds
 * that nothing is left of it: no memory, no user of a volume.
 */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "blockd/nbd/server.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/env_sim.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/lib/fake_volume.h"
#include "tests/lib/nbd_client.h"

#define NBD_TEST_ADDRESS "unix:/nbd"
#define NBD_TEST_BYTES (64ull << 20 | 512)
#define MS 1000000ull
#define SEC 1000000000ull

struct nbd_test {
    struct volumes *volumes;
    struct attach *attach;
    struct nbd_server *server; /* a test may stop it itself and set this to NULL */
    struct nbd_server_options options;
    void (*fn)(struct nbd_test *t);
    bool done;
};

static inline void nbd_test_main(void *arg)
{
    struct nbd_test *t = arg;
    static const char *const addresses[] = {NBD_TEST_ADDRESS};
    char *error = NULL;
    uint64_t before_bytes = mem_used_bytes(fiber_env());
    t->volumes = fake_volumes_new();
    fake_volumes_add(t->volumes, "vm1", NBD_TEST_BYTES);
    fake_volumes_add(t->volumes, "vm2", 1 << 20);
    t->attach = attach_new(&(struct attach_options){.volumes = t->volumes});
    assert_int_equal(nbd_server_start(t->attach, addresses, 1, &t->options, &t->server, &error), 0);
    t->fn(t);
    if (t->server)
        nbd_server_stop(t->server);
    attach_free(t->attach);
    fake_volumes_free(t->volumes);
    assert_int_equal(mem_used_bytes(fiber_env()), before_bytes);
    t->done = true;
}

static inline bool nbd_test_done(void *arg)
{
    return ((struct nbd_test *)arg)->done;
}

static inline void nbd_test_run(void (*fn)(struct nbd_test *t), struct nbd_server_options options)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct sim *sim = sim_new(&(struct sim_options){.seed = seed});
        struct nbd_test t = {.fn = fn, .options = options};
        sim_node_start(sim_node_new(sim, "n"), "test", nbd_test_main, &t);
        assert_int_equal(sim_run(sim, nbd_test_done, &t, 3600 * SEC), SIM_UNTIL);
        sim_free(sim);
    }
}

static inline struct nbd_server_stats nbd_test_stats(struct nbd_test *t)
{
    struct nbd_server_stats stats;
    nbd_server_get_stats(t->server, &stats);
    return stats;
}

/* Waits until `what` is true; not for ever. */
#define NBD_TEST_WAIT(what)               \
    do {                                  \
        for (int i_ = 0; !(what); i_++) { \
            assert_true(i_ < 100000);     \
            env_sleep_ns(MS);             \
        }                                 \
    } while (0)
