/* SPDX-License-Identifier: Apache-2.0
 *
 * Machines and the processes on them: clocks, life and death. A node that wants to end itself
 * cannot do so while its fiber runs: the wish is kept, the fiber suspends for ever, and the loop
 * does it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env_sim_impl.h"

#define NS_PER_S 1000000000ull
#define REALTIME_START_NS (1800000000ull * NS_PER_S)

/* --- Clocks ------------------------------------------------------------- */

static uint64_t clock_at(const struct sim_clock *clock, uint64_t virtual_ns)
{
    uint64_t passed_ns = virtual_ns - clock->virtual_ns;
    return clock->node_ns + passed_ns + (__int128)passed_ns * clock->drift_ppm / 1000000;
}

uint64_t sim_clock_now_ns(const struct sim_machine *machine)
{
    return clock_at(&machine->clock, machine->sim->now_ns);
}

static uint64_t clock_virtual_ns(const struct sim_machine *machine, uint64_t node_ns)
{
    const struct sim_clock *clock = &machine->clock;
    __int128 wait_ns =
        (__int128)(node_ns - clock->node_ns) * 1000000 / (1000000 + clock->drift_ppm);
    if (wait_ns >= UINT64_MAX / 2)
        return UINT64_MAX;
    uint64_t virtual_ns = clock->virtual_ns + (uint64_t)wait_ns;
    while (clock_at(clock, virtual_ns) >= node_ns)
        virtual_ns--;
    while (clock_at(clock, virtual_ns) < node_ns)
        virtual_ns++;
    return virtual_ns;
}

/* Asked of each node at each step of the loop, mostly for the same moment. */
uint64_t sim_clock_virtual_ns(struct sim_machine *machine, uint64_t node_ns)
{
    if (machine->asked_ns != node_ns || node_ns == 0) {
        bool past = node_ns <= machine->clock.node_ns;
        machine->answer_ns = past ? machine->clock.virtual_ns : clock_virtual_ns(machine, node_ns);
        machine->asked_ns = node_ns;
    }
    return MAX(machine->answer_ns, machine->sim->now_ns);
}

void sim_clock_drift(struct env *node, int32_t ppm)
{
    CHECK(ppm > -500000 && ppm < 500000);
    struct sim_machine *machine = sim_node_of(node)->machine;
    machine->clock.node_ns = sim_clock_now_ns(machine);
    machine->clock.virtual_ns = machine->sim->now_ns;
    machine->clock.drift_ppm = ppm;
    machine->asked_ns = 0;
}

void sim_clock_jump_boottime(struct env *node, uint64_t by_ns)
{
    sim_node_of(node)->machine->clock.suspended_ns += by_ns;
}

void sim_clock_jump_realtime(struct env *node, int64_t by_ns)
{
    sim_node_of(node)->machine->clock.realtime_off_ns += by_ns;
}

static uint64_t node_now_ns(struct env *env)
{
    return sim_clock_now_ns(sim_node_of(env)->machine);
}

static uint64_t node_boottime_ns(struct env *env)
{
    return node_now_ns(env) + sim_node_of(env)->machine->clock.suspended_ns;
}

static uint64_t node_realtime_ns(struct env *env)
{
    struct sim_node *node = sim_node_of(env);
    return REALTIME_START_NS + node->sim->now_ns + node->machine->clock.realtime_off_ns;
}

static void node_random(struct env *env, void *buf, size_t len_bytes)
{
    rng_bytes(&sim_node_of(env)->rng, buf, len_bytes);
}

static void node_boot_id(struct env *env, uint8_t ret_id[16])
{
    memcpy(ret_id, sim_node_of(env)->machine->boot_id, 16);
}

/* --- Waiting ------------------------------------------------------------ */

/* A fiber that waits for a time to pass; on its stack, and on the node's list so that a crash
 * takes the event back. */
struct sim_wait {
    struct sim_event event;
    struct list link;
    struct fiber *fiber;
    void (*fn)(void *arg);
    void *arg;
    bool done;
};

static void wait_fire(struct sim_event *event)
{
    struct sim_wait *wait = container_of(event, struct sim_wait, event);
    if (wait->fn)
        wait->fn(wait->arg);
    wait->done = true;
    fiber_wake(wait->fiber);
}

void sim_delay(struct sim_node *node, uint64_t duration_ns, void (*fn)(void *arg), void *arg)
{
    struct sim_wait wait = {
        .event = {.node = node, .fire = wait_fire}, .fiber = fiber_self(), .fn = fn, .arg = arg};
    CHECK_MSG(wait.fiber, "waited outside a fiber");
    list_push_back(&node->waits, &wait.link);
    sim_event_arm(node->sim, &wait.event, node->sim->now_ns + duration_ns);
    while (!wait.done)
        fiber_suspend();
    list_remove(&wait.link);
}

