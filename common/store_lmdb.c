/* SPDX-License-Identifier: Apache-2.0
 *
 * The embedded store: LMDB in a directory of one process.
 *
 * Two databases: "keys" maps each key to a 16-byte head {revision le64, flags le32, zero le32} and
 * the value; "meta" holds "format" (le32) and "revision" (le64, of the newest change).
 *
 * Invariants
 *  L1 One process at a time: the file "lock" in the directory is held by flock.
 *  L2 A change is one LMDB transaction, synced by its commit (no MDB_NOSYNC, MDB_NOMETASYNC).
 *  L3 After a failed commit or read the store takes no request (-EHOSTUNREACH) until the process
 *     opens it anew: a failed sync is never retried. Only a full file system is an answer like any
 *     other (-ENOSPC). -ETIMEDOUT is answered only where the outcome is open.
 *  L4 Watches are told in commit order: one request at a time (`turn`).
 *  L5 Keys of a session do not outlive it: it ends with the handle, or with the process, whose
 *     successor deletes them at open.
 *
 * Everything that touches LMDB runs on a helper thread, where mem_* and fibers do not exist:
 * results pass as malloc'ed memory and are copied.
 */
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/store_impl.h"

#define MAP_BYTES (1ull << 30) /* the limit of the content; sparse */
#define FORMAT_VERSION 1
#define HEAD_BYTES 16
#define FULL_BYTES (1u << 20) /* available to the file system: less is full */
#define HEAD_SESSION 1u

struct store_lmdb {
    struct store store;
    struct fiber_mutex turn; /* L4 */
    MDB_env *env;
    MDB_dbi keys, meta;
    char *path;
    int lock_fd;
    bool session;
    bool broken; /* L3 */
};

/* Results of a helper, malloc'ed. */
struct raw_value {
    char *key;
    void *data;
    size_t len_bytes;
    uint64_t revision;
};

struct request {
    struct store_lmdb *lmdb;
    const char *key; /* get: the key; list: the prefix */
    bool exact;
    const char *after; /* list: NULL, or a key that has the prefix */
    unsigned max;
    struct raw_value *values;
    unsigned count, capacity;
    const struct store_compare *compares;
    const struct store_op *ops;
    unsigned compare_count, op_count;
    bool no_change[STORE_TXN_MAX]; /* op: a delete of an absent key */
    uint64_t revision;
};

/* --- On the helper thread -------------------------------------------------------------------- */

static int error_of(int rc)
{
    switch (rc) {
    case 0:
        return 0;
    case MDB_NOTFOUND:
        return -ENOENT;
    case MDB_MAP_FULL:
    case ENOSPC:
        return -ENOSPC;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
        return -EBADMSG;
    case MDB_PANIC:
        return -EHOSTUNREACH;
    default:
        return rc > 0 ? -rc : -EIO;
    }
}

static MDB_val val_of(const void *data, size_t len_bytes)
{
    return (MDB_val){.mv_data = (void *)data, .mv_size = len_bytes};
}

static void *copy_of(const void *data, size_t len_bytes)
{
    char *copy = malloc(len_bytes + 1);
    CHECK_MSG(copy, "out of memory");
    if (len_bytes)
        memcpy(copy, data, len_bytes);
    copy[len_bytes] = 0;
    return copy;
}

static int request_take(struct request *request, const MDB_val *key, const MDB_val *data)
{
    if (data->mv_size < HEAD_BYTES)
        return -EBADMSG;
    if (request->count == request->capacity) {
        request->capacity = request->capacity ? request->capacity * 2 : 16;
        request->values = realloc(request->values, request->capacity * sizeof(*request->values));
        CHECK_MSG(request->values, "out of memory");
    }
    const char *bytes = data->mv_data;
    request->values[request->count++] = (struct raw_value){
        .key = copy_of(key->mv_data, key->mv_size),
        .data = copy_of(bytes + HEAD_BYTES, data->mv_size - HEAD_BYTES),
        .len_bytes = data->mv_size - HEAD_BYTES,
        .revision = get_le64(bytes),
    };
    return 0;
}

