/* SPDX-License-Identifier: Apache-2.0 */
#include "common/store_etcd_json.h"

#include "fake_env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

static struct fake_env fake;

static int setup(void **state)
{
    fiber_sched_init(4);
    fake_env_init(&fake);
    fiber_set_default_env(&fake.env);
    return 0;
}

static int teardown(void **state)
{
    assert_int_equal(mem_used_bytes(&fake.env), 0);
    env_fini(&fake.env);
    fiber_set_default_env(NULL);
    fiber_sched_fini();
    return 0;
}

static void assert_text(char *text, const char *expected)
{
    assert_string_equal(text, expected);
    free(text);
}

static void requests_are_what_the_gateway_takes(void **state)
{
    assert_text(etcd_json_get("k1"), "{\"key\":\"azE=\"}");
    assert_text(etcd_json_list("v/", NULL, 7, 0),
        "{\"key\":\"di8=\",\"range_end\":\"djA=\",\"limit\":\"7\",\"revision\":\"0\"}");
    assert_text(etcd_json_list("", "azE=", 1, 9),
        "{\"key\":\"azE=\",\"range_end\":\"AA==\",\"limit\":\"1\",\"revision\":\"9\"}");
    assert_text(etcd_json_list("a\xff", NULL, 1, 0),
        "{\"key\":\"Yf8=\",\"range_end\":\"Yg==\",\"limit\":\"1\",\"revision\":\"0\"}");
    struct store_compare compares[] = {{"k1", 0}, {"k1", 5}};
    struct store_op ops[] = {
        {STORE_PUT, "k1", "hello", 5, true}, {STORE_DELETE, "abc", NULL, 0, false}};
    assert_text(etcd_json_txn(compares, 2, ops, 2, 77),
        "{\"compare\":[{\"target\":\"CREATE\",\"result\":\"EQUAL\",\"key\":\"azE=\","
        "\"create_revision\":\"0\"},{\"target\":\"MOD\",\"result\":\"EQUAL\",\"key\":\"azE=\","
        "\"mod_revision\":\"5\"}],\"success\":[{\"request_put\":{\"key\":\"azE=\",\"value\":"
        "\"aGVsbG8=\",\"lease\":\"77\"}},{\"request_delete_range\":{\"key\":\"YWJj\"}}]}");
    assert_text(etcd_json_watch("v/", 8), "{\"create_request\":{\"key\":\"di8=\",\"range_end\":"
                                          "\"djA=\",\"start_revision\":\"8\"}}");
}

static struct etcd_answer_json decoded(const char *text)
{
    struct etcd_answer_json answer;
    assert_int_equal(etcd_json_decode(text, strlen(text), &answer), 0);
    return answer;
}

#define HEADER "\"header\":{\"member_id\":\"3\",\"revision\":\"9\",\"raft_term\":\"2\"}"

static void answers_are_understood(void **state)
{
    struct etcd_answer_json answer =
        decoded("{" HEADER ",\"kvs\":[{\"key\":\"azE=\",\"mod_revision\":\"4\",\"value\":\"AAEC\"},"
                "{\"key\":\"AGs=\",\"mod_revision\":\"5\"}],\"more\":true,\"count\":\"3\"}");
    assert_int_equal(answer.header.member_id, 3);
    assert_int_equal(answer.header.revision, 9);
    assert_int_equal(answer.value_count, 1); /* the other key is none of ours */
    assert_int_equal(answer.key_count, 2);
    assert_string_equal(answer.last_key, "AGs=");
    assert_string_equal(answer.values[0].key, "k1");
    assert_int_equal(answer.values[0].len_bytes, 3);
    assert_memory_equal(answer.values[0].data, "\0\1\2", 4);
    assert_true(answer.more);
    etcd_answer_json_fini(&answer);

    answer = decoded("{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"azE=\","
                     "\"mod_revision\":\"4\",\"value\":\"\"}},{\"type\":\"DELETE\",\"kv\":{"
                     "\"key\":\"azI=\",\"mod_revision\":\"5\"}}]}}");
    assert_int_equal(answer.event_count, 2);
    assert_string_equal(answer.events[0].value.data, "");
    assert_null(answer.events[1].value.data);
    assert_true(answer.events[1].deleted);
    etcd_answer_json_fini(&answer);

    answer = decoded("{\"error\":\"no\",\"message\":\"etcdserver: no\",\"code\":5}");
    assert_int_equal(answer.error_code, 5);
    assert_string_equal(answer.error_text, "etcdserver: no");
    etcd_answer_json_fini(&answer);
    answer = decoded("{\"error\":{\"grpc_code\":14,\"message\":\"no leader\"}}");
    assert_int_equal(answer.error_code, 14);
    etcd_answer_json_fini(&answer);
}

static void what_is_no_answer_is_refused(void **state)
{
    static const char *const texts[] = {"", "null", "[]", "{}", "{" HEADER, "{\"header\":7}",
        "{" HEADER ",\"kvs\":{}}", "{" HEADER ",\"kvs\":[7]}", "{" HEADER ",\"kvs\":[{}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"azE\",\"mod_revision\":\"4\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"a=E=\",\"mod_revision\":\"4\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"azE=\",\"mod_revision\":\"-4\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"azE=\",\"mod_revision\":\"99999999999999999999\"}]}",
        "{" HEADER ",\"succeeded\":\"yes\"}", "{" HEADER ",\"ID\":-3}",
        "{" HEADER ",\"events\":[{\"type\":5}]}", "{\"result\":[]}",
        "{\"error\":{\"grpc_code\":\"x\"}}"};
    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++) {
        struct etcd_answer_json answer;
        if (etcd_json_decode(texts[i], strlen(texts[i]), &answer) != -EBADMSG)
            fail_msg("taken: %s", texts[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(requests_are_what_the_gateway_takes, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_are_understood, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_answer_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
