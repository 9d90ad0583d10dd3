/* Arguments of the guardian program. Owns: the text a user sees. Called by main.c before the loop, never in it.
 * One line on stderr for each mistake, naming the option, the value and the range; no stdio, no heap. */
#ifndef GUARDIAN_OPTIONS_H
#define GUARDIAN_OPTIONS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "guardian_core.h"

enum { EXIT_ARGUMENTS = 2, EXIT_SETUP = 3, EXIT_STATE = 4 };

typedef struct {
    const char *socket_path;
    const char *caps_dir;
    const char *cap_path[FSW_GUARDIAN_NODES_MAX];      /* NULL: <caps-dir>/node<i>_cap_mw */
    uint32_t cap_unit_uw[FSW_GUARDIAN_NODES_MAX];      /* microwatts in one unit of the cap file */
    const char *watchdog_path;
    const char *beacon_target;
    uint32_t alone_reset_s;                            /* 0: never */
    int64_t peer_uid;                                  /* -1: our own */
    int64_t ready_fd;                                  /* -1: none */
    struct fsw_guardian_config core;
} options_t;

static const char HELP[] =
    "usage: guardian --socket PATH --caps-dir DIR --nodes N --floor-mw A --ceiling-mw A --lease-max-ms L [options]\n"
    "\n"
    "The only writer of power caps. A cap is a lease: it falls to the floor, and the leased job groups are\n"
    "stopped, when the supervisor stops renewing it. A number A is one value for all nodes or N values: 1000,1500.\n"
    "\n"
    "  --socket PATH         where the supervisor connects (Unix SOCK_SEQPACKET, mode 0600); at most 100 bytes\n"
    "  --caps-dir DIR        cap files node<i>_cap_mw, first line = cap in mW; keep it on a RAM disk\n"
    "  --nodes N             compute nodes, 1..8\n"
    "  --floor-mw A          cap of a node without lease, 0..ceiling\n"
    "  --ceiling-mw A        highest cap a lease may ask for, 1..2000000\n"
    "  --lease-max-ms L      longest lease, 1..60000\n"
    "  --cap-path I=FILE     cap file of node I on a real board, for instance a powercap or hwmon file\n"
    "  --cap-unit I=UNIT     unit of that file: uw, mw (default) or w; always rounded down\n"
    "  --watchdog DEV        hardware watchdog, petted once a second by the loop itself; never disarmed at exit\n"
    "  --beacon TARGET       file, serial device or fd:N that gets one record each 10 s while alone;\n"
    "                        a regular file keeps the last 1024 records\n"
    "  --alone-after-ms T    alone when no lease came for so long, 1..86400000 (default 10000)\n"
    "  --alone-reset-s T     alone for so long: stop petting, so that the watchdog resets the board; 0, the\n"
    "                        default: never\n"
    "  --peer-uid UID        user of the supervisor (default: the guardian's own)\n"
    "  --ready-fd N          write one byte to this descriptor when leases can come\n"
    "  --help                this text\n"
    "\n"
    "Without lease: floor. SIGTERM: floor, leased groups stopped, exit. Exit codes: 0 SIGTERM, 2 arguments,\n"
    "3 set-up (socket, cap file, device, or another guardian runs), 4 damaged state.\n";

static void say(int fd, const char *text)
{
    if (write(fd, text, strlen(text)) < 0) {
        return; /* nobody listens; the exit code still tells */
    }
}

_Noreturn static void fail(int code, const char *what, const char *value, const char *problem)
{
    say(STDERR_FILENO, "guardian: ");
    say(STDERR_FILENO, what);
    say(STDERR_FILENO, value == NULL ? "" : " ");
    say(STDERR_FILENO, value == NULL ? "" : value);
    say(STDERR_FILENO, ": ");
    say(STDERR_FILENO, problem);
    say(STDERR_FILENO, "\n");
    _exit(code);
}

/* Decimal digits up to *end; false when there are none or the value is above `limit`. */
static bool digits(const char *text, const char **end, int64_t limit, int64_t *value)
{
    *value = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++) {
        *value = *value * 10 + (*p - '0');
        if (*value > limit) {
            return false;
        }
    }
    *end = p;
    return p != text;
}

static int64_t number(const char *option, const char *text, int64_t low, int64_t high, const char *range)
{
    const char *end = text;
    int64_t value = 0;
    if (!digits(text, &end, high, &value) || *end != '\0' || value < low) {
        fail(EXIT_ARGUMENTS, option, text, range);
    }
    return value;
}

/* One value for all nodes, or as many values as nodes. Returns how many were given. */
static uint32_t numbers(const char *option, const char *text, uint32_t *values)
{
    const char *p = text;
    uint32_t n = 0;
    for (;; p++) {
        int64_t value = 0;
        if (n == FSW_GUARDIAN_NODES_MAX || !digits(p, &p, FSW_GUARDIAN_CAP_MAX_MW, &value)) {
            fail(EXIT_ARGUMENTS, option, text, "want 1 to 8 values of 0..2000000 mW, joined by commas");
        }
        values[n++] = (uint32_t)value;
        if (*p != ',') {
            break;
        }
    }
    if (*p != '\0') {
        fail(EXIT_ARGUMENTS, option, text, "want 1 to 8 values of 0..2000000 mW, joined by commas");
    }
    for (uint32_t i = n; n == 1 && i < FSW_GUARDIAN_NODES_MAX; i++) {
        values[i] = values[0];
    }
    return n;
}

