/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding of what comes from an etcd member: answers, and lines of a watch.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/fiber.h"
#include "common/store_etcd_json.h"

struct input {
    const uint8_t *data;
    size_t len_bytes;
};

static void check_value(const struct store_value *value, bool deleted)
{
    size_t key_len = strlen(value->key);
    CHECK(key_len > 0 && key_len <= STORE_KEY_BYTES_MAX && value->revision > 0);
    CHECK(deleted ? !value->data && value->len_bytes == 0 : value->data[value->len_bytes] == 0);
}

static void run(void *arg)
{
    struct input *input = arg;
    struct etcd_answer_json answer;
    int r = etcd_json_decode((const char *)input->data, input->len_bytes, &answer);
    CHECK(r == 0 || r == -EBADMSG);
    if (r < 0)
        return;
    CHECK(answer.error_code || answer.header.raft_term);
    CHECK(answer.value_count <= answer.key_count);
    CHECK(!answer.key_count || answer.last_key);
    for (unsigned i = 0; i < answer.value_count; i++)
        check_value(&answer.values[i], false);
    for (unsigned i = 0; i < answer.event_count; i++)
        check_value(&answer.events[i].value, answer.events[i].deleted);
    etcd_answer_json_fini(&answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    static bool ready;
    if (!ready)
        fiber_sched_init(2);
    ready = true;
    struct input input = {data, len_bytes};
    fiber_spawn("fuzz", run, &input);
    fiber_run_ready();
    return 0;
}