static int read_prefix(struct request *request, MDB_txn *txn)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, request->lmdb->keys, &cursor);
    if (rc)
        return error_of(rc);
    size_t prefix_len = strlen(request->key);
    const char *from = request->after ? request->after : request->key;
    MDB_val key = val_of(from, strlen(from)), data;
    int r = 0;
    rc = mdb_cursor_get(cursor, &key, &data, from[0] ? MDB_SET_RANGE : MDB_FIRST);
    if (rc == 0 && request->after && key.mv_size == strlen(from) &&
        memcmp(key.mv_data, from, key.mv_size) == 0)
        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT);
    while (rc == 0 && r == 0 && request->count < request->max && key.mv_size >= prefix_len &&
           memcmp(key.mv_data, request->key, prefix_len) == 0) {
        r = request_take(request, &key, &data);
        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (rc && rc != MDB_NOTFOUND)
        r = error_of(rc);
    return r;
}

static int64_t do_read(void *arg)
{
    struct request *request = arg;
    struct store_lmdb *lmdb = request->lmdb;
    MDB_txn *txn;
    int rc = mdb_txn_begin(lmdb->env, NULL, MDB_RDONLY, &txn);
    if (rc)
        return error_of(rc);
    int r;
    if (request->exact) {
        MDB_val key = val_of(request->key, strlen(request->key)), data;
        r = error_of(mdb_get(txn, lmdb->keys, &key, &data));
        if (r == 0)
            r = request_take(request, &key, &data);
    } else {
        r = read_prefix(request, txn);
    }
    mdb_txn_abort(txn);
    return r;
}

static int compare_holds(struct store_lmdb *lmdb, MDB_txn *txn, const struct store_compare *compare)
{
    MDB_val key = val_of(compare->key, strlen(compare->key)), data;
    int rc = mdb_get(txn, lmdb->keys, &key, &data);
    uint64_t revision = 0;
    if (rc == 0) {
        if (data.mv_size < HEAD_BYTES)
            return -EBADMSG;
        revision = get_le64(data.mv_data);
    } else if (rc != MDB_NOTFOUND) {
        return error_of(rc);
    }
    return revision == compare->revision ? 0 : -ECANCELED;
}

static int op_apply(struct request *request, MDB_txn *txn, unsigned i)
{
    struct store_lmdb *lmdb = request->lmdb;
    const struct store_op *op = &request->ops[i];
    MDB_val key = val_of(op->key, strlen(op->key));
    if (op->type == STORE_DELETE) {
        int del_rc = mdb_del(txn, lmdb->keys, &key, NULL);
        request->no_change[i] = del_rc == MDB_NOTFOUND;
        return request->no_change[i] ? 0 : error_of(del_rc);
    }
    MDB_val data = val_of(NULL, HEAD_BYTES + op->len_bytes);
    int rc = mdb_put(txn, lmdb->keys, &key, &data, MDB_RESERVE);
    if (rc)
        return error_of(rc);
    char *bytes = data.mv_data;
    put_le64(bytes, request->revision);
    put_le32(bytes + 8, op->session ? HEAD_SESSION : 0);
    put_le32(bytes + 12, 0);
    if (op->len_bytes)
        memcpy(bytes + HEAD_BYTES, op->data, op->len_bytes);
    return 0;
}

static int revision_next(struct store_lmdb *lmdb, MDB_txn *txn, uint64_t *ret_revision)
{
    MDB_val key = val_of("revision", 8), data;
    int rc = mdb_get(txn, lmdb->meta, &key, &data);
    if (rc)
        return rc == MDB_NOTFOUND ? -EBADMSG : error_of(rc);
    if (data.mv_size != 8)
        return -EBADMSG;
    char bytes[8];
    uint64_t revision = get_le64(data.mv_data) + 1;
    put_le64(bytes, revision);
    data = val_of(bytes, 8);
    rc = mdb_put(txn, lmdb->meta, &key, &data, 0);
    if (rc == 0)
        *ret_revision = revision;
    return error_of(rc);
}

/* LMDB reports a write cut short by a full file system as EIO. */
static bool file_system_full(const struct store_lmdb *lmdb)
{
    struct statvfs stat;
    return fstatvfs(lmdb->lock_fd, &stat) == 0 && stat.f_bavail * stat.f_frsize < FULL_BYTES;
}

/* L3. LMDB drops a transaction whose data did not get out: nothing has happened. It panics (refuses
 * every other transaction) when the meta page may or may not have got out. A full file system leaves
 * it usable. */
static int commit(struct store_lmdb *lmdb, MDB_txn *txn)
{
    int rc = mdb_txn_commit(txn);
    if (rc == 0)
        return 0;
    MDB_txn *probe;
    if (mdb_txn_begin(lmdb->env, NULL, 0, &probe) != 0)
        return -ETIMEDOUT;
    mdb_txn_abort(probe);
    bool full = rc == ENOSPC || rc == EDQUOT || rc == MDB_MAP_FULL || file_system_full(lmdb);
    return full ? -ENOSPC : -EIO;
}

