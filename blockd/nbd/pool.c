/* SPDX-License-Identifier: Apache-2.0
 *
 * A free buffer's first bytes are its list link. Last in, first out: the warm ones go first.
 */
#include "blockd/nbd/pool.h"

#include "common/check.h"
#include "common/mem.h"

#define CLASS_BYTES_MIN 4096ul
#define CLASS_BYTES_MAX (CLASS_BYTES_MIN << (NBD_POOL_CLASSES - 1))

static unsigned class_of(size_t len_bytes)
{
    CHECK(len_bytes > 0 && len_bytes <= CLASS_BYTES_MAX);
    if (len_bytes <= CLASS_BYTES_MIN)
        return 0;
    return 64 - __builtin_clzl(len_bytes - 1) - 12;
}

void nbd_pool_init(struct nbd_pool *pool, uint64_t cached_bytes_max, uint64_t bytes_max)
{
    *pool = (struct nbd_pool){.cached_bytes_max = cached_bytes_max, .bytes_max = bytes_max};
    mem_left_init(&pool->left);
    for (unsigned i = 0; i < NBD_POOL_CLASSES; i++)
        list_init(&pool->free[i]);
}

void nbd_pool_fini(struct nbd_pool *pool)
{
    mem_left_fini(&pool->left);
    CHECK_MSG(pool->used_bytes == 0, "%lu bytes of NBD buffers are still out", pool->used_bytes);
    for (unsigned i = 0; i < NBD_POOL_CLASSES; i++) {
        struct list *link;
        while ((link = list_pop_front(&pool->free[i])))
            mem_free_pages(link, CLASS_BYTES_MIN << i);
    }
}

size_t nbd_pool_bytes(size_t len_bytes)
{
    return CLASS_BYTES_MIN << class_of(len_bytes);
}

/* Gives free buffers back, large ones first, until no more than bytes_max is there. */
static void shrink(struct nbd_pool *pool)
{
    for (unsigned class = NBD_POOL_CLASSES; class -- > 0;) {
        while (pool->used_bytes + pool->cached_bytes > pool->bytes_max) {
            struct list *link = list_pop_front(&pool->free[class]);
            if (!link)
                break;
            pool->cached_bytes -= CLASS_BYTES_MIN << class;
            mem_free_pages(link, CLASS_BYTES_MIN << class);
        }
    }
}

void *nbd_pool_get(struct nbd_pool *pool, size_t len_bytes)
{
    unsigned class = class_of(len_bytes);
    size_t bytes = CLASS_BYTES_MIN << class;
    struct list *link = list_pop_front(&pool->free[class]);
    pool->used_bytes += bytes;
    if (link) {
        pool->cached_bytes -= bytes;
        return link;
    }
    if (pool->cached_bytes > 0 && pool->used_bytes + pool->cached_bytes > pool->bytes_max)
        shrink(pool);
    return mem_alloc_pages(bytes);
}

void nbd_pool_put(struct nbd_pool *pool, void *buf, size_t len_bytes)
{
    unsigned class = class_of(len_bytes);
    size_t bytes = CLASS_BYTES_MIN << class;
    pool->used_bytes -= bytes;
    if (mem_left_take(&pool->left, buf, bytes))
        return;
    if (pool->cached_bytes + bytes > pool->cached_bytes_max ||
        pool->used_bytes + pool->cached_bytes + bytes > pool->bytes_max) {
        mem_free_pages(buf, bytes);
        return;
    }
    pool->cached_bytes += bytes;
    list_push_front(&pool->free[class], buf);
}
