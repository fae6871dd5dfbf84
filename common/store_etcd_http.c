/* SPDX-License-Identifier: Apache-2.0
 *
 * One thread runs all transfers of a store. Fibers hand it transfers under `mutex` and wake it; it
 * posts to the env when one has news. An idle thread sleeps without a timeout.
 *
 * Invariants
 *  H1 A body's bytes are handed to libcurl once. libcurl repeats a POST by itself on a fresh
 *     connection when a kept one turns out dead before the first byte of an answer: etcd may have
 *     carried out the first. Here the repeat finds no body and fails: the outcome is unknown.
 *  H2 As long as the last byte of a body was not handed to libcurl, the request cannot have been
 *     carried out.
 *  H3 A transfer is the thread's from `submitted` until `done`, and has at most one post under way;
 *     it is freed only when it is done and has none.
 *
 * No mem_* and no fiber call on the thread: what passes is malloc'ed.
 */
#include "common/store_etcd_http.h"

#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"

/* Of one answer, and of what a stream's reader has not taken. */
#define ANSWER_BYTES_MAX (64ull << 20)
/* A peer that is gone without a word is noticed after about this. */
#define PEER_SILENT_SECONDS 10

struct etcd_http {
    struct env *env;
    struct etcd_http_options options;
    pthread_t thread;
    pthread_mutex_t mutex;
    CURLM *multi;
    struct list submitted; /* transfer.link; under mutex */
    struct list active;    /* the thread's */
    bool stop;             /* under mutex */
};

struct transfer {
    struct list link;
    struct etcd_http *http;
    CURL *easy;
    struct curl_slist *headers;
    char why[CURL_ERROR_SIZE];
    char *body;
    size_t body_len_bytes, body_sent_bytes; /* the thread's */
    bool stream;

    /* Under http->mutex. */
    bool cancel, posted, done;
    int error; /* once done */
    long status;
    bool too_big;
    char *data;
    size_t len_bytes, capacity_bytes;

    /* The fibers'. */
    struct env_post post;
    struct fiber_queue news;
};

struct etcd_stream {
    struct transfer *transfer;
    char *data; /* taken from the transfer; lines before read_bytes were given out */
    size_t len_bytes, read_bytes;
};

static void *must(void *p)
{
    CHECK_MSG(p, "out of memory");
    return p;
}

/* --- The thread's side ----------------------------------------------------------------------- */

static void tell(struct transfer *transfer)
{
    if (transfer->posted)
        return;
    transfer->posted = true;
    env_post(transfer->http->env, &transfer->post);
}

static size_t read_body(char *to, size_t size, size_t count, void *arg)
{
    struct transfer *transfer = arg;
    size_t left = transfer->body_len_bytes - transfer->body_sent_bytes;
    if (left == 0)
        return CURL_READFUNC_ABORT; /* H1: libcurl knows the length and does not ask at the end */
    size_t n = MIN(left, size * count);
    memcpy(to, transfer->body + transfer->body_sent_bytes, n);
    transfer->body_sent_bytes += n;
    return n;
}

static size_t take_answer(char *from, size_t size, size_t count, void *arg)
{
    struct transfer *transfer = arg;
    size_t n = size * count;
    pthread_mutex_lock(&transfer->http->mutex);
    if (transfer->len_bytes + n > ANSWER_BYTES_MAX) {
        transfer->too_big = true;
        n = 0;
    } else {
        if (transfer->len_bytes + n + 1 > transfer->capacity_bytes) {
            transfer->capacity_bytes = MAX(transfer->len_bytes + n + 1, transfer->len_bytes * 2);
            transfer->data = must(realloc(transfer->data, transfer->capacity_bytes));
        }
        memcpy(transfer->data + transfer->len_bytes, from, n);
        transfer->len_bytes += n;
        transfer->data[transfer->len_bytes] = 0;
        if (transfer->stream)
            tell(transfer);
    }
    pthread_mutex_unlock(&transfer->http->mutex);
    return n;
}

