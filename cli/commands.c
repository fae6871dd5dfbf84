/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/commands.h"

#include <stddef.h>

static const struct option_spec disk_format_options[] = {
    {"size", OPTION_SIZE, "SIZE", "make PATH a file of this size [a device or file as it is]"},
    {"class", OPTION_TEXT, "CLASS",
        "what kind of disk it is (ssd, hdd, ...), for pools to choose by"},
    {"force", OPTION_FLAG, NULL, "also if there is data on it, which is lost"},
    {0},
};
static const struct option_spec force_remove_options[] = {
    {"force", OPTION_FLAG, NULL, "also if parts of volumes are on it: they count as lost"},
    {0},
};
static const struct option_spec pool_create_options[] = {
    {"code", OPTION_TEXT, "K+M", "K data shards and M more on as many disks: 4+2, 1+2", true},
    {"min-shards", OPTION_NUMBER, "N",
        "fewest shards that are written while disks are missing [K+1]"},
    {"domain", OPTION_TEXT, "WHAT",
        "what may fail at once: disk, node or rack [disk; node on a cluster]"},
    {"class", OPTION_TEXT, "CLASS", "only disks of this class [all]"},
    {"log-class", OPTION_TEXT, "CLASS", "class of the disks for logs [--class]"},
    {0},
};
static const struct option_spec volume_create_options[] = {
    {"size", OPTION_SIZE, "SIZE", "bytes, a multiple of 512: 20GiB", true},
    {"pool", OPTION_TEXT, "POOL", "where its data goes [the only pool]"},
    {0},
};
static const struct option_spec volume_delete_options[] = {
    {"yes", OPTION_FLAG, NULL, "do not ask"},
    {"force", OPTION_FLAG, NULL, "also while clients are connected to it"},
    {0},
};
static const struct option_spec disk_scrub_options[] = {
    {"node", OPTION_TEXT, "NODE", "the disks of that node [of this one]"},
    {0},
};
static const struct option_spec volume_move_options[] = {
    {"to", OPTION_TEXT, "NODE", "the node that shall serve it"},
    {0},
};
static const struct option_spec volume_import_options[] = {
    {"create", OPTION_FLAG, NULL, "make the volume, which must not exist"},
    {"pool", OPTION_TEXT, "POOL", "make it in this pool (implies --create) [the only pool]"},
    {"size", OPTION_SIZE, "SIZE", "of the volume that is made [the file's size]"},
    {"force", OPTION_FLAG, NULL, "also while clients are connected to the volume"},
    {"raw", OPTION_FLAG, NULL, "import the file's bytes even if they look like qcow2, VMDK, ..."},
    {"nbd", OPTION_TEXT, "ADDRESS", "unix:/PATH, tcp:HOST:PORT or URI [the daemon says]"},
    {"connections", OPTION_NUMBER, "N", "NBD connections, at most 8 [4]"},
    {0},
};
static const struct option_spec volume_export_options[] = {
    {"force", OPTION_FLAG, NULL, "overwrite FILE if it exists"},
    {"nbd", OPTION_TEXT, "ADDRESS", "unix:/PATH, tcp:HOST:PORT or URI [the daemon says]"},
    {"connections", OPTION_NUMBER, "N", "NBD connections, at most 8 [4]"},
    {0},
};
static const struct option_spec top_options[] = {
    {"interval", OPTION_TIME, "TIME", "between two looks: 500ms, 5s [1s]"},
    {"once", OPTION_FLAG, NULL, "one look (of one interval), then exit"},
    {0},
};
static const struct option_spec no_options[] = {{0}};

