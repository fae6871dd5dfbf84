/* SPDX-License-Identifier: Apache-2.0
 *
 * Which node this host is: a small file in the state directory, and the lock of that directory.
 *
 * One block of 4 KiB: a line of JSON of less than one sector (so it is written whole or not at all),
 * spaces, a newline. Zeros: nothing is known yet.
 *
 * Invariants
 *  I1 Who has it open is the only daemon of this state directory (S10, B2).
 *  I2 It names the node's UUID before the store does: a record in the store that names another one is
 *     another host's.
 */
#pragma once

#include "common/fiber.h"
#include "common/uuid.h"

struct state_file;

struct state_identity {
    struct uuid node, cluster; /* nil: none yet */
    char name[64];
};

/* `directory`/node, made if it is not there. -EBUSY: another daemon has it; -EINVAL: the file system
 * cannot do O_DIRECT; -EBADMSG: damaged. *ret_error (mem_free) names the way out. */
MAY_SUSPEND int state_file_open(
    const char *directory, struct state_file **ret_file, char **ret_error);
const struct state_identity *state_file_identity(const struct state_file *file);
/* Durable when answered. */
MAY_SUSPEND int state_file_save(
    struct state_file *file, const struct state_identity *identity, char **ret_error);
/* NULL is allowed. */
MAY_SUSPEND void state_file_close(struct state_file *file);
