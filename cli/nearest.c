/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/nearest.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "common/check.h"

#define WORD_MAX 31u

unsigned nearest_distance(const char *a, const char *b)
{
    size_t a_len = strlen(a), b_len = strlen(b);
    if (a_len > WORD_MAX || b_len > WORD_MAX)
        return UINT_MAX;
    unsigned d[WORD_MAX + 1][WORD_MAX + 1];
    for (unsigned i = 0; i <= a_len; i++)
        d[i][0] = i;
    for (unsigned j = 0; j <= b_len; j++)
        d[0][j] = j;
    for (unsigned i = 1; i <= a_len; i++)
        for (unsigned j = 1; j <= b_len; j++) {
            unsigned other = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            unsigned shorter = MIN(d[i - 1][j], d[i][j - 1]) + 1;
            d[i][j] = MIN(other, shorter);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = MIN(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[a_len][b_len];
}

void nearest_init(struct nearest *nearest, const char *word)
{
    /* A third of the word may be wrong. */
    *nearest = (struct nearest){.word = word, .best_distance = (unsigned)strlen(word) / 3 + 2};
}

void nearest_offer(struct nearest *nearest, const char *candidate)
{
    if (!candidate)
        return;
    size_t len = strlen(nearest->word);
    /* What was begun ("vol") is nearer than anything mistyped. */
    unsigned distance = len >= 2 && strncmp(candidate, nearest->word, len) == 0
                            ? 0
                            : nearest_distance(nearest->word, candidate);
    if (distance >= nearest->best_distance)
        return;
    nearest->best = candidate;
    nearest->best_distance = distance;
}

void nearest_choose(struct nearest *nearest, const char *candidate)
{
    if (nearest->best_distance == 0)
        return;
    nearest->best = candidate;
    nearest->best_distance = 0;
}