const struct command commands[] = {
    {"status", NULL, "", "Show the node, its health and what needs attention",
        "Health is 'ok', 'warning' (a disk gave damaged blocks; they are repaired), 'degraded' "
        "(all\n"
        "data is there, with less redundancy than its pool wants) or 'damaged' (some data cannot "
        "be\n"
        "read). The exit code is 0 whatever the health is.",
        "holdfast status\nholdfast status --json | jq -r .health", no_options, cmd_status},
    {"top", NULL, "", "Show what the volumes do: IOPS, MB/s, latency",
        "Refreshes in place on a terminal until ^C; elsewhere it shows one interval. With --json "
        "it\n"
        "prints the counters, which only ever rise while a volume is open. MB are 10^6 bytes.\n"
        "Latencies are the daemon's: from the request received to the answer.",
        "holdfast top\nholdfast top --once --interval 5s", top_options, cmd_top},
    {"cluster", "init", "", "Make a cluster, with this node in it",
        "Needed once, on the first node, where blockd.conf names a store that nodes share ([store] "
        "type\n"
        "= etcd). Refused if the store holds a cluster.",
        "holdfast cluster init", no_options, cmd_cluster_init},
    {"cluster", "join", "", "Take this node into the cluster of its store",
        "Its holdfast-blockd waits for that. It serves volumes from then on, also before it has "
        "disks.",
        "holdfast cluster join", no_options, cmd_cluster_join},
    {"node", "list", "", "List the nodes of the cluster",
        "SINCE is how long a node has been up, or down, as far as this node knows. BOOT and START "
        "change\n"
        "when its machine boots and when its holdfast-blockd starts.",
        "holdfast node list", no_options, cmd_node_list},
    {"node", "remove", "NODE", "Forget a node that is gone",
        "Refused while it is up, or has disks: 'holdfast disk remove' forgets those.",
        "holdfast node remove n3", no_options, cmd_node_remove},
    {"disk", "list", "", "List the disks, of all nodes", NULL, "holdfast disk list", no_options,
        cmd_disk_list},
    {"disk", "format", "PATH", "Make a Holdfast disk of a device or file",
        "A file is written over its whole length, which takes a while. What is in use by a file\n"
        "system or a Holdfast disk already is refused.",
        "holdfast disk format /dev/disk/by-id/nvme-XYZ --class ssd\n"
        "holdfast disk format /srv/holdfast/disk0 --size 100GiB",
        disk_format_options, cmd_disk_format},
    {"disk", "add", "PATH", "Take a formatted disk into use",
        "A disk that was missing is taken back, also from another path, and also one of a node "
        "that "
        "is\n"
        "down and that was carried here. Damage is repaired onto new disks by itself.",
        "holdfast disk add /dev/disk/by-id/nvme-XYZ", no_options, cmd_disk_add},
    {"disk", "remove", "DISK", "Forget a disk",
        "DISK is a number, path or UUID of 'holdfast disk list'. Refused while parts of volumes "
        "are\n"
        "on it.",
        "holdfast disk remove 3\nholdfast disk remove /srv/holdfast/disk3 --force",
        force_remove_options, cmd_disk_remove},
    {"disk", "scrub", "", "Check all data on a node's disks now",
        "Starts it and returns; 'holdfast status' shows how far it is. Damage is repaired.",
        "holdfast disk scrub\nholdfast disk scrub --node n2", disk_scrub_options, cmd_disk_scrub},
    {"pool", "list", "", "List the pools and their space",
        "SIZE and FREE are what volumes can hold, after redundancy.", "holdfast pool list",
        no_options, cmd_pool_list},
    {"pool", "create", "POOL", "Make a pool: how volumes are spread over disks",
        "Code K+M cuts data into K shards and adds M computed ones, each on a disk of its own: "
        "any\n"
        "M disks may fail, and data takes (K+M)/K of its size. 1+M is M+1 copies.",
        "holdfast pool create main --code 4+2\nholdfast pool create fast --code 1+2 --class ssd",
        pool_create_options, cmd_pool_create},
    {"pool", "delete", "POOL", "Delete a pool that no volume uses", NULL,
        "holdfast pool delete old", no_options, cmd_pool_delete},
    {"volume", "list", "", "List the volumes", NULL, "holdfast volume list", no_options,
        cmd_volume_list},
    {"volume", "create", "VOLUME", "Make a volume",
        "It is thin: it takes space as it is written. Names have letters, digits, '.', '_' and "
        "'-'.",
        "holdfast volume create vm1 --size 20GiB --pool main", volume_create_options,
        cmd_volume_create},
    {"volume", "info", "VOLUME", "Show a volume: address, space, health", NULL,
        "holdfast volume info vm1", no_options, cmd_volume_info},
    {"volume", "resize", "VOLUME SIZE", "Make a volume larger",
        "Clients that are connected see it: QEMU after 'virsh blockresize' (docs/OPERATIONS.md).\n"
        "SIZE is the new size; +SIZE adds to the old one. Volumes do not shrink.",
        "holdfast volume resize vm1 40GiB\nholdfast volume resize vm1 +10GiB", no_options,
        cmd_volume_resize},
    {"volume", "rename", "VOLUME NEW_NAME", "Rename a volume",
        "Refused while clients are connected.", "holdfast volume rename vm1 web1", no_options,
        cmd_volume_rename},
    {"volume", "delete", "VOLUME", "Delete a volume and its data",
        "Asks first on a terminal. Space is freed in the background.",
        "holdfast volume delete vm1\nholdfast volume delete vm1 --yes", volume_delete_options,
        cmd_volume_delete},
    {"volume", "import", "VOLUME FILE", "Copy a raw disk image into a volume",
        "FILE is a raw image, a device, or '-' for stdin. The volume must be at least as large; "
        "what\n"
        "it has beyond the image becomes zero. Zeros and holes take no space and little time.",
        "holdfast volume import vm1 disk.img --create --pool main\n"
        "holdfast volume import vm1 disk.img --pool main --size 40GiB\n"
        "qemu-img convert -O raw disk.qcow2 disk.img\n"
        "zstdcat disk.img.zst | holdfast volume import vm1 -",
        volume_import_options, cmd_volume_import},
    {"volume", "export", "VOLUME FILE", "Copy a volume into a raw disk image",
        "FILE is made sparse; '-' is stdout. A volume that is being written to meanwhile gives an\n"
        "image of no single moment: stop its VM first.",
        "holdfast volume export vm1 vm1.img\nholdfast volume export vm1 - | zstd > vm1.img.zst",
        volume_export_options, cmd_volume_export},
    {"volume", "move", "VOLUME", "Let another node serve a volume",
        "Clients stay connected, wherever they are; their requests wait for some milliseconds.\n"
        "Without this it moves to where most of its traffic is.",
        "holdfast volume move vm1 --to n2", volume_move_options, cmd_volume_move},
    {"volume", "flush", "VOLUME", "Make everything written so far durable", NULL,
        "holdfast volume flush vm1", no_options, cmd_volume_flush},
    {"volume", "close", "VOLUME", "Write a volume's log out and close it",
        "It opens again at its next use. Idle volumes close by themselves.",
        "holdfast volume close vm1", no_options, cmd_volume_close},
    {"version", NULL, "", "Show the version of this command and of the daemon", NULL,
        "holdfast version", no_options, cmd_version},
    {0},
};
