/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include <stdarg.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

#define COLUMNS_MAX 12

struct table {
    const char *columns;
    unsigned column_count;
    size_t row_count, rows_max; /* titles included */
    char **cells;               /* row by row */
};

/* Columns that a UTF-8 text takes, if all its characters are one wide. */
static int width_of(const char *text)
{
    int width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void add_row(struct table *table, va_list list)
{
    if (table->row_count == table->rows_max) {
        table->rows_max = MAX(2 * table->rows_max, 16);
        table->cells = mem_realloc(
            table->cells, table->rows_max * table->column_count * sizeof(table->cells[0]));
    }
    char **row = &table->cells[table->row_count++ * table->column_count];
    for (unsigned i = 0; i < table->column_count; i++) {
        const char *text = va_arg(list, const char *);
        row[i] = mem_strdup(text && *text ? text : "-");
    }
}

struct table *table_new(const char *columns, ...)
{
    struct table *table = NEW(struct table);
    table->columns = columns;
    table->column_count = (unsigned)strlen(columns);
    CHECK(table->column_count > 0 && table->column_count <= COLUMNS_MAX);
    va_list list;
    va_start(list, columns);
    add_row(table, list);
    va_end(list);
    return table;
}

void table_add(struct table *table, ...)
{
    va_list list;
    va_start(list, table);
    add_row(table, list);
    va_end(list);
}

static void print_cell(
    const struct table *table, unsigned column, const char *text, int width, FILE *out)
{
    int pad = width - width_of(text);
    if (column > 0)
        fputs("  ", out);
    if (table->columns[column] == 'r')
        fprintf(out, "%*s%s", pad, "", text);
    else if (column + 1 == table->column_count) /* no spaces at the end of a line */
        fputs(text, out);
    else
        fprintf(out, "%s%*s", text, pad, "");
}

void table_print(struct table *table, FILE *out)
{
    int widths[COLUMNS_MAX] = {0};
    size_t cell_count = table->row_count * table->column_count;
    for (size_t i = 0; i < cell_count; i++) {
        int width = width_of(table->cells[i]), column = (int)(i % table->column_count);
        widths[column] = MAX(widths[column], width);
    }
    for (size_t i = 0; i < cell_count; i++) {
        unsigned column = (unsigned)(i % table->column_count);
        print_cell(table, column, table->cells[i], widths[column], out);
        if (column + 1 == table->column_count)
            fputc('\n', out);
        mem_free(table->cells[i]);
    }
    mem_free(table->cells);
    mem_free(table);
}