static int64_t do_txn(void *arg)
{
    struct request *request = arg;
    struct store_lmdb *lmdb = request->lmdb;
    MDB_txn *txn;
    int rc = mdb_txn_begin(lmdb->env, NULL, 0, &txn);
    if (rc)
        return error_of(rc);
    int r = 0;
    for (unsigned i = 0; r == 0 && i < request->compare_count; i++)
        r = compare_holds(lmdb, txn, &request->compares[i]);
    if (r == 0)
        r = revision_next(lmdb, txn, &request->revision);
    for (unsigned i = 0; r == 0 && i < request->op_count; i++)
        r = op_apply(request, txn, i);
    if (r < 0) {
        mdb_txn_abort(txn);
        return r;
    }
    return commit(lmdb, txn);
}

/* Deletes what sessions left (L5), noting the keys in request->values. */
static int64_t do_end_session(void *arg)
{
    struct request *request = arg;
    struct store_lmdb *lmdb = request->lmdb;
    MDB_txn *txn;
    MDB_cursor *cursor;
    int rc = mdb_txn_begin(lmdb->env, NULL, 0, &txn);
    if (rc)
        return error_of(rc);
    int r = revision_next(lmdb, txn, &request->revision);
    rc = r < 0 ? 0 : mdb_cursor_open(txn, lmdb->keys, &cursor);
    if (r < 0 || rc) {
        mdb_txn_abort(txn);
        return r < 0 ? r : error_of(rc);
    }
    MDB_val key, data;
    while (r == 0 && (rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)) == 0) {
        if (data.mv_size < HEAD_BYTES)
            r = -EBADMSG;
        else if (get_le32((char *)data.mv_data + 8) & HEAD_SESSION) {
            r = request_take(request, &key, &data);
            if (r == 0)
                r = error_of(mdb_cursor_del(cursor, 0));
        }
    }
    mdb_cursor_close(cursor);
    if (r == 0 && rc != MDB_NOTFOUND)
        r = error_of(rc);
    if (r < 0 || request->count == 0) {
        mdb_txn_abort(txn);
        return r;
    }
    return commit(lmdb, txn);
}

/* --- On fibers ------------------------------------------------------------------------------- */

static int run(struct store_lmdb *lmdb, int64_t (*fn)(void *arg), struct request *request)
{
    request->lmdb = lmdb;
    if (lmdb->broken)
        return -EHOSTUNREACH;
    int r = (int)env_offload(fn, request);
    /* Also an unreadable page or a failed read: what a fresh open says is better founded. */
    if (r == -ETIMEDOUT || r == -EHOSTUNREACH || r == -EIO || r == -EBADMSG) {
        lmdb->broken = true;
        log_error(
            "store %s: failed: %s; volumes that are open go on, nothing can be opened or changed "
            "until the daemon is restarted: see to its file system first",
            lmdb->path, strerror(-r));
    }
    return r == -EIO || r == -EBADMSG ? -EHOSTUNREACH : r;
}

static void request_fini(struct request *request)
{
    for (unsigned i = 0; i < request->count; i++) {
        free(request->values[i].key);
        free(request->values[i].data);
    }
    free(request->values);
}

static void value_fill(struct store_value *value, const struct raw_value *raw)
{
    value->key = mem_strdup(raw->key);
    value->data = mem_alloc(raw->len_bytes + 1);
    memcpy(value->data, raw->data, raw->len_bytes + 1);
    value->len_bytes = raw->len_bytes;
    value->revision = raw->revision;
}

static int lmdb_get(struct store *store, const char *key, struct store_value *ret_value)
{
    struct store_lmdb *lmdb = container_of(store, struct store_lmdb, store);
    struct request request = {.key = key, .exact = true};
    fiber_mutex_lock(&lmdb->turn);
    int r = run(lmdb, do_read, &request);
    fiber_mutex_unlock(&lmdb->turn);
    if (r == 0)
        value_fill(ret_value, &request.values[0]);
    request_fini(&request);
    return r;
}

static int lmdb_list(struct store *store, const char *prefix, const char *after, unsigned max,
    struct store_value **ret_values, unsigned *ret_count)
{
    struct store_lmdb *lmdb = container_of(store, struct store_lmdb, store);
    struct request request = {.key = prefix, .after = after, .max = max};
    fiber_mutex_lock(&lmdb->turn);
    int r = run(lmdb, do_read, &request);
    fiber_mutex_unlock(&lmdb->turn);
    if (r == 0) {
        struct store_value *values = mem_zalloc(request.count, sizeof(*values));
        for (unsigned i = 0; i < request.count; i++)
            value_fill(&values[i], &request.values[i]);
        *ret_values = values;
        *ret_count = request.count;
    }
    request_fini(&request);
    return r;
}

