/* SPDX-License-Identifier: Apache-2.0
 *
 * Only in builds with the meson option planted_bugs.
 */
#include "common/planted.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int planted_chosen = PLANTED_NONE;

static const struct {
    const char *name, *rule, *what;
} bugs[PLANTED_COUNT] = {
#define PLANTED_ROW(bug, rule, what) [PLANTED_##bug] = {#bug, rule, what},
    PLANTED_BUGS(PLANTED_ROW)
#undef PLANTED_ROW
};

void planted_choose(const char *name)
{
    planted_chosen = PLANTED_NONE;
    if (!name || !name[0])
        return;
    for (int i = PLANTED_NONE + 1; i < PLANTED_COUNT; i++) {
        if (strcmp(bugs[i].name, name) == 0)
            planted_chosen = i;
    }
    if (planted_chosen != PLANTED_NONE)
        return;
    fprintf(stderr, "no bug '%s' can be planted; there are:\n", name);
    for (int i = PLANTED_NONE + 1; i < PLANTED_COUNT; i++)
        fprintf(stderr, "  %-26s %-4s %s\n", bugs[i].name, bugs[i].rule, bugs[i].what);
    exit(2);
}

__attribute__((constructor)) static void planted_from_environment(void)
{
    planted_choose(getenv("HOLDFAST_PLANTED"));
}
