/* SPDX-License-Identifier: Apache-2.0
 *
 * What happened between two answers of the `stats` method.
 */
#pragma once

#include <jansson.h>

/* Of one volume and one direction. */
struct rate {
    double per_s, bytes_per_s;
    double latency_us_mean, latency_us_p99; /* 0 without requests */
};

struct volume_rates {
    const char *name; /* of `after` */
    struct rate read, write;
    double flushes_per_s, trims_per_s;
};

/* `before` (may be NULL) and `after` are volumes of the answers; `interval_s` lies between. A counter
 * that is lower than before began anew (the volume was closed and opened). */
void rates_compute(
    const json_t *before, const json_t *after, double interval_s, struct volume_rates *ret_rates);
/* The volume of that name in an answer; NULL: not there. */
const json_t *rates_find(const json_t *stats, const char *name);
