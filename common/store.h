/* SPDX-License-Identifier: Apache-2.0
 *
 * The coordination store: a small ordered map from text keys to small values, with transactions
 * that compare revisions, sessions (leases) and watches. Modelled on what etcd v3 gives.
 * Implementations: LMDB (one node, embedded), etcd (store_etcd.h), memory (simulation). It holds nodes,
 * disks, pools, volume roots: bytes per volume, nothing per chunk.
 *
 * Fibers call it; whatever blocks runs on a thread of its own.
 *
 * Errors beside those named: -EHOSTUNREACH: not reachable, nothing happened. -ETIMEDOUT: the
 * outcome is unknown; only a later successful transaction on the same key tells (safety.md S13).
 * -ENOSPC: the store is full, nothing happened. -EINVAL: beyond the limits below.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/fiber.h"

struct store;

/* Keys: 1..STORE_KEY_BYTES_MAX bytes of text. A key stands at most once among the operations of a
 * transaction. */
#define STORE_KEY_BYTES_MAX 480
#define STORE_VALUE_BYTES_MAX (1024 * 1024)
#define STORE_TXN_MAX 128 /* compares, and operations */

/* `revision` rises with each change of the key (it is the store's revision of that change). The
 * memory is the caller's: store_value_fini / store_list_free. */
struct store_value {
    char *key;
    char *data; /* NUL-terminated beyond len_bytes */
    size_t len_bytes;
    uint64_t revision;
};
void store_value_fini(struct store_value *value);
void store_list_free(struct store_value *values, unsigned count);

/* What an error of these functions means, for messages: strerror would say "No route to host". */
const char *store_strerror(int error);

struct store_compare {
    const char *key;
    uint64_t revision; /* 0 = the key must be absent */
};

enum store_op_type { STORE_PUT, STORE_DELETE };

struct store_op {
    enum store_op_type type;
    const char *key;
    const void *data;
    size_t len_bytes;
    bool session; /* the key goes when this store's session ends */
};

/* -ENOENT when absent. */
MAY_SUSPEND int store_get(struct store *store, const char *key, struct store_value *ret_value);
/* All keys that start with `prefix`, in key order. 0 with *ret_count 0 when there are none. */
MAY_SUSPEND int store_list(
    struct store *store, const char *prefix, struct store_value **ret_values, unsigned *ret_count);
/* The same, at most `max` (> 0) of them and only those behind `after` in key order (NULL: from the first). Fewer
 * than `max` are the last. What changes from page to page may be there or not. */
MAY_SUSPEND int store_list_page(struct store *store, const char *prefix, const char *after,
    unsigned max, struct store_value **ret_values, unsigned *ret_count);
/* All or nothing, durable when answered. -ECANCELED: a compare failed. -ESTALE: an operation is of
 * the session, and there is none (any more). *ret_revision (may be NULL): the revision that every
 * key put now has. */
MAY_SUSPEND int store_txn(struct store *store, const struct store_compare *compares,
    unsigned compare_count, const struct store_op *ops, unsigned op_count, uint64_t *ret_revision);

/* One session a store handle: keys put with `session` vanish when it ends (close, or ttl after the
 * last sign of life). The embedded store's session ends with the process. */
MAY_SUSPEND int store_session_start(struct store *store, uint64_t ttl_ns);
/* CLOCK_BOOTTIME until which the session is surely alive (S16); 0 = none. Embedded: UINT64_MAX. */
uint64_t store_session_valid_until_ns(const struct store *store);

/* Rises when the store is found to have another history than before (restored from a backup): what was read, and
 * what was written and answered, need not be there. Noticed by watches, some time after. */
uint64_t store_histories(const struct store *store);

/* Calls changed(ctx, value) from a fiber for each put (value) or delete (value->data == NULL) under
 * `prefix` after `revision`: first what is there now and is newer, then each change. Of changes of
 * one key in quick succession only the last may be told. Deletes before the start are not told:
 * to hold a whole picture, start the watch at 0. `value` is lent for the call. */
struct store_watch;
MAY_SUSPEND int store_watch_start(struct store *store, const char *prefix, uint64_t revision,
    void (*changed)(void *ctx, const struct store_value *value), void *ctx,
    struct store_watch **ret_watch);
/* Waits until all that the watch knows of by now has been told. */
MAY_SUSPEND void store_watch_settle(struct store_watch *watch);
/* changed() is not called any more when this returns; not to be called from it. */
MAY_SUSPEND void store_watch_stop(struct store_watch *watch);

/* Ends the session and the watches. No other call may be under way. */
MAY_SUSPEND void store_close(struct store *store);

/* store_lmdb.c: the environment is the directory `path`, made if it is not there; held with an
 * exclusive lock (-EBUSY: another process has it). *ret_error (mem_free) names the way out. */
MAY_SUSPEND int store_lmdb_open(const char *path, struct store **ret_store, char **ret_error);

/* store_mem.c: for tests and the simulation. The content (struct store_mem) outlives handles, as a
 * cluster's store outlives a node; it and its handles use malloc. A handle belongs to the env of
 * the fiber that opened it. */
struct store_mem;
struct store_mem *store_mem_new(void);
void store_mem_free(struct store_mem *mem);
struct store *store_mem_open(struct store_mem *mem);
/* `env` has crashed (fiber_kill_env): its handles are gone without a close. Their sessions live on
 * until their time to live has passed. Call it before `env` is freed or reused. */
void store_mem_env_crashed(struct store_mem *mem, const struct env *env);
/* The clock that sessions end by; env_now_ns of whoever asks unless this is called, which will not do
 * where nodes have clocks of their own. */
void store_mem_set_clock(struct store_mem *mem, uint64_t (*now_ns)(void));
/* Faults: each following request answers `error` (0 = none) and sessions are not kept alive; with
 * -ETIMEDOUT a transaction may or may not have happened (env_random). Each request takes delay_ns,
 * half of it before its effect. */
void store_mem_set_fault(struct store_mem *mem, int error, uint64_t delay_ns);
/* Watches are told of each change up to so much later, in order, each at a time of its own. 0 = what comes from
 * now on is told at once (what is on its way keeps its time). */
void store_mem_set_watch_delay(struct store_mem *mem, uint64_t delay_ns);
/* The store has thrown its history away: of what is on its way watches learn only how it ended. */
void store_mem_resync(struct store_mem *mem);
/* All handles are told that it has another history; the records the test puts back itself. */
void store_mem_set_back(struct store_mem *mem);
/* Of a million transactions that compare something so many meet a record that somebody has just written as it
 * was: -ECANCELED. */
void store_mem_set_conflicts(struct store_mem *mem, uint32_t ppm);
