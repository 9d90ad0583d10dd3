/* The guardian program: the only writer of power caps.
 *
 * Owns: the cap files, the run/stop state of leased job groups, the hardware watchdog and the lonely beacon.
 * Started by flightsw/guardian.py or by init; it outlives the supervisor in a session of its own. All decisions
 * are guardian_core.c's; this file carries them out. Never: heap or stdio (a full or broken heap must not matter
 * here), a second thread, a wait that is not ppoll.
 *
 * Watchdog: petted at the end of a healthy turn of the one loop, and nowhere else. It must not be petted from a
 * timer, a signal handler or another thread, for then it would say "alive" for a loop that is stuck in a driver;
 * it is not petted after a damaged state, after a turn more than a second late, nor once alone for
 * --alone-reset-s. It is never disarmed: a guardian that ends without a successor must end in a board reset.
 *
 * Should the guardian itself die, the caps stay as they are until the supervisor starts another one (which begins
 * at the floor) or, with the supervisor dead too, until the watchdog resets the board.
 *
 * Job groups: a process group runs only while a lease names it and its share allows it; left out of a lease, or
 * with no lease in force, it is stopped (SIGSTOP), so a supervisor keeps a job leased until it has seen it end.
 * A process that leaves its group escapes this; keeping it in is the sandbox's work.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>      /* open */
#include <poll.h>       /* ppoll */
#include <sched.h>      /* sched_setscheduler */
#include <signal.h>
#include <sys/file.h>   /* flock */
#include <sys/mman.h>   /* mlockall */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>

#include "options.h"

enum { CLIENTS = 4, MESSAGES_PER_TURN = 8, BEACON_RECORDS = 1024 };
#define TURN_NS 50000000L        /* a lease ends at most one turn late */
#define LATE_TURNS 20U           /* one second: no longer a healthy loop */
#define REFRESH_US 1000000U
#define BEACON_US 10000000U
#define PATH_ROOM 512U

typedef struct {
    char path[PATH_ROOM];
    int fd;
    bool ours;              /* in caps-dir, created by us */
    uint32_t unit_uw;
    uint32_t written_mw;    /* FSW_GUARDIAN_UNKNOWN_MW: nothing that can be trusted */
} cap_file_t;

typedef enum { UNSURE, RUNNING, STOPPED, GONE, REFUSED } group_state_t;

typedef struct {
    pid_t pgid;
    group_state_t state;
} group_t;

typedef struct {
    int fd;
    pid_t pgid;             /* the supervisor's own group, never signalled */
    uint64_t heard_us;
} client_t;

/* All memory of the program, in one place; nothing is allocated later. */
static struct {
    options_t options;
    struct fsw_guardian_state core;
    struct fsw_guardian_io io;
    cap_file_t cap[FSW_GUARDIAN_NODES_MAX];
    group_t group[FSW_GUARDIAN_NODES_MAX];
    client_t client[CLIENTS];
    pid_t holder_pgid;
    int listener;
    int timer;
    int watchdog;
    int beacon;
    bool beacon_is_file;
    off_t beacon_record;
    uint64_t refreshed_us;
    uint64_t beaconed_us;
    uint64_t alone_since_us;
} g;

static volatile sig_atomic_t asked_to_end;

static void on_terminate(int signal_number)
{
    (void)signal_number;
    asked_to_end = 1;
}

/* CLOCK_BOOTTIME counts sleep too: a lease must not outlive a suspended board. */
static uint64_t now_us(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_BOOTTIME, &t) != 0) {
        return 0; /* reads as a clock that went backwards: the lease ends */
    }
    return (uint64_t)t.tv_sec * 1000000U + (uint64_t)t.tv_nsec / 1000U;
}

/* ---- cap files ------------------------------------------------------------------------------------- */