static void finish(struct transfer *transfer, CURLcode code, bool cancelled)
{
    struct etcd_http *http = transfer->http;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &transfer->status);
    curl_multi_remove_handle(http->multi, transfer->easy);
    curl_easy_cleanup(transfer->easy);
    curl_slist_free_all(transfer->headers);
    if (code != CURLE_OK && !transfer->why[0])
        snprintf(transfer->why, sizeof(transfer->why), "%s", curl_easy_strerror(code));
    list_remove(&transfer->link);

    pthread_mutex_lock(&http->mutex);
    if (cancelled)
        transfer->error = -ECANCELED;
    else if (transfer->too_big)
        transfer->error = -E2BIG;
    else if (code == CURLE_OK)
        transfer->error = 0;
    else if (transfer->body_sent_bytes < transfer->body_len_bytes)
        transfer->error = -EHOSTUNREACH; /* H2 */
    else
        transfer->error = -ETIMEDOUT;
    transfer->done = true;
    tell(transfer);
    pthread_mutex_unlock(&http->mutex);
}

static void end_cancelled(struct etcd_http *http)
{
    list_for_each_safe (it, &http->active) {
        struct transfer *transfer = list_entry(it, struct transfer, link);
        pthread_mutex_lock(&http->mutex);
        bool cancel = transfer->cancel;
        pthread_mutex_unlock(&http->mutex);
        if (cancel)
            finish(transfer, CURLE_OK, true);
    }
}

static void *thread_main(void *arg)
{
    struct etcd_http *http = arg;
    for (;;) {
        struct list fresh, *link;
        list_init(&fresh);
        pthread_mutex_lock(&http->mutex);
        list_splice_back(&fresh, &http->submitted);
        bool stop = http->stop;
        pthread_mutex_unlock(&http->mutex);
        if (stop)
            return NULL;
        while ((link = list_pop_front(&fresh))) {
            list_push_back(&http->active, link);
            struct transfer *transfer = list_entry(link, struct transfer, link);
            CHECK(curl_multi_add_handle(http->multi, transfer->easy) == CURLM_OK);
        }
        end_cancelled(http);

        int running, left;
        CHECK(curl_multi_perform(http->multi, &running) == CURLM_OK);
        for (CURLMsg *msg; (msg = curl_multi_info_read(http->multi, &left));) {
            struct transfer *transfer;
            curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &transfer);
            finish(transfer, msg->data.result, false);
        }
        CHECK(curl_multi_poll(http->multi, NULL, 0, 3600 * 1000, NULL) == CURLM_OK);
    }
}

/* --- Transfers, on fibers -------------------------------------------------------------------- */

static void news(struct env_post *post)
{
    struct transfer *transfer = container_of(post, struct transfer, post);
    pthread_mutex_lock(&transfer->http->mutex);
    transfer->posted = false;
    pthread_mutex_unlock(&transfer->http->mutex);
    fiber_queue_wake_all(&transfer->news);
}

static int set_socket_options(void *ctx, curl_socket_t fd, curlsocktype purpose)
{
    int count = 2, silent_ms = PEER_SILENT_SECONDS * 1000;
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silent_ms, sizeof(silent_ms));
    return CURL_SOCKOPT_OK;
}

static void set_connection(CURL *easy, const struct etcd_http_options *options)
{
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1l);
    curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* not the environment's */
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)options->connect_timeout_ms);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1l);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, (long)(PEER_SILENT_SECONDS - 4));
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 2l);
    curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, set_socket_options);
    if (options->ca_path)
        curl_easy_setopt(easy, CURLOPT_CAINFO, options->ca_path);
    if (options->cert_path)
        curl_easy_setopt(easy, CURLOPT_SSLCERT, options->cert_path);
    if (options->key_path)
        curl_easy_setopt(easy, CURLOPT_SSLKEY, options->key_path);
}

static void add_header(struct transfer *transfer, const char *line)
{
    transfer->headers = must(curl_slist_append(transfer->headers, line));
}

