/* SPDX-License-Identifier: Apache-2.0
 *
 * Mounts, then runs the one loop that everything shares:
 *
 *   /dev/fuse --> ops.c --> request.c --> session.c --> link.c --> blockd
 *       ^------------------- replies -------------------------------+
 *
 * A request is replied to from the completion of its NBD command; no thread waits for one.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <syslog.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "common/admin_client.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "fuse/buffer.h"
#include "fuse/mount.h"
#include "fuse/ops.h"
#include "fuse/options.h"
#include "fuse/volume.h"

/* Requests hold at most about this much; beyond it /dev/fuse is left alone until some are done. */
#define MEMORY_BYTES_MAX (256u << 20)
/* Requests taken from the kernel in one turn. */
#define RECEIVE_BATCH 64
/* How long the end waits for blockd: it is there / it is not. */
#define DRAIN_LIMIT_MS 60000
#define DRAIN_LIMIT_DOWN_MS 5000

static struct mount *signal_mount; /* for the signal source, which has no other way to it */
static unsigned signals_seen;

/* --- /dev/fuse -------------------------------------------------------------------------------- */

struct fuse_buf mount_take_received(struct mount *mount)
{
    CHECK(!mount->received_taken);
    mount->received_taken = true;
    return mount->received;
}

static bool receive_one(struct mount *mount)
{
    int n = fuse_session_receive_buf(mount->fuse, &mount->received);
    if (n == -EINTR)
        return true;
    if (n <= 0) {
        if (n != 0 && n != -EAGAIN) {
            log_error("cannot read /dev/fuse: %s", strerror(-n));
            fuse_session_exit(mount->fuse);
        }
        return false;
    }
    mount->received_taken = false;
    fuse_session_process_buf(mount->fuse, &mount->received);
    if (mount->received_taken)
        mount->received = buffer_get_received();
    return true;
}

static void device_ready(struct loop_source *source, uint32_t events)
{
    struct mount *mount = container_of(source, struct mount, device);
    for (int i = 0; i < RECEIVE_BATCH; i++) {
        if (buffer_used_bytes() > MEMORY_BYTES_MAX) {
            mount->paused = true;
            loop_unwatch(mount->loop, source);
            return;
        }
        /* With one request under way its caller is likely to wait for it: looking for a second
         * would be a wasted system call. */
        if (!receive_one(mount) || mount->requests <= 1)
            return;
    }
}

/* --- Signals ---------------------------------------------------------------------------------- */

static void signal_ready(struct loop_source *source, uint32_t events)
{
    struct signalfd_siginfo info;
    if (read(source->fd, &info, sizeof(info)) != sizeof(info))
        return;
    log_info("signal %u: unmounting", info.ssi_signo);
    fuse_session_exit(signal_mount->fuse);
    if (++signals_seen > 1) {
        log_warn("second signal: ending without waiting for requests");
        fuse_session_unmount(signal_mount->fuse);
        _exit(1);
    }
}

static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    /* Before the first thread, which inherits it. */
    CHECK(sigprocmask(SIG_BLOCK, set, NULL) == 0);
    signal(SIGPIPE, SIG_IGN);
}

/* --- Log -------------------------------------------------------------------------------------- */

static void log_to_syslog(void *ctx, enum log_level level, const char *line)
{
    static const int priorities[] = {
        [LOG_LEVEL_ERROR] = LOG_ERR,
        [LOG_LEVEL_WARN] = LOG_WARNING,
        [LOG_LEVEL_INFO] = LOG_INFO,
        [LOG_LEVEL_DEBUG] = LOG_DEBUG,
    };
    syslog(priorities[level], "%s", line);
}

static void libfuse_log(enum fuse_log_level level, const char *format, va_list args)
{
    char text[512];
    vsnprintf(text, sizeof(text), format, args);
    text[strcspn(text, "\n")] = 0;
    log_at(level <= FUSE_LOG_ERR      ? LOG_LEVEL_ERROR
           : level <= FUSE_LOG_NOTICE ? LOG_LEVEL_WARN
                                      : LOG_LEVEL_INFO,
        "%s", text);
}

