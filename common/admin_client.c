/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocking client of the admin socket; the protocol is at the top of admin_client.h.
 *
 * Runs in programs without fibers, so memory is plain malloc: a small allocation that fails ends
 * the process (mem.h says why). A line longer than LINE_BYTES_MAX ends the connection, so a
 * confused peer cannot make the client allocate without bound. After an error on the stream itself
 * the client is broken (every later call answers -ENOTCONN): the caller opens a new one. A call
 * that timed out leaves it usable, its late answer is recognised by its id and dropped.
 */
#include "common/admin_client.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"

/* Requests are at most 1 MiB by the protocol; answers may grow (100,000 volumes in a list). */
#define REQUEST_BYTES_MAX (1u << 20)
#define LINE_BYTES_MAX (64u << 20)
#define RECEIVE_BYTES_MIN 65536u
#define TIMEOUT_MS_DEFAULT 60000u

struct admin_client {
    int fd;
    bool broken;
    char *path;
    json_int_t last_id;
    /* Received and not yet parsed: buffer[0..used); the first `scanned` bytes hold no newline. */
    char *buffer;
    size_t used, size, scanned;
};

static void *must(void *ptr)
{
    CHECK_MSG(ptr != NULL, "out of memory");
    return ptr;
}

__attribute__((format(printf, 1, 2))) static char *text_printf(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    CHECK_MSG(vasprintf(&text, format, args) >= 0, "out of memory");
    va_end(args);
    return text;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int admin_client_open(const char *path, struct admin_client **ret_client)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* Bounds the wait of connect() on a full backlog, and of a send to a daemon that has stopped.
     */
    struct timeval limit = {.tv_sec = TIMEOUT_MS_DEFAULT / 1000};
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        if (errno == EINTR)
            continue;
        int error = errno == EAGAIN ? ETIMEDOUT : errno;
        close(fd);
        return -error;
    }
    struct admin_client *client = must(calloc(1, sizeof(*client)));
    client->fd = fd;
    client->path = must(strdup(path));
    *ret_client = client;
    return 0;
}

void admin_client_close(struct admin_client *client)
{
    if (client == NULL)
        return;
    close(client->fd);
    free(client->path);
    free(client->buffer);
    free(client);
}

/* The stream's position is unknown or its end was seen: nothing can be asked on it any more. */
static int client_broke(struct admin_client *client, int error, char **ret_text, const char *what)
{
    client->broken = true;
    *ret_text = text_printf("%s: %s: %s", client->path, what, strerror(-error));
    return error;
}

static int send_line(struct admin_client *client, const char *line, size_t len, char **ret_text)
{
    while (len > 0) {
        ssize_t n = send(client->fd, line, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int error = errno == EAGAIN ? -ETIMEDOUT : -errno;
            return client_broke(client, error, ret_text, "cannot send a request to the daemon");
        }
        line += n;
        len -= (size_t)n;
    }
    return 0;
}

static int receive_some(struct admin_client *client, int64_t deadline_ms, char **ret_text)
{
    struct pollfd pollfd = {.fd = client->fd, .events = POLLIN};
    int64_t left_ms = deadline_ms - now_ms();
    int ready = left_ms <= 0 ? 0 : poll(&pollfd, 1, (int)MIN(left_ms, 1 << 30));
    if (ready < 0 && errno == EINTR)
        return 0;
    if (ready == 0) {
        *ret_text = text_printf(
            "%s: the daemon has not answered in time (is it busy or stopped?)", client->path);
        return -ETIMEDOUT;
    }
    if (client->size - client->used < RECEIVE_BYTES_MIN) {
        if (client->used >= LINE_BYTES_MAX)
            return client_broke(client, -EPROTO, ret_text, "the daemon's answer is too long");
        client->size = MAX(2 * client->size, 2 * RECEIVE_BYTES_MIN);
        client->buffer = must(realloc(client->buffer, client->size));
    }
    ssize_t n = recv(client->fd, client->buffer + client->used, client->size - client->used, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n < 0)
        return client_broke(client, -errno, ret_text, "cannot receive the daemon's answer");
    if (n == 0)
        return client_broke(client, -ECONNRESET, ret_text, "the daemon closed the connection");
    client->used += (size_t)n;
    return 0;
}

