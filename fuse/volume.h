/* SPDX-License-Identifier: Apache-2.0
 *
 * A volume that the kernel has an inode of. Found by its id, never by its name alone: names can be
 * given to other volumes. Holds the session while the file is open.
 */
#pragma once

#include <jansson.h>
#include <sys/stat.h>
#include <time.h>

#include "fuse/mount.h"
#include "fuse/range_lock.h"
#include "fuse/waiter.h"

struct volume {
    struct list link; /* in mount->volumes */
    struct mount *mount;
    char *id, *name;
    uint64_t size_bytes;        /* as the admin socket told last */
    uint64_t allocated_bytes;   /* as well; not known while it is closed: UINT64_MAX */
    uint64_t renewed_for_bytes; /* the size the session was last renewed for */
    struct timespec modified;

    uint64_t lookups; /* the kernel's references */
    unsigned opens;   /* open files */
    unsigned pins;    /* admin calls under way */

    struct session *session; /* NULL when not open */
    struct list open_waiters, size_waiters;
    struct range_locks range_locks;
    struct loop_later close_later;

    /* Writes taken and writes known to be flushed: a close flushes what the caller did not. */
    uint64_t writes, writes_flushed, writes_at_flush;
    struct nbd_op close_flush;
    bool close_flushing;
};

/* From volume.info's answer or an entry of volume.list's: the volume it describes, made if it is
 * new here, brought up to date. NULL if the answer makes no sense. */
struct volume *volume_learn(struct mount *mount, const json_t *info);
/* The kernel, or an open file, has a volume of that name. */
bool volume_is_known(const struct mount *mount, const char *name);
/* Frees `v` if nothing refers to it any more. */
void volume_unref(struct volume *v);
/* The kernel drops `lookups` of its references. */
void volume_forget(struct volume *v, uint64_t lookups);
void volume_fill_attr(const struct volume *v, struct stat *attr);
/* For volume.info, without opening a closed volume in blockd for a mere stat. */
json_t *volume_info_params(const char *name);
uint64_t volume_ino(const char *id);
/* The "volume" of such an answer as text, of mem_alloc(); NULL if there is none. */
char *volume_id_of(const json_t *info);

/* Opens the session if it is not; `opened` is called with 0 once it is up, or with a negative errno
 * (then the open does not count). May be called at once. */
struct open_waiter {
    struct list link;
    void (*opened)(struct open_waiter *waiter, int error);
};
void volume_open(struct volume *v, struct open_waiter *waiter);
void volume_open_cancel(struct volume *v, struct open_waiter *waiter);
/* The last close flushes and disconnects, in the background. */
void volume_close(struct volume *v);
/* As if every file were closed. */
void volume_close_all(struct volume *v);

/* Asks blockd whether the volume has grown beyond what the session knows; if so reconnects to learn
 * it. `checked` is called later, in any case. */
struct size_waiter {
    struct list link; /* initialised by the call */
    struct volume *volume;
    void (*checked)(struct size_waiter *waiter);
};
void volume_check_size(struct volume *v, struct size_waiter *waiter);

/* A write was carried out; `durable`: with FUA. */
static inline void volume_note_write(struct volume *v, bool durable)
{
    if (durable && v->writes_flushed == v->writes)
        v->writes_flushed++;
    v->writes++;
    clock_gettime(CLOCK_REALTIME_COARSE, &v->modified);
}
