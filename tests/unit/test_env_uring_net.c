/* SPDX-License-Identifier: Apache-2.0 */
#include "uring_run.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/mem.h"

#define MS 1000000ull
#define BIG_BYTES (8u << 20)

static struct env_listener *listener;
static struct fiber_group group;
static const char *listen_address;

/* Sends back what comes until the peer closes. */
static void echo(void *arg)
{
    struct env_stream *stream = arg;
    char *buf = mem_alloc(100000);
    int64_t n;
    while ((n = env_recv(stream, buf, 100000, UINT64_MAX)) > 0) {
        struct iovec iov[2] = {{buf, n / 2}, {buf + n / 2, n - n / 2}};
        if (env_send(stream, iov, 2, UINT64_MAX) < 0)
            break;
    }
    mem_free(buf);
    env_stream_close(stream);
    fiber_group_done(&group, 0);
}

static void accept_loop(void *arg)
{
    struct env_stream *stream;
    int rc;
    while ((rc = env_accept(listener, &stream)) == 0) {
        fiber_group_add(&group, 1);
        fiber_spawn("echo", echo, stream);
    }
    CHECK(rc == -ECANCELED);
    fiber_group_done(&group, 0);
}

struct sender {
    struct env_stream *stream;
    char *data;
    struct fiber_group group;
};

static void send_big(void *arg)
{
    struct sender *s = arg;
    struct iovec iov[9];
    for (int i = 0; i < 8; i++)
        iov[i] = (struct iovec){s->data + i * (BIG_BYTES / 8), BIG_BYTES / 8};
    iov[8] = (struct iovec){NULL, 0};
    fiber_group_done(&s->group, env_send(s->stream, iov, 9, UINT64_MAX));
}

/* None of this process's TCP sockets paces. */
static void check_congestion_control(void)
{
    for (int fd = 3; fd < 64; fd++) {
        char name[16] = "";
        socklen_t len = sizeof(name);
        if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len) == 0)
            CHECK_MSG(strncmp(name, "bbr", 3) != 0, "socket %d: %s", fd, name);
    }
}

static void client(void *arg)
{
    struct sender s = {.data = mem_alloc(BIG_BYTES)};
    char *back = mem_alloc(BIG_BYTES);
    for (unsigned i = 0; i < BIG_BYTES; i++)
        s.data[i] = (char)(i * 31 + i / 65536);
    CHECK(env_connect(env_listener_address(listener), UINT64_MAX, &s.stream) == 0);
    CHECK(strncmp(env_stream_peer(s.stream), "unix:pid ", 9) == 0 ||
          strcmp(env_stream_peer(s.stream), env_listener_address(listener)) == 0);
    check_congestion_control();
    fiber_group_init(&s.group);
    fiber_group_add(&s.group, 1);
    fiber_spawn("send", send_big, &s);
    for (uint64_t got = 0; got < BIG_BYTES;) {
        int64_t n = env_recv(s.stream, back + got, BIG_BYTES - got, UINT64_MAX);
        CHECK(n > 0);
        got += n;
    }
    CHECK(fiber_group_wait(&s.group) == 0);
    CHECK(memcmp(s.data, back, BIG_BYTES) == 0);
    env_stream_close(s.stream);
    mem_free(s.data);
    mem_free(back);
    fiber_group_done(&group, 0);
}

static int echo_service(void *arg)
{
    fiber_group_init(&group);
    CHECK(env_listen(listen_address, 0600, &listener) == 0);
    fiber_group_add(&group, 1);
    fiber_spawn("accept", accept_loop, NULL);
    struct fiber_group clients = group;
    fiber_group_add(&group, 3);
    for (int i = 0; i < 3; i++)
        fiber_spawn("client", client, NULL);
    while (group.pending > clients.pending)
        env_sleep_ns(MS);
    env_listener_close(listener);
    CHECK(fiber_group_wait(&group) == 0);
    return 0;
}

static void echo_over_unix(void **state)
{
    listen_address = scratch_path("unix:", "sock");
    assert_int_equal(run_in_env(echo_service, (struct env_uring_options){0}), 0);
    assert_int_equal(access(listen_address + 5, F_OK), -1); /* removed by close */
}

static void echo_over_tcp(void **state)
{
    listen_address = "tcp:127.0.0.1:0";
    assert_int_equal(run_in_env(echo_service, (struct env_uring_options){0}), 0);
    assert_int_equal(run_in_env(echo_service, (struct env_uring_options){.ring_entries = 1}), 0);
}

static void echo_over_tcp_v6(void **state)
{
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (fd < 0)
        skip();
    close(fd);
    listen_address = "tcp:[::1]:0";
    assert_int_equal(run_in_env(echo_service, (struct env_uring_options){0}), 0);
}

static struct env_stream *pair_near, *pair_far;

static void accept_one(void *arg)
{
    CHECK(env_accept(listener, &pair_far) == 0);
    fiber_group_done(&group, 0);
}

static void make_pair(const char *address)
{
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    CHECK(env_listen(address, 0600, &listener) == 0);
    fiber_spawn("accept", accept_one, NULL);
    CHECK(env_connect(env_listener_address(listener), env_now_ns() + 60000 * MS, &pair_near) == 0);
    CHECK(fiber_group_wait(&group) == 0);
}