static size_t text_of(uint64_t value, char *text)
{
    char reversed[24];
    size_t n = 0;
    do {
        reversed[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    for (size_t i = 0; i < n; i++) {
        text[i] = reversed[n - 1 - i];
    }
    text[n] = '\n';
    return n + 1;
}

static bool cap_open(cap_file_t *cap)
{
    cap->fd = open(cap->path, O_RDWR | O_CLOEXEC | O_NONBLOCK | (cap->ours ? O_CREAT | O_NOFOLLOW : 0), 0644);
    return cap->fd >= 0;
}

static uint32_t cap_read_mw(const cap_file_t *cap)
{
    char text[32];
    const ssize_t n = pread(cap->fd, text, sizeof text - 1, 0);
    if (n <= 0) {
        return FSW_GUARDIAN_UNKNOWN_MW;
    }
    text[n] = '\0';
    const char *end = text;
    int64_t value = 0;
    if (!digits(text, &end, INT64_C(1000) * FSW_GUARDIAN_CAP_MAX_MW, &value) || (*end != '\n' && *end != '\0')) {
        return FSW_GUARDIAN_UNKNOWN_MW;
    }
    const int64_t mw = (value * (int64_t)cap->unit_uw + 999) / 1000;
    return mw > FSW_GUARDIAN_CAP_MAX_MW ? FSW_GUARDIAN_UNKNOWN_MW : (uint32_t)mw;
}

/* One pwrite, so that a reader sees the old or the new first line; the shorter tail is cut afterwards. */
static void cap_write(uint32_t node, uint32_t cap_mw)
{
    cap_file_t *cap = &g.cap[node];
    char text[32];
    const size_t n = text_of((uint64_t)cap_mw * 1000U / cap->unit_uw, text);
    bool good = (cap->fd >= 0 || cap_open(cap)) && pwrite(cap->fd, text, n, 0) == (ssize_t)n &&
                (!cap->ours || ftruncate(cap->fd, (off_t)n) == 0);
    g.io.read_back_mw[node] = good ? cap_read_mw(cap) : FSW_GUARDIAN_UNKNOWN_MW;
    good = good && g.io.read_back_mw[node] <= cap_mw;
    cap->written_mw = good ? cap_mw : FSW_GUARDIAN_UNKNOWN_MW; /* unknown: written again next turn */
    if (good) {
        g.io.node_flags[node] &= ~(uint32_t)FSW_GUARDIAN_NODE_CAP_FAULT;
        return;
    }
    g.io.node_flags[node] |= FSW_GUARDIAN_NODE_CAP_FAULT;
    if (cap->fd >= 0) { /* a driver that came back has a new file */
        close(cap->fd);
        cap->fd = -1;
    }
}

/* Reductions first: between two writes the sum must not be above both the old and the new one. */
static void caps_apply(const uint32_t *cap_mw, bool refresh)
{
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < g.options.core.n_nodes; i++) {
            const uint32_t written = g.cap[i].written_mw;
            const bool reduction = cap_mw[i] < written;
            if (reduction ? pass == 0 : pass == 1 && (refresh || cap_mw[i] != written)) {
                cap_write(i, cap_mw[i]);
            }
        }
    }
}

/* ---- job groups ------------------------------------------------------------------------------------ */

static void group_signal(group_t *group, int signal_number, group_state_t reached)
{
    if (group->pgid <= 1 || group->pgid == getpgrp() || group->pgid == g.holder_pgid) {
        group->state = REFUSED;
    } else if (kill(-group->pgid, signal_number) == 0) {
        group->state = reached;
    } else {
        group->state = errno == ESRCH ? GONE : REFUSED;
    }
}

/* A group that is gone is not signalled again: its number may soon be a stranger's. */
static void groups_apply(const struct fsw_guardian_out *out, bool refresh)
{
    for (uint32_t i = 0; i < g.options.core.n_nodes; i++) {
        group_t *group = &g.group[i];
        if (group->pgid == out->pgid[i]) {
            continue;
        }
        bool still_leased = false;
        for (uint32_t j = 0; j < g.options.core.n_nodes; j++) {
            still_leased = still_leased || out->pgid[j] == group->pgid;
        }
        if (group->pgid != 0 && group->state != GONE && !still_leased) {
            group_signal(group, SIGSTOP, STOPPED);
        }
        group->pgid = out->pgid[i];
        group->state = UNSURE;
    }
    for (uint32_t i = 0; i < g.options.core.n_nodes; i++) {
        group_t *group = &g.group[i];
        const bool run = (out->run_mask >> i & 1U) != 0;
        if (group->pgid != 0 && group->state != GONE && group->state != REFUSED) {
            if (run && group->state != RUNNING) {
                group_signal(group, SIGCONT, RUNNING);
            } else if (run && refresh) {
                group_signal(group, 0, RUNNING);
            } else if (!run && (group->state != STOPPED || refresh)) {
                group_signal(group, SIGSTOP, STOPPED);
            }
        }
        g.io.node_flags[i] &= ~(uint32_t)(FSW_GUARDIAN_NODE_GROUP_GONE | FSW_GUARDIAN_NODE_REFUSED);
        g.io.node_flags[i] |= group->pgid == 0           ? 0U
                              : group->state == GONE    ? (uint32_t)FSW_GUARDIAN_NODE_GROUP_GONE
                              : group->state == REFUSED ? (uint32_t)FSW_GUARDIAN_NODE_REFUSED
                                                        : 0U;
    }
}

