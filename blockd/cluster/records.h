/* SPDX-License-Identifier: Apache-2.0
 *
 * What the coordination store holds, one JSON object a key, each with "version": 1. Unknown members
 * are kept when a record is changed (a newer daemon may have put them there).
 *
 *   holdfast/cluster              cluster UUID, next numbers
 *   holdfast/nodes/<name>         struct node_record
 *   holdfast/disks/<number>       struct disk_record
 *   holdfast/pools/<name>         struct pool
 *   holdfast/names/<name>         volume id (text, hexadecimal)
 *   holdfast/volumes/<id>         struct volume_root
 *   holdfast/purges/<id>          of a deleted volume: disks that have not let go of it yet
 *   holdfast/sessions/<id>        struct session_record; there while its process lives
 */
#pragma once

#include "blockd/disk/shard.h"
#include "common/store.h"

/* Names of pools and volumes: [A-Za-z0-9][A-Za-z0-9._-]*, NUL included. */
#define NAME_BYTES_MAX 128
#define VOLUME_SIZE_BYTES_MAX (1ull << 50)

struct cluster_record {
    struct uuid uuid;
    uint32_t disk_number_next;
};

struct node_record {
    struct uuid uuid;
    char name[64];     /* a name as pools have (name_valid) */
    char address[128]; /* of its RPC server, "tcp:HOST:PORT"; "" (member left out) without one */
    char rack[64];     /* failure domain; "" (member left out) = none */
};

struct disk_record {
    uint32_t number; /* never reused */
    struct uuid uuid;
    char path[512];
    char node[64];
    char class_name[16];
    enum disk_state state; /* DISK_IN or DISK_OUT; the others are of the moment */
};

/* A process that serves (members.h). The record's node is known by name; what else it says is for
 * whoever judges whether that is a predecessor of its own, and for people. */
struct session_record {
    uint64_t id; /* random, never 0 */
    char node[64];
    char address[128]; /* of its RPC server, "" on a node without one */
    uint8_t boot_id[16];
    uint64_t incarnation; /* of the process */
    char software[32];    /* its version, for people */
};

enum failure_domain { DOMAIN_DISK, DOMAIN_NODE, DOMAIN_RACK };

struct pool {
    char name[NAME_BYTES_MAX];
    struct shard_code code;  /* data */
    unsigned shards_min;     /* data chunks are never written with fewer; default k+1 (m=0: k) */
    unsigned log_copies_min; /* default 2 (m=0: 1) */
    enum failure_domain domain;
    char data_class[16], log_class[16]; /* "" = any */
};

/* Where one shard is. */
struct shard_place {
    uint32_t disk; /* number; 0 = nowhere (lost or never placed) */
    uint64_t instance;
};

/* Where a chunk of copies is (manifest, log, map pages): code 1+(count-1). */
struct copies_ref {
    uint64_t chunk; /* 0 = none */
    uint8_t count;
    struct shard_place places[CODE_M_MAX + 1];
};

enum volume_state {
    VOLUME_NEW,      /* never opened: no manifest yet */
    VOLUME_OWNED,    /* `owner` serves it, or did until it died */
    VOLUME_RELEASED, /* closed cleanly by `epoch` (S20) */
    VOLUME_DELETING,
    VOLUME_HALTED, /* the store was set back behind its disks (S15): nobody opens it */
};

struct volume_root {
    uint64_t id; /* random, never 0 */
    char name[NAME_BYTES_MAX];
    uint64_t size_bytes; /* multiple of 512 */
    char pool[NAME_BYTES_MAX];
    enum volume_state state;
    uint32_t epoch; /* of the owner; rises with every open */
    char owner[64];
    uint64_t owner_session;
    char successor[64]; /* released for this node; "" = for any (member left out) */
    struct copies_ref manifest;
    /* S6: the last takeover that had only copies on machines that had lost power, so that writes that were not
     * flushed may be lost; 0 = none (members left out). */
    uint32_t loss_epoch;
    uint64_t loss_time_s; /* since 1970 */
    /* Where the log that was open ends, chosen by an owner that could write no manifest: as good as its seal there. Until
     * the next manifest; tail_log 0 = not chosen here (members left out). */
    uint64_t tail_log;
    uint32_t tail_blocks;
    uint64_t revision; /* the store's, of this record as read; not stored */
};

