/* SPDX-License-Identifier: Apache-2.0
 *
 * Reproducible chance for the simulation and for tests; production draws from env_random().
 * The generator is splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
 * generators").
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct rng {
    uint64_t state;
};

static inline uint64_t rng_mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static inline void rng_init(struct rng *rng, uint64_t seed)
{
    rng->state = rng_mix(seed + 0x9e3779b97f4a7c15);
}

static inline uint64_t rng_u64(struct rng *rng)
{
    return rng_mix(rng->state += 0x9e3779b97f4a7c15);
}

/* 0 .. limit-1; `limit` > 0. The bias is below limit / 2^64. */
static inline uint64_t rng_below(struct rng *rng, uint64_t limit)
{
    return (unsigned __int128)rng_u64(rng) * limit >> 64;
}

/* low .. high, both included. */
static inline uint64_t rng_between(struct rng *rng, uint64_t low, uint64_t high)
{
    return low + rng_below(rng, high - low + 1);
}

/* true in `ppm` of a million cases. */
static inline bool rng_ppm(struct rng *rng, uint32_t ppm)
{
    return rng_below(rng, 1000000) < ppm;
}

static inline bool rng_one_in(struct rng *rng, uint64_t n)
{
    return rng_below(rng, n) == 0;
}

/* Index drawn in proportion to its weight; the sum of the weights is > 0. */
static inline unsigned rng_weighted(struct rng *rng, const unsigned *weights, unsigned count)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++)
        sum += weights[i];
    uint64_t at = rng_below(rng, sum);
    unsigned i = 0;
    while (at >= weights[i])
        at -= weights[i++];
    return i;
}

static inline void rng_bytes(struct rng *rng, void *buf, size_t len_bytes)
{
    char *at = buf;
    while (len_bytes > 0) {
        uint64_t value = rng_u64(rng);
        size_t n = len_bytes < sizeof(value) ? len_bytes : sizeof(value);
        memcpy(at, &value, n);
        at += n;
        len_bytes -= n;
    }
}

/* A generator of its own for `label`: what one part draws does not shift what another gets. */
static inline struct rng rng_fork(uint64_t seed, const char *label)
{
    uint64_t hash = seed;
    for (; *label; label++)
        hash = rng_mix(hash + 0x9e3779b97f4a7c15 + (unsigned char)*label);
    struct rng rng;
    rng_init(&rng, hash);
    return rng;
}
