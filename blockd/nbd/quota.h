/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may have how many requests and buffer bytes at a time. Every connection has a small reserve
 * of its own that nobody can take from it; beyond that it draws on what the server shares, up to a
 * maximum. So memory is bounded, and a client that hoards cannot stop another, only slow it to its
 * reserve.
 *
 *  NQ1 shared = sum over users of what exceeds their reserve, never above the shared maximum.
 *  NQ2 Who waits for shared quota is served in the order of arrival.
 *  NQ3 A user that has nothing in use gets one request of any legal size, once the shared quota
 *      has room: no request is too large for ever.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/fiber.h"

struct nbd_amount {
    unsigned requests;
    uint64_t bytes;
};

struct nbd_quota {
    struct nbd_amount shared, shared_max;
    struct list waiting; /* nbd_quota_user.link */
};

struct nbd_quota_user {
    struct nbd_quota *quota;
    struct nbd_amount used, reserve, max;
    struct list link;
    struct fiber_queue wake; /* woken when it is worth trying again; its owner may wake it too */
};

void nbd_quota_init(struct nbd_quota *quota, struct nbd_amount shared_max);
void nbd_quota_user_init(struct nbd_quota_user *user, struct nbd_quota *quota,
    struct nbd_amount reserve, struct nbd_amount max);

/* False: not now. The user then stands in the queue for shared quota if that is what lacks; it
 * waits on user->wake and tries again, or calls nbd_quota_leave(). */
bool nbd_quota_take(struct nbd_quota_user *user, struct nbd_amount amount);
void nbd_quota_give(struct nbd_quota_user *user, struct nbd_amount amount);
void nbd_quota_leave(struct nbd_quota_user *user);