/* ---- what a turn does ------------------------------------------------------------------------------ */

/* Without a trustworthy state the arguments are the last word: floor, every known group stopped. */
static void shed_all(void)
{
    uint32_t cap_mw[FSW_GUARDIAN_NODES_MAX];
    for (uint32_t i = 0; i < g.options.core.n_nodes; i++) { /* a cap below the floor stays, as at expiry */
        const uint32_t floor_mw = g.options.core.floor_mw[i];
        cap_mw[i] = g.cap[i].written_mw < floor_mw ? g.cap[i].written_mw : floor_mw;
    }
    caps_apply(cap_mw, true);
    for (uint32_t i = 0; i < g.options.core.n_nodes; i++) {
        if (g.group[i].pgid != 0 && g.group[i].state != GONE) {
            group_signal(&g.group[i], SIGSTOP, STOPPED);
        }
    }
}

_Noreturn static void end_damaged(void)
{
    shed_all();
    say(STDERR_FILENO, "guardian: state: fails its checksum; caps at the floor, ending\n");
    _exit(EXIT_STATE);
}

/* Returns the flags in force. Groups first: a stopped job draws less at once, a cap takes its controller a while. */
static uint32_t enforce(uint64_t at_us, bool refresh)
{
    struct fsw_guardian_out out;
    if (fsw_guardian_tick(&g.core, at_us, &out) != 0) {
        end_damaged();
    }
    groups_apply(&out, refresh);
    caps_apply(out.cap_mw, refresh);
    return out.flags;
}

static void client_close(client_t *client)
{
    close(client->fd);
    client->fd = -1;
}