struct offload {
    int64_t (*fn)(void *arg);
    void *arg;
    int64_t result;
};

static void offload_run(void *arg)
{
    struct offload *offload = arg;
    fiber_set_default_env(NULL); /* as on a thread without env: env and mem calls fail */
    offload->result = offload->fn(offload->arg);
}

static MAY_SUSPEND int64_t node_offload(struct env *env, int64_t (*fn)(void *arg), void *arg)
{
    struct sim_node *node = sim_node_of(env);
    struct offload offload = {.fn = fn, .arg = arg};
    sim_delay(node, rng_between(&node->sim->sched_rng, 5000, 500000), offload_run, &offload);
    sim_trace_node(node->sim, node, "offload", offload.result, 0);
    return offload.result;
}

static MAY_SUSPEND int node_wait_signal(struct env *env)
{
    struct sim_node *node = sim_node_of(env);
    while (node->signal_number == 0)
        fiber_queue_wait(&node->signal_queue);
    int number = node->signal_number;
    node->signal_number = 0;
    return number;
}

void sim_node_signal(struct env *env, int signal_number)
{
    struct sim_node *node = sim_node_of(env);
    if (!node->up)
        return;
    sim_trace_node(node->sim, node, "signal", signal_number, 0);
    node->signal_number = signal_number;
    fiber_queue_wake_one(&node->signal_queue);
}

const struct env_ops sim_env_ops = {
    .now_ns = node_now_ns,
    .boottime_ns = node_boottime_ns,
    .realtime_ns = node_realtime_ns,
    .random = node_random,
    .boot_id = node_boot_id,
    .file_open = sim_file_open,
    .listen = sim_listen,
    .accept = sim_accept,
    .listener_close = sim_listener_close,
    .listener_address = sim_listener_address,
    .connect = sim_connect,
    .recv = sim_recv,
    .send = sim_send,
    .stream_shutdown = sim_stream_shutdown,
    .stream_close = sim_stream_close,
    .stream_peer_state = sim_stream_peer_state,
    .stream_peer = sim_stream_peer,
    .offload = node_offload,
    .wait_signal = node_wait_signal,
};

/* --- Life --------------------------------------------------------------- */

static void machine_boot(struct sim_machine *machine)
{
    char label[64];
    snprintf(label, sizeof(label), "boot %u of machine %u", machine->boots++, machine->index);
    struct rng rng = rng_fork(machine->sim->options.seed, label);
    rng_bytes(&rng, machine->boot_id, sizeof(machine->boot_id));
    machine->clock.virtual_ns = machine->sim->now_ns;
    machine->clock.node_ns = rng_between(&rng, 5 * NS_PER_S, 100000 * NS_PER_S);
    machine->clock.suspended_ns = 0;
    machine->asked_ns = 0;
    machine->up = true;
}

static struct sim_machine *machine_new(struct sim *sim, const char *name)
{
    struct sim_machine *machine = sim_zalloc(sizeof(*machine));
    machine->sim = sim;
    machine->index = ++sim->machine_count;
    machine->name = sim_strdup(name);
    snprintf(machine->address, sizeof(machine->address), "10.0.%u.%u", machine->index / 250 % 250,
        machine->index % 250);
    list_init(&machine->disks);
    list_init(&machine->nodes);
    list_push_back(&sim->machines, &machine->link);
    machine_boot(machine);
    return machine;
}

static struct env *node_new(struct sim_machine *machine, const char *name)
{
    struct sim_node *node = sim_zalloc(sizeof(*node));
    node->sim = machine->sim;
    node->machine = machine;
    node->name = sim_strdup(name);
    node->rng = rng_fork(machine->sim->options.seed, name);
    list_init(&node->files);
    list_init(&node->ios);
    list_init(&node->waits);
    list_init(&node->streams);
    list_init(&node->listeners);
    fiber_queue_init(&node->signal_queue);
    env_init(&node->env, &sim_env_ops);
    node->env.mem_track = true;
    node->env.name = node->name;
    list_push_back(&machine->sim->nodes, &node->link);
    list_push_back(&machine->nodes, &node->machine_link);
    return &node->env;
}

struct env *sim_node_new(struct sim *sim, const char *name)
{
    return node_new(machine_new(sim, name), name);
}

struct env *sim_node_new_beside(struct env *node, const char *name)
{
    return node_new(sim_node_of(node)->machine, name);
}

void sim_node_start(struct env *env, const char *name, fiber_fn *fn, void *arg)
{
    struct sim_node *node = sim_node_of(env);
    CHECK_MSG(!node->crash_wanted && !node->cut_wanted, "%s is about to end", node->name);
    if (!node->machine->up) {
        machine_boot(node->machine);
        sim_trace_node(node->sim, node, "boot", node->machine->boots, 0);
        sim_net_machine_up(node->machine);
    }
    if (!node->up)
        sim_trace_node(node->sim, node, "start", 0, 0);
    node->up = true;
    fiber_spawn_on(env, name, fn, arg);
}

