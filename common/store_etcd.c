/* SPDX-License-Identifier: Apache-2.0
 *
 * The store in etcd: requests, and whom to ask.
 *
 * Invariants
 *  E1 What is not repeatable (a transaction) is sent to another member only if the one before
 *     cannot have had it: no connection, or not the whole request (H2). Otherwise its outcome is
 *     unknown, -ETIMEDOUT (S13), unless etcd's answer says that nothing happened.
 *  E2 Reads are linearizable: etcd's default (a round trip of its leader to a majority).
 *  E3 Of etcd's errors only those that it gives before or instead of carrying out a request count
 *     as "nothing happened". "Unavailable" and "unknown" do not: a proposal may still be decided.
 *     Nor does "database space exceeded": the write that crosses the quota is carried out and
 *     answered with it (etcd's quotaApplierV3).
 *  E7 An answer of the keys' service that is of an earlier revision or term than what had been seen when it was asked for,
 *     or of another cluster, is of another history: etcd was restored from a snapshot. store_histories() rises, and
 *     watches look again. One that has come as far as the one before by then is not noticed.
 *  E4 Sessions: store_etcd_session.c. E5-E6 Watches: store_etcd_watch.c.
 *
 * Failover is sticky: the member that answered last is asked first, so that connections and watches
 * stay where they are.
 */
#include "common/store_etcd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/store_etcd_impl.h"

#define MS_NS 1000000ull
#define REQUEST_TIMEOUT_NS (3000 * MS_NS)
#define CONNECT_TIMEOUT_NS (1000 * MS_NS)
#define RETRY_PAUSE_NS (50 * MS_NS)
#define LIST_PAGE_KEYS 512

/* gRPC's, as far as etcd uses them. */
enum {
    CODE_INVALID_ARGUMENT = 3,
    CODE_NOT_FOUND = 5,
    CODE_PERMISSION_DENIED = 7,
    CODE_RESOURCE_EXHAUSTED = 8,
    CODE_FAILED_PRECONDITION = 9,
    CODE_OUT_OF_RANGE = 11,
    CODE_UNAUTHENTICATED = 16,
};

/* --- One request ----------------------------------------------------------------------------- */

static bool says(const struct etcd_answer_json *answer, const char *words)
{
    return answer->error_text && strstr(answer->error_text, words);
}

bool etcd_is_token_refused(const struct etcd_answer_json *answer)
{
    return answer->error_code == CODE_UNAUTHENTICATED || says(answer, "invalid auth token") ||
           says(answer, "revision of auth store is old");
}

/* E3. 0 = the outcome is unknown. */
static int error_of_answer(const struct etcd_answer_json *answer)
{
    switch (answer->error_code) {
    case CODE_INVALID_ARGUMENT:
        return says(answer, "user name") || says(answer, "authentication failed") ? -EACCES
                                                                                  : -EINVAL;
    case CODE_NOT_FOUND:
        return -ENOENT;
    case CODE_PERMISSION_DENIED:
    case CODE_UNAUTHENTICATED:
        return -EACCES;
    case CODE_FAILED_PRECONDITION:
        return says(answer, "authentication") ? -EACCES : 0;
    case CODE_RESOURCE_EXHAUSTED:
        if (says(answer, "larger than max"))
            return -EINVAL;
        return says(answer, "too many requests") ? -EHOSTUNREACH
               : says(answer, "space exceeded")  ? -ENOSPC
                                                 : 0;
    case CODE_OUT_OF_RANGE:
        return -ERANGE;
    default:
        return 0;
    }
}

/* Printable text of an answer that is not JSON, up to its first line's end. */
static void first_line(const char *data, size_t len_bytes, char ret_line[static ETCD_WHY_BYTES])
{
    size_t n = 0;
    while (n < len_bytes && n < ETCD_WHY_BYTES - 1 && data[n] >= ' ' && data[n] <= '~')
        n++;
    memcpy(ret_line, data, n);
    ret_line[n] = '\0';
}

