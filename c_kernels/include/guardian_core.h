/* The guardian's pure core: leases on power caps, without I/O and without a clock.
 *
 * Owns: who may draw how much until when. A cap is a lease: it falls to the floor when the supervisor stops
 * renewing it. Called by: the guardian program (guardian/main.c, real time) and, through flightsw/kernels.py,
 * virtual-time runs; both run this very code. Never: reads a clock, allocates, touches a file or a process.
 *
 * All times are microseconds of one monotonic clock. All message fields are little-endian.
 *
 * LEASE and HELLO (supervisor -> guardian), 24 + 12 n bytes:
 *    0 u32 magic   4 u8 version   5 u8 kind   6 u8 n_nodes   7 u8 reserved = 0
 *    8 u64 sequence   16 u32 lease_ms
 *   20 n x { u32 cap_mw, i32 pgid, u16 duty_permille, u16 reserved = 0 }
 *   .. u32 CRC-32 (IEEE 802.3, the one of zlib) of all bytes before it
 *   HELLO has n_nodes = 0 and lease_ms = 0; it changes nothing, its sequence is echoed in the answer.
 *
 * STATUS (answer to each message) and BEACON (sent when alone), 96 + 16 n bytes:
 *    0 u32 magic   4 u8 version   5 u8 kind   6 u8 n_nodes   7 u8 flags (FSW_GUARDIAN_EXPIRED ...)
 *    8 u64 last_sequence   16 u64 answered_sequence (0: the message had none)
 *   24 u32 lease_left_ms   28 i32 result of the answered message   32 u32 leases accepted
 *   36 u32 rejected[11] by cause, the first one for FSW_GUARDIAN_E_LENGTH, then in the order of the codes
 *   80 u32 clock_steps   84 u32 overruns of the program's loop   88 u32 uptime_s
 *   92 n x { u32 cap_mw in force, u32 cap_mw read back (0xffffffff: unknown), i32 pgid, u16 duty_permille,
 *            u8 node flags (FSW_GUARDIAN_NODE_RUNNING ...), u8 reserved = 0 }
 *   .. u32 CRC-32 of all bytes before it
 */
#ifndef FSW_GUARDIAN_CORE_H
#define FSW_GUARDIAN_CORE_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
#define FSW_GUARDIAN_NODES_MAX 8
#define FSW_GUARDIAN_MESSAGE_MAX 120     /* bytes of a LEASE for eight nodes */
#define FSW_GUARDIAN_STATUS_MAX 224      /* bytes of a STATUS for eight nodes */
#define FSW_GUARDIAN_CAUSES 11           /* of rejection */
#define FSW_GUARDIAN_MAGIC 0x47575346    /* "FSWG" */
#define FSW_GUARDIAN_VERSION 1
#define FSW_GUARDIAN_SEQUENCE_GAP 1048576 /* a damaged sequence must not lock later leases out */
#define FSW_GUARDIAN_CAP_MAX_MW 2000000  /* no node of this class of satellite may draw 2 kW */
#define FSW_GUARDIAN_LEASE_LIMIT_MS 60000
#define FSW_GUARDIAN_ALONE_LIMIT_MS 86400000
#define FSW_GUARDIAN_UNKNOWN_MW 0xffffffff

enum {
    FSW_GUARDIAN_E_ARG = -1,       /* a null pointer, or an output buffer that is too small */
    FSW_GUARDIAN_E_STATE = -2,     /* the state fails its own checksum: a flipped bit; go to the floor and end */
    FSW_GUARDIAN_E_LENGTH = -3,    /* not the length that the message's kind and n_nodes ask for */
    FSW_GUARDIAN_E_MAGIC = -4,     /* not a guardian message */
    FSW_GUARDIAN_E_VERSION = -5,   /* another version of this layout */
    FSW_GUARDIAN_E_CRC = -6,       /* damaged */
    FSW_GUARDIAN_E_KIND = -7,      /* unknown kind, or a reserved field that is not zero */
    FSW_GUARDIAN_E_NODES = -8,     /* n_nodes is not that of the configuration */
    FSW_GUARDIAN_E_SEQUENCE = -9,  /* replayed, old, or more than FSW_GUARDIAN_SEQUENCE_GAP ahead */
    FSW_GUARDIAN_E_LEASE = -10,    /* lease_ms outside 1..lease_max_ms */
    FSW_GUARDIAN_E_CAP = -11,      /* cap_mw above the node's ceiling */
    FSW_GUARDIAN_E_DUTY = -12,     /* duty_permille above 1000 */
    FSW_GUARDIAN_E_PGID = -13,     /* pgid negative or 1 */
    FSW_GUARDIAN_E_CONFIG = -14    /* a configuration value out of range */
};

enum { FSW_GUARDIAN_LEASE = 1, FSW_GUARDIAN_HELLO = 2, FSW_GUARDIAN_STATUS = 0x81, FSW_GUARDIAN_BEACON = 0x82 };

