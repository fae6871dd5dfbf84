/* SPDX-License-Identifier: Apache-2.0
 *
 * What an open makes of places that its predecessor left open, over disks in memory.
 */
#include "volume_fixture.h"

enum { DISKS = 4, BLOCKS = 16 };

static struct volume *volume, *heir;
static struct volume_host heir_host;
static struct memory_budget heir_budget;
static uint8_t *page;

static void setup(void)
{
    make_world(DISKS, 64 * MIB);
    make_pool((struct pool){.code = {1, 1}, .shards_min = 2, .log_copies_min = 2});
    volume = make_volume("v", 16 * MIB);
    page = mem_alloc_pages(BLOCK_BYTES);
}

static void teardown(void)
{
    mem_free_pages(page, BLOCK_BYTES);
    volume_close(volume); /* it was deposed */
    CHECK(volume_close(heir) == 0);
    map_cache_free(heir_host.map_cache);
    memory_budget_fini(&heir_budget);
    end_world();
}

static void write_blocks(uint8_t byte)
{
    memset(page, byte, BLOCK_BYTES);
    for (unsigned i = 0; i < BLOCKS; i++)
        CHECK(volume_write(volume, i * BLOCK_BYTES, BLOCK_BYTES, page, 0, (struct request_id){0}) ==
              0);
    CHECK(volume_destage(volume) == 0);
}

/* By another node, at once. */
static void inherit(void)
{
    CLEANUP_FREE char *error = NULL;
    memory_budget_init(&heir_budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    heir_host = host;
    heir_host.node_name = "n2";
    heir_host.session = 6;
    heir_host.budget = &heir_budget;
    heir_host.map_cache = map_cache_new(MIB);
    CHECK_MSG(volume_open(&heir_host, volume->root.id, &heir, &error) == 0, "%s", error);
}

/* C3: cleaning has moved a chunk without a survivor: what the map holds of it is overwritten, and that is not merged yet. The
 * place it was moved to has no row, and is not dropped: the merge counts the chunk's blocks down. */
static void a_place_without_a_row_stays_while_the_map_names_a_chunk_there(void)
{
    struct map_run run;
    write_blocks(1);
    CHECK(checkpoint_wait(volume) == 0 && lookup_committed(volume, 0, 1, &run) == 0);
    uint64_t index = map_entry_chunk(run.entry);
    struct place *p = state_chunk(&volume->state, index)->place;
    uint64_t source = p->chunk;
    volume_forget_target(volume, p);
    place_retire(volume, p);
    env_sleep_ns(SEC);
    write_blocks(2);
    fiber_mutex_lock(&volume->clean_mutex);
    CHECK(clean_place(volume, source) == 0);
    struct lchunk *chunk = state_chunk(&volume->state, index);
    CHECK(chunk && chunk->live == BLOCKS && chunk->place->chunk != source);
    CHECK(chunk->place->row_count == 0 && !chunk->place->sealed);
    chunk->place->sealing = true; /* nobody gets to that before the end */
    fiber_mutex_unlock(&volume->clean_mutex);
    inherit();
    chunk = state_chunk(&heir->state, index);
    assert_true(chunk && chunk->live == BLOCKS);
    CHECK(checkpoint_wait(heir) == 0);
    assert_null(state_chunk(&heir->state, index));
    for (unsigned i = 0; i < BLOCKS; i++) {
        assert_int_equal(volume_read(heir, i * BLOCK_BYTES, BLOCK_BYTES, page), 0);
        assert_int_equal(page[5], 2);
    }
}

TEST(a_place_without_a_row_stays_while_the_map_names_a_chunk_there)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_place_without_a_row_stays_while_the_map_names_a_chunk_there_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
