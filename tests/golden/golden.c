/* SPDX-License-Identifier: Apache-2.0 */
#include "golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LINE_BYTES 16

static const char *path_of(const char *name, char ret_path[512])
{
    const char *dir = getenv("HOLDFAST_GOLDEN");
    snprintf(ret_path, 512, "%s/%s.hex", dir ? dir : "tests/golden", name);
    return ret_path;
}

size_t golden_load(const char *name, uint8_t *ret_bytes)
{
    char path[512], line[256];
    size_t len = 0, at;
    int used;
    memset(ret_bytes, 0, GOLDEN_BYTES_MAX);
    FILE *file = fopen(path_of(name, path), "r");
    if (!file)
        fail_msg("%s cannot be read (HOLDFAST_GOLDEN=tests/golden)", path);
    while (fgets(line, sizeof(line), file)) {
        if (line[0] == '#' || sscanf(line, "length %zu", &len) == 1)
            continue;
        assert_int_equal(sscanf(line, "%zx%n", &at, &used), 1);
        unsigned byte;
        for (const char *p = line + used; sscanf(p, "%x%n", &byte, &used) == 1; p += used) {
            assert_true(at < len && byte < 256);
            ret_bytes[at++] = (uint8_t)byte;
        }
    }
    fclose(file);
    assert_true(len > 0 && len <= GOLDEN_BYTES_MAX);
    return len;
}

static void write_file(
    const char *path, const char *comment, const uint8_t *bytes, size_t len_bytes)
{
    static const uint8_t zeros[LINE_BYTES];
    FILE *file = fopen(path, "wx");
    if (!file)
        fail_msg("%s cannot be made", path);
    fprintf(file, "# %s\nlength %zu\n", comment, len_bytes);
    for (size_t at = 0; at < len_bytes; at += LINE_BYTES) {
        size_t n = len_bytes - at < LINE_BYTES ? len_bytes - at : LINE_BYTES;
        if (memcmp(bytes + at, zeros, n) == 0)
            continue;
        fprintf(file, "%04zx", at);
        for (size_t i = 0; i < n; i++)
            fprintf(file, " %02x", bytes[at + i]);
        fputc('\n', file);
    }
    fclose(file);
}

void golden_compare(const char *name, const char *comment, const void *bytes, size_t len_bytes)
{
    uint8_t wanted[GOLDEN_BYTES_MAX];
    char path[512];
    if (getenv("HOLDFAST_GOLDEN_WRITE") && access(path_of(name, path), F_OK) < 0)
        write_file(path, comment, bytes, len_bytes);
    size_t len = golden_load(name, wanted);
    for (size_t i = 0; i < len && i < len_bytes; i++) {
        if (wanted[i] != ((const uint8_t *)bytes)[i])
            fail_msg("%s: byte %zu is %02x and was %02x: the format has changed without a new "
                     "version (tests/golden/README.md)",
                name, i, ((const uint8_t *)bytes)[i], wanted[i]);
    }
    if (len != len_bytes)
        fail_msg("%s: %zu bytes, were %zu", name, len_bytes, len);
}
