/* See guardian_core.h for what this owns and for the message layouts. */
#include "guardian_core.h"

#include <string.h>

enum { HEADER = 20, NODE = 12, CRC = 4, STATUS_HEADER = 92, STATUS_NODE = 16 };
#define FULL_PERMILLE 1000U
/* A group is never owed, nor owes, more than one second of run time: an old debt must not starve it for long. */
#define CREDIT_LIMIT (INT64_C(1000000) * (int64_t)FULL_PERMILLE)

_Static_assert(FSW_GUARDIAN_MESSAGE_MAX == HEADER + NODE * FSW_GUARDIAN_NODES_MAX + CRC, "layout");
_Static_assert(FSW_GUARDIAN_STATUS_MAX == STATUS_HEADER + STATUS_NODE * FSW_GUARDIAN_NODES_MAX + CRC, "layout");
_Static_assert(FSW_GUARDIAN_CAUSES == FSW_GUARDIAN_E_LENGTH - FSW_GUARDIAN_E_PGID + 1, "one counter a cause");
/* The seal runs over the bytes of the state: padding in it would make the seal mean nothing. */
_Static_assert(offsetof(struct fsw_guardian_state, check) ==
                   8 * 8 + 8 * FSW_GUARDIAN_NODES_MAX + sizeof(struct fsw_guardian_config) +
                       3 * 4 * FSW_GUARDIAN_NODES_MAX + 4 * (6 + FSW_GUARDIAN_CAUSES),
               "no padding before the seal");

static uint32_t crc32(const uint8_t *bytes, size_t length)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    uint32_t crc = 0xffffffffU;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ table[crc & 15U];
        crc = (crc >> 4) ^ table[crc & 15U];
    }
    return ~crc;
}

