/* SPDX-License-Identifier: Apache-2.0
 *
 * All commands: the table (commands.c) and what runs them (cmd_*.c). `run` gives an exit code.
 */
#pragma once

#include "cli/cli.h"

extern const struct command commands[]; /* ends with a noun of NULL */

int cmd_disk_format(struct cli *cli, const struct args *args);
int cmd_disk_add(struct cli *cli, const struct args *args);
int cmd_cluster_init(struct cli *cli, const struct args *args);
int cmd_cluster_join(struct cli *cli, const struct args *args);
int cmd_node_list(struct cli *cli, const struct args *args);
int cmd_node_remove(struct cli *cli, const struct args *args);
int cmd_disk_list(struct cli *cli, const struct args *args);
int cmd_disk_remove(struct cli *cli, const struct args *args);
int cmd_disk_scrub(struct cli *cli, const struct args *args);
int cmd_pool_create(struct cli *cli, const struct args *args);
int cmd_pool_list(struct cli *cli, const struct args *args);
int cmd_pool_delete(struct cli *cli, const struct args *args);
int cmd_volume_create(struct cli *cli, const struct args *args);
int cmd_volume_list(struct cli *cli, const struct args *args);
int cmd_volume_info(struct cli *cli, const struct args *args);
int cmd_volume_resize(struct cli *cli, const struct args *args);
int cmd_volume_rename(struct cli *cli, const struct args *args);
int cmd_volume_delete(struct cli *cli, const struct args *args);
int cmd_volume_flush(struct cli *cli, const struct args *args);
int cmd_volume_move(struct cli *cli, const struct args *args);
int cmd_volume_close(struct cli *cli, const struct args *args);
int cmd_volume_import(struct cli *cli, const struct args *args);
int cmd_volume_export(struct cli *cli, const struct args *args);
int cmd_status(struct cli *cli, const struct args *args);
int cmd_top(struct cli *cli, const struct args *args);
int cmd_version(struct cli *cli, const struct args *args);