static bool any_session_op(const struct store_op *ops, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (ops[i].type == STORE_PUT && ops[i].session)
            return true;
    return false;
}

static int lmdb_txn(struct store *store, const struct store_compare *compares,
    unsigned compare_count, const struct store_op *ops, unsigned op_count, uint64_t *ret_revision)
{
    struct store_lmdb *lmdb = container_of(store, struct store_lmdb, store);
    if (!lmdb->session && any_session_op(ops, op_count))
        return -ESTALE;
    struct request request = {
        .compares = compares, .compare_count = compare_count, .ops = ops, .op_count = op_count};
    fiber_mutex_lock(&lmdb->turn);
    int r = run(lmdb, do_txn, &request);
    for (unsigned i = 0; r == 0 && i < op_count; i++) {
        bool put = ops[i].type == STORE_PUT;
        if (request.no_change[i])
            continue;
        const void *data = ops[i].data ? ops[i].data : "";
        store_notify(
            store, ops[i].key, put ? data : NULL, put ? ops[i].len_bytes : 0, request.revision);
    }
    fiber_mutex_unlock(&lmdb->turn);
    if (r == 0)
        *ret_revision = request.revision;
    return r;
}

static int lmdb_session_start(struct store *store, uint64_t ttl_ns)
{
    container_of(store, struct store_lmdb, store)->session = true;
    return 0;
}

static uint64_t lmdb_session_valid_until_ns(const struct store *store)
{
    return container_of(store, const struct store_lmdb, store)->session ? UINT64_MAX : 0;
}

/* At close, and at open on behalf of a dead predecessor. */
static int end_session(struct store_lmdb *lmdb)
{
    struct request request = {0};
    int r = run(lmdb, do_end_session, &request);
    request_fini(&request);
    return r;
}

static int64_t do_close(void *arg)
{
    struct store_lmdb *lmdb = arg;
    if (lmdb->env)
        mdb_env_close(lmdb->env);
    if (lmdb->lock_fd >= 0)
        close(lmdb->lock_fd);
    return 0;
}

static void lmdb_close(struct store *store)
{
    struct store_lmdb *lmdb = container_of(store, struct store_lmdb, store);
    if (lmdb->session)
        end_session(lmdb); /* failed: the next open does it */
    env_offload(do_close, lmdb);
    mem_free(lmdb->path);
    mem_free(lmdb);
}

static const struct store_ops lmdb_ops = {
    .get = lmdb_get,
    .list = lmdb_list,
    .txn = lmdb_txn,
    .session_start = lmdb_session_start,
    .session_valid_until_ns = lmdb_session_valid_until_ns,
    .close = lmdb_close,
};

/* --- Opening --------------------------------------------------------------------------------- */

struct opening {
    struct store_lmdb *lmdb;
    const char *path;
    const char *step; /* what failed, for the message */
    const char *hint;
    uint32_t format;
};

static int make_directory(const char *path)
{
    char parent[4096];
    if (strlen(path) >= sizeof(parent))
        return -ENAMETOOLONG;
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return 0;
    if (errno != ENOENT)
        return -errno;
    strcpy(parent, path);
    char *slash = strrchr(parent, '/');
    if (!slash || slash == parent)
        return -ENOENT;
    *slash = 0;
    int r = make_directory(parent);
    if (r < 0)
        return r;
    return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : -errno;
}

static int fail(struct opening *opening, int error, const char *step, const char *hint)
{
    opening->step = step;
    opening->hint = hint;
    return error;
}

