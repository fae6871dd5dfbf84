/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/check.h"
#include "fuse/range_lock.h"

static struct range_locks locks;
static struct range_lock a, b, c, d;
static char order[16];
static unsigned order_len;

static void granted(struct range_lock *lock)
{
    order[order_len++] = lock == &a ? 'a' : lock == &b ? 'b' : lock == &c ? 'c' : 'd';
    order[order_len] = 0;
}

static void ask(struct range_lock *lock, uint64_t start, uint64_t end)
{
    *lock = (struct range_lock){.start_bytes = start, .end_bytes = end, .granted = granted};
    list_init(&lock->link);
    range_lock(&locks, lock);
}

static int setup(void **state)
{
    range_locks_init(&locks);
    order_len = 0;
    order[0] = 0;
    return 0;
}

static void ranges_that_do_not_overlap_go_at_once(void **state)
{
    ask(&a, 0, 512);
    ask(&b, 512, 1024);
    ask(&c, 4096, 8192);
    assert_string_equal(order, "abc");
    range_unlock(&locks, &b);
    range_unlock(&locks, &a);
    range_unlock(&locks, &c);
    assert_true(list_empty(&locks.all));
}

static void overlapping_ranges_wait_in_order(void **state)
{
    ask(&a, 0, 1024);
    ask(&b, 512, 2048);
    ask(&c, 1024, 4096); /* free of a, but behind b */
    ask(&d, 0, 512);
    assert_string_equal(order, "a");
    range_unlock(&locks, &a);
    assert_string_equal(order, "abd");
    range_unlock(&locks, &b);
    assert_string_equal(order, "abdc");
}

static void a_lock_given_up_while_waiting_lets_others_by(void **state)
{
    ask(&a, 0, 1024);
    ask(&b, 0, 4096);
    ask(&c, 2048, 4096);
    range_unlock(&locks, &b);
    assert_string_equal(order, "ac");
}

static void unlock_at_once(struct range_lock *lock)
{
    granted(lock);
    range_unlock(&locks, lock);
}

static void a_grant_may_unlock_in_turn(void **state)
{
    ask(&a, 0, 1024);
    ask(&b, 0, 1024);
    ask(&c, 0, 1024);
    ask(&d, 0, 1024);
    b.granted = c.granted = unlock_at_once;
    range_unlock(&locks, &a);
    assert_string_equal(order, "abcd");
    range_unlock(&locks, &d);
    assert_true(list_empty(&locks.all));
}

static void a_lock_never_asked_for_unlocks_harmlessly(void **state)
{
    list_init(&a.link);
    range_unlock(&locks, &a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(ranges_that_do_not_overlap_go_at_once, setup),
        cmocka_unit_test_setup(overlapping_ranges_wait_in_order, setup),
        cmocka_unit_test_setup(a_lock_given_up_while_waiting_lets_others_by, setup),
        cmocka_unit_test_setup(a_grant_may_unlock_in_turn, setup),
        cmocka_unit_test_setup(a_lock_never_asked_for_unlocks_harmlessly, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