/* What an attempt came to: 0, an error for the caller, or "try another member". */
struct attempt {
    int error;
    bool again;   /* another member may do better */
    bool reached; /* somebody was there */
    bool log_in;  /* the token was refused */
    char *why;    /* mem_free */
};

static MAY_SUSPEND void attempt(struct store_etcd *etcd, unsigned endpoint, const char *path,
    const char *body, uint64_t timeout_ns, bool repeatable, struct etcd_answer_json *ret_answer,
    struct attempt *ret)
{
    CLEANUP_FREE char *url = mem_printf("%s%s", etcd->endpoints[endpoint], path);
    CLEANUP_FREE char *token = etcd->token ? mem_strdup(etcd->token) : NULL;
    struct etcd_post post = {url, body, token, (unsigned)MAX(timeout_ns / MS_NS, 1)};
    struct etcd_answer http;
    struct etcd_answer_json answer;
    char why[ETCD_WHY_BYTES] = "";
    *ret = (struct attempt){0};
    int r = etcd_http_call(etcd->http, &post, &http, why);
    ret->reached = r != -EHOSTUNREACH;
    if (r < 0) {
        ret->error = r == -E2BIG                        ? -E2BIG
                     : repeatable || r == -EHOSTUNREACH ? -EHOSTUNREACH
                                                        : -ETIMEDOUT;
        ret->again = ret->error == -EHOSTUNREACH;
        ret->why = mem_printf("%s: %s", etcd->endpoints[endpoint], why);
        return;
    }
    if (etcd_json_decode(http.data, http.len_bytes, &answer) < 0) {
        /* Not etcd's words: nobody knows what was done. */
        ret->error = repeatable ? -EHOSTUNREACH : -ETIMEDOUT;
        ret->again = repeatable;
        char said[ETCD_WHY_BYTES];
        first_line(http.data, http.len_bytes, said);
        ret->why = mem_printf("%s answers with HTTP status %ld%s%s", etcd->endpoints[endpoint],
            http.status, *said ? ": " : " and nothing", said);
    } else if (answer.error_code) {
        ret->log_in = etcd->user && etcd_is_token_refused(&answer);
        ret->error = error_of_answer(&answer);
        ret->again = ret->error == -EHOSTUNREACH || (ret->error == 0 && repeatable);
        if (ret->error == 0)
            ret->error = repeatable ? -EHOSTUNREACH : -ETIMEDOUT;
        ret->why = mem_printf("%s: %s", etcd->endpoints[endpoint],
            answer.error_text ? answer.error_text : "an error without words");
        etcd_answer_json_fini(&answer);
    } else {
        *ret_answer = answer;
    }
    free(http.data);
}

/* --- Members --------------------------------------------------------------------------------- */

void etcd_endpoint_failed(struct store_etcd *etcd, unsigned endpoint)
{
    if (endpoint == etcd->preferred)
        etcd->preferred = (endpoint + 1) % etcd->endpoint_count;
    if (etcd->endpoint_count > 1)
        etcd_watches_leave(etcd, endpoint);
}

void etcd_forget_token(struct store_etcd *etcd)
{
    mem_free(etcd->token);
    etcd->token = NULL;
}

/* All members one after the other, until one answers or the time is over. Members that refuse to
 * connect are not asked a third time. */
static MAY_SUSPEND int ask_members(struct store_etcd *etcd, const struct etcd_call *call,
    struct etcd_answer_json *ret_answer, bool *ret_log_in, char **ret_why)
{
    uint64_t deadline_ns = env_now_ns() + call->timeout_ns;
    for (unsigned tries = 0, unreached = 0;; tries++) {
        unsigned endpoint = etcd->preferred;
        uint64_t now_ns = env_now_ns();
        uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        if (call->repeatable && etcd->endpoint_count > 1)
            left_ns = MIN(left_ns, call->timeout_ns / 3);
        struct attempt result;
        attempt(
            etcd, endpoint, call->path, call->body, left_ns, call->repeatable, ret_answer, &result);
        if (result.error == 0)
            return 0;
        if (result.again || result.error == -ETIMEDOUT)
            etcd_endpoint_failed(etcd, endpoint);
        unreached = result.reached ? 0 : unreached + 1;
        bool all_round = tries + 1 >= etcd->endpoint_count;
        if (!result.again || unreached >= 2 * etcd->endpoint_count ||
            (all_round && env_now_ns() + RETRY_PAUSE_NS >= deadline_ns) ||
            env_now_ns() >= deadline_ns) {
            *ret_log_in = result.log_in;
            *ret_why = result.why;
            return result.error;
        }
        mem_free(result.why);
        if (all_round)
            env_sleep_ns(RETRY_PAUSE_NS);
    }
}

