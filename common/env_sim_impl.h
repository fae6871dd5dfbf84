/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the simulated env share; nobody else includes it.
 * env_sim.c: the loop, events, trace; env_sim_node.c: machines, nodes, clocks, crashes;
 * env_sim_media.c: pages, what is durable, cuts; env_sim_disk.c: disks, faults, images;
 * env_sim_io.c: files and operations; env_sim_net.c: links, packets; env_sim_stream.c: the env
 * calls on streams.
 *
 * All of it lives outside the nodes' memory (plain calloc), since it outlives them.
 */
#pragma once

#include "common/env_impl.h"
#include "common/env_sim.h"

struct sim_node;

void *sim_zalloc(size_t len_bytes);
char *sim_strdup(const char *text);

/* --- Events ------------------------------------------------------------- */

/* Embedded, one shot. Events of a node that is paused wait for its end. `node` NULL: of nobody. */
struct sim_event {
    uint64_t at_ns, order;
    unsigned heap_index; /* 1-based; 0 = not armed */
    struct sim_node *node;
    void (*fire)(struct sim_event *event);
};
void sim_event_arm(struct sim *sim, struct sim_event *event, uint64_t at_ns);
void sim_event_cancel(struct sim *sim, struct sim_event *event);

enum {
    SIM_RING_EVENTS = 64,
};
struct sim_trace_entry {
    uint64_t at_ns, a, b;
    const char *what;
};

/* The addresses of `what` do not enter the hash, the text does (V5). */
void sim_trace_node(
    struct sim *sim, struct sim_node *node, const char *what, uint64_t a, uint64_t b);
uint64_t sim_hash(uint64_t hash, const void *buf, size_t len_bytes);

/* --- Pages -------------------------------------------------------------- */

struct sim_block {
    unsigned refs;
    uint8_t bytes[SIM_PAGE_BYTES];
};

/* A volatile write of one page. */
struct sim_version {
    struct sim_version *newer;
    uint64_t number; /* of the write, in order of completion */
    uint32_t page_in_write;
    bool doomed;    /* V2 */
    bool under_way; /* never completed, not in `current`; only in images and during a cut */
    struct sim_block *block;
};

/* NULL blocks are zeros. */
struct sim_page {
    struct sim_block *current;
    struct sim_block *durable;  /* means something only while there are versions */
    struct sim_version *oldest; /* NULL = all durable */
    uint64_t dirty_index;       /* in media->dirty, while there are versions */
};

struct sim_media {
    uint64_t page_count;
    struct sim_page **groups; /* of 512 pages; NULL = zeros */
    uint64_t *dirty;          /* numbers of the pages with versions */
    uint64_t dirty_count, dirty_capacity;
};
void sim_media_init(struct sim_media *media, uint64_t page_count);
void sim_media_fini(struct sim_media *media);
void sim_media_copy(struct sim_media *ret_media, const struct sim_media *media);
void sim_media_resize(struct sim_media *media, uint64_t page_count);
void sim_media_read(const struct sim_media *media, uint64_t page, void *buf);
/* One page of write `number`. `sectors`: those that get there (bit 0 the first). */
void sim_media_write(struct sim_media *media, uint64_t page, const void *buf, uint64_t number,
    uint32_t page_in_write, uint8_t sectors, bool durable);
void sim_media_add_under_way(struct sim_media *media, uint64_t page, const void *buf,
    uint64_t number, uint32_t page_in_write);
void sim_media_drop_under_way(struct sim_media *media);
/* A sync that covers writes up to `number` completed, or failed (V2). */
void sim_media_sync(struct sim_media *media, uint64_t number);
void sim_media_doom(struct sim_media *media, uint64_t number);
void sim_media_cut(struct sim_media *media, enum sim_cut_mode mode, struct rng *rng);
/* The largest number of a volatile write, 0 if there is none. */
uint64_t sim_media_number_max(const struct sim_media *media);
void sim_media_flip(struct sim_media *media, uint64_t off_bytes, unsigned bit);

/* --- Machines, nodes, the whole ----------------------------------------- */

struct sim_clock {
    uint64_t virtual_ns, node_ns; /* a moment both know */
    int32_t drift_ppm;
    uint64_t suspended_ns;
    int64_t realtime_off_ns;
};

