/* SPDX-License-Identifier: Apache-2.0
 *
 * Reed-Solomon codes k+m over GF(2^8) by isa-l: any k of the k+m shards give back all. Shard numbers: data
 * 0..k-1, parity k..k+m-1. The matrix is the identity over Cauchy rows 1 / (i xor j) (isa-l's
 * gf_gen_cauchy1_matrix), part of the on-disk format: it never changes. k = 1 is replication: every
 * parity is a copy. Pure computation; never suspends. An object belongs to one thread.
 */
#pragma once

#include <stddef.h>

#define EC_K_MAX 16
#define EC_M_MAX 4

struct ec;

/* 1 <= k <= EC_K_MAX, 0 <= m <= EC_M_MAX (CHECKed). */
struct ec *ec_new(unsigned k, unsigned m);
void ec_free(struct ec *ec);

/* Fills the m buffers `parity` from the k buffers `data`, all of len_bytes (< 2 GiB). */
void ec_encode(
    const struct ec *ec, size_t len_bytes, const void *const data[], void *const parity[]);

/* From the k shards numbered present[0..k-1] (distinct, any order), whose bytes are in present_data[], computes
 * the `wanted_count` (<= m) shards numbered wanted[] (none of them present) into outputs[]. */
void ec_decode(struct ec *ec, size_t len_bytes, const unsigned present[],
    const void *const present_data[], const unsigned wanted[], unsigned wanted_count,
    void *const outputs[]);