int etcd_login(struct store_etcd *etcd, char **ret_why)
{
    if (!etcd->user || etcd->token)
        return 0;
    int r = 0;
    fiber_mutex_lock(&etcd->login);
    if (!etcd->token) {
        char *body = etcd_json_login(etcd->user, etcd->password);
        struct etcd_call call = {
            "/v3/auth/authenticate", body, etcd->request_timeout_ns, .repeatable = true};
        struct etcd_answer_json answer;
        CLEANUP_FREE char *why = NULL;
        bool log_in;
        r = ask_members(etcd, &call, &answer, &log_in, &why);
        free(body);
        if (r == 0) {
            etcd->token = answer.token;
            answer.token = NULL;
            etcd_answer_json_fini(&answer);
            r = etcd->token ? 0 : -EACCES;
        } else if (r != -EHOSTUNREACH) {
            log_error_limited("etcd refuses user %s: %s", etcd->user, why);
            r = -EACCES;
        }
        if (r < 0 && ret_why)
            *ret_why = mem_printf(
                "user %s cannot log in%s%s", etcd->user, why ? ": " : "", why ? why : "");
    }
    fiber_mutex_unlock(&etcd->login);
    return r;
}

/* E7. `before`: what had been seen when the request was sent. */
static void note_header(struct store_etcd *etcd, const struct etcd_header *before,
    uint64_t histories, const struct etcd_header *now)
{
    if (histories != etcd->store.histories)
        return; /* of either history */
    bool other = before->cluster_id && now->cluster_id != before->cluster_id;
    if (other || now->revision < before->revision || now->raft_term < before->raft_term) {
        log_warn("etcd: it has another history than before (revision %llu of term %u, after %llu "
                 "of term "
                 "%u): was it restored from a snapshot?",
            (unsigned long long)now->revision, (unsigned)now->raft_term,
            (unsigned long long)before->revision, (unsigned)before->raft_term);
        etcd->store.histories++;
        etcd->seen = *now;
        etcd_watches_look_again(etcd);
        return;
    }
    etcd->seen.cluster_id = now->cluster_id;
    etcd->seen.revision = MAX(etcd->seen.revision, now->revision);
    etcd->seen.raft_term = MAX(etcd->seen.raft_term, now->raft_term);
}

int etcd_call(struct store_etcd *etcd, const struct etcd_call *call,
    struct etcd_answer_json *ret_answer, char **ret_why)
{
    int r = 0;
    char *why = NULL;
    struct etcd_header before = etcd->seen;
    uint64_t histories = etcd->store.histories;
    for (unsigned logins = 0; logins < 2; logins++) {
        bool log_in = false;
        mem_free(why);
        why = NULL;
        r = etcd_login(etcd, &why);
        if (r == 0)
            r = ask_members(etcd, call, ret_answer, &log_in, &why);
        if (r == 0 || !log_in)
            break;
        etcd_forget_token(etcd);
    }
    free(call->body);
    if (r == 0 && strncmp(call->path, "/v3/kv/", 7) == 0)
        note_header(etcd, &before, histories, &ret_answer->header);
    if (r < 0 && ret_why)
        *ret_why = why;
    else
        mem_free(why);
    return r;
}

/* --- Requests of store.h --------------------------------------------------------------------- */

