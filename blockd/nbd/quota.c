/* SPDX-License-Identifier: Apache-2.0
 */
#include "blockd/nbd/quota.h"

#include "common/check.h"

void nbd_quota_init(struct nbd_quota *quota, struct nbd_amount shared_max)
{
    *quota = (struct nbd_quota){.shared_max = shared_max};
    list_init(&quota->waiting);
}

void nbd_quota_user_init(struct nbd_quota_user *user, struct nbd_quota *quota,
    struct nbd_amount reserve, struct nbd_amount max)
{
    *user = (struct nbd_quota_user){.quota = quota, .reserve = reserve, .max = max};
    list_init(&user->link);
    fiber_queue_init(&user->wake);
}

static struct nbd_amount add(struct nbd_amount a, struct nbd_amount b)
{
    return (struct nbd_amount){a.requests + b.requests, a.bytes + b.bytes};
}

static struct nbd_amount subtract(struct nbd_amount a, struct nbd_amount b)
{
    CHECK(a.requests >= b.requests && a.bytes >= b.bytes);
    return (struct nbd_amount){a.requests - b.requests, a.bytes - b.bytes};
}

static bool fits(struct nbd_amount a, struct nbd_amount max)
{
    return a.requests <= max.requests && a.bytes <= max.bytes;
}

/* What of `used` is beyond the reserve, and so comes from the shared quota (NQ1). */
static struct nbd_amount beyond(struct nbd_amount used, struct nbd_amount reserve)
{
    return (struct nbd_amount){
        used.requests > reserve.requests ? used.requests - reserve.requests : 0,
        used.bytes > reserve.bytes ? used.bytes - reserve.bytes : 0,
    };
}

bool nbd_quota_take(struct nbd_quota_user *user, struct nbd_amount amount)
{
    struct nbd_quota *quota = user->quota;
    struct nbd_amount used = add(user->used, amount);
    bool alone = user->used.requests == 0; /* NQ3 */
    if (!fits(used, user->max) && !alone)
        return false; /* its own give wakes it */
    struct nbd_amount more =
        subtract(beyond(used, user->reserve), beyond(user->used, user->reserve));
    if (more.requests > 0 || more.bytes > 0) {
        bool first = list_empty(&quota->waiting) || quota->waiting.next == &user->link;
        if (!first || !fits(add(quota->shared, more), quota->shared_max)) { /* NQ2 */
            if (list_empty(&user->link))
                list_push_back(&quota->waiting, &user->link);
            return false;
        }
        quota->shared = add(quota->shared, more);
    }
    user->used = used;
    nbd_quota_leave(user);
    return true;
}

static void wake_first(struct nbd_quota *quota)
{
    if (!list_empty(&quota->waiting))
        fiber_queue_wake_all(&list_entry(quota->waiting.next, struct nbd_quota_user, link)->wake);
}

void nbd_quota_give(struct nbd_quota_user *user, struct nbd_amount amount)
{
    struct nbd_quota *quota = user->quota;
    struct nbd_amount before = beyond(user->used, user->reserve);
    user->used = subtract(user->used, amount);
    quota->shared = subtract(quota->shared, subtract(before, beyond(user->used, user->reserve)));
    fiber_queue_wake_all(&user->wake);
    wake_first(quota);
}

void nbd_quota_leave(struct nbd_quota_user *user)
{
    if (list_empty(&user->link))
        return;
    list_remove(&user->link);
    wake_first(user->quota);
}