static void close_pair(void)
{
    env_stream_close(pair_near);
    env_stream_close(pair_far);
    env_listener_close(listener);
}

static int deadlines(void *arg)
{
    char buf[16];
    make_pair(listen_address);
    uint64_t start_ns = env_now_ns();
    CHECK(env_recv(pair_near, buf, 16, start_ns + 20 * MS) == -ETIMEDOUT);
    CHECK(env_now_ns() - start_ns >= 20 * MS && env_now_ns() - start_ns < 20000 * MS);
    CHECK(env_recv(pair_near, buf, 16, 1) == -ETIMEDOUT);
    /* The stream is still good. */
    struct iovec iov = {(char *)"abc", 3};
    CHECK(env_send(pair_far, &iov, 1, UINT64_MAX) == 0);
    CHECK(env_recv(pair_near, buf, 16, env_now_ns() + 60000 * MS) == 3);
    CHECK(memcmp(buf, "abc", 3) == 0);
    /* Nobody reads: the send cannot end. */
    char *big = mem_zalloc(1, 64u << 20);
    iov = (struct iovec){big, 64u << 20};
    CHECK(env_send(pair_near, &iov, 1, env_now_ns() + 50 * MS) == -ETIMEDOUT);
    mem_free(big);
    close_pair();
    return 0;
}

static void deadlines_end_waits(void **state)
{
    listen_address = scratch_path("unix:", "sock");
    assert_int_equal(run_in_env(deadlines, (struct env_uring_options){0}), 0);
    listen_address = "tcp:127.0.0.1:0";
    assert_int_equal(run_in_env(deadlines, (struct env_uring_options){0}), 0);
}

static void shut_after_10ms(void *arg)
{
    env_sleep_ns(10 * MS);
    env_stream_shutdown(pair_near);
}

static int shutdowns(void *arg)
{
    char buf[16];
    make_pair(listen_address);
    fiber_spawn("shut", shut_after_10ms, NULL);
    CHECK(env_recv(pair_near, buf, 16, UINT64_MAX) == -ECONNRESET);
    CHECK(env_recv(pair_near, buf, 16, UINT64_MAX) == -ECONNRESET);
    struct iovec iov = {(char *)"abc", 3};
    CHECK(env_send(pair_near, &iov, 1, UINT64_MAX) == -ECONNRESET);
    CHECK(env_recv(pair_far, buf, 16, UINT64_MAX) == 0); /* the peer sees an orderly end */
    int rc; /* tcp answers the first send with a reset, which the next one meets */
    do {
        iov = (struct iovec){(char *)"abc", 3};
        rc = env_send(pair_far, &iov, 1, UINT64_MAX);
    } while (rc == 0);
    CHECK(rc == -EPIPE || rc == -ECONNRESET);
    close_pair();

    make_pair(listen_address);
    fiber_spawn("shut", shut_after_10ms, NULL);
    char *big = mem_zalloc(1, 64u << 20);
    iov = (struct iovec){big, 64u << 20};
    CHECK(env_send(pair_near, &iov, 1, UINT64_MAX) == -ECONNRESET);
    mem_free(big);
    close_pair();
    return 0;
}

static void shutdown_ends_suspended_receivers_and_senders(void **state)
{
    listen_address = scratch_path("unix:", "sock");
    assert_int_equal(run_in_env(shutdowns, (struct env_uring_options){0}), 0);
    listen_address = "tcp:127.0.0.1:0";
    assert_int_equal(run_in_env(shutdowns, (struct env_uring_options){0}), 0);
}

static int peer_states(void *arg)
{
    bool tcp = strncmp(listen_address, "tcp:", 4) == 0;
    char buf[16];
    make_pair(listen_address);
    struct iovec iov = {(char *)"abc", 3};
    CHECK(env_send(pair_far, &iov, 1, UINT64_MAX) == 0);
    CHECK(env_stream_peer_state(pair_near) == ENV_PEER_OPEN);
    env_stream_shutdown(pair_far);
    for (unsigned i = 0; i < 20000 && env_stream_peer_state(pair_near) == ENV_PEER_OPEN; i++)
        env_sleep_ns(MS);
    CHECK(env_stream_peer_state(pair_near) == (tcp ? ENV_PEER_FINISHED : ENV_PEER_GONE));
    CHECK(env_recv(pair_near, buf, 16, UINT64_MAX) == 3); /* what was sent before is there */
    CHECK(env_recv(pair_near, buf, 16, UINT64_MAX) == 0);
    env_stream_shutdown(pair_near);
    CHECK(env_stream_peer_state(pair_near) == ENV_PEER_GONE);
    close_pair();
    return 0;
}

static void the_state_of_the_peer_is_seen_without_reading(void **state)
{
    listen_address = scratch_path("unix:", "sock");
    assert_int_equal(run_in_env(peer_states, (struct env_uring_options){0}), 0);
    listen_address = "tcp:127.0.0.1:0";
    assert_int_equal(run_in_env(peer_states, (struct env_uring_options){0}), 0);
}

