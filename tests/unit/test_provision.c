/* SPDX-License-Identifier: Apache-2.0
 *
 * When a chunk that takes no more rows is sealed, over disks in memory.
 */
#include "volume_fixture.h"

#include <errno.h>

enum { DISKS = 4 };

static struct volume *volume;

static void setup(void)
{
    make_world(DISKS, 64 * MIB);
    host.bypass_bytes_min = 64 * 1024;
    make_pool((struct pool){.code = {1, 1}, .shards_min = 2, .log_copies_min = 2});
    volume = make_volume("v", 16 * MIB);
    for (unsigned i = 0; i < DISKS; i++)
        disks[i]->latency_ns = MS;
}

static void teardown(void)
{
    CHECK(volume_close(volume) == 0);
    end_world();
}

static unsigned writing;

static void write_large(void *arg)
{
    static uint8_t buf[64 * 1024];
    CHECK(volume_write(volume, *(uint64_t *)arg, sizeof(buf), buf, 0, (struct request_id){0}) == 0);
    writing--;
}

static void start_write(uint64_t *off_bytes)
{
    writing++;
    fiber_spawn("write", write_large, off_bytes);
    env_sleep_ns(1000); /* its appends are on their way */
}

/* One row fails, so that the place ends before it; the next one is still being written to it. */
static void a_place_is_not_sealed_while_a_row_is_on_its_way_to_it(void)
{
    static uint64_t offs[] = {0, MIB, 2 * MIB};
    start_write(&offs[0]);
    env_sleep_ns(SEC);
    CHECK(writing == 0 && volume_destage(volume) == 0);
    uint64_t chunk = state_chunk(&volume->state, volume->bypass_chunk.index)->place->chunk;
    const struct place *p = state_place(&volume->state, chunk);
    CHECK(p->row_count == 1 && p->rows_recorded == 1);
    struct fake_disk *fails = disks[p->shards[0].place.disk - 1];
    struct fake_disk *slow = disks[p->shards[1].place.disk - 1];
    fails->fail_op_at = fails->ops + 1;
    fails->fail_op_error = -ENOSPC;
    start_write(&offs[1]);
    slow->latency_ns = 5 * SEC;
    start_write(&offs[2]);
    slow->latency_ns = MS;
    env_sleep_ns(4 * SEC);
    p = state_place(&volume->state, chunk);
    assert_true(p && p->retired && p->row_count == p->rows_recorded);
    assert_true(p->appending == 1 && !p->sealed);
    env_sleep_ns(10 * SEC);
    p = state_place(&volume->state, chunk);
    assert_true(p && p->sealed);
    assert_int_equal(writing, 0);
}

TEST(a_place_is_not_sealed_while_a_row_is_on_its_way_to_it)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_is_not_sealed_while_a_row_is_on_its_way_to_it_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