/* --- Start ------------------------------------------------------------------------------------ */

static int check_mountpoint(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        int error = errno;
        fprintf(stderr, "holdfast-fuse: %s: %s%s\n", path, strerror(error),
            error == ENOTCONN ? "; a dead mount is there: fusermount3 -uz it first" : "");
        return -error;
    }
    if (!S_ISDIR(st.st_mode)) {
        fprintf(stderr, "holdfast-fuse: %s: not a directory\n", path);
        return -ENOTDIR;
    }
    return 0;
}

/* A wrong path should fail here and not hang the first ls. */
static int check_blockd(const struct options *options)
{
    struct admin_client *client = NULL;
    json_t *result = NULL;
    char *text = NULL;
    int r = admin_client_open(options->admin_path, &client);
    if (r < 0) {
        fprintf(stderr, "holdfast-fuse: cannot reach blockd at admin socket %s: %s\n%s\n",
            options->admin_path, strerror(-r),
            r == -EACCES
                ? "Its owner or root may."
                : "Is blockd running? Another socket: -o admin=PATH. To mount now and wait "
                  "for it: -o wait");
        return r;
    }
    r = admin_client_call(client, "volume.list", NULL, 10000, NULL, NULL, &result, &text);
    if (r < 0)
        fprintf(stderr, "holdfast-fuse: %s\n", text);
    free(text);
    json_decref(result);
    admin_client_close(client);
    if (r == 0 && access(options->nbd_path, W_OK) < 0) {
        r = -errno;
        fprintf(stderr, "holdfast-fuse: NBD socket %s: %s; another one: -o nbd=PATH\n",
            options->nbd_path, strerror(-r));
    }
    return r;
}

static struct mount *mount_new(const struct options *options)
{
    struct mount *mount = NEW(struct mount);
    mount->uid = options->uid;
    mount->gid = options->gid;
    mount->file_mode = options->file_mode;
    mount->started = time(NULL);
    mount->session_config = (struct session_config){.nbd_path = options->nbd_path,
        .connections = options->connections,
        .timeout_ms = (int64_t)options->timeout_s * 1000};
    list_init(&mount->volumes);
    list_init(&mount->waiters);
    return mount;
}

static int mount_attach(struct mount *mount, struct options *options)
{
    struct fuse_args *args = &options->fuse_args;
    if (fuse_opt_add_arg(args, "-ofsname=holdfast,subtype=holdfast,default_permissions") < 0 ||
        (options->debug && fuse_opt_add_arg(args, "-d") < 0))
        return -ENOMEM;
    mount->fuse = fuse_session_new(args, &mount_ops, sizeof(mount_ops), mount);
    if (mount->fuse == NULL)
        return -EINVAL; /* libfuse has said why */
    if (fuse_session_mount(mount->fuse, options->mountpoint) != 0) {
        fuse_session_destroy(mount->fuse);
        return -EIO;
    }
    return 0;
}

/* After the fork: descriptors and threads belong to the process that serves. */
static void mount_start(struct mount *mount, const struct options *options)
{
    mount->loop = loop_new();
    int64_t timeout_ms = (int64_t)options->names_timeout_s * 1000;
    if (options->timeout_s > 0 &&
        (timeout_ms == 0 || options->timeout_s < options->names_timeout_s))
        timeout_ms = (int64_t)options->timeout_s * 1000;
    mount->admin = admin_queue_new(mount->loop, options->admin_path, timeout_ms);
    mount->admin_new_names = admin_queue_new(mount->loop, options->admin_path, timeout_ms);
    mount->received = buffer_get_received();
    mount->device.fd = fuse_session_fd(mount->fuse);
    mount->device.ready = device_ready;
    int flags = fcntl(mount->device.fd, F_GETFL);
    CHECK(flags >= 0 && fcntl(mount->device.fd, F_SETFL, flags | O_NONBLOCK) == 0);
    loop_watch(mount->loop, &mount->device, EPOLLIN);
}

