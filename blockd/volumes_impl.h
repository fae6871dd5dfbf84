/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the registry share. Only blockd/volumes*.c include this.
 *
 *   volumes.c          entries; get and put; lists; its life
 *   volumes_change.c   resize, rename, delete, close
 *   volumes_moves.c    volumes go to other nodes, sessions change
 *
 * One entry for each volume that is open, or that somebody is opening, closing, renaming or
 * deleting:
 *
 *            get: entry made, busy            opened
 *   (none) ------------------------> BUSY -----------> OPEN (users counted, idle timer at 0)
 *     ^        close, delete, rename done  |             |
 *     +------------------------------------+ <-----------+ idle, close, rename, delete
 *
 * Whoever finds an entry busy waits for a change of it and looks again from the start.
 */
#pragma once

#include "blockd/volumes.h"
#include "blockd/volumes_sightings.h"
#include "common/env.h"
#include "common/fiber.h"

struct volumes_entry {
    struct list link; /* volumes->entries */
    struct volumes *volumes;
    uint64_t id;
    char name[NAME_BYTES_MAX];
    struct volume *volume; /* NULL unless open */
    bool busy;             /* V1 */
    bool handing_over;
    unsigned users;
    struct list listeners; /* struct volumes_listener.link */
    struct env_timer idle;
};

struct volumes {
    struct volume_host *host;
    struct volumes_options options;
    struct list entries;
    struct fiber_queue changed; /* an entry became not busy, went, or lost its last user */
    struct volumes_purge *purge;
    struct volumes_seen *seen;
    struct volumes_refused *refused;
    bool closing;
    unsigned renewals; /* fibers of volumes_session_renewed */
    struct sightings sightings;
};

struct volumes_entry *volumes_entry_by_id(struct volumes *volumes, uint64_t id);
/* Of a volume that is open. */
struct volumes_entry *volumes_entry_of(struct volumes *volumes, const struct volume *volume);
/* Busy; the caller opens it or works on the closed volume. */
struct volumes_entry *volumes_entry_new(struct volumes *volumes, uint64_t id, const char *name);
void volumes_entry_free(struct volumes_entry *entry);
/* Takes the idle entry alone and closes its volume; the entry stays, busy. */
MAY_SUSPEND int volumes_entry_close(struct volumes_entry *entry);
/* Those who hold it and have nothing to do with it just now have not noticed. */
void volumes_tell_halted(struct volumes_entry *entry);
/* For when the store is away: whose it is from now on, as far as we know. */
void volumes_note_owner(
    const struct volumes_entry *entry, enum volume_state state, const char *owner);
MAY_SUSPEND int volumes_find_id(
    struct volumes *volumes, const char *name, uint64_t *ret_id, char **ret_error);
