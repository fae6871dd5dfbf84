/* SPDX-License-Identifier: Apache-2.0
 *
 * What blockd.conf(5) says.
 */
#pragma once

#include "common/config.h"
#include "common/log.h"
#include "common/store_etcd.h"

#define NBD_ADDRESSES_MAX 32

enum store_type { STORE_TYPE_EMBEDDED, STORE_TYPE_ETCD };

struct node_config {
    struct config *file; /* owns the texts */
    const char *name;
    char *run_dir, *state_dir, *admin_address, *store_path; /* mem_* */
    uint64_t memory_bytes;
    /* What it is divided into, with the two caches below: never more than it in all. */
    struct memory_shares {
        uint64_t blocks_bytes; /* not written out yet */
        uint64_t io_bytes;     /* parity, decoding */
        uint64_t nbd_bytes;    /* buffers of NBD requests */
        uint64_t delta_bytes;  /* changes of maps, of all volumes */
    } memory;
    char *nbd_addresses[NBD_ADDRESSES_MAX]; /* mem_* */
    unsigned nbd_address_count;
    enum log_level log_level;

    uint64_t row_blocks, log_limit_bytes, map_cache_bytes, trailer_cache_bytes, delta_limit_bytes;
    uint64_t bypass_min_bytes, flush_after_ns, idle_close_ns;
    uint64_t scrub_rate_bytes, scrub_interval_ns;
    uint64_t repair_wait_ns;
    uint64_t io_timeout_ns;    /* of local disks */
    uint64_t hold_timeout_ns;  /* 0 = for ever */
    uint64_t handoff_after_ns; /* UINT64_MAX = never by itself */
    unsigned forwarded_max;    /* attach_options.executing_max; not in the file: for tests */

    enum store_type store_type;
    char *store_endpoints[STORE_ETCD_ENDPOINTS_MAX]; /* mem_* */
    unsigned store_endpoint_count;
    char *store_ca, *store_cert, *store_key; /* mem_*; NULL = none */
    const char *store_user;                  /* NULL = none */
    char *store_password;                    /* mem_* */
    const char *cluster_address;             /* of our RPC server; NULL with the embedded store */
    const char *rack;                        /* "" = none */
    uint64_t session_ttl_ns, silence_ns;
};

/* `path` NULL: all defaults. `hostname` is the name where the file gives none. Negative errno with
 * *ret_error (mem_free). */
int node_config_load(
    const char *path, const char *hostname, struct node_config *ret_config, char **ret_error);
/* As above, from memory. */
int node_config_parse(
    const char *text, const char *hostname, struct node_config *ret_config, char **ret_error);
void node_config_fini(struct node_config *config);