/* --- End -------------------------------------------------------------------------------------- */

static bool all_sessions_up(const struct mount *mount)
{
    list_for_each (it, &mount->volumes) {
        const struct volume *v = list_entry(it, struct volume, link);
        if (v->session != NULL && !session_is_up(v->session))
            return false;
    }
    return true;
}

static bool has_session(const struct mount *mount)
{
    list_for_each (it, &mount->volumes)
        if (list_entry(it, struct volume, link)->session != NULL)
            return true;
    return false;
}

static void drain_timer_fire(struct loop_timer *timer)
{
    /* Only ends the loop's wait: drain() looks at the clock. */
}

/* Replies to what was taken from the kernel, flushes and disconnects. */
static int drain(struct mount *mount)
{
    int64_t start_ms = loop_now_ms();
    struct loop_timer timer;
    loop_timer_init(&timer, drain_timer_fire);
    loop_unwatch(mount->loop, &mount->device);
    bool closing = false;
    for (;;) {
        if (mount->requests == 0 && !closing) {
            closing = true;
            list_for_each_safe (it, &mount->volumes) {
                struct volume *v = list_entry(it, struct volume, link);
                if (v->session != NULL)
                    volume_close_all(v);
            }
        }
        if (closing && !has_session(mount))
            return 0;
        int64_t limit_ms = all_sessions_up(mount) ? DRAIN_LIMIT_MS : DRAIN_LIMIT_DOWN_MS;
        if (loop_now_ms() - start_ms >= limit_ms) {
            log_error("ending with %u requests that blockd has not answered", mount->requests);
            return -EIO;
        }
        loop_timer_set(mount->loop, &timer, 500);
        loop_turn(mount->loop);
    }
}

static int serve(struct mount *mount, const sigset_t *signals)
{
    struct loop_source signal_source = {
        .fd = signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK), .ready = signal_ready};
    CHECK(signal_source.fd >= 0);
    signal_mount = mount;
    loop_watch(mount->loop, &signal_source, EPOLLIN);
    sd_notify(0, "READY=1");
    while (!fuse_session_exited(mount->fuse)) {
        loop_turn(mount->loop);
        if (mount->paused && buffer_used_bytes() < MEMORY_BYTES_MAX / 2) {
            mount->paused = false;
            loop_watch(mount->loop, &mount->device, EPOLLIN);
        }
    }
    sd_notify(0, "STOPPING=1");
    int r = drain(mount);
    fuse_session_unmount(mount->fuse);
    return r;
}

/* The exit code. */
static int run_mount(struct options *options)
{
    if (check_mountpoint(options->mountpoint) < 0 || (!options->wait && check_blockd(options) < 0))
        return 1;
    if (options->fake)
        return 0;

    sigset_t signals;
    block_signals(&signals);
    struct mount *mount = mount_new(options);
    if (mount_attach(mount, options) < 0) {
        mem_free(mount);
        return 1;
    }
    fuse_set_log_func(libfuse_log); /* until here libfuse's words go to stderr as they are */
    if (!options->foreground) {
        openlog("holdfast-fuse", LOG_PID, LOG_DAEMON);
        log_set_output(log_to_syslog, NULL);
    }
    if (fuse_daemonize(options->foreground) != 0) {
        fuse_session_unmount(mount->fuse);
        return 1;
    }
    mount_start(mount, options);
    log_info("volumes of %s are at %s", options->admin_path, options->mountpoint);
    return serve(mount, &signals) < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
    struct options options;
    if (options_parse(argc, argv, &options) < 0)
        return 2;
    /* Large buffers go back to the system when a burst is over; buffer.c keeps what a steady load
     * needs. (glibc would move the limit up and keep the burst's memory.) */
    mallopt(M_MMAP_THRESHOLD, 512 << 10);
    int code = 0;
    if (options.help)
        options_print_help();
    else if (options.version)
        printf("holdfast-fuse %s (libfuse %s)\n", HOLDFAST_VERSION, fuse_pkgversion());
    else
        code = run_mount(&options);
    options_free(&options);
    return code;
}