static void set_request(struct transfer *transfer, const struct etcd_post *post)
{
    CURL *easy = transfer->easy;
    add_header(transfer, "Content-Type: application/json");
    add_header(transfer, "Expect:");
    /* A watch at a member that has lost its leader ends instead of going silent. */
    if (transfer->stream)
        add_header(transfer, "Grpc-Metadata-hasleader: true");
    if (post->token) {
        char *line;
        CHECK_MSG(asprintf(&line, "Authorization: %s", post->token) > 0, "out of memory");
        add_header(transfer, line);
        free(line);
    }
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
    curl_easy_setopt(easy, CURLOPT_URL, post->url);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)post->timeout_ms);
    curl_easy_setopt(easy, CURLOPT_POST, 1l);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)transfer->body_len_bytes);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_body);
    curl_easy_setopt(easy, CURLOPT_READDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_answer);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->why);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
}

static struct transfer *submit(struct etcd_http *http, const struct etcd_post *post, bool stream)
{
    struct transfer *transfer = must(calloc(1, sizeof(*transfer)));
    transfer->http = http;
    transfer->stream = stream;
    transfer->body = must(strdup(post->body));
    transfer->body_len_bytes = strlen(post->body);
    transfer->post.fn = news;
    fiber_queue_init(&transfer->news);
    transfer->easy = must(curl_easy_init());
    set_connection(transfer->easy, &http->options);
    set_request(transfer, post);
    pthread_mutex_lock(&http->mutex);
    list_push_back(&http->submitted, &transfer->link);
    pthread_mutex_unlock(&http->mutex);
    CHECK(curl_multi_wakeup(http->multi) == CURLM_OK);
    return transfer;
}

/* Whether the transfer's end may be acted on (H3). */
static bool at_rest(struct transfer *transfer)
{
    pthread_mutex_lock(&transfer->http->mutex);
    bool rest = transfer->done && !transfer->posted;
    pthread_mutex_unlock(&transfer->http->mutex);
    return rest;
}

static void transfer_free(struct transfer *transfer)
{
    free(transfer->body);
    free(transfer->data);
    free(transfer);
}

int etcd_http_call(struct etcd_http *http, const struct etcd_post *post,
    struct etcd_answer *ret_answer, char *ret_why)
{
    struct transfer *transfer = submit(http, post, false);
    while (!at_rest(transfer))
        fiber_queue_wait(&transfer->news);
    int r = transfer->error;
    if (r == 0) {
        *ret_answer = (struct etcd_answer){transfer->status, transfer->data, transfer->len_bytes};
        if (!transfer->data)
            ret_answer->data = must(strdup(""));
        transfer->data = NULL;
    } else if (ret_why) {
        snprintf(ret_why, ETCD_WHY_BYTES, "%s", transfer->why);
    }
    transfer_free(transfer);
    return r;
}

/* --- Streams --------------------------------------------------------------------------------- */

void etcd_stream_open(
    struct etcd_http *http, const struct etcd_post *post, struct etcd_stream **ret_stream)
{
    struct etcd_stream *stream = must(calloc(1, sizeof(*stream)));
    stream->transfer = submit(http, post, true);
    *ret_stream = stream;
}

void etcd_stream_cancel(struct etcd_stream *stream)
{
    struct etcd_http *http = stream->transfer->http;
    pthread_mutex_lock(&http->mutex);
    stream->transfer->cancel = true;
    pthread_mutex_unlock(&http->mutex);
    CHECK(curl_multi_wakeup(http->multi) == CURLM_OK);
}

void etcd_stream_close(struct etcd_stream *stream)
{
    etcd_stream_cancel(stream);
    while (!at_rest(stream->transfer))
        fiber_queue_wait(&stream->transfer->news);
    transfer_free(stream->transfer);
    free(stream->data);
    free(stream);
}

/* Moves what has come to the reader's buffer. 0: something has, or nothing yet; else why no more
 * will. */
