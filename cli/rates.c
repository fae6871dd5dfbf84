/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/rates.h"

#include <string.h>

#include "cli/cli.h"
#include "common/check.h"

#define BUCKETS 24u

static double difference(const json_t *before, const json_t *after, const char *member)
{
    uint64_t from = json_number(before, member), to = json_number(after, member);
    return (double)(to >= from ? to - from : to);
}

/* Bucket i counts latencies from 2^i to 2^(i+1) us. Within a bucket they are taken as evenly spread. */
static double percentile_us(
    const json_t *before, const json_t *after, const char *member, double fraction)
{
    const json_t *from = json_object_get(before, member), *to = json_object_get(after, member);
    double counts[BUCKETS] = {0}, total = 0, below = 0;
    bool restarted = false;
    for (unsigned i = 0; i < BUCKETS; i++)
        restarted |=
            json_integer_value(json_array_get(to, i)) < json_integer_value(json_array_get(from, i));
    for (unsigned i = 0; i < BUCKETS; i++) {
        counts[i] = (double)json_integer_value(json_array_get(to, i));
        if (!restarted)
            counts[i] -= (double)json_integer_value(json_array_get(from, i));
        total += counts[i];
    }
    for (unsigned i = 0; i < BUCKETS && total > 0; i++) {
        double wanted = total * fraction - below, unit = (double)(1u << i);
        if (counts[i] > 0 && counts[i] >= wanted)
            return unit + unit * wanted / counts[i];
        below += counts[i];
    }
    return 0;
}

static struct rate rate_of(const json_t *before, const json_t *after, double interval_s,
    const char *count, const char *bytes, const char *latency_sum, const char *latencies)
{
    double n = difference(before, after, count);
    double sum_ns = difference(before, after, latency_sum);
    return (struct rate){
        .per_s = n / interval_s,
        .bytes_per_s = difference(before, after, bytes) / interval_s,
        .latency_us_mean = n > 0 ? sum_ns / n / 1000 : 0,
        .latency_us_p99 = n > 0 ? percentile_us(before, after, latencies, 0.99) : 0,
    };
}

void rates_compute(
    const json_t *before, const json_t *after, double interval_s, struct volume_rates *ret_rates)
{
    *ret_rates = (struct volume_rates){
        .name = json_text(after, "name"),
        .read = rate_of(before, after, interval_s, "reads", "read_bytes", "read_latency_ns_sum",
            "read_latency_us"),
        .write = rate_of(before, after, interval_s, "writes", "written_bytes",
            "write_latency_ns_sum", "write_latency_us"),
        .flushes_per_s = difference(before, after, "flushes") / interval_s,
        .trims_per_s = difference(before, after, "trims") / interval_s,
    };
}

const json_t *rates_find(const json_t *stats, const char *name)
{
    const json_t *volume;
    size_t i;
    json_array_foreach (json_object_get(stats, "volumes"), i, volume)
        if (strcmp(json_text(volume, "name"), name) == 0)
            return volume;
    return NULL;
}
