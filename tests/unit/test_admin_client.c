/* SPDX-License-Identifier: Apache-2.0
 *
 * The client against a scripted daemon: a thread that reads one line and sends a given answer.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/admin_client.h"
#include "scratch.h"

struct daemon {
    const char *const *answers; /* one a request; NULL ends the list and then the connection */
    char requests[4][256];
    int listen_fd;
    pthread_t thread;
    char dir[32];
    char path[64];
};

static void send_all(int fd, const char *text)
{
    /* In two parts, so that the client sees lines that arrive in pieces. */
    size_t len = strlen(text), half = len / 2;
    assert_int_equal(send(fd, text, half, MSG_NOSIGNAL), half);
    usleep(1000);
    (void)send(fd, text + half, len - half, MSG_NOSIGNAL);
}

static void *daemon_main(void *arg)
{
    struct daemon *d = arg;
    int fd = accept(d->listen_fd, NULL, NULL);
    for (int i = 0; d->answers[i] != NULL; i++) {
        FILE *in = fdopen(dup(fd), "r");
        setvbuf(in, NULL, _IONBF, 0);
        char *got = fgets(d->requests[i], sizeof(d->requests[i]), in);
        fclose(in);
        if (got == NULL)
            break;
        send_all(fd, d->answers[i]);
    }
    close(fd);
    return NULL;
}

static struct admin_client *daemon_start(struct daemon *d, const char *const *answers)
{
    memset(d, 0, sizeof(*d));
    d->answers = answers;
    strcpy(d->dir, "/var/tmp/holdfast-test-XXXXXX");
    assert_non_null(scratch_make(d->dir));
    snprintf(d->path, sizeof(d->path), "%s/sock", d->dir);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, d->path);
    d->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(d->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(d->listen_fd, 1), 0);
    assert_int_equal(pthread_create(&d->thread, NULL, daemon_main, d), 0);
    struct admin_client *client;
    assert_int_equal(admin_client_open(d->path, &client), 0);
    return client;
}

static void daemon_stop(struct daemon *d, struct admin_client *client)
{
    admin_client_close(client);
    pthread_join(d->thread, NULL);
    close(d->listen_fd);
    unlink(d->path);
    rmdir(d->dir);
}

static void a_result_comes_back_to_its_request(void **state)
{
    struct daemon d;
    static const char *const answers[] = {
        "{\"id\": 1, \"result\": {\"a\": 5}}\n", "{\"id\": 2, \"result\": {}}\n", NULL};
    struct admin_client *client = daemon_start(&d, answers);
    json_t *result = NULL;
    char *error = NULL;
    json_t *params = json_pack("{s:s}", "name", "vm1");
    assert_int_equal(admin_client_call(client, "x.y", params, 0, NULL, NULL, &result, &error), 0);
    assert_int_equal(json_integer_value(json_object_get(result, "a")), 5);
    json_decref(result);
    assert_int_equal(admin_client_call(client, "z", NULL, 0, NULL, NULL, &result, &error), 0);
    json_decref(result);
    assert_null(error);
    daemon_stop(&d, client);
    assert_string_equal(
        d.requests[0], "{\"id\":1,\"method\":\"x.y\",\"params\":{\"name\":\"vm1\"}}\n");
    assert_string_equal(d.requests[1], "{\"id\":2,\"method\":\"z\",\"params\":{}}\n");
}

static void an_error_keeps_its_code_and_message(void **state)
{
    struct daemon d;
    static const char *const answers[] = {
        "{\"id\": 1, \"error\": {\"code\": \"ENOENT\", \"message\": \"no volume 'v'\"}}\n",
        "{\"id\": 2, \"error\": {\"code\": \"EWHAT\"}}\n", NULL};
    struct admin_client *client = daemon_start(&d, answers);
    json_t *result = NULL;
    char *error = NULL;
    assert_int_equal(admin_client_call(client, "m", NULL, 0, NULL, NULL, &result, &error), -ENOENT);
    assert_string_equal(error, "no volume 'v'");
    free(error);
    assert_int_equal(admin_client_call(client, "m", NULL, 0, NULL, NULL, &result, &error), -EIO);
    assert_non_null(strstr(error, "EWHAT"));
    free(error);
    assert_null(result);
    daemon_stop(&d, client);
}

static void count_progress(void *ctx, const json_t *progress)
{
    *(int *)ctx += (int)json_integer_value(json_object_get(progress, "done"));
}

static void progress_lines_come_before_the_result(void **state)
{
    struct daemon d;
    static const char *const answers[] = {"{\"id\":1,\"progress\":{\"done\":1}}\n"
                                          "{\"id\":1,\"progress\":{\"done\":2}}\n"
                                          "{\"id\":1,\"result\":{}}\n",
        NULL};
    struct admin_client *client = daemon_start(&d, answers);
    json_t *result = NULL;
    int done = 0;
    assert_int_equal(
        admin_client_call(client, "m", NULL, 0, count_progress, &done, &result, NULL), 0);
    assert_int_equal(done, 3);
    json_decref(result);
    daemon_stop(&d, client);
}

static void a_timed_out_call_leaves_the_client_usable(void **state)
{
    struct daemon d;
    static const char *const answers[] = {"", /* the answer to 1 comes late, with that to 2 */
        "{\"id\":1,\"result\":{\"late\":1}}\n{\"id\":2,\"result\":{\"now\":2}}\n", NULL};
    struct admin_client *client = daemon_start(&d, answers);
    json_t *result = NULL;
    char *error = NULL;
    assert_int_equal(
        admin_client_call(client, "m", NULL, 20, NULL, NULL, &result, &error), -ETIMEDOUT);
    assert_non_null(strstr(error, d.path));
    free(error);
    assert_int_equal(admin_client_call(client, "m", NULL, 0, NULL, NULL, &result, NULL), 0);
    assert_int_equal(json_integer_value(json_object_get(result, "now")), 2);
    json_decref(result);
    daemon_stop(&d, client);
}

static void expect_broken(const char *answer, int expected)
{
    struct daemon d;
    const char *const answers[] = {answer, NULL};
    struct admin_client *client = daemon_start(&d, answers);
    json_t *result = NULL;
    char *error = NULL;
    assert_int_equal(
        admin_client_call(client, "m", NULL, 0, NULL, NULL, &result, &error), expected);
    assert_non_null(strstr(error, d.path));
    free(error);
    assert_int_equal(
        admin_client_call(client, "m", NULL, 0, NULL, NULL, &result, &error), -ENOTCONN);
    free(error);
    daemon_stop(&d, client);
}

static void garbage_and_a_cut_answer_break_the_client(void **state)
{
    expect_broken("SSH-2.0-whatever\n", -EPROTO);
    expect_broken("{\"id\":1,\"resu", -ECONNRESET);
    expect_broken("", -ECONNRESET);
}

static void opening_says_that_no_daemon_is_there(void **state)
{
    struct admin_client *client;
    assert_int_equal(admin_client_open("/nowhere/at/all", &client), -ENOENT);
    char path[200];
    memset(path, 'x', sizeof(path));
    path[sizeof(path) - 1] = 0;
    assert_int_equal(admin_client_open(path, &client), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_result_comes_back_to_its_request),
        cmocka_unit_test(an_error_keeps_its_code_and_message),
        cmocka_unit_test(progress_lines_come_before_the_result),
        cmocka_unit_test(a_timed_out_call_leaves_the_client_usable),
        cmocka_unit_test(garbage_and_a_cut_answer_break_the_client),
        cmocka_unit_test(opening_says_that_no_daemon_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