static int take_news(struct etcd_stream *stream, bool *ret_some)
{
    struct transfer *transfer = stream->transfer;
    pthread_mutex_lock(&transfer->http->mutex);
    size_t n = transfer->len_bytes;
    int r = 0;
    if (stream->len_bytes - stream->read_bytes + n > ANSWER_BYTES_MAX) {
        r = -E2BIG;
    } else if (n > 0) {
        if (stream->len_bytes > stream->read_bytes) {
            stream->len_bytes -= stream->read_bytes;
            memmove(stream->data, stream->data + stream->read_bytes, stream->len_bytes);
        } else {
            stream->len_bytes = 0;
        }
        stream->read_bytes = 0;
        stream->data = must(realloc(stream->data, stream->len_bytes + n));
        memcpy(stream->data + stream->len_bytes, transfer->data, n);
        stream->len_bytes += n;
        transfer->len_bytes = 0;
    } else if (transfer->done) {
        r = transfer->error == 0 || transfer->error == -ETIMEDOUT ? -EHOSTUNREACH : transfer->error;
    }
    pthread_mutex_unlock(&transfer->http->mutex);
    *ret_some = n > 0;
    return r;
}

static void give_line(struct etcd_stream *stream, size_t len, char **ret_line, size_t *ret_len)
{
    char *line = must(malloc(len + 1));
    memcpy(line, stream->data + stream->read_bytes, len);
    line[len] = 0;
    *ret_line = line;
    *ret_len = len;
}

int etcd_stream_read(
    struct etcd_stream *stream, uint64_t deadline_ns, char **ret_line, size_t *ret_len_bytes)
{
    size_t searched = 0; /* of the line, without a newline */
    for (;;) {
        size_t left = stream->len_bytes - stream->read_bytes;
        const char *begin = left ? stream->data + stream->read_bytes : NULL;
        const char *end = left > searched ? memchr(begin + searched, '\n', left - searched) : NULL;
        if (end) {
            size_t len = (size_t)(end - begin);
            give_line(stream, len, ret_line, ret_len_bytes);
            stream->read_bytes += len + 1;
            return 0;
        }
        searched = left;
        bool some;
        int r = take_news(stream, &some);
        if (r == -EHOSTUNREACH && left > 0) {
            give_line(stream, left, ret_line, ret_len_bytes);
            stream->read_bytes += left;
            return 0;
        }
        if (r < 0)
            return r;
        if (!some && fiber_queue_wait_until(&stream->transfer->news, deadline_ns) == -ETIMEDOUT)
            return -ETIMEDOUT;
    }
}

/* --- Life ------------------------------------------------------------------------------------ */

static void init_curl(void)
{
    CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

int etcd_http_start(const struct etcd_http_options *options, struct etcd_http **ret_http)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    struct etcd_http *http = must(calloc(1, sizeof(*http)));
    http->env = fiber_env();
    http->options = *options;
    list_init(&http->submitted);
    list_init(&http->active);
    pthread_mutex_init(&http->mutex, NULL);
    http->multi = must(curl_multi_init());
    /* The thread takes no signal: they are the process's, by a signalfd. */
    sigset_t all, old;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, &old) == 0);
    int r = -pthread_create(&http->thread, NULL, thread_main, http);
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    if (r < 0) {
        curl_multi_cleanup(http->multi);
        pthread_mutex_destroy(&http->mutex);
        free(http);
        return r;
    }
    *ret_http = http;
    return 0;
}

void etcd_http_stop(struct etcd_http *http)
{
    pthread_mutex_lock(&http->mutex);
    http->stop = true;
    pthread_mutex_unlock(&http->mutex);
    CHECK(curl_multi_wakeup(http->multi) == CURLM_OK);
    CHECK(pthread_join(http->thread, NULL) == 0);
    CHECK(list_empty(&http->active) && list_empty(&http->submitted));
    curl_multi_cleanup(http->multi);
    pthread_mutex_destroy(&http->mutex);
    free(http);
}
