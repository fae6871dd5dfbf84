/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/uuid.h"

static const char text[] = "00112233-4455-6677-8899-aabbccddeeff";

static void text_form_goes_both_ways(void **state)
{
    struct uuid uuid;
    char out[UUID_TEXT_BYTES];
    assert_int_equal(uuid_parse("00112233-4455-6677-8899-AABBccddeeff", &uuid), 0);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(uuid.bytes[i], i * 0x11);
    assert_string_equal(uuid_format(&uuid, out), text);
}

static void any_other_text_is_refused(void **state)
{
    struct uuid uuid = {{1}};
    char bad[64];
    for (unsigned len = 0; len < 36;
         len++) { /* every shorter one; exact memory for the sanitizer */
        char *cut = strndup(text, len);
        assert_int_equal(uuid_parse(cut, &uuid), -EINVAL);
        free(cut);
    }
    for (unsigned i = 0; i < 36; i++) {
        strcpy(bad, text);
        bad[i] = 'g';
        assert_int_equal(uuid_parse(bad, &uuid), -EINVAL);
    }
    strcpy(bad, text);
    strcat(bad, "0");
    assert_int_equal(uuid_parse(bad, &uuid), -EINVAL);
    assert_int_equal(uuid.bytes[0], 1); /* untouched */
}

static void all_ones(struct env *env, void *buf, size_t len_bytes)
{
    memset(buf, 0xff, len_bytes);
}

static void random_ones_carry_version_and_variant(void **state)
{
    struct env_ops ops = fake_env_ops;
    ops.random = all_ones;
    struct fake_env fake;
    fake_env_init(&fake);
    fake.env.ops = &ops;
    fiber_sched_init(1);
    fiber_set_default_env(&fake.env);
    struct uuid uuid = uuid_random(), nil = {{0}};
    char out[UUID_TEXT_BYTES];
    assert_string_equal(uuid_format(&uuid, out), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_false(uuid_is_nil(&uuid));
    assert_true(uuid_is_nil(&nil));
    assert_false(uuid_equal(&uuid, &nil));
    fiber_set_default_env(NULL);
    env_fini(&fake.env);
    fiber_sched_fini();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_form_goes_both_ways),
        cmocka_unit_test(any_other_text_is_refused),
        cmocka_unit_test(random_ones_carry_version_and_variant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