static uint32_t get_u16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
static uint32_t get_u32(const uint8_t *p) { return get_u16(p) | get_u16(p + 2) << 16; }
static uint64_t get_u64(const uint8_t *p) { return (uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32; }

static uint8_t *put(uint8_t *p, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(value >> (8 * i));
    }
    return p + bytes;
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static void count(uint32_t *counter)
{
    if (*counter != UINT32_MAX) {
        ++*counter;
    }
}

static uint32_t seal_of(const struct fsw_guardian_state *state)
{
    return crc32((const uint8_t *)state, offsetof(struct fsw_guardian_state, check));
}

/* The lease is over. Never raises: a cap leased below the floor stays there until a newer lease. */
static void expire(struct fsw_guardian_state *state)
{
    state->lease_us = 0;
    for (uint32_t i = 0; i < state->config.n_nodes; i++) {
        state->cap_mw[i] = least(state->cap_mw[i], state->config.floor_mw[i]);
        state->duty_permille[i] = 0;
    }
}

static void advance(struct fsw_guardian_state *state, uint64_t now_us)
{
    if (now_us < state->now_us) {
        expire(state);
        state->clock_stepped = 1;
        count(&state->clock_steps);
        state->paced_us = now_us;
        state->start_us = state->start_us < now_us ? state->start_us : now_us;
        state->heard_us = state->heard_us < now_us ? state->heard_us : now_us;
    } else if (state->lease_us != 0 && now_us - state->granted_us >= state->lease_us) {
        expire(state);
    }
    state->now_us = now_us;
}

int fsw_guardian_init(struct fsw_guardian_state *state, const struct fsw_guardian_config *config, uint64_t now_us)
{
    if (state == NULL || config == NULL) {
        return FSW_GUARDIAN_E_ARG;
    }
    if (config->n_nodes < 1 || config->n_nodes > FSW_GUARDIAN_NODES_MAX || config->lease_max_ms < 1 ||
        config->lease_max_ms > FSW_GUARDIAN_LEASE_LIMIT_MS || config->alone_after_ms < 1 ||
        config->alone_after_ms > FSW_GUARDIAN_ALONE_LIMIT_MS) {
        return FSW_GUARDIAN_E_CONFIG;
    }
    for (uint32_t i = 0; i < config->n_nodes; i++) {
        if (config->ceiling_mw[i] < 1 || config->ceiling_mw[i] > FSW_GUARDIAN_CAP_MAX_MW ||
            config->floor_mw[i] > config->ceiling_mw[i]) {
            return FSW_GUARDIAN_E_CONFIG;
        }
    }
    memset(state, 0, sizeof *state);
    state->config = *config;
    state->start_us = state->now_us = state->paced_us = state->heard_us = now_us;
    for (uint32_t i = 0; i < config->n_nodes; i++) {
        state->cap_mw[i] = config->floor_mw[i];
    }
    state->check = seal_of(state);
    return 0;
}

/* Everything that can be wrong with a message, before anything of it is used. */
static int judge(const struct fsw_guardian_state *state, const uint8_t *message, size_t length)
{
    if (length < HEADER + CRC || length > FSW_GUARDIAN_MESSAGE_MAX) {
        return FSW_GUARDIAN_E_LENGTH;
    }
    if (get_u32(message) != FSW_GUARDIAN_MAGIC) {
        return FSW_GUARDIAN_E_MAGIC;
    }
    if (message[4] != FSW_GUARDIAN_VERSION) {
        return FSW_GUARDIAN_E_VERSION;
    }
    if (get_u32(message + length - CRC) != crc32(message, length - CRC)) {
        return FSW_GUARDIAN_E_CRC;
    }
    const uint32_t kind = message[5];
    const uint32_t n_nodes = message[6];
    if ((kind != FSW_GUARDIAN_LEASE && kind != FSW_GUARDIAN_HELLO) || message[7] != 0) {
        return FSW_GUARDIAN_E_KIND;
    }
    if (length != HEADER + NODE * (size_t)n_nodes + CRC) {
        return FSW_GUARDIAN_E_LENGTH;
    }
    if (n_nodes != (kind == FSW_GUARDIAN_HELLO ? 0 : state->config.n_nodes)) {
        return FSW_GUARDIAN_E_NODES;
    }
    const uint32_t lease_ms = get_u32(message + 16);
    if (kind == FSW_GUARDIAN_HELLO) {
        return lease_ms == 0 ? 0 : FSW_GUARDIAN_E_LEASE;
    }
    const uint64_t sequence = get_u64(message + 8);
    if (sequence <= state->last_sequence || sequence - state->last_sequence > FSW_GUARDIAN_SEQUENCE_GAP) {
        return FSW_GUARDIAN_E_SEQUENCE;
    }
    if (lease_ms < 1 || lease_ms > state->config.lease_max_ms) {
        return FSW_GUARDIAN_E_LEASE;
    }
    for (uint32_t i = 0; i < n_nodes; i++) {
        const uint8_t *node = message + HEADER + NODE * (size_t)i;
        const uint32_t pgid = get_u32(node + 4);
        if (get_u32(node) > state->config.ceiling_mw[i]) {
            return FSW_GUARDIAN_E_CAP;
        }
        /* Group 1 is init's, and kill(-1) is everybody. */
        if (pgid == 1 || pgid > (uint32_t)INT32_MAX) {
            return FSW_GUARDIAN_E_PGID;
        }
        if (get_u16(node + 8) > FULL_PERMILLE) {
            return FSW_GUARDIAN_E_DUTY;
        }
        if (get_u16(node + 10) != 0) {
            return FSW_GUARDIAN_E_KIND;
        }
    }
    return 0;
}

static void grant(struct fsw_guardian_state *state, const uint8_t *message)
{
    state->last_sequence = get_u64(message + 8);
    state->granted_us = state->heard_us = state->now_us;
    state->lease_us = (uint64_t)get_u32(message + 16) * 1000U;
    state->clock_stepped = 0;
    count(&state->accepted);
    for (uint32_t i = 0; i < state->config.n_nodes; i++) {
        const uint8_t *node = message + HEADER + NODE * (size_t)i;
        const int32_t pgid = (int32_t)get_u32(node + 4);
        state->cap_mw[i] = get_u32(node);
        state->duty_permille[i] = get_u16(node + 8);
        if (state->pgid[i] != pgid) {
            state->pgid[i] = pgid;
            state->credit[i] = 0;
            state->run_mask &= ~(1U << i);
        }
    }
}

int fsw_guardian_message(struct fsw_guardian_state *state, uint64_t now_us, const uint8_t *message, size_t length)
{
    if (state == NULL || message == NULL) {
        return FSW_GUARDIAN_E_ARG;
    }
    if (state->check != seal_of(state)) {
        return FSW_GUARDIAN_E_STATE;
    }
    advance(state, now_us);
    const int code = judge(state, message, length);
    if (code != 0) {
        count(&state->rejected[FSW_GUARDIAN_E_LENGTH - code]);
    } else if (message[5] == FSW_GUARDIAN_LEASE) {
        grant(state, message);
    }
    state->answered_code = code;
    state->answered_sequence = length >= 16 ? get_u64(message + 8) : 0;
    state->check = seal_of(state);
    return code;
}

/* Let each group run while its account of run time is not overdrawn. */
static void pace(struct fsw_guardian_state *state)
{
    const uint64_t since_us = state->now_us - state->paced_us;
    const int64_t elapsed_us = since_us < 1000000U ? (int64_t)since_us : 1000000;
    state->paced_us = state->now_us;
    uint32_t run_mask = 0;
    for (uint32_t i = 0; i < state->config.n_nodes; i++) {
        uint32_t first = 0; /* the lowest node with this group keeps the account for all of them */
        while (state->pgid[first] != state->pgid[i]) {
            first++;
        }
        if (state->pgid[i] == 0 || first != i) {
            run_mask |= state->pgid[i] != 0 && (run_mask >> first & 1U) != 0 ? 1U << i : 0U;
            state->credit[i] = 0;
            continue;
        }
        uint32_t duty = state->duty_permille[i];
        for (uint32_t j = i + 1; j < state->config.n_nodes; j++) {
            duty = state->pgid[j] == state->pgid[i] ? least(duty, state->duty_permille[j]) : duty;
        }
        if (duty == 0 || duty == FULL_PERMILLE) {
            state->credit[i] = 0;
        } else {
            const uint32_t spent = (state->run_mask >> i & 1U) != 0 ? FULL_PERMILLE : 0U;
            const int64_t credit = state->credit[i] + elapsed_us * ((int64_t)duty - (int64_t)spent);
            state->credit[i] = credit > CREDIT_LIMIT ? CREDIT_LIMIT : credit < -CREDIT_LIMIT ? -CREDIT_LIMIT : credit;
        }
        run_mask |= duty != 0 && state->credit[i] >= 0 ? 1U << i : 0U;
    }
    state->run_mask = run_mask;
}

static uint32_t flags_of(const struct fsw_guardian_state *state)
{
    const uint64_t alone_after_us = (uint64_t)state->config.alone_after_ms * 1000U;
    return (state->lease_us == 0 ? (uint32_t)FSW_GUARDIAN_EXPIRED : 0U) |
           (state->now_us - state->heard_us >= alone_after_us ? (uint32_t)FSW_GUARDIAN_ALONE : 0U) |
           (state->clock_stepped != 0 ? (uint32_t)FSW_GUARDIAN_CLOCK_STEPPED : 0U);
}

static uint32_t lease_left_ms(const struct fsw_guardian_state *state)
{
    return state->lease_us == 0 ? 0U : (uint32_t)((state->lease_us - (state->now_us - state->granted_us)) / 1000U);
}

int fsw_guardian_tick(struct fsw_guardian_state *state, uint64_t now_us, struct fsw_guardian_out *out)
{
    if (state == NULL || out == NULL) {
        return FSW_GUARDIAN_E_ARG;
    }
    if (state->check != seal_of(state)) {
        return FSW_GUARDIAN_E_STATE;
    }
    advance(state, now_us);
    pace(state);
    state->check = seal_of(state);
    out->flags = flags_of(state);
    out->lease_left_ms = lease_left_ms(state);
    out->run_mask = state->run_mask;
    memcpy(out->cap_mw, state->cap_mw, sizeof out->cap_mw);
    memcpy(out->duty_permille, state->duty_permille, sizeof out->duty_permille);
    memcpy(out->pgid, state->pgid, sizeof out->pgid);
    return 0;
}

int fsw_guardian_status(const struct fsw_guardian_state *state, uint32_t kind, const struct fsw_guardian_io *io,
                        uint8_t *out, size_t capacity, size_t *length)
{
    if (state == NULL || io == NULL || out == NULL || length == NULL) {
        return FSW_GUARDIAN_E_ARG;
    }
    if (state->check != seal_of(state)) {
        return FSW_GUARDIAN_E_STATE;
    }
    if (kind != FSW_GUARDIAN_STATUS && kind != FSW_GUARDIAN_BEACON) {
        return FSW_GUARDIAN_E_KIND;
    }
    const size_t need = STATUS_HEADER + STATUS_NODE * (size_t)state->config.n_nodes + CRC;
    if (capacity < need) {
        return FSW_GUARDIAN_E_ARG;
    }
    uint8_t *p = put(out, FSW_GUARDIAN_MAGIC, 4);
    p = put(p, FSW_GUARDIAN_VERSION, 1);
    p = put(p, kind, 1);
    p = put(p, state->config.n_nodes, 1);
    p = put(p, flags_of(state) | io->flags, 1);
    p = put(p, state->last_sequence, 8);
    p = put(p, state->answered_sequence, 8);
    p = put(p, lease_left_ms(state), 4);
    p = put(p, (uint32_t)state->answered_code, 4);
    p = put(p, state->accepted, 4);
    for (size_t i = 0; i < FSW_GUARDIAN_CAUSES; i++) {
        p = put(p, state->rejected[i], 4);
    }
    p = put(p, state->clock_steps, 4);
    p = put(p, io->overruns, 4);
    p = put(p, (state->now_us - state->start_us) / 1000000U, 4);
    for (uint32_t i = 0; i < state->config.n_nodes; i++) {
        const uint32_t running = (state->run_mask >> i & 1U) != 0 ? (uint32_t)FSW_GUARDIAN_NODE_RUNNING : 0U;
        p = put(p, state->cap_mw[i], 4);
        p = put(p, io->read_back_mw[i], 4);
        p = put(p, (uint32_t)state->pgid[i], 4);
        p = put(p, state->duty_permille[i], 2);
        p = put(p, running | io->node_flags[i], 1);
        p = put(p, 0, 1);
    }
    put(p, crc32(out, need - CRC), CRC);
    *length = need;
    return 0;
}