struct sim_machine {
    struct list link;
    struct sim *sim;
    unsigned index; /* from 1 */
    char *name;
    char address[16];
    bool up;
    unsigned boots;
    uint8_t boot_id[16];
    struct sim_clock clock;
    struct list disks;
    struct list nodes;
    uint64_t asked_ns, answer_ns; /* of sim_clock_virtual_ns; asked_ns 0 = none */
};

struct sim_node {
    struct env env; /* first: the env is the node */
    struct sim *sim;
    struct sim_machine *machine;
    char *name;
    struct list link, machine_link;
    struct rng rng;
    bool up;
    bool crash_wanted, cut_wanted; /* by one of its own fibers */
    enum sim_cut_mode cut_mode;
    uint64_t paused_until_ns;
    struct list files, ios, waits; /* sim_file, sim_io, sim_wait */
    struct list streams, listeners;
    struct fiber_queue signal_queue;
    int signal_number;
    struct sim_trace_entry ring[SIM_RING_EVENTS];
    uint64_t ring_count;
};

struct sim {
    struct sim_options options;
    uint64_t now_ns;
    struct sim_event **heap; /* 1-based */
    unsigned heap_count, heap_capacity;
    uint64_t event_order;
    struct list machines, nodes, timed_calls;
    unsigned machine_count;
    struct rng sched_rng, disk_rng, net_rng, test_rng;
    uint64_t trace_hash;
    uint64_t io_number;    /* writes and syncs, for the hook */
    uint64_t write_number; /* completed writes */
    void (*io_hook)(void *ctx, struct sim_io_point *point);
    void *io_hook_ctx;
    struct list links, conns;
    uint64_t conn_count;
    unsigned next_port;
};

static inline struct sim_node *sim_node_of(const struct env *env)
{
    return (struct sim_node *)env;
}

uint64_t sim_clock_now_ns(const struct sim_machine *machine);
/* The virtual time at which the machine's clock first shows `node_ns`. */
uint64_t sim_clock_virtual_ns(struct sim_machine *machine, uint64_t node_ns);

/* Suspends the calling fiber for `duration_ns` of virtual time; then runs `fn(arg)` (may be NULL)
 * in the loop. */
MAY_SUSPEND void sim_delay(
    struct sim_node *node, uint64_t duration_ns, void (*fn)(void *arg), void *arg);

extern const struct env_ops sim_env_ops;

/* Crashes that fibers wanted for their own node. */
void sim_nodes_do_wanted(struct sim *sim);
void sim_node_free(struct sim_node *node);
void sim_machine_free(struct sim_machine *machine);
void sim_point_apply(struct sim_io_point *point);

/* env_sim_io.c, env_sim_disk.c */
MAY_SUSPEND int sim_file_open(struct env *env, const char *path, unsigned flags,
    uint64_t size_bytes, struct env_file **ret_file);
void sim_disk_node_gone(struct sim_node *node, bool power);
void sim_disks_power_cut(struct sim_machine *machine, enum sim_cut_mode mode);
void sim_disks_free(struct sim_machine *machine);

/* env_sim_net.c, env_sim_stream.c */
MAY_SUSPEND int sim_listen(
    struct env *env, const char *address, unsigned mode, struct env_listener **ret_listener);
MAY_SUSPEND int sim_accept(struct env_listener *listener, struct env_stream **ret_stream);
void sim_listener_close(struct env_listener *listener);
const char *sim_listener_address(const struct env_listener *listener);
MAY_SUSPEND int sim_connect(
    struct env *env, const char *address, uint64_t deadline_ns, struct env_stream **ret_stream);
MAY_SUSPEND int64_t sim_recv(
    struct env_stream *stream, void *buf, size_t len_bytes, uint64_t deadline_ns);
MAY_SUSPEND int sim_send(
    struct env_stream *stream, struct iovec *iov, unsigned iov_count, uint64_t deadline_ns);
void sim_stream_shutdown(struct env_stream *stream);
void sim_stream_close(struct env_stream *stream);
enum env_peer_state sim_stream_peer_state(const struct env_stream *stream);
const char *sim_stream_peer(const struct env_stream *stream);
void sim_net_node_gone(struct sim_node *node, bool power);
void sim_net_machine_up(struct sim_machine *machine);
void sim_net_free(struct sim *sim);
