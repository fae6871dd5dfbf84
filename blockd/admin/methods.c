/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/admin/methods.h"

#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/store.h"

const struct admin_method admin_methods[] = {
    {"cluster.init", method_cluster_init},
    {"cluster.join", method_cluster_join},
    {"disk.add", method_disk_add},
    {"disk.format", method_disk_format},
    {"disk.list", method_disk_list},
    {"disk.remove", method_disk_remove},
    {"disk.scrub", method_disk_scrub},
    {"node.list", method_node_list},
    {"node.remove", method_node_remove},
    {"pool.create", method_pool_create},
    {"pool.delete", method_pool_delete},
    {"pool.list", method_pool_list},
    {"shard.damaged", method_shard_damaged},
    {"shutdown", method_shutdown},
    {"stats", method_stats},
    {"status", method_status},
    {"volume.close", method_volume_close},
    {"volume.create", method_volume_create},
    {"volume.delete", method_volume_delete},
    {"volume.flush", method_volume_flush},
    {"volume.info", method_volume_info},
    {"volume.list", method_volume_list},
    {"volume.move", method_volume_move},
    {"volume.rename", method_volume_rename},
    {"volume.resize", method_volume_resize},
};
const unsigned admin_method_count = ARRAY_SIZE(admin_methods);

int admin_fail(struct admin_call *call, int error, const char *doing)
{
    if (!call->error)
        call->error = mem_printf("%s: %s", doing, store_strerror(error));
    return error;
}