/* What store.h knows: a read has no outcome to be unknown. */
static int read_error(int r, const char *why)
{
    if (r == -EHOSTUNREACH || r == -EACCES || r == -EINVAL)
        return r;
    log_warn_limited("etcd: a read failed: %s", why ? why : strerror(-r));
    return -EHOSTUNREACH;
}

static int etcd_get(struct store *store, const char *key, struct store_value *ret_value)
{
    struct store_etcd *etcd = etcd_of(store);
    struct etcd_call call = {
        "/v3/kv/range", etcd_json_get(key), etcd->request_timeout_ns, .repeatable = true};
    struct etcd_answer_json answer;
    CLEANUP_FREE char *why = NULL;
    int r = etcd_call(etcd, &call, &answer, &why);
    if (r < 0)
        return read_error(r, why);
    r = answer.value_count == 0 ? -ENOENT : 0;
    if (answer.value_count > 0 && strcmp(answer.values[0].key, key) != 0) {
        log_error_limited("etcd answers with key %s instead of %s", answer.values[0].key, key);
        r = -EHOSTUNREACH;
    }
    if (r == 0) {
        *ret_value = answer.values[0];
        answer.values[0] = (struct store_value){0};
    }
    etcd_answer_json_fini(&answer);
    return r;
}

struct list_state {
    struct store_value *values;
    unsigned count;
    struct etcd_header header; /* the first page's */
    char *after;               /* base64; NULL: from the beginning */
    unsigned page_keys;
    const char *behind; /* the caller's; NULL */
    unsigned max;
};

static void list_reset(struct list_state *list)
{
    store_list_free(list->values, list->count);
    mem_free(list->after);
    *list = (struct list_state){.after = list->behind ? etcd_json_key(list->behind) : NULL,
        .page_keys = list->page_keys,
        .behind = list->behind,
        .max = list->max};
}

/* Appends a page. The last key of the one before comes again, and is left out. */
static void list_append(struct list_state *list, struct etcd_answer_json *page, const char *prefix)
{
    list->values =
        mem_realloc(list->values, (list->count + page->value_count) * sizeof(*list->values));
    for (unsigned i = 0; i < page->value_count; i++) {
        struct store_value *value = &page->values[i];
        const char *last = list->count ? list->values[list->count - 1].key : list->behind;
        if (list->count == list->max || strncmp(value->key, prefix, strlen(prefix)) != 0 ||
            (last && strcmp(last, value->key) >= 0))
            continue;
        list->values[list->count++] = *value;
        *value = (struct store_value){0};
    }
}

/* 1: there are more pages. */
static MAY_SUSPEND int list_page(
    struct store_etcd *etcd, const char *prefix, struct list_state *list, char **ret_why)
{
    unsigned wanted = list->max - list->count; /* and the one that comes again */
    unsigned limit = wanted < list->page_keys ? wanted + 1 : list->page_keys;
    struct etcd_call call = {"/v3/kv/range",
        etcd_json_list(prefix, list->after, limit, list->header.revision), etcd->request_timeout_ns,
        .repeatable = true};
    struct etcd_answer_json page;
    int r = etcd_call(etcd, &call, &page, ret_why);
    if (r < 0)
        return r;
    list_append(list, &page, prefix);
    if (!list->header.revision)
        list->header = page.header;
    /* A page that brings nothing new ends it, whatever the server says. */
    bool more = list->count < list->max && page.more && page.last_key &&
                (!list->after || strcmp(list->after, page.last_key) != 0);
    mem_free(list->after);
    list->after = page.last_key;
    page.last_key = NULL;
    etcd_answer_json_fini(&page);
    return more;
}

