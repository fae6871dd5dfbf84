/* SPDX-License-Identifier: Apache-2.0
 *
 * "Did you mean ...?": the candidate that a mistyped word was probably meant to be.
 */
#pragma once

struct nearest {
    const char *word;
    const char *best; /* NULL: nothing is near enough to be meant */
    unsigned best_distance;
};

void nearest_init(struct nearest *nearest, const char *word);
/* NULL is ignored. */
void nearest_offer(struct nearest *nearest, const char *candidate);
/* This is the one, unless another is the word itself begun. */
void nearest_choose(struct nearest *nearest, const char *candidate);
/* Insertions, deletions, changes and swaps of neighbours that make `b` of `a` (Damerau's edit
 * distance, each place edited once). Words longer than 31 characters are far from everything. */
unsigned nearest_distance(const char *a, const char *b);
