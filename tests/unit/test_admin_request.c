/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/admin/request.h"
#include "common/check.h"
#include "common/mem.h"

static void assert_refused(const char *line, const char *because)
{
    struct admin_request request;
    CLEANUP_FREE char *error = NULL;
    assert_int_equal(admin_request_decode(line, strlen(line), &request, &error), -EBADMSG);
    if (!strstr(error, because) || !strstr(error, "a request is a line"))
        fail_msg("%s: %s", line, error);
    admin_request_fini(&request);
}

static void requests_are_decoded(void **state)
{
    struct admin_request request;
    CLEANUP_FREE char *error = NULL;
    const char *line = "{\"id\": 7, \"method\": \"status\", \"params\": {\"a\": 1}}\r";
    assert_int_equal(admin_request_decode(line, strlen(line), &request, &error), 0);
    assert_int_equal(json_integer_value(request.id), 7);
    assert_string_equal(request.method, "status");
    assert_int_equal(json_object_size(request.params), 1);
    admin_request_fini(&request);
    line = "{\"method\":\"x\",\"id\":\"text\"}";
    assert_int_equal(admin_request_decode(line, strlen(line), &request, &error), 0);
    assert_null(request.params);
    admin_request_fini(&request);
}

static void what_is_no_request_is_refused_with_the_form_of_one(void **state)
{
    assert_refused("", "not JSON");
    assert_refused("GET / HTTP/1.1", "not JSON");
    assert_refused("[]", "not a JSON object");
    assert_refused("{}", "'id'");
    assert_refused("{\"id\":{},\"method\":\"status\"}", "'id'");
    assert_refused("{\"id\":1.5,\"method\":\"status\"}", "'id'");
    assert_refused("{\"id\":1}", "'method'");
    assert_refused("{\"id\":1,\"method\":5}", "'method'");
    assert_refused("{\"id\":1,\"method\":\"m\",\"params\":[]}", "'params'");
    assert_refused("{\"id\":1,\"method\":\"m\",\"params\":null}", "'params'");
    assert_refused("{\"id\":1,\"method\":\"m\",\"parms\":{}}", "a member besides");
    assert_refused("{\"id\":1,\"method\":\"a\",\"method\":\"b\"}", "duplicate");
}

static void id_of_a_broken_request_is_known_where_it_can_be(void **state)
{
    struct admin_request request;
    CLEANUP_FREE char *error = NULL;
    const char *line = "{\"id\":9,\"method\":5}";
    assert_int_equal(admin_request_decode(line, strlen(line), &request, &error), -EBADMSG);
    assert_int_equal(json_integer_value(request.id), 9);
    admin_request_fini(&request);
}

/* --- Parameters ------------------------------------------------------------------------------ */

static json_t *object;
static struct admin_params params;

static void begin(const char *text)
{
    object = json_loads(text, 0, NULL);
    admin_params_init(&params, "m", object);
}

static void end(const char *want)
{
    char *error = NULL;
    int r = admin_params_end(&params, &error);
    if (want && (r != -EINVAL || !strstr(error, want)))
        fail_msg("wanted '%s', got '%s'", want, error ? error : "no error");
    if (!want && r != 0)
        fail_msg("got '%s'", error);
    mem_free(error);
    json_decref(object);
}

static void parameters_are_read(void **state)
{
    begin("{\"name\":\"vm1\",\"size\":5,\"path\":\"/dev/sdb\",\"force\":true,\"t\":\"x y\"}");
    assert_string_equal(admin_params_name(&params, "name", ADMIN_REQUIRED), "vm1");
    assert_int_equal(admin_params_number(&params, "size", ADMIN_REQUIRED, 5, 5, 0), 5);
    assert_string_equal(admin_params_path(&params, "path", ADMIN_REQUIRED), "/dev/sdb");
    assert_true(admin_params_bool(&params, "force", false));
    assert_string_equal(admin_params_text(&params, "t", ADMIN_REQUIRED, 4), "x y");
    assert_null(admin_params_text(&params, "absent", ADMIN_OPTIONAL, 4));
    assert_int_equal(admin_params_number(&params, "absent2", ADMIN_OPTIONAL, 5, 5, 42), 42);
    assert_true(admin_params_bool(&params, "absent3", true));
    end(NULL);
    begin("{}");
    params.object = NULL; /* no params at all */
    assert_null(admin_params_name(&params, "name", ADMIN_OPTIONAL));
    end(NULL);
}

static void wrong_parameters_are_named(void **state)
{
    begin("{}");
    admin_params_name(&params, "name", ADMIN_REQUIRED);
    end("m: parameter 'name' is missing");
    begin("{\"name\":7}");
    admin_params_name(&params, "name", ADMIN_REQUIRED);
    end("m: parameter 'name' is not a text");
    begin("{\"name\":\"a/b\"}");
    admin_params_name(&params, "name", ADMIN_REQUIRED);
    end("'a/b' is not a name");
    begin("{\"name\":\"a\\nb\"}");
    admin_params_name(&params, "name", ADMIN_REQUIRED);
    end("without control characters");
    begin("{\"t\":\"four\"}");
    admin_params_text(&params, "t", ADMIN_REQUIRED, 4);
    end("1 to 3 bytes");
    begin("{\"path\":\"dev/sdb\"}");
    admin_params_path(&params, "path", ADMIN_REQUIRED);
    end("an absolute path");
    static const char *const numbers[] = {
        "-1", "4", "11", "1.5", "\"5\"", "null", "99999999999999999999"};
    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
        char text[64];
        snprintf(text, sizeof(text), "{\"n\":%s}", numbers[i]);
        begin(text);
        if (!object) { /* beyond what JSON integers hold here */
            object = json_pack("{s:f}", "n", 1e20);
            params.object = object;
        }
        assert_int_equal(admin_params_number(&params, "n", ADMIN_REQUIRED, 5, 10, 6), 6);
        end("m: parameter 'n' is not an integer from 5 to 10");
    }
    begin("{\"b\":1}");
    admin_params_bool(&params, "b", false);
    end("'b' is not true or false");
    begin("{\"siez\":1,\"name\":\"x\"}");
    admin_params_name(&params, "name", ADMIN_REQUIRED);
    admin_params_number(&params, "size", ADMIN_OPTIONAL, 0, 1, 0);
    end("m: there is no parameter 'siez'; it takes name, size");
    begin("{\"x\":1}");
    end("it takes no parameters");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_decoded),
        cmocka_unit_test(what_is_no_request_is_refused_with_the_form_of_one),
        cmocka_unit_test(id_of_a_broken_request_is_known_where_it_can_be),
        cmocka_unit_test(parameters_are_read),
        cmocka_unit_test(wrong_parameters_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