static void client_serve(client_t *client)
{
    uint8_t bytes[FSW_GUARDIAN_STATUS_MAX];
    for (int k = 0; k < MESSAGES_PER_TURN; k++) {
        /* With MSG_TRUNC the true length comes back, so an oversized message cannot pass for its beginning. */
        const ssize_t n = recv(client->fd, bytes, sizeof bytes, MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            client_close(client);
            return;
        }
        const uint64_t at_us = now_us();
        const uint32_t accepted = g.core.accepted;
        const int code = fsw_guardian_message(&g.core, at_us, bytes, (size_t)n);
        if (code == FSW_GUARDIAN_E_STATE) {
            end_damaged();
        }
        if (g.core.accepted != accepted) {
            g.holder_pgid = client->pgid;
        }
        client->heard_us = at_us;
        (void)enforce(at_us, false);
        size_t length = 0;
        if (fsw_guardian_status(&g.core, FSW_GUARDIAN_STATUS, &g.io, bytes, sizeof bytes, &length) != 0) {
            end_damaged();
        }
        /* A supervisor that does not read its answers loses them; the guardian never waits for it. */
        if (send(client->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN) {
            client_close(client);
            return;
        }
    }
}

/* A restarted supervisor always gets in: with no place left, the connection silent for longest goes. */
static void client_accept(void)
{
    const int fd = accept4(g.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || (int64_t)peer.uid != g.options.peer_uid) {
        close(fd);
        return;
    }
    client_t *place = &g.client[0];
    for (int i = 1; i < CLIENTS && place->fd >= 0; i++) {
        if (g.client[i].fd < 0 || g.client[i].heard_us < place->heard_us) {
            place = &g.client[i];
        }
    }
    if (place->fd >= 0) {
        client_close(place);
    }
    place->fd = fd;
    place->pgid = getpgid(peer.pid);
    place->heard_us = now_us();
}

/* One BEACON message of guardian_core.h a time, nothing around it; a line that would block loses it. */
static void beacon_send(void)
{
    uint8_t bytes[FSW_GUARDIAN_STATUS_MAX];
    size_t length = 0;
    if (fsw_guardian_status(&g.core, FSW_GUARDIAN_BEACON, &g.io, bytes, sizeof bytes, &length) != 0) {
        end_damaged();
    }
    const ssize_t written = g.beacon_is_file ? pwrite(g.beacon, bytes, length, g.beacon_record * (off_t)length)
                                             : write(g.beacon, bytes, length);
    if (written == (ssize_t)length) {
        g.beacon_record = (g.beacon_record + 1) % BEACON_RECORDS;
    }
}

static void turn(uint64_t at_us, bool late)
{
    const bool refresh = at_us - g.refreshed_us >= REFRESH_US;
    const uint32_t flags = enforce(at_us, refresh);
    const bool alone = (flags & FSW_GUARDIAN_ALONE) != 0;
    if (!alone) {
        g.alone_since_us = at_us;
    } else if (g.beacon >= 0 && (g.beaconed_us == 0 || at_us - g.beaconed_us >= BEACON_US)) {
        g.beaconed_us = at_us;
        beacon_send();
    }
    if (!refresh) {
        return;
    }
    g.refreshed_us = at_us;
    const uint64_t reset_us = (uint64_t)g.options.alone_reset_s * 1000000U;
    const bool given_up = reset_us != 0 && at_us - g.alone_since_us >= reset_us;
    const bool petted = g.watchdog >= 0 && !late && !given_up && write(g.watchdog, "\n", 1) == 1;
    g.io.flags = (g.io.flags & ~(uint32_t)FSW_GUARDIAN_WATCHDOG) | (petted ? (uint32_t)FSW_GUARDIAN_WATCHDOG : 0U);
}

static void loop(const sigset_t *unblocked)
{
    while (!asked_to_end) {
        struct pollfd polled[2 + CLIENTS] = {{.fd = g.timer, .events = POLLIN}, {.fd = g.listener, .events = POLLIN}};
        for (int i = 0; i < CLIENTS; i++) {
            polled[2 + i] = (struct pollfd){.fd = g.client[i].fd, .events = POLLIN};
        }
        if (ppoll(polled, 2 + CLIENTS, NULL, unblocked) < 0) {
            continue; /* EINTR: asked to end */
        }
        for (int i = 0; i < CLIENTS; i++) {
            if (polled[2 + i].revents != 0) {
                client_serve(&g.client[i]);
            }
        }
        if (polled[1].revents != 0) {
            client_accept();
        }
        uint64_t turns = 0;
        if (read(g.timer, &turns, sizeof turns) == (ssize_t)sizeof turns && turns > 0) {
            const uint64_t missed = turns - 1;
            g.io.overruns = missed > UINT32_MAX - g.io.overruns ? UINT32_MAX : g.io.overruns + (uint32_t)missed;
            turn(now_us(), missed >= LATE_TURNS);
        }
    }
    shed_all();
    unlink(g.options.socket_path);
}

/* ---- set-up ---------------------------------------------------------------------------------------- */

static void append(char *path, const char *text)
{
    const size_t used = strlen(path);
    const size_t more = strlen(text);
    if (used + more >= PATH_ROOM) {
        fail(EXIT_ARGUMENTS, "path", text, "longer than 511 bytes");
    }
    memcpy(path + used, text, more + 1);
}

static void set_up_caps(void)
{
    for (uint32_t i = 0; i < g.options.core.n_nodes; i++) {
        cap_file_t *cap = &g.cap[i];
        cap->fd = -1;
        cap->ours = g.options.cap_path[i] == NULL;
        cap->unit_uw = g.options.cap_unit_uw[i];
        cap->written_mw = FSW_GUARDIAN_UNKNOWN_MW;
        if (cap->ours) {
            const char name[] = {'/', 'n', 'o', 'd', 'e', (char)('0' + i), '_', 'c', 'a', 'p', '_', 'm', 'w', '\0'};
            append(cap->path, g.options.caps_dir);
            append(cap->path, name);
        } else {
            append(cap->path, g.options.cap_path[i]);
        }
        if (!cap_open(cap)) {
            fail(EXIT_SETUP, "cap file", cap->path, strerror(errno));
        }
    }
    caps_apply(g.options.core.floor_mw, true);
}

static int open_or_fail(const char *what, const char *path, int flags)
{
    const int fd = open(path, flags | O_CLOEXEC | O_NOCTTY, 0644);
    if (fd < 0) {
        fail(EXIT_SETUP, what, path, strerror(errno));
    }
    return fd;
}

static void set_up_devices(void)
{
    g.watchdog = -1;
    g.beacon = -1;
    if (g.options.watchdog_path != NULL) {
        g.watchdog = open_or_fail("watchdog", g.options.watchdog_path, O_WRONLY);
    }
    if (g.options.beacon_target == NULL) {
        return;
    }
    if (strncmp(g.options.beacon_target, "fd:", 3) == 0) {
        g.beacon = (int)number("--beacon", g.options.beacon_target + 3, 0, INT_MAX, "want fd:NUMBER");
    } else {
        g.beacon = open_or_fail("beacon", g.options.beacon_target, O_WRONLY | O_CREAT | O_NONBLOCK);
    }
    struct stat status;
    if (fstat(g.beacon, &status) != 0) {
        fail(EXIT_SETUP, "beacon", g.options.beacon_target, strerror(errno));
    }
    g.beacon_is_file = S_ISREG(status.st_mode);
    const int flags = fcntl(g.beacon, F_GETFL);
    if (flags < 0 || fcntl(g.beacon, F_SETFL, flags | O_NONBLOCK) != 0) {
        fail(EXIT_SETUP, "beacon", g.options.beacon_target, strerror(errno));
    }
    const off_t record = FSW_GUARDIAN_STATUS_MAX - 16 * (FSW_GUARDIAN_NODES_MAX - (off_t)g.options.core.n_nodes);
    g.beacon_record = g.beacon_is_file ? status.st_size / record % BEACON_RECORDS : 0;
}

/* The lock, not the socket file, says whether another guardian runs: a socket file outlives a killed one. */
static void set_up_socket(void)
{
    char lock_path[PATH_ROOM] = "";
    append(lock_path, g.options.socket_path);
    append(lock_path, ".lock");
    const int lock = open_or_fail("lock", lock_path, O_RDWR | O_CREAT | O_NOFOLLOW);
    if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        fail(EXIT_SETUP, "socket", g.options.socket_path, "another guardian holds it");
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, g.options.socket_path, strlen(g.options.socket_path) + 1);
    g.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(g.options.socket_path);
    const mode_t mask = umask(0177);
    const bool bound = g.listener >= 0 && bind(g.listener, (const struct sockaddr *)&address, sizeof address) == 0;
    umask(mask);
    const bool own_peer = g.options.peer_uid < 0 || g.options.peer_uid == (int64_t)geteuid();
    if (!bound || (!own_peer && chown(g.options.socket_path, (uid_t)g.options.peer_uid, (gid_t)-1) != 0) ||
        listen(g.listener, CLIENTS) != 0) {
        fail(EXIT_SETUP, "socket", g.options.socket_path, strerror(errno));
    }
    if (own_peer) {
        g.options.peer_uid = (int64_t)geteuid();
    }
    for (int i = 0; i < CLIENTS; i++) {
        g.client[i].fd = -1;
    }
}

