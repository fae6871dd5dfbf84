/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/admin/methods.h"
#include "blockd/node.h"
#include "blockd/pools.h"
#include "common/mem.h"

static int read_code(struct admin_call *call, const char *text, struct pool *pool)
{
    if (code_parse(text, &pool->code) == 0)
        return 0;
    call->error =
        mem_printf("'%.100s' is not a code: K+M is, with K from 1 to 16 data shards and M "
                   "from 0 to 4 more, for example 4+2, or 1+2 for three copies",
            text);
    return -EINVAL;
}

/* The defaults of what was not given depend on the code. */
static int read_pool(struct admin_call *call, struct pool *pool)
{
    struct admin_params *params = &call->params;
    const char *name = admin_params_name(params, "name", ADMIN_REQUIRED);
    const char *code = admin_params_text(params, "code", ADMIN_REQUIRED, 128);
    uint64_t shards_min = admin_params_number(params, "min_shards", ADMIN_OPTIONAL, 1, 20, 0);
    const char *domain = admin_params_text(params, "domain", ADMIN_OPTIONAL, 16);
    const char *class_name =
        admin_params_text(params, "class", ADMIN_OPTIONAL, sizeof(pool->data_class));
    const char *log_class =
        admin_params_text(params, "log_class", ADMIN_OPTIONAL, sizeof(pool->log_class));
    int r = admin_params_end(params, &call->error);
    if (r == 0)
        r = read_code(call, code, pool);
    if (r < 0)
        return r;
    strcpy(pool->name, name);
    strcpy(pool->data_class, class_name ? class_name : "");
    strcpy(pool->log_class, log_class ? log_class : pool->data_class);
    unsigned k = pool->code.k, m = pool->code.m;
    pool->shards_min = shards_min ? (unsigned)shards_min : k + (m > 0);
    pool->log_copies_min = m > 0 ? 2 : 1;
    if (pool->shards_min < k || pool->shards_min > k + m) {
        call->error = mem_printf("--min-shards of code %u+%u is from %u to %u", k, m, k, k + m);
        return -EINVAL;
    }
    if (domain && failure_domain_parse(domain, &pool->domain) < 0) {
        call->error = mem_printf("'%s' is not a failure domain: disk, node and rack are", domain);
        return -EINVAL;
    }
    return 0;
}

int method_pool_create(struct admin_call *call)
{
    struct node *node = call->ctx;
    /* With several nodes a pool has to survive one of them. */
    bool cluster = members_all(node->members)->next->next != members_all(node->members);
    struct pool pool = {.domain = cluster ? DOMAIN_NODE : DOMAIN_DISK};
    int r = read_pool(call, &pool);
    return r < 0 ? r : pools_create(node->store, node->disks, &pool, &call->error);
}

int method_pool_delete(struct admin_call *call)
{
    struct node *node = call->ctx;
    const char *name = admin_params_name(&call->params, "name", ADMIN_REQUIRED);
    int r = admin_params_end(&call->params, &call->error);
    return r < 0 ? r : pools_delete(node->store, name, &call->error);
}

static json_t *pool_json(struct node *node, const struct pool *pool)
{
    struct pools_space space;
    char code[16];
    pools_space(pool, node->disks, &space);
    snprintf(code, sizeof(code), "%u+%u", pool->code.k, pool->code.m);
    return json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:i}", "name", pool->name,
        "code", code, "domain", failure_domain_name(pool->domain), "min_shards",
        (int)pool->shards_min, "class", pool->data_class, "log_class", pool->log_class,
        "size_bytes", (json_int_t)space.size_bytes, "free_bytes", (json_int_t)space.free_bytes,
        "raw_size_bytes", (json_int_t)space.raw_size_bytes, "raw_free_bytes",
        (json_int_t)space.raw_free_bytes, "disks", (int)space.disks);
}

int admin_pools_json(struct node *node, json_t **ret_pools)
{
    struct pool *pools;
    unsigned count;
    int r = pools_list(node->store, &pools, &count);
    if (r < 0)
        return r;
    json_t *array = json_array();
    for (unsigned i = 0; i < count; i++)
        json_array_append_new(array, pool_json(node, &pools[i]));
    mem_free(pools);
    *ret_pools = array;
    return 0;
}

int method_pool_list(struct admin_call *call)
{
    json_t *pools;
    int r = admin_params_end(&call->params, &call->error);
    if (r < 0)
        return r;
    r = admin_pools_json(call->ctx, &pools);
    if (r < 0)
        return admin_fail(call, r, "the store does not list the pools");
    call->result = json_pack("{s:o}", "pools", pools);
    return 0;
}