int etcd_list(struct store_etcd *etcd, const char *prefix, const char *after, unsigned max,
    struct store_value **ret_values, unsigned *ret_count, struct etcd_header *ret_header)
{
    struct list_state list = {.page_keys = LIST_PAGE_KEYS, .behind = after, .max = max};
    list_reset(&list);
    CLEANUP_FREE char *why = NULL;
    int r;
    unsigned restarts = 0;
    do {
        mem_free(why);
        why = NULL;
        r = list_page(etcd, prefix, &list, &why);
        if (r == -E2BIG && list.page_keys > 2) {
            list.page_keys = MAX(list.page_keys / 8, 2);
            r = 1;
        } else if (r == -ERANGE && restarts++ < 3) {
            list_reset(&list); /* compacted between two pages */
            r = 1;
        }
    } while (r > 0);
    mem_free(list.after);
    if (r < 0) {
        store_list_free(list.values, list.count);
        return read_error(r, why);
    }
    *ret_values = list.values;
    *ret_count = list.count;
    *ret_header = list.header;
    return 0;
}

static int etcd_store_list(struct store *store, const char *prefix, const char *after, unsigned max,
    struct store_value **ret_values, unsigned *ret_count)
{
    struct etcd_header header;
    return etcd_list(etcd_of(store), prefix, after, max, ret_values, ret_count, &header);
}

static bool any_session_op(const struct store_op *ops, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (ops[i].type == STORE_PUT && ops[i].session)
            return true;
    return false;
}

static int etcd_txn(struct store *store, const struct store_compare *compares,
    unsigned compare_count, const struct store_op *ops, unsigned op_count, uint64_t *ret_revision)
{
    struct store_etcd *etcd = etcd_of(store);
    uint64_t lease = etcd->lease;
    bool session = any_session_op(ops, op_count);
    if (session && !lease)
        return -ESTALE;
    struct etcd_call call = {"/v3/kv/txn",
        etcd_json_txn(compares, compare_count, ops, op_count, lease), etcd->request_timeout_ns,
        .repeatable = false};
    struct etcd_answer_json answer;
    CLEANUP_FREE char *why = NULL;
    int r = etcd_call(etcd, &call, &answer, &why);
    if (r == -ENOENT && session) {
        etcd_session_lost(etcd, lease);
        return -ESTALE;
    }
    if (r == -ENOSPC)
        log_error_limited("etcd is full: compact and defragment it, or raise --quota-backend-bytes "
                          "(then etcdctl alarm disarm): %s",
            why);
    if (r == -ENOSPC || r == -E2BIG || r == -ENOENT || r == -ERANGE)
        r = -ETIMEDOUT; /* E3; the others are no answer to this */
    if (r == -ETIMEDOUT)
        log_warn_limited("etcd: the outcome of a transaction is unknown: %s", why);
    if (r < 0)
        return r;
    r = answer.succeeded ? 0 : -ECANCELED;
    if (r == 0)
        *ret_revision = answer.header.revision;
    etcd_answer_json_fini(&answer);
    return r;
}

/* --- Life ------------------------------------------------------------------------------------ */

static void etcd_free(struct store_etcd *etcd)
{
    if (etcd->http)
        etcd_http_stop(etcd->http);
    for (unsigned i = 0; i < etcd->endpoint_count; i++)
        mem_free(etcd->endpoints[i]);
    char *texts[] = {etcd->ca_path, etcd->cert_path, etcd->key_path, etcd->user, etcd->password,
        etcd->probe_key, etcd->token};
    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++)
        mem_free(texts[i]);
    mem_free(etcd);
}

static void etcd_close(struct store *store)
{
    struct store_etcd *etcd = etcd_of(store);
    CHECK(list_empty(&etcd->watches));
    etcd_session_end(etcd);
    etcd_free(etcd);
}

static const struct store_ops etcd_ops = {
    .get = etcd_get,
    .list = etcd_store_list,
    .txn = etcd_txn,
    .session_start = etcd_session_start,
    .session_valid_until_ns = etcd_session_valid_until_ns,
    .watch_start = etcd_watch_start,
    .watch_stop = etcd_watch_stop,
    .close = etcd_close,
};

