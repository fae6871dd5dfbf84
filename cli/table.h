/* SPDX-License-Identifier: Apache-2.0
 *
 * Tables of aligned columns.
 */
#pragma once

#include <stdio.h>

struct table;

/* One letter a column: 'l' left, 'r' right-aligned; then the titles. */
struct table *table_new(const char *columns, ...);
/* One text (copied) a column; NULL and "" show as "-". */
void table_add(struct table *table, ...);
/* Prints and frees it. */
void table_print(struct table *table, FILE *out);