/* Waits for one whole line and parses it. */
static int receive_json(
    struct admin_client *client, int64_t deadline_ms, json_t **ret_json, char **ret_text)
{
    char *end;
    while ((end = client->used == client->scanned ? NULL
                                                  : memchr(client->buffer + client->scanned, '\n',
                                                        client->used - client->scanned)) == NULL) {
        client->scanned = client->used;
        int r = receive_some(client, deadline_ms, ret_text);
        if (r < 0)
            return r;
    }
    size_t line_len = (size_t)(end - client->buffer);
    json_error_t error;
    json_t *json = json_loadb(client->buffer, line_len, 0, &error);
    client->used -= line_len + 1;
    memmove(client->buffer, end + 1, client->used);
    client->scanned = 0;
    if (json == NULL) {
        client->broken = true;
        *ret_text = text_printf("%s: the answer is not JSON (%s); is this the admin socket of a "
                                "holdfast daemon?",
            client->path, error.text);
        return -EPROTO;
    }
    *ret_json = json;
    return 0;
}

static int errno_by_name(const char *name)
{
    for (int i = 1; name != NULL && i < 256; i++) {
        const char *known = strerrorname_np(i);
        if (known != NULL && strcmp(known, name) == 0)
            return i;
    }
    return EIO;
}

static int answer_error(const struct admin_client *client, const json_t *error, char **ret_text)
{
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));
    if (message != NULL)
        *ret_text = must(strdup(message));
    else
        *ret_text = text_printf("%s: the daemon answered %s without saying why", client->path,
            code != NULL ? code : "an error");
    return -errno_by_name(code);
}

static int wait_answer(struct admin_client *client, json_int_t id, unsigned timeout_ms,
    void (*progress)(void *ctx, const json_t *progress), void *progress_ctx, json_t **ret_result,
    char **ret_text)
{
    int64_t deadline_ms = now_ms() + timeout_ms;
    for (;;) {
        json_t *answer;
        int r = receive_json(client, deadline_ms, &answer, ret_text);
        if (r < 0)
            return r;
        const json_t *answer_id = json_object_get(answer, "id");
        /* An error without an id is about a request that could not be parsed: ours is the oldest.
         */
        bool ours = json_is_integer(answer_id) ? json_integer_value(answer_id) == id
                                               : json_object_get(answer, "error") != NULL;
        json_t *part;
        if (!ours) {
            /* The late answer to a call that timed out. */
        } else if ((part = json_object_get(answer, "progress")) != NULL) {
            if (progress != NULL)
                progress(progress_ctx, part);
            deadline_ms = now_ms() + timeout_ms;
        } else if ((part = json_object_get(answer, "result")) != NULL) {
            *ret_result = json_incref(part);
            json_decref(answer);
            return 0;
        } else {
            r = answer_error(client, json_object_get(answer, "error"), ret_text);
            json_decref(answer);
            return r;
        }
        json_decref(answer);
    }
}

int admin_client_call(struct admin_client *client, const char *method, json_t *params,
    unsigned timeout_ms, void (*progress)(void *ctx, const json_t *progress), void *progress_ctx,
    json_t **ret_result, char **ret_error)
{
    json_int_t id = ++client->last_id;
    json_t *request = must(json_pack("{s:I, s:s, s:o}", "id", id, "method", method, "params",
        params != NULL ? params : must(json_object())));
    char *line = must(json_dumps(request, JSON_COMPACT));
    json_decref(request);
    size_t len = strlen(line);
    line[len++] = '\n'; /* in place of the terminating zero: `len` bounds it from here */

    char *text = NULL;
    int r;
    if (client->broken) {
        text = text_printf("%s: the connection to the daemon was lost", client->path);
        r = -ENOTCONN;
    } else if (len > REQUEST_BYTES_MAX) {
        text = text_printf("the request %s is longer than 1 MiB", method);
        r = -E2BIG;
    } else {
        r = send_line(client, line, len, &text);
    }
    free(line);
    if (r == 0)
        r = wait_answer(client, id, timeout_ms > 0 ? timeout_ms : TIMEOUT_MS_DEFAULT, progress,
            progress_ctx, ret_result, &text);
    if (r < 0 && ret_error != NULL)
        *ret_error = text;
    else
        free(text);
    return r;
}
