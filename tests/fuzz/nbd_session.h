/* SPDX-License-Identifier: Apache-2.0
 *
 * One NBD server with volumes in memory, in a simulation that lives for one input. `client` runs on
 * a fiber beside it. Nothing may be left over: no memory, no connection, nobody who waits.
 */
#pragma once

#include "blockd/nbd/server.h"
#include "common/check.h"
#include "common/env_sim.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/lib/fake_volume.h"
#include "tests/lib/nbd_client.h"

#define NBD_SESSION_ADDRESS "unix:/nbd"
#define NBD_SESSION_BYTES ((1ull << 20) + 512)

struct nbd_session {
    const uint8_t *data;
    size_t len_bytes;
    void (*client)(struct nbd_session *session);
    bool done;
};

static inline void nbd_session_main(void *arg)
{
    struct nbd_session *session = arg;
    static const char *const addresses[] = {NBD_SESSION_ADDRESS};
    struct nbd_server *server;
    struct nbd_server_stats stats;
    char *error = NULL;
    uint64_t before_bytes = mem_used_bytes(fiber_env());
    struct volumes *volumes = fake_volumes_new();
    fake_volumes_add(volumes, "v", NBD_SESSION_BYTES);
    fake_volume_faults(volumes, "v")->delay_ns = 1000000;
    fake_volume_faults(volumes, "v")->delay_every = 3;
    struct attach *attach = attach_new(&(struct attach_options){.volumes = volumes});
    CHECK(nbd_server_start(
              attach, addresses, 1, &(struct nbd_server_options){0}, &server, &error) == 0);
    session->client(session);
    nbd_server_get_stats(server, &stats);
    CHECK(stats.requests_in_flight == 0 || stats.connections > 0);
    nbd_server_stop(server);
    attach_free(attach);
    fake_volumes_free(volumes);
    CHECK(mem_used_bytes(fiber_env()) == before_bytes);
    session->done = true;
}

static inline bool nbd_session_done(void *arg)
{
    return ((struct nbd_session *)arg)->done;
}

static inline void nbd_session_run(
    const uint8_t *data, size_t len_bytes, void (*client)(struct nbd_session *session))
{
    log_set_level(LOG_LEVEL_ERROR);
    struct sim *sim = sim_new(&(struct sim_options){.seed = len_bytes + 1, .fiber_count_max = 64});
    struct nbd_session session = {data, len_bytes, client, false};
    sim_node_start(sim_node_new(sim, "n"), "session", nbd_session_main, &session);
    CHECK(sim_run(sim, nbd_session_done, &session, UINT64_MAX) == SIM_UNTIL);
    sim_free(sim);
}