enum {
    FSW_GUARDIAN_EXPIRED = 1,        /* no lease in force: caps at the floor or below, leased groups stopped */
    FSW_GUARDIAN_ALONE = 2,          /* no lease accepted for alone_after_ms */
    FSW_GUARDIAN_CLOCK_STEPPED = 4,  /* the clock went backwards since the last accepted lease */
    FSW_GUARDIAN_MEMORY_LOCKED = 16, /* program: mlockall was granted */
    FSW_GUARDIAN_WATCHDOG = 32       /* program: the hardware watchdog is being petted */
};

enum {
    FSW_GUARDIAN_NODE_RUNNING = 1,     /* the node's job group may run in this instant */
    FSW_GUARDIAN_NODE_CAP_FAULT = 2,   /* program: the cap could not be written or reads back higher */
    FSW_GUARDIAN_NODE_GROUP_GONE = 4,  /* program: no process is left in the group; it is not signalled again */
    FSW_GUARDIAN_NODE_REFUSED = 8      /* program: the group must not or cannot be signalled */
};

struct fsw_guardian_config {
    uint32_t n_nodes;         /* 1..FSW_GUARDIAN_NODES_MAX */
    uint32_t lease_max_ms;    /* 1..FSW_GUARDIAN_LEASE_LIMIT_MS */
    uint32_t alone_after_ms;  /* 1..FSW_GUARDIAN_ALONE_LIMIT_MS */
    uint32_t floor_mw[FSW_GUARDIAN_NODES_MAX];    /* 0..ceiling */
    uint32_t ceiling_mw[FSW_GUARDIAN_NODES_MAX];  /* 1..FSW_GUARDIAN_CAP_MAX_MW */
};

/* Owned by the caller, written only by the functions below; `check` seals all bytes before it. */
struct fsw_guardian_state {
    uint64_t start_us;
    uint64_t now_us;           /* the newest time seen */
    uint64_t paced_us;         /* up to where `credit` is settled */
    uint64_t granted_us;       /* start of the lease in force */
    uint64_t lease_us;         /* 0: none in force */
    uint64_t heard_us;         /* last accepted lease, or the start */
    uint64_t last_sequence;    /* of the last accepted lease */
    uint64_t answered_sequence;
    int64_t credit[FSW_GUARDIAN_NODES_MAX];  /* run time owed to a group, us x permille */
    struct fsw_guardian_config config;
    uint32_t cap_mw[FSW_GUARDIAN_NODES_MAX];         /* in force */
    uint32_t duty_permille[FSW_GUARDIAN_NODES_MAX];  /* in force */
    int32_t pgid[FSW_GUARDIAN_NODES_MAX];            /* of the last accepted lease; kept after expiry */
    uint32_t run_mask;         /* bit i: the group of node i may run */
    uint32_t clock_stepped;
    uint32_t clock_steps;
    uint32_t accepted;
    uint32_t rejected[FSW_GUARDIAN_CAUSES];  /* counters stop at their maximum */
    int32_t answered_code;
    uint32_t reserved;
    uint32_t check;
};

/* What is in force now. */
struct fsw_guardian_out {
    uint32_t flags;            /* FSW_GUARDIAN_EXPIRED | ALONE | CLOCK_STEPPED */
    uint32_t lease_left_ms;
    uint32_t run_mask;
    uint32_t cap_mw[FSW_GUARDIAN_NODES_MAX];
    uint32_t duty_permille[FSW_GUARDIAN_NODES_MAX];
    int32_t pgid[FSW_GUARDIAN_NODES_MAX];
};

/* What only the program around the core can know, for its status messages. */
struct fsw_guardian_io {
    uint32_t flags;            /* FSW_GUARDIAN_MEMORY_LOCKED | WATCHDOG */
    uint32_t overruns;
    uint32_t read_back_mw[FSW_GUARDIAN_NODES_MAX];
    uint32_t node_flags[FSW_GUARDIAN_NODES_MAX];  /* without FSW_GUARDIAN_NODE_RUNNING */
};

/* Start at the floor with no lease. E_ARG, E_CONFIG. */
int fsw_guardian_init(struct fsw_guardian_state *state, const struct fsw_guardian_config *config, uint64_t now_us);

/* Judge one message; a valid newer LEASE takes force as a whole, anything else changes only counters.
 * A cap below the floor is legal (a node shed to nothing); expiry never raises it.
 * E_ARG, E_STATE, E_LENGTH..E_PGID. */
int fsw_guardian_message(struct fsw_guardian_state *state, uint64_t now_us, const uint8_t *message, size_t length);

/* Expire, pace the job groups and say what is in force at now_us. A clock that went backwards ends the lease.
 * A group's share is kept by accounts of run time, so its mean over a second is right at any call rate of
 * 20 Hz or more, however uneven the calls come; a group leased for several nodes gets the least of their
 * shares. E_ARG, E_STATE. */
int fsw_guardian_tick(struct fsw_guardian_state *state, uint64_t now_us, struct fsw_guardian_out *out);

/* Encode a STATUS or BEACON as of the last tick into out[0..*length). E_ARG, E_STATE, E_KIND. */
int fsw_guardian_status(const struct fsw_guardian_state *state, uint32_t kind, const struct fsw_guardian_io *io,
                        uint8_t *out, size_t capacity, size_t *length);
/* cffi: end */

#endif