/* "I=REST" -> I and REST. */
static uint32_t node_prefix(const char *option, const char *text, const char **rest)
{
    const char *end = text;
    int64_t node = 0;
    if (!digits(text, &end, FSW_GUARDIAN_NODES_MAX - 1, &node) || end[0] != '=' || end[1] == '\0') {
        fail(EXIT_ARGUMENTS, option, text, "want NODE=VALUE with node 0..7");
    }
    *rest = end + 1;
    return (uint32_t)node;
}

static void parse_options(int argc, char **argv, options_t *options)
{
    memset(options, 0, sizeof *options);
    options->peer_uid = options->ready_fd = -1;
    options->core.alone_after_ms = 10000;
    uint32_t floors = 0;
    uint32_t ceilings = 0;
    uint32_t highest_node = 0;
    for (uint32_t i = 0; i < FSW_GUARDIAN_NODES_MAX; i++) {
        options->cap_unit_uw[i] = 1000;
    }
    for (int k = 1; k < argc; k += 2) {
        const char *option = argv[k];
        if (strcmp(option, "--help") == 0) {
            say(STDOUT_FILENO, HELP);
            _exit(0);
        }
        if (k + 1 == argc || argv[k + 1][0] == '\0') {
            fail(EXIT_ARGUMENTS, option, NULL, "unknown option, or no value; --help lists all");
        }
        const char *value = argv[k + 1];
        if (strcmp(option, "--socket") == 0) {
            if (strlen(value) < 1 || strlen(value) > 100) {
                fail(EXIT_ARGUMENTS, option, value, "want a path of 1..100 bytes");
            }
            options->socket_path = value;
        } else if (strcmp(option, "--caps-dir") == 0) {
            options->caps_dir = value;
        } else if (strcmp(option, "--nodes") == 0) {
            options->core.n_nodes =
                (uint32_t)number(option, value, 1, FSW_GUARDIAN_NODES_MAX, "want a number of nodes of 1..8");
        } else if (strcmp(option, "--floor-mw") == 0) {
            floors = numbers(option, value, options->core.floor_mw);
        } else if (strcmp(option, "--ceiling-mw") == 0) {
            ceilings = numbers(option, value, options->core.ceiling_mw);
        } else if (strcmp(option, "--lease-max-ms") == 0) {
            options->core.lease_max_ms =
                (uint32_t)number(option, value, 1, FSW_GUARDIAN_LEASE_LIMIT_MS, "want 1..60000 ms");
        } else if (strcmp(option, "--cap-path") == 0) {
            const char *path = NULL;
            const uint32_t node = node_prefix(option, value, &path);
            options->cap_path[node] = path;
            highest_node = node > highest_node ? node : highest_node;
        } else if (strcmp(option, "--cap-unit") == 0) {
            const char *unit = NULL;
            const uint32_t node = node_prefix(option, value, &unit);
            options->cap_unit_uw[node] = strcmp(unit, "uw") == 0   ? 1
                                         : strcmp(unit, "mw") == 0 ? 1000
                                         : strcmp(unit, "w") == 0  ? 1000000
                                                                   : 0;
            if (options->cap_unit_uw[node] == 0) {
                fail(EXIT_ARGUMENTS, option, value, "want uw, mw or w");
            }
            highest_node = node > highest_node ? node : highest_node;
        } else if (strcmp(option, "--watchdog") == 0) {
            options->watchdog_path = value;
        } else if (strcmp(option, "--beacon") == 0) {
            options->beacon_target = value;
        } else if (strcmp(option, "--alone-after-ms") == 0) {
            options->core.alone_after_ms =
                (uint32_t)number(option, value, 1, FSW_GUARDIAN_ALONE_LIMIT_MS, "want 1..86400000 ms");
        } else if (strcmp(option, "--alone-reset-s") == 0) {
            options->alone_reset_s = (uint32_t)number(option, value, 0, 31536000, "want 0..31536000 s");
        } else if (strcmp(option, "--peer-uid") == 0) {
            options->peer_uid = number(option, value, 0, UINT32_MAX - 1U, "want a user number");
        } else if (strcmp(option, "--ready-fd") == 0) {
            options->ready_fd = number(option, value, 0, INT_MAX, "want a descriptor number");
        } else {
            fail(EXIT_ARGUMENTS, option, NULL, "unknown option; --help lists all");
        }
    }
    const struct { bool given; const char *option; } needed[] = {
        {options->socket_path != NULL, "--socket"}, {options->caps_dir != NULL, "--caps-dir"},
        {options->core.n_nodes != 0, "--nodes"},    {floors != 0, "--floor-mw"},
        {ceilings != 0, "--ceiling-mw"},            {options->core.lease_max_ms != 0, "--lease-max-ms"},
    };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (!needed[i].given) {
            fail(EXIT_ARGUMENTS, needed[i].option, NULL, "missing; --help lists all");
        }
    }
    if ((floors != 1 && floors != options->core.n_nodes) || (ceilings != 1 && ceilings != options->core.n_nodes)) {
        fail(EXIT_ARGUMENTS, "--floor-mw and --ceiling-mw", NULL, "want one value, or one for each node");
    }
    if (highest_node >= options->core.n_nodes) {
        fail(EXIT_ARGUMENTS, "--cap-path and --cap-unit", NULL, "node number is not below --nodes");
    }
    struct fsw_guardian_state trial;
    if (fsw_guardian_init(&trial, &options->core, 0) != 0) {
        fail(EXIT_ARGUMENTS, "--floor-mw and --ceiling-mw", NULL, "want ceiling 1..2000000 mW and floor 0..ceiling");
    }
}

#endif
