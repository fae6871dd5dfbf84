/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests that come again: done once, here and on the next owner (E1-E4).
 */
#include "fake_fixture.h"

#include <errno.h>
#include <string.h>

#include "blockd/volume/requests.h"
#include "blockd/volume/state.h"
#include "blockd/volume/volume.h"

static struct requests requests;

static int begin(uint64_t number, uint64_t answered_below, struct request *request, uint64_t *from)
{
    struct request_id id = {.session = 7, .number = number, .answered_below = answered_below};
    return request_begin(&requests, &id, request, from);
}

/* One record of it, then its end. */
static void do_one(uint64_t number, uint64_t answered_below, uint64_t end_block, uint64_t seq)
{
    struct request request;
    uint64_t from;
    assert_int_equal(begin(number, answered_below, &request, &from), 0);
    assert_int_equal(from, 0);
    request_note(&request, end_block, seq);
    request_end(&requests, &request, 0);
}

static void setup(void)
{
    requests = (struct requests){0};
}

static void teardown(void)
{
    requests_fini(&requests);
}

BODY(what_is_done_is_not_done_again_until_it_was_answered)
{
    struct request request;
    uint64_t from;
    do_one(1, 1, 10, 5);
    do_one(2, 1, 20, 6);
    assert_int_equal(begin(1, 1, &request, &from), 1);
    assert_int_equal(begin(2, 2, &request, &from), 1);
    assert_int_equal(requests.count, 1); /* 1 has been answered */
    assert_int_equal(begin(1, 1, &request, &from), -ESTALE);
    assert_int_equal(begin(3, 3, &request, &from), 0);
    assert_int_equal(requests.count, 1);
    request_end(&requests, &request, -ENOSPC); /* nothing of it happened: not remembered */
    assert_int_equal(requests.count, 0);
    assert_int_equal(begin(3, 3, &request, &from), 0);
    assert_int_equal(from, 0);
    request_note(&request, 4, 7);
    request_end(&requests, &request, -EIO);
    assert_int_equal(begin(3, 3, &request, &from), 0); /* goes on where it ended */
    assert_int_equal(from, 4);
    request_end(&requests, &request, 0);
}

BODY(a_request_without_a_session_is_not_tracked)
{
    struct request request;
    struct request_id id = {0};
    uint64_t from = 9;
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(request_begin(&requests, &id, &request, &from), 0);
        request_note(&request, 10, 1);
        request_end(&requests, &request, 0);
    }
    assert_int_equal(from, 0);
    assert_int_equal(requests.count, 0);
}

static int joined[3];
static struct fiber_group group;

static void join(void *arg)
{
    struct request request;
    uint64_t from;
    *(int *)arg = begin(1, 1, &request, &from);
    fiber_group_done(&group, 0);
}

static void join_all(struct request *first, int result)
{
    fiber_group_init(&group);
    fiber_group_add(&group, 3);
    for (unsigned i = 0; i < 3; i++)
        fiber_spawn("join", join, &joined[i]);
    env_sleep_ns(1000000);
    assert_int_equal(group.pending, 3);
    request_end(&requests, first, result);
    fiber_group_wait(&group);
}