#define KEY_BYTES_MAX 256
#define KEY_PREFIX_NODES "holdfast/nodes/"
#define KEY_PREFIX_DISKS "holdfast/disks/"
#define KEY_PREFIX_POOLS "holdfast/pools/"
#define KEY_PREFIX_NAMES "holdfast/names/"
#define KEY_PREFIX_VOLUMES "holdfast/volumes/"
#define KEY_PREFIX_SESSIONS "holdfast/sessions/"
#define KEY_PREFIX_DELETED "holdfast/deleted/"
/* Keys into `ret_key` (KEY_BYTES_MAX bytes); returned for convenience. */
const char *key_cluster(void);
const char *key_node(const char *name, char *ret_key);
const char *key_disk(uint32_t number, char *ret_key);
const char *key_pool(const char *name, char *ret_key);
const char *key_name(const char *name, char *ret_key);
const char *key_volume(uint64_t id, char *ret_key);
const char *key_purge(uint64_t id, char *ret_key);
const char *key_deleted(uint64_t id, char *ret_key);
const char *key_session(uint64_t session, char *ret_key);

/* JSON text (mem_free). `old_text` (may be NULL) gives unknown members to keep. */
char *cluster_record_encode(const struct cluster_record *record, const char *old_text);
char *node_record_encode(const struct node_record *record, const char *old_text);
char *session_record_encode(const struct session_record *record);
char *disk_record_encode(const struct disk_record *record, const char *old_text);
char *pool_encode(const struct pool *pool, const char *old_text);
char *purge_record_encode(const uint32_t *disks, unsigned count);
char *volume_root_encode(const struct volume_root *root, const char *old_text);
/* -EBADMSG with *ret_error (mem_free) naming the member that is wrong. ret_ untouched then. */
int cluster_record_decode(const char *text, struct cluster_record *ret_record, char **ret_error);
int node_record_decode(const char *text, struct node_record *ret_record, char **ret_error);
int session_record_decode(const char *text, struct session_record *ret_record, char **ret_error);
int disk_record_decode(const char *text, struct disk_record *ret_record, char **ret_error);
int pool_decode(const char *text, struct pool *ret_pool, char **ret_error);
/* *ret_disks: mem_free. */
int purge_record_decode(
    const char *text, uint32_t **ret_disks, unsigned *ret_count, char **ret_error);
int volume_root_decode(const char *text, struct volume_root *ret_root, char **ret_error);

/* "4+2" -> code: k 1..16, m 0..4; -EINVAL. */
int code_parse(const char *text, struct shard_code *ret_code);
bool name_valid(const char *name);
/* "disk", "node", "rack"; -EINVAL. */
int failure_domain_parse(const char *text, enum failure_domain *ret_domain);
const char *failure_domain_name(enum failure_domain domain);
const char *volume_state_name(enum volume_state state);
/* 16 hexadecimal digits, as volume ids are written; -EINVAL. */
int id_parse(const char *text, uint64_t *ret_id);

/* Reads key and decodes; fills ->revision. -ENOENT; -EBADMSG (logged). */
MAY_SUSPEND int volume_root_load(struct store *store, uint64_t id, struct volume_root *ret_root);
/* One transaction: the record must still be at root->revision (0: be absent); on success
 * root->revision is the new one. -ECANCELED otherwise. */
MAY_SUSPEND int volume_root_save(struct store *store, struct volume_root *root);
/* The same in one round trip, and the key of `session` must be absent (0 = no such condition). *text
 * (mem_free) is the record as of root->revision (NULL: absent), as it was loaded or last saved: it
 * has the members that this daemon does not know. */
MAY_SUSPEND int volume_root_load_text(
    struct store *store, uint64_t id, struct volume_root *ret_root, char **text);
MAY_SUSPEND int volume_root_save_unless(
    struct store *store, struct volume_root *root, uint64_t session, char **text);
MAY_SUSPEND int volume_id_by_name(struct store *store, const char *name, uint64_t *ret_id);
/* 1: some process of that node has a session; 0: none has. Asks the store, unlike members.h. */
MAY_SUSPEND int node_session_alive(struct store *store, const char *node);
MAY_SUSPEND int pool_load(struct store *store, const char *name, struct pool *ret_pool);