static int socket_files(void *arg)
{
    const char *address = scratch_path("unix:", "sock"), *path = address + 5;
    struct env_listener *first, *second;
    struct stat st;
    CHECK(env_listen(address, 0640, &first) == 0);
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0640);
    CHECK(env_listen(address, 0640, &second) == -EADDRINUSE);
    env_listener_close(first);
    CHECK(stat(path, &st) < 0);

    /* What a killed process leaves behind. */
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 1) == 0);
    close(fd);
    CHECK(stat(path, &st) == 0);
    CHECK(env_listen(address, 0600, &second) == 0);
    env_listener_close(second);

    /* Something else is never removed. */
    FILE *f = fopen(path, "w");
    fclose(f);
    CHECK(env_listen(address, 0600, &second) == -EEXIST);
    CHECK(unlink(path) == 0);
    return 0;
}

static void stale_socket_file_is_replaced_and_a_live_one_is_not(void **state)
{
    assert_int_equal(run_in_env(socket_files, (struct env_uring_options){0}), 0);
}

static int bad_addresses(void *arg)
{
    static const char *const bad[] = {"", "unix:", "tcp:", "tcp:1.2.3.4", "tcp:host.invalid:1",
        "tcp:[::1]1", "tcp::1", "http:x", "tcp:1.2.3.4:70000000000"};
    struct env_listener *l;
    struct env_stream *s;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        CHECK_MSG(env_listen(bad[i], 0, &l) == -EINVAL, "%s", bad[i]);
        CHECK_MSG(env_connect(bad[i], UINT64_MAX, &s) == -EINVAL, "%s", bad[i]);
    }
    CHECK(env_connect(scratch_path("unix:", "none"), UINT64_MAX, &s) == -ENOENT);
    CHECK(env_connect("tcp:127.0.0.1:1", UINT64_MAX, &s) == -ECONNREFUSED);
    char *longer = mem_printf("unix:/%0200d", 1);
    CHECK(env_connect(longer, UINT64_MAX, &s) == -ENAMETOOLONG);
    mem_free(longer);
    return 0;
}

static void bad_addresses_are_refused(void **state)
{
    assert_int_equal(run_in_env(bad_addresses, (struct env_uring_options){0}), 0);
}

static void hold_forever(void *arg)
{
    char c;
    mem_alloc(1000);
    env_recv(pair_near, &c, 1, UINT64_MAX);
}

static int leave_everything_open(void *arg)
{
    make_pair(scratch_path("unix:", "sock"));
    fiber_spawn("hold", hold_forever, NULL);
    env_sleep_ns(MS);
    return 7;
}

static void end_of_main_ends_everything(void **state)
{
    assert_int_equal(run_in_env(leave_everything_open, (struct env_uring_options){0}), 7);
    assert_int_equal(access(scratch_path("", "sock"), F_OK), -1);
}

static const char *kill_tcp_address;

static void accept_for_ever(void *arg)
{
    struct env_stream *s;
    env_accept(arg, &s);
}

/* Holds a port, a socket file and a locked disk with operations in the ring, until killed. */
static int hold_all(void *arg)
{
    struct env_listener *l;
    struct env_file *file;
    CHECK(env_listen(kill_tcp_address, 0, &l) == 0);
    fiber_spawn("accept", accept_for_ever, l);
    CHECK(env_listen(scratch_path("unix:", "sock"), 0600, &l) == 0);
    fiber_spawn("accept", accept_for_ever, l);
    int rc = env_file_open(scratch_path("", "disk"), ENV_OPEN_EXCLUSIVE_LOCK, 0, &file);
    if (rc == -ENOENT)
        rc = env_file_open(
            scratch_path("", "disk"), ENV_OPEN_EXCLUSIVE_LOCK | ENV_OPEN_CREATE, 1 << 20, &file);
    CHECK(rc == 0);
    char *buf = mem_alloc_pages(4096);
    memset(buf, 1, 4096);
    CHECK(write(*(int *)arg, "r", 1) == 1);
    while (env_file_write(file, buf, 4096, 0, true) == 0) {
    }
    return 0;
}

static void killed_process_leaves_nothing_in_the_way(void **state)
{
    char address[64], c;
    int fds[2];
    snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", free_port());
    kill_tcp_address = address;

    for (int i = 0; i < 5; i++) {
        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        if (pid == 0) {
            struct env_uring_options options = {0};
            env_uring_run(&options, hold_all, &fds[1]);
            _exit(1);
        }
        close(fds[1]);
        assert_int_equal(read(fds[0], &c, 1), 1); /* it holds all; 0 = it has failed */
        close(fds[0]);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)
    const struct CMUnitTest tests[] = {
        T(echo_over_unix),
        T(echo_over_tcp),
        T(echo_over_tcp_v6),
        T(deadlines_end_waits),
        T(shutdown_ends_suspended_receivers_and_senders),
        T(the_state_of_the_peer_is_seen_without_reading),
        T(stale_socket_file_is_replaced_and_a_live_one_is_not),
        T(bad_addresses_are_refused),
        T(end_of_main_ends_everything),
        T(killed_process_leaves_nothing_in_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
