/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of blockd's admin socket without blocking the loop: a thread makes them one after the other
 * with the blocking client, the loop gets the answers. None of this is on the path of I/O.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "fuse/loop.h"

struct admin_queue;
struct admin_call;

/* `result` is valid during the call (NULL on error), `text` says what was wrong. `error`: the
 * daemon's, -ETIMEDOUT when it could not be reached for the time limit, -EIO when it could not be
 * reached at once, where so asked.
 */
typedef void admin_done_fn(void *ctx, int error, const json_t *result, const char *text);

/* Lives as long as the process. `timeout_ms`: how long a call waits for a daemon that is not there,
 * counted from admin_queue_call(); 0 = for ever. */
struct admin_queue *admin_queue_new(struct loop *loop, const char *path, int64_t timeout_ms);
enum admin_when_down { ADMIN_WAIT, ADMIN_FAIL };

/* `params` is stolen, NULL = {}. `done` runs in the loop, later. */
struct admin_call *admin_queue_call(struct admin_queue *queue, const char *method, json_t *params,
    enum admin_when_down when_down, admin_done_fn *done, void *ctx);
/* `done` will not be called. (The call may have been carried out.) */
void admin_queue_forget(struct admin_queue *queue, struct admin_call *call);