static void set_up_timer(void)
{
    struct timespec now;
    g.timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (g.timer < 0 || clock_gettime(CLOCK_BOOTTIME, &now) != 0) {
        fail(EXIT_SETUP, "timer", NULL, strerror(errno));
    }
    const struct itimerspec pace = {.it_interval = {.tv_nsec = TURN_NS}, .it_value = now};
    if (timerfd_settime(g.timer, TFD_TIMER_ABSTIME, &pace, NULL) != 0) {
        fail(EXIT_SETUP, "timer", NULL, strerror(errno));
    }
}

int main(int argc, char **argv)
{
    parse_options(argc, argv, &g.options);
    (void)setsid(); /* fails only where we lead a session already */

    sigset_t blocked;
    sigset_t unblocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    sigemptyset(&unblocked);
    struct sigaction action = {.sa_handler = on_terminate};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGHUP, &action, NULL);

    /* A cap file on descriptor 2 would get the error texts. */
    int standard = 0;
    while (standard >= 0 && standard <= STDERR_FILENO) {
        standard = open("/dev/null", O_RDWR);
    }
    close(standard);
    set_up_socket();
    set_up_caps();
    set_up_devices();
    set_up_timer();
    g.alone_since_us = now_us();
    if (fsw_guardian_init(&g.core, &g.options.core, g.alone_since_us) != 0) {
        end_damaged();
    }
    /* Both need privileges. Without them the guardian works, only less surely under memory or CPU pressure. */
    if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) {
        g.io.flags |= FSW_GUARDIAN_MEMORY_LOCKED;
    }
    const struct sched_param first = {.sched_priority = 10};
    (void)sched_setscheduler(0, SCHED_FIFO, &first);
    if (g.options.ready_fd >= 0) {
        if (write((int)g.options.ready_fd, "\n", 1) != 1) {
            fail(EXIT_SETUP, "--ready-fd", NULL, strerror(errno));
        }
        close((int)g.options.ready_fd);
    }
    loop(&unblocked);
    return 0;
}