static char *options_error(const struct store_etcd_options *options)
{
    if (options->endpoint_count == 0)
        return mem_strdup("store etcd: no endpoint is given; name at least one member, such as "
                          "http://10.0.0.1:2379");
    if (options->endpoint_count > STORE_ETCD_ENDPOINTS_MAX)
        return mem_printf(
            "store etcd: more than %u endpoints; name fewer members", STORE_ETCD_ENDPOINTS_MAX);
    for (unsigned i = 0; i < options->endpoint_count; i++) {
        const char *url = options->endpoints[i];
        if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
            return mem_printf("store etcd: endpoint \"%s\" is not of the form http://HOST:PORT or "
                              "https://HOST:PORT",
                url);
    }
    if (!options->user != !options->password)
        return mem_strdup("store etcd: user and password go together; give both or neither");
    if (!options->cert_path != !options->key_path)
        return mem_strdup("store etcd: certificate and key go together; give both or neither");
    return NULL;
}

static char *copy_or_null(const char *text)
{
    return text ? mem_strdup(text) : NULL;
}

static struct store_etcd *etcd_new(const struct store_etcd_options *options)
{
    struct store_etcd *etcd = NEW(struct store_etcd);
    store_init(&etcd->store, &etcd_ops);
    fiber_mutex_init(&etcd->login);
    fiber_queue_init(&etcd->session_wake);
    fiber_queue_init(&etcd->session_quiet);
    list_init(&etcd->watches);
    for (unsigned i = 0; i < options->endpoint_count; i++) {
        char *url = etcd->endpoints[i] = mem_strdup(options->endpoints[i]);
        for (size_t len = strlen(url); len > 0 && url[len - 1] == '/'; len--)
            url[len - 1] = 0;
    }
    etcd->endpoint_count = options->endpoint_count;
    etcd->ca_path = copy_or_null(options->ca_path);
    etcd->cert_path = copy_or_null(options->cert_path);
    etcd->key_path = copy_or_null(options->key_path);
    etcd->user = copy_or_null(options->user);
    etcd->password = copy_or_null(options->password);
    etcd->probe_key = mem_strdup(options->probe_key ? options->probe_key : "holdfast/nothing");
    etcd->request_timeout_ns =
        options->request_timeout_ns ? options->request_timeout_ns : REQUEST_TIMEOUT_NS;
    return etcd;
}

static MAY_SUSPEND int first_request(struct store_etcd *etcd, char **ret_error)
{
    struct etcd_call call = {"/v3/kv/range", etcd_json_get(etcd->probe_key),
        etcd->request_timeout_ns, .repeatable = true};
    struct etcd_answer_json answer;
    CLEANUP_FREE char *why = NULL;
    int r = etcd_call(etcd, &call, &answer, &why);
    if (r == 0) {
        etcd_answer_json_fini(&answer);
        return 0;
    }
    *ret_error = mem_printf("store etcd: %s (%s); %s", why ? why : "no answer", strerror(-r),
        r == -EACCES ? "check user, password and the role's permissions in etcd"
                     : "is etcd (3.4 or later) running there, with a majority of its members?");
    return r == -EACCES ? r : -EHOSTUNREACH;
}

int store_etcd_open(
    const struct store_etcd_options *options, struct store **ret_store, char **ret_error)
{
    char *error = options_error(options);
    if (error) {
        *ret_error = error;
        return -EINVAL;
    }
    struct store_etcd *etcd = etcd_new(options);
    uint64_t connect_ns =
        options->connect_timeout_ns ? options->connect_timeout_ns : CONNECT_TIMEOUT_NS;
    struct etcd_http_options http = {
        etcd->ca_path, etcd->cert_path, etcd->key_path, (unsigned)MAX(connect_ns / MS_NS, 1)};
    int r = etcd_http_start(&http, &etcd->http);
    if (r < 0)
        *ret_error = mem_printf(
            "store etcd: no thread (%s); raise this user's limit of processes", strerror(-r));
    else
        r = first_request(etcd, ret_error);
    if (r < 0) {
        etcd_free(etcd);
        return r;
    }
    *ret_store = &etcd->store;
    return 0;
}