static int take_lock(struct opening *opening)
{
    char name[4096];
    if (snprintf(name, sizeof(name), "%s/lock", opening->path) >= (int)sizeof(name))
        return fail(opening, -ENAMETOOLONG, "its path is too long", "choose a shorter one");
    opening->lmdb->lock_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (opening->lmdb->lock_fd < 0)
        return fail(opening, -errno, "its lock file cannot be opened",
            "is the directory writable for this user?");
    if (flock(opening->lmdb->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return fail(opening, errno == EWOULDBLOCK ? -EBUSY : -errno, "another process has it",
            "stop the other holdfast-blockd, or give this one a state_dir of its own");
    return 0;
}

static int open_databases(struct opening *opening, MDB_txn *txn)
{
    struct store_lmdb *lmdb = opening->lmdb;
    char bytes[8];
    int rc = mdb_dbi_open(txn, "keys", MDB_CREATE, &lmdb->keys);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &lmdb->meta);
    if (rc)
        return error_of(rc);
    MDB_val key = val_of("format", 6), data;
    rc = mdb_get(txn, lmdb->meta, &key, &data);
    if (rc == 0) {
        opening->format = data.mv_size == 4 ? get_le32(data.mv_data) : 0;
        return opening->format == FORMAT_VERSION ? 0 : -EPROTO;
    }
    if (rc != MDB_NOTFOUND)
        return error_of(rc);
    put_le32(bytes, FORMAT_VERSION);
    data = val_of(bytes, 4);
    rc = mdb_put(txn, lmdb->meta, &key, &data, 0);
    if (rc)
        return error_of(rc);
    put_le64(bytes, 0);
    key = val_of("revision", 8);
    data = val_of(bytes, 8);
    return error_of(mdb_put(txn, lmdb->meta, &key, &data, 0));
}

static int open_lmdb(struct opening *opening)
{
    static const char damaged[] = "restore the directory from a backup, or move it away to start "
                                  "with an empty one";
    struct store_lmdb *lmdb = opening->lmdb;
    int rc = mdb_env_create(&lmdb->env);
    CHECK_MSG(rc == 0, "out of memory");
    CHECK(mdb_env_set_maxdbs(lmdb->env, 2) == 0 && mdb_env_set_mapsize(lmdb->env, MAP_BYTES) == 0);
    /* NOTLS: readers belong to transactions, not to threads of the pool. */
    rc = mdb_env_open(lmdb->env, opening->path, MDB_NOTLS, 0600);
    if (rc)
        return fail(opening, error_of(rc), mdb_strerror(rc),
            rc == ENOSPC ? "make room on its file system" : damaged);
    MDB_txn *txn;
    rc = mdb_txn_begin(lmdb->env, NULL, 0, &txn);
    if (rc)
        return fail(opening, error_of(rc), mdb_strerror(rc), damaged);
    int r = open_databases(opening, txn);
    if (r < 0) {
        mdb_txn_abort(txn);
        return r == -EPROTO ? fail(opening, r, "its format is of another version",
                                  "run the version of Holdfast that wrote it, or a newer one")
                            : fail(opening, r, strerror(-r), damaged);
    }
    rc = mdb_txn_commit(txn);
    return rc ? fail(opening, error_of(rc), mdb_strerror(rc), damaged) : 0;
}

/* The files' names are durable only once the directories are. */
static int sync_directories(struct opening *opening)
{
    char parent[4200];
    snprintf(parent, sizeof(parent), "%s/..", opening->path);
    const char *paths[] = {opening->path, parent};
    for (unsigned i = 0; i < ARRAY_SIZE(paths); i++) {
        int fd = open(paths[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return fail(opening, -errno, "its directory cannot be opened", "check its permissions");
        int r = fsync(fd) < 0 ? -errno : 0;
        close(fd);
        if (r < 0)
            return fail(opening, r, "its directory cannot be synced", "check its file system");
    }
    return 0;
}

static int64_t do_open(void *arg)
{
    struct opening *opening = arg;
    int r = make_directory(opening->path);
    if (r < 0)
        return fail(opening, r, "its directory cannot be made",
            "make it by hand, or choose another path in [store]");
    r = take_lock(opening);
    if (r == 0)
        r = open_lmdb(opening);
    if (r == 0)
        r = sync_directories(opening);
    return r;
}

int store_lmdb_open(const char *path, struct store **ret_store, char **ret_error)
{
    struct store_lmdb *lmdb = NEW(struct store_lmdb);
    store_init(&lmdb->store, &lmdb_ops);
    fiber_mutex_init(&lmdb->turn);
    lmdb->lock_fd = -1;
    lmdb->path = mem_strdup(path);

    struct opening opening = {.lmdb = lmdb, .path = path};
    int r = (int)env_offload(do_open, &opening);
    if (r == 0) {
        r = end_session(lmdb);
        if (r < 0)
            fail(&opening, r, strerror(-r), "check its file system");
    }
    if (r < 0) {
        *ret_error =
            mem_printf("store %s: %s (%s); %s", path, opening.step, strerror(-r), opening.hint);
        env_offload(do_close, lmdb);
        mem_free(lmdb->path);
        mem_free(lmdb);
        return r;
    }
    *ret_store = &lmdb->store;
    return 0;
}
