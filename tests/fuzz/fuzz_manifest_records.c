/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of a manifest. What they take of memory is bounded by their length, whatever they claim; what is
 * accepted has a snapshot that is accepted, and whose snapshot says the same; look-ups in it are safe.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "blockd/volume/state.h"
#include "common/check.h"
#include "common/mem.h"
#include "tests/unit/fake_env.h"

/* A place of 43 bytes takes the most: itself, its row lengths, its slot. */
#define MEMORY_FACTOR 32
#define MEMORY_BASE (64 << 10)

static struct fake_env fake;
static const uint8_t *input;
static size_t input_len_bytes;

static void look_up(const struct state *s)
{
    uint32_t pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&s->chunks, &pos));) {
        for (uint32_t linear = 0; linear < 65536; linear += 1 + linear / 4) {
            uint32_t at, run, back;
            if (chunk_translate(c, linear, 65536, &at, &run) < 0)
                continue;
            CHECK(run >= 1 && at + run <= place_linear_end(c->place, c->place->row_count));
            CHECK(chunk_untranslate(c, at, &back) == 0 && back == linear);
        }
    }
    pos = 0;
    for (const struct place *p; (p = idmap_next(&s->places, &pos));) {
        struct chunk_place full;
        place_expand(s, p, &full);
        uint32_t end = chunk_linear_end(&full);
        CHECK(full.length_blocks <= full.capacity_blocks && end <= 65536);
        if (end > 0)
            (void)chunk_locate(&full, end - 1);
    }
}

static void run(void *arg)
{
    struct state a, b;
    struct records first = {0}, second = {0};
    char error[256] = "";
    uint64_t before = mem_used_bytes(&fake.env);
    state_init(&a, 1);
    state_init(&b, 1);
    int r = state_apply(&a, input, input_len_bytes, error);
    CHECK(mem_used_bytes(&fake.env) - before <= MEMORY_BASE + MEMORY_FACTOR * input_len_bytes);
    CHECK(r == 0 || (r == -EBADMSG && error[0] != 0));
    if (r == 0) {
        look_up(&a);
        state_snapshot(&a, &first);
        r = state_apply(&b, first.bytes, first.len_bytes, error);
        CHECK_MSG(r == 0, "own snapshot refused: %s", error);
        state_snapshot(&b, &second);
        CHECK(first.len_bytes == second.len_bytes && a.places.count == b.places.count &&
              a.chunks.count == b.chunks.count && a.item_count == b.item_count);
    }
    records_fini(&first);
    records_fini(&second);
    state_fini(&a);
    state_fini(&b);
    CHECK(mem_used_bytes(&fake.env) == before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    static bool initialised;
    if (!initialised) {
        fiber_sched_init(4);
        fake_env_init(&fake);
        initialised = true;
    }
    input = data;
    input_len_bytes = len_bytes;
    fake_env_run(&fake, run, NULL);
    return 0;
}
