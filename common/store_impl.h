/* SPDX-License-Identifier: Apache-2.0
 *
 * For implementations of the store only (store.c, store_etcd*.c, store_lmdb.c, store_mem.c). store.c holds what
 * all share: dispatch through `ops`, argument checks, values, and the delivery of watches.
 */
#pragma once

#include "common/list.h"
#include "common/store.h"

struct store_ops {
    MAY_SUSPEND int (*get)(struct store *store, const char *key, struct store_value *ret_value);
    /* `after`: a key that has the prefix, or NULL; `max` > 0. */
    MAY_SUSPEND int (*list)(struct store *store, const char *prefix, const char *after,
        unsigned max, struct store_value **ret_values, unsigned *ret_count);
    MAY_SUSPEND int (*txn)(struct store *store, const struct store_compare *compares,
        unsigned compare_count, const struct store_op *ops, unsigned op_count,
        uint64_t *ret_revision);
    MAY_SUSPEND int (*session_start)(struct store *store, uint64_t ttl_ns);
    uint64_t (*session_valid_until_ns)(const struct store *store);
    /* Optional, for a store whose changes come from afar (store_notify is not used then): tells what
     * is there, before it returns, and from then on each change, by store_watch_tell(). */
    MAY_SUSPEND int (*watch_start)(struct store *store, struct store_watch *watch,
        const char *prefix, uint64_t revision, void **ret_remote);
    MAY_SUSPEND void (*watch_stop)(struct store *store, void *remote);
    /* Frees `store`. Its watches are stopped already. */
    MAY_SUSPEND void (*close)(struct store *store);
};

/* First member of every implementation's handle. */
struct store {
    const struct store_ops *ops;
    struct env *env;
    struct list watches; /* struct store_watch.link */
    uint64_t histories;
};

void store_init(struct store *store, const struct store_ops *ops);

/* Tells the watches of this handle of a change; data NULL = deleted. Callable outside fibers and
 * from another env's fiber. Delivery is by a fiber of the handle's env. */
void store_notify(
    struct store *store, const char *key, const void *data, size_t len_bytes, uint64_t revision);
/* As store_notify for one watch, whose prefix `key` has. From a fiber of the handle's env. */
void store_watch_tell(struct store_watch *watch, const char *key, const void *data,
    size_t len_bytes, uint64_t revision);
/* Forgets the watches without a word to their fibers, which are gone (a crashed env). */
void store_forget_watches(struct store *store);