BODY(the_same_request_meanwhile_waits_for_the_first)
{
    struct request first;
    uint64_t from;
    assert_int_equal(begin(1, 1, &first, &from), 0);
    join_all(&first, -ENOSPC);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(joined[i], -ENOSPC);
    assert_int_equal(requests.count, 0);
    assert_int_equal(begin(1, 1, &first, &from), 0);
    request_note(&first, 5, 1);
    join_all(&first, 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(joined[i], 1);
}

/* E2: what the manifest says after a commit up to `committed_seq`. */
static void record_into(struct state *state, uint64_t committed_seq)
{
    struct records records = {0};
    char error[256];
    requests_record(&requests, state, committed_seq, &records);
    assert_int_equal(state_apply(state, records.bytes, records.len_bytes, error), 0);
    records_fini(&records);
}

struct again {
    bool given_up;
    struct request request;
    uint64_t from;
    int result;
};

static void begin_again(void *arg)
{
    struct again *again = arg;
    struct request_id id = {
        .session = 7, .number = 1, .answered_below = 1, .given_up = &again->given_up};
    again->result = request_begin(&requests, &id, &again->request, &again->from);
    fiber_group_done(&group, 0);
}

/* E4: the one that came first over a connection that broke, and twice again. */
BODY(the_same_request_goes_on_where_one_was_given_up)
{
    struct again first = {0}, second = {0}, third = {0};
    fiber_group_init(&group);
    fiber_group_add(&group, 3);
    begin_again(&first);
    assert_int_equal(first.result, 0);
    request_note(&first.request, 4, 7);
    fiber_spawn("again", begin_again, &second);
    fiber_spawn("again", begin_again, &third);
    env_sleep_ns(1000000);
    assert_int_equal(group.pending, 2);
    second.given_up = true; /* leaves, though the first one still runs */
    env_sleep_ns(2 * REQUEST_LOOK_NS);
    assert_int_equal(group.pending, 1);
    assert_int_equal(second.result, -ECANCELED);
    first.given_up = true;
    assert_true(request_given_up(&first.request));
    request_end(&requests, &first.request, -ECANCELED);
    fiber_group_wait(&group);
    assert_int_equal(third.result, 0);
    assert_int_equal(third.from, 4);
    request_end(&requests, &third.request, 0);
    assert_int_equal(requests.count, 1);
    fiber_group_add(&group, 1);
    begin_again(&second);
    assert_int_equal(second.result, -ECANCELED);
}

BODY(the_next_owner_knows_what_the_manifest_and_the_log_say)
{
    struct request request;
    struct state state;
    uint64_t from;
    state_init(&state, 1);
    for (uint64_t n = 1; n <= 6; n++)
        do_one(n, 1, 100, n); /* record n */
    assert_int_equal(begin(7, 2, &request, &from), 0);
    request_note(&request, 10, 7);
    request_note(&request, 20, 8);
    request_note(&request, 30, 9);
    record_into(&state, 8);
    assert_int_equal(state.request_count, 2); /* 2..6 in one; 7 up to block 20 */
    assert_int_equal(state.requests[0].number, 2);
    assert_int_equal(state.requests[0].count, 5);
    assert_int_equal(state.requests[1].end_block, 20);
    record_into(&state, 5);
    assert_int_equal(state.request_count, 1); /* record 6 may get lost with power */
    assert_int_equal(state.requests[0].count, 4);
    record_into(&state, 8);
    request_end(&requests, &request, 0);
    requests_fini(&requests);

    requests = (struct requests){0};
    requests_load(&requests, &state);
    requests_replayed(&requests, 7, 7, 30, 9);
    requests_replayed(&requests, 7, 9, 44, 10);
    for (uint64_t n = 2; n <= 6; n++)
        assert_int_equal(begin(n, 1, &request, &from), 1);
    assert_int_equal(begin(7, 1, &request, &from), 0);
    assert_int_equal(from, 30);
    request_end(&requests, &request, 0);
    assert_int_equal(begin(8, 1, &request, &from), 0);
    assert_int_equal(from, 0);
    request_end(&requests, &request, -EIO);
    /* What the manifest said stays said until it was answered. */
    record_into(&state, 9);
    assert_int_equal(state.requests[0].count, 6);
    do_one(10, 10, 1, 11);
    record_into(&state, 11);
    assert_int_equal(state.request_count, 1);
    assert_int_equal(state.requests[0].number, 10);
    assert_int_equal(begin(11, 11, &request, &from), 0); /* nothing of it in the order yet */
    record_into(&state, 12);
    assert_int_equal(state.request_count, 0);
    request_end(&requests, &request, 0);
    state_fini(&state);
}

BODY(what_is_remembered_is_bounded)
{
    for (uint64_t n = 1; n <= REQUESTS_MAX + 100; n++)
        do_one(n, 1, 8, n);
    assert_int_equal(requests.count, REQUESTS_MAX);
    struct request request;
    uint64_t from;
    assert_int_equal(begin(REQUESTS_MAX + 100, 1, &request, &from), 1);
}

/* Clients that came, wrote and went, each leaving what its last request did not declare answered. */
static void come_and_go(uint64_t session, unsigned count)
{
    for (uint64_t n = 1; n <= count; n++) {
        struct request_id id = {.session = session, .number = n, .answered_below = 1};
        struct request request;
        uint64_t from;
        assert_int_equal(request_begin(&requests, &id, &request, &from), 0);
        request_note(&request, 8, n);
        request_end(&requests, &request, 0);
    }
}

BODY(what_is_remembered_of_many_sessions_is_bounded_and_can_be_recorded)
{
    struct request request;
    struct state state;
    uint64_t from;
    state_init(&state, 1);
    assert_int_equal(begin(1, 1, &request, &from), 0); /* under way all the while */
    for (uint64_t session = 100; session < 100 + 6000; session++)
        come_and_go(session, 24);
    assert_true(requests.count <= REQUESTS_MAX);
    record_into(&state, 100);
    request_note(&request, 8, 101);
    request_end(&requests, &request, 0);
    assert_int_equal(begin(1, 1, &request, &from), 1);
    struct request_id last = {.session = 100 + 5999, .number = 1, .answered_below = 1};
    assert_int_equal(request_begin(&requests, &last, &request, &from), 1);
    state_fini(&state);
}

BODY(sessions_without_requests_are_bounded)
{
    for (uint64_t session = 1; session <= REQUEST_SESSIONS_MAX + 1000; session++) {
        struct request_id id = {.session = session, .number = 1, .answered_below = 1};
        struct request request;
        uint64_t from;
        assert_int_equal(request_begin(&requests, &id, &request, &from), 0);
        request_end(&requests, &request, -EIO); /* nothing happened: no entry stays */
    }
    assert_int_equal(requests.count, 0);
    assert_true(requests.sessions.count <= REQUEST_SESSIONS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_done_is_not_done_again_until_it_was_answered),
        cmocka_unit_test(a_request_without_a_session_is_not_tracked),
        cmocka_unit_test(the_same_request_meanwhile_waits_for_the_first),
        cmocka_unit_test(the_same_request_goes_on_where_one_was_given_up),
        cmocka_unit_test(the_next_owner_knows_what_the_manifest_and_the_log_say),
        cmocka_unit_test(what_is_remembered_is_bounded),
        cmocka_unit_test(what_is_remembered_of_many_sessions_is_bounded_and_can_be_recorded),
        cmocka_unit_test(sessions_without_requests_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
