/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry's world in its tests: volumes that only count what is done to them (defined here in place of the
 * engine's) and the memory store. BODY(name) is a test's body, on a fiber, over volumes "a" and "b".
 */
#pragma once

#define FAKE_FIBERS 32
#include "fake_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volumes.h"
#include "blockd/volumes_refused.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull

/* --- The engine's part ----------------------------------------------------------------------- */

struct volume {
    struct volume_root root;
    const char *health;
    unsigned closing;
    bool closed_to_io;
};

static struct {
    unsigned opens, closes, open_now, purges, hand_overs, renewals;
    int open_error, close_error, purge_error;
    bool misuse; /* open twice at once, or closed with I/O */
} engine;
static struct store *store;

int volume_acquire(struct volume_host *host, uint64_t id, unsigned flags,
    struct volume **ret_volume, struct volume_owner *ret_owner, char **ret_error)
{
    struct volume *volume = NEW(struct volume);
    env_sleep_ns(SECOND_NS);
    int r = volume_root_load(host->store, id, &volume->root);
    const struct volume_root *root = &volume->root;
    bool theirs = root->state == VOLUME_OWNED;
    if (r == 0 && (theirs || (root->successor[0] && !(flags & VOLUME_ACQUIRE_FROM_SUCCESSOR)))) {
        *ret_owner = (struct volume_owner){.session = root->owner_session, .epoch = root->epoch};
        strcpy(ret_owner->node, theirs ? root->owner : root->successor);
        r = -EBUSY;
    }
    if (r == 0)
        r = engine.open_error;
    if (r < 0) {
        *ret_error = mem_strdup("cannot open");
        mem_free(volume);
        return r;
    }
    engine.opens++;
    engine.misuse |= engine.open_now++ > 0;
    volume->health = "ok";
    *ret_volume = volume;
    return 0;
}

uint32_t volume_epoch(const struct volume *volume)
{
    return volume->root.epoch;
}

int volume_hand_over(struct volume *volume, const char *successor, uint64_t *ret_pause_ns)
{
    volume->closed_to_io = true;
    env_sleep_ns(SECOND_NS);
    engine.hand_overs++;
    volume->root.state = VOLUME_RELEASED;
    strcpy(volume->root.successor, successor);
    assert_int_equal(volume_root_save(store, &volume->root), 0);
    volume->health = "halted";
    *ret_pause_ns = 5;
    return 0;
}

int volume_session_renewed(struct volume *volume)
{
    env_sleep_ns(SECOND_NS);
    return ++engine.renewals % 2 ? -EAGAIN : 0; /* once more, each */
}

void volume_close_begin(struct volume *volume)
{
    volume->closing++;
}

int volume_close(struct volume *volume)
{
    env_sleep_ns(SECOND_NS);
    engine.closes++;
    engine.open_now--;
    mem_free(volume);
    return engine.close_error;
}

const char *volume_name(const struct volume *volume)
{
    return volume->root.name;
}

const char *volume_pool_name(const struct volume *volume)
{
    return volume->root.pool;
}

static bool store_away;

bool volume_host_lease_valid(const struct volume_host *host)
{
    return !store_away;
}

uint64_t volume_host_session(const struct volume_host *host)
{
    return 1;
}

uint64_t volume_size_bytes(const struct volume *volume)
{
    return volume->root.size_bytes;
}

bool volume_halted(const struct volume *volume)
{
    return strcmp(volume->health, "halted") == 0;
}

bool volume_takes_io(const struct volume *volume)
{
    return !volume_halted(volume) && !volume->closed_to_io;
}

int volume_grow(struct volume *volume, uint64_t size_bytes)
{
    struct volume_root root = volume->root;
    root.size_bytes = size_bytes;
    int r = volume_root_save(store, &root);
    if (r == 0)
        volume->root = root;
    return r;
}

int volume_delete(struct volume_host *host, uint64_t id, const char *name, char **ret_error)
{
    uint64_t named;
    struct volume_root root;
    char key[KEY_BYTES_MAX];
    assert_int_equal(volume_id_by_name(host->store, name, &named), 0);
    assert_int_equal(named, id);
    assert_int_equal(volume_root_load(host->store, id, &root), 0);
    root.state = VOLUME_DELETING;
    assert_int_equal(volume_root_save(host->store, &root), 0);
    char deleted_key[KEY_BYTES_MAX];
    struct store_op ops[] = {{STORE_DELETE, key_name(name, key), NULL, 0, false},
        {STORE_PUT, key_deleted(id, deleted_key), name, strlen(name), false}};
    return store_txn(host->store, NULL, 0, ops, 2, NULL);
}

int volume_purge(struct volume_host *host, uint64_t id)
{
    char key[KEY_BYTES_MAX], deleted_key[KEY_BYTES_MAX];
    struct store_op ops[] = {{STORE_DELETE, key_volume(id, key), NULL, 0, false},
        {STORE_DELETE, key_deleted(id, deleted_key), NULL, 0, false}};
    env_sleep_ns(SECOND_NS);
    engine.purges++;
    return engine.purge_error ? engine.purge_error : store_txn(host->store, NULL, 0, ops, 2, NULL);
}

/* --- World ----------------------------------------------------------------------------------- */

static struct volume_host host;
static struct volumes *volumes;
static struct store_mem *mem;

static void put_key(const char *key, const char *data)
{
    struct store_op op = {STORE_PUT, key, data, strlen(data), false};
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
}

static void make_volume(uint64_t id, const char *name, enum volume_state state)
{
    char key[KEY_BYTES_MAX], text[32];
    struct volume_root root = {.id = id, .size_bytes = 4096, .state = state};
    strcpy(root.name, name);
    strcpy(root.pool, "p");
    assert_int_equal(volume_root_save(store, &root), 0);
    snprintf(text, sizeof(text), "%016lx", id);
    if (state != VOLUME_DELETING)
        put_key(key_name(name, key), text);
    else
        put_key(key_deleted(id, key), name);
}

static void setup(void)
{
    memset(&engine, 0, sizeof(engine));
    mem = store_mem_new();
    store = store_mem_open(mem);
    host = (struct volume_host){.store = store};
    make_volume(1, "a", VOLUME_NEW);
    make_volume(2, "b", VOLUME_NEW);
    volumes = volumes_new(&host, NULL);
}

static void teardown(void)
{
    volumes_free(volumes);
    assert_int_equal(engine.open_now, 0);
    assert_false(engine.misuse);
    store_close(store);
    store_mem_free(mem);
}

static struct volume *get(const char *name)
{
    struct volume *volume;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(volumes_get(volumes, name, &volume, &error), 0);
    return volume;
}

static struct fiber_group group;

static inline void get_a(void *arg)
{
    *(struct volume **)arg = get("a");
    fiber_group_done(&group, 0);
}

/* A front end that is told of a new size, and one that lets go of what has halted a second later. */
static unsigned resized;

static inline void on_resized(struct volumes_listener *listener)
{
    resized++;
}

static inline void let_go(void *arg)
{
    struct volumes_listener *listener = arg;
    env_sleep_ns(SECOND_NS);
    volumes_unlisten(listener);
    volumes_put(volumes, listener->volume);
}