bool sim_node_is_up(const struct env *node)
{
    return sim_node_of(node)->up;
}

const char *sim_node_name(const struct env *node)
{
    return sim_node_of(node)->name;
}

const char *sim_node_address(const struct env *node)
{
    return sim_node_of(node)->machine->address;
}

void sim_node_pause(struct env *env, uint64_t duration_ns)
{
    struct sim_node *node = sim_node_of(env);
    sim_trace_node(node->sim, node, "pause", duration_ns, 0);
    node->paused_until_ns = MAX(node->paused_until_ns, node->sim->now_ns + duration_ns);
}

/* --- Death -------------------------------------------------------------- */

static void node_end(struct sim_node *node, bool power)
{
    if (!node->up)
        return;
    node->up = false;
    node->crash_wanted = node->cut_wanted = false;
    sim_trace_node(node->sim, node, power ? "power cut" : "crash", 0, 0);
    list_for_each_safe (it, &node->waits) { /* they are on the fibers' stacks */
        sim_event_cancel(node->sim, &list_entry(it, struct sim_wait, link)->event);
        list_remove(it);
    }
    sim_disk_node_gone(node, power);
    sim_net_node_gone(node, power);
    fiber_kill_env(&node->env);
    env_fini(&node->env);
    mem_release_all(&node->env);
    fiber_queue_init(&node->signal_queue);
    node->signal_number = 0;
    node->paused_until_ns = 0;
}

static void machine_end(struct sim_machine *machine, enum sim_cut_mode mode)
{
    list_for_each (it, &machine->nodes)
        node_end(list_entry(it, struct sim_node, machine_link), true);
    sim_disks_power_cut(machine, mode);
    machine->up = false;
}

/* true: the caller is a fiber of `node` and must let the loop do it. */
static bool is_own_fiber(const struct sim_node *node)
{
    return fiber_self() && fiber_env() == &node->env;
}

static _Noreturn void wait_for_the_end(void)
{
    for (;;)
        fiber_suspend();
}

void sim_node_crash(struct env *env)
{
    struct sim_node *node = sim_node_of(env);
    if (!is_own_fiber(node)) {
        node_end(node, false);
        return;
    }
    node->crash_wanted = true;
    wait_for_the_end();
}

static bool machine_defer_cut(struct sim_machine *machine, enum sim_cut_mode mode)
{
    list_for_each (it, &machine->nodes) {
        struct sim_node *node = list_entry(it, struct sim_node, machine_link);
        if (is_own_fiber(node)) {
            node->cut_wanted = true;
            node->cut_mode = mode;
            return true;
        }
    }
    return false;
}

void sim_node_power_cut(struct env *env, enum sim_cut_mode mode)
{
    struct sim_machine *machine = sim_node_of(env)->machine;
    if (machine_defer_cut(machine, mode))
        wait_for_the_end();
    machine_end(machine, mode);
}

void sim_power_cut_all(struct sim *sim, enum sim_cut_mode mode)
{
    bool deferred = false;
    list_for_each (it, &sim->machines) {
        struct sim_machine *machine = list_entry(it, struct sim_machine, link);
        if (machine_defer_cut(machine, mode))
            deferred = true;
        else
            machine_end(machine, mode);
    }
    if (deferred)
        wait_for_the_end();
}

void sim_nodes_do_wanted(struct sim *sim)
{
    list_for_each (it, &sim->nodes) {
        struct sim_node *node = list_entry(it, struct sim_node, link);
        if (node->cut_wanted)
            machine_end(node->machine, node->cut_mode);
        else if (node->crash_wanted)
            node_end(node, false);
    }
}

void sim_point_apply(struct sim_io_point *point)
{
    struct sim_node *node = sim_node_of(point->node);
    switch (point->scope) {
    case SIM_SCOPE_NODE:
        node_end(node, false);
        break;
    case SIM_SCOPE_MACHINE:
        machine_end(node->machine, point->mode);
        break;
    case SIM_SCOPE_ALL:
        sim_power_cut_all(node->sim, point->mode);
        break;
    }
}

void sim_node_free(struct sim_node *node)
{
    node_end(node, false);
    env_fini(&node->env);
    mem_release_all(&node->env);
    list_remove(&node->link);
    list_remove(&node->machine_link);
    free(node->name);
    free(node);
}

void sim_machine_free(struct sim_machine *machine)
{
    sim_disks_free(machine);
    list_remove(&machine->link);
    free(machine->name);
    free(machine);
}
