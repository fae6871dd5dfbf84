/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/rates.h"
#include "cli/table.h"
#include "common/check.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define INTERVAL_NS_MIN (SECOND_NS / 10)
#define INTERVAL_NS_MAX (3600 * SECOND_NS)

static const char *number_text(double value, char text[24])
{
    snprintf(text, 24, value > 0 && value < 9.95 ? "%.1f" : "%.0f", value);
    return text;
}

/* Latencies of requests: "85us", "1.25ms", "2.5s"; nothing without requests. */
static const char *latency_text(double us, char text[24])
{
    if (us <= 0)
        text[0] = 0;
    else if (us < 999.5)
        snprintf(text, 24, "%.0fus", us);
    else if (us < 999500)
        snprintf(text, 24, us < 9995 ? "%.2fms" : "%.1fms", us / 1000);
    else
        snprintf(text, 24, "%.1fs", us / 1e6);
    return text;
}

static void add_volume(struct table *table, const struct volume_rates *rates)
{
    char t[9][24];
    const struct rate *read = &rates->read, *write = &rates->write;
    table_add(table, rates->name, number_text(read->per_s, t[0]),
        number_text(read->bytes_per_s / 1e6, t[1]), latency_text(read->latency_us_mean, t[2]),
        latency_text(read->latency_us_p99, t[3]), number_text(write->per_s, t[4]),
        number_text(write->bytes_per_s / 1e6, t[5]), latency_text(write->latency_us_mean, t[6]),
        latency_text(write->latency_us_p99, t[7]), number_text(rates->flushes_per_s, t[8]));
}

static int busiest_first(const void *a, const void *b)
{
    const struct volume_rates *x = a, *y = b;
    double difference = y->read.per_s + y->write.per_s - x->read.per_s - x->write.per_s;
    return difference > 0 ? 1 : difference < 0 ? -1 : 0;
}

/* At most `rows_max` volumes. */
static void print_rates(const json_t *before, const json_t *after, size_t rows_max)
{
    const json_t *volumes = json_object_get(after, "volumes"), *volume;
    size_t count = json_array_size(volumes), i;
    double interval_s =
        (double)(json_number(after, "time_ns") - json_number(before, "time_ns")) / 1e9;
    struct volume_rates *rates = mem_zalloc(count + 1, sizeof(rates[0]));
    struct volume_rates total = {.name = "all"};
    json_array_foreach (volumes, i, volume) {
        const json_t *old = rates_find(before, json_text(volume, "name"));
        rates_compute(old, volume, interval_s > 0 ? interval_s : 1, &rates[i]);
        total.read.per_s += rates[i].read.per_s;
        total.read.bytes_per_s += rates[i].read.bytes_per_s;
        total.write.per_s += rates[i].write.per_s;
        total.write.bytes_per_s += rates[i].write.bytes_per_s;
        total.flushes_per_s += rates[i].flushes_per_s;
    }
    qsort(rates, count, sizeof(rates[0]), busiest_first);
    struct table *table = table_new("lrrrrrrrrr", "VOLUME", "READ/s", "MB/s", "MEAN", "P99",
        "WRITE/s", "MB/s", "MEAN", "P99", "FLUSH/s");
    for (i = 0; i < count && i < rows_max; i++)
        add_volume(table, &rates[i]);
    if (count > 1)
        add_volume(table, &total);
    table_print(table, stdout);
    if (count == 0)
        puts("No volume is open on this node.");
    if (count > rows_max)
        printf("(%zu less busy volumes are not shown)\n", count - rows_max);
    mem_free(rates);
}

static size_t terminal_rows(void)
{
    struct winsize size;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0;
    return known ? (size_t)MAX(size.ws_row - 6, 1) : 20;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / SECOND_NS), .tv_nsec = (long)(ns % SECOND_NS)};
    nanosleep(&ts, NULL); /* a signal ends it early, which is what the user wants */
}

static int watch(struct cli *cli, uint64_t interval_ns, bool once, json_t **before)
{
    for (;;) {
        sleep_ns(interval_ns);
        if (cli_interrupted)
            return CLI_OK;
        json_t *after;
        int code = cli_call(cli, "stats", NULL, &after);
        if (code != CLI_OK)
            return code;
        if (!once)
            fputs("\033[H\033[J", stdout); /* home, clear: in place */
        print_rates(*before, after, once ? SIZE_MAX : terminal_rows());
        fflush(stdout);
        json_decref(*before);
        *before = after;
        if (once)
            return CLI_OK;
    }
}

int cmd_top(struct cli *cli, const struct args *args)
{
    uint64_t interval_ns = args_number(args, "interval", SECOND_NS);
    bool once = args_has(args, "once") || !isatty(STDOUT_FILENO);
    if (interval_ns < INTERVAL_NS_MIN || interval_ns > INTERVAL_NS_MAX) {
        cli_fail("--interval is from 100ms to 1h");
        return CLI_USAGE;
    }
    CLEANUP_JSON json_t *stats = NULL;
    int code = cli_call(cli, "stats", NULL, &stats);
    if (code != CLI_OK)
        return code;
    if (cli->json) {
        cli_print_json(stats);
        return CLI_OK;
    }
    cli_catch_signals();
    if (!once)
        puts("Looking ...");
    return watch(cli, interval_ns, once, &stats);
}
