/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/buffer.h"

#include <stdlib.h>

#include "common/check.h"
#include "common/mem.h"

#define CLASS_MIN_SHIFT 12
#define CLASS_MAX_SHIFT 20
#define CLASSES (CLASS_MAX_SHIFT - CLASS_MIN_SHIFT + 1)
#define KEPT_BYTES_MAX (32u << 20)
#define RECEIVED_BYTES ((1u << 20) + 4096)
#define RECEIVED_KEPT_MAX 16

/* A free buffer holds its list's link. */
struct free_buffer {
    struct free_buffer *next;
};

static struct free_buffer *free_by_class[CLASSES];
static size_t kept_bytes, used_bytes;
static void *free_received[RECEIVED_KEPT_MAX];
static unsigned free_received_count;

static unsigned class_of(size_t len_bytes)
{
    unsigned class = 0;
    while (((size_t)1 << (CLASS_MIN_SHIFT + class)) < len_bytes)
        class ++;
    CHECK(class < CLASSES);
    return class;
}

uint8_t *buffer_get(size_t len_bytes)
{
    unsigned class = class_of(len_bytes);
    size_t size = (size_t)1 << (CLASS_MIN_SHIFT + class);
    used_bytes += size;
    struct free_buffer *buffer = free_by_class[class];
    if (buffer == NULL)
        return mem_alloc(size);
    free_by_class[class] = buffer->next;
    kept_bytes -= size;
    return (uint8_t *)buffer;
}

void buffer_put(uint8_t *memory, size_t len_bytes)
{
    unsigned class = class_of(len_bytes);
    size_t size = (size_t)1 << (CLASS_MIN_SHIFT + class);
    used_bytes -= size;
    if (kept_bytes + size > KEPT_BYTES_MAX) {
        mem_free(memory);
        return;
    }
    struct free_buffer *buffer = (struct free_buffer *)memory;
    buffer->next = free_by_class[class];
    free_by_class[class] = buffer;
    kept_bytes += size;
}

struct fuse_buf buffer_get_received(void)
{
    used_bytes += RECEIVED_BYTES;
    struct fuse_buf buffer = {0};
    if (free_received_count > 0)
        buffer.mem = free_received[--free_received_count];
    return buffer;
}

void buffer_put_received(struct fuse_buf buffer)
{
    used_bytes -= RECEIVED_BYTES;
    if (buffer.mem != NULL && free_received_count < RECEIVED_KEPT_MAX)
        free_received[free_received_count++] = buffer.mem;
    else
        free(buffer.mem); /* libfuse's malloc */
}

size_t buffer_used_bytes(void)
{
    return used_bytes;
}
