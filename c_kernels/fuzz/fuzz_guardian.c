/* Fuzz driver of guardian_core.c. An input is a script: advance or step back the clock, hand over bytes as they
 * are or with magic, version and checksum put right (so that the checks behind them are reached), flip a bit of the
 * state. After every step the promises of guardian_core.h are checked against a second, naive account of them.
 *
 *   clang -fsanitize=fuzzer,address,undefined -DFSW_LIBFUZZER ...     coverage-guided
 *   gcc -fsanitize=address,undefined ... && ./fuzz_guardian RUNS SEED  random scripts, the same for the same seed
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "guardian_core.h"

static const struct fsw_guardian_config CONFIG = {
    .n_nodes = 3, .lease_max_ms = 20000, .alone_after_ms = 10000,
    .floor_mw = {1000, 0, 2500}, .ceiling_mw = {15000, 15000, 2500},
};

/* What must be so, kept apart from the core's own state. */
struct account {
    uint64_t now_us;
    uint64_t granted_us;
    uint64_t lease_us;   /* 0: none */
    uint64_t sequence;
    uint32_t cap_mw[3];
};

static uint32_t bitwise_crc32(const uint8_t *bytes, size_t length)
{
    uint32_t crc = 0xffffffffU;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int k = 0; k < 8; k++) {
            crc = crc & 1U ? crc >> 1 ^ 0xedb88320U : crc >> 1;
        }
    }
    return ~crc;
}

static uint64_t little(const uint8_t *bytes, size_t n)
{
    uint64_t value = 0;
    for (size_t i = n; i-- > 0;) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static void put_right(uint8_t *message, size_t length)
{
    if (length < 24) {
        return;
    }
    memcpy(message, "FSWG\x01", 5);
    const uint32_t crc = bitwise_crc32(message, length - 4);
    for (size_t i = 0; i < 4; i++) {
        message[length - 4 + i] = (uint8_t)(crc >> (8 * i));
    }
}

static void account_for_expiry(struct account *account)
{
    if (account->lease_us == 0 || account->now_us - account->granted_us >= account->lease_us) {
        account->lease_us = 0;
        for (size_t i = 0; i < 3; i++) {
            const uint32_t floor_mw = CONFIG.floor_mw[i];
            account->cap_mw[i] = account->cap_mw[i] < floor_mw ? account->cap_mw[i] : floor_mw;
        }
    }
}

static void check(struct fsw_guardian_state *state, const struct account *account)
{
    struct fsw_guardian_out out;
    REQUIRE(fsw_guardian_tick(state, account->now_us, &out) == 0);
    REQUIRE(((out.flags & FSW_GUARDIAN_EXPIRED) != 0) == (account->lease_us == 0));
    REQUIRE(account->lease_us != 0 || (out.run_mask == 0 && out.lease_left_ms == 0));
    for (size_t i = 0; i < 3; i++) {
        REQUIRE(out.cap_mw[i] == account->cap_mw[i]);
        REQUIRE(out.cap_mw[i] <= CONFIG.ceiling_mw[i]);
        REQUIRE(out.duty_permille[i] <= (account->lease_us == 0 ? 0U : 1000U));
        REQUIRE(out.pgid[i] == 0 || out.pgid[i] > 1);
        REQUIRE(out.pgid[i] != 0 || (out.run_mask >> i & 1U) == 0);
    }
    struct fsw_guardian_io io = {0};
    uint8_t status[FSW_GUARDIAN_STATUS_MAX];
    size_t length = 0;
    REQUIRE(fsw_guardian_status(state, FSW_GUARDIAN_STATUS, &io, status, sizeof status, &length) == 0);
    REQUIRE(length == 96 + 16 * 3 && little(status + length - 4, 4) == bitwise_crc32(status, length - 4));
    REQUIRE(little(status + 8, 8) == account->sequence);
}

static void deliver(struct fsw_guardian_state *state, struct account *account, const uint8_t *bytes, size_t length)
{
    /* An exact heap copy lets the sanitizer see a read past the end. */
    uint8_t *message = malloc(length == 0 ? 1 : length);
    REQUIRE(message != NULL);
    memcpy(message, bytes, length);
    const int code = fsw_guardian_message(state, account->now_us, message, length);
    REQUIRE(code <= 0 && (code == 0 || (code <= FSW_GUARDIAN_E_LENGTH && code >= FSW_GUARDIAN_E_PGID)));
    account_for_expiry(account);
    if (code == 0 && message[5] == FSW_GUARDIAN_LEASE) {
        const uint64_t sequence = little(message + 8, 8);
        const uint64_t lease_ms = little(message + 16, 4);
        REQUIRE(length == 24 + 12 * 3 && little(message, 4) == FSW_GUARDIAN_MAGIC);
        REQUIRE(little(message + length - 4, 4) == bitwise_crc32(message, length - 4));
        REQUIRE(sequence > account->sequence && lease_ms >= 1 && lease_ms <= CONFIG.lease_max_ms);
        account->sequence = sequence;
        account->granted_us = account->now_us;
        account->lease_us = lease_ms * 1000;
        for (size_t i = 0; i < 3; i++) {
            account->cap_mw[i] = (uint32_t)little(message + 20 + 12 * i, 4);
        }
    }
    free(message);
}

static void flip(struct fsw_guardian_state *state, const struct account *account, size_t bit)
{
    struct fsw_guardian_state damaged = *state;
    bit %= 8 * (offsetof(struct fsw_guardian_state, check) + sizeof damaged.check);
    ((uint8_t *)&damaged)[bit / 8] ^= (uint8_t)(1U << (bit % 8));
    struct fsw_guardian_out out;
    const uint8_t byte = 0;
    REQUIRE(fsw_guardian_tick(&damaged, account->now_us, &out) == FSW_GUARDIAN_E_STATE);
    REQUIRE(fsw_guardian_message(&damaged, account->now_us, &byte, 1) == FSW_GUARDIAN_E_STATE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fsw_guardian_state state;
    struct account account = {.now_us = 5000000, .cap_mw = {1000, 0, 2500}};
    REQUIRE(fsw_guardian_init(&state, &CONFIG, account.now_us) == 0);
    while (size >= 3) {
        const uint8_t verb = data[0] % 8;
        const uint64_t number = little(data + 1, 2);
        data += 3;
        size -= 3;
        if (verb == 0) {
            flip(&state, &account, number);
        } else if (verb == 1) {
            account.now_us -= number < account.now_us ? number : account.now_us;
            account.lease_us = number == 0 ? account.lease_us : 0;
            account_for_expiry(&account);
        } else if (verb <= 3) {
            account.now_us += number * (verb == 2 ? 1000U : 100U);
            account_for_expiry(&account);
        } else {
            const size_t length = number % 160 < size ? number % 160 : size;
            uint8_t message[160];
            memcpy(message, data, length);
            if (verb != 4) {
                put_right(message, length);
            }
            deliver(&state, &account, message, length);
            data += length;
            size -= length;
        }
        check(&state, &account);
    }
    return 0;
}

#ifndef FSW_LIBFUZZER
static uint64_t random_state;

static uint32_t below(uint32_t limit)
{
    return (uint32_t)(next_word(&random_state) >> 33) % limit;
}

static uint8_t *add(uint8_t *p, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(value >> (8 * i));
    }
    return p + bytes;
}

/* A script of mostly good leases, each field wrong now and then, between clock moves and noise. */
static size_t write_script(uint8_t *script, size_t room)
{
    uint8_t *p = script;
    uint64_t sequence = 0;
    uint32_t lease_ms = 0;
    while ((size_t)(p - script) + 200 < room) {
        if (below(3) == 0) {
            const int to_the_end = below(4) == 0; /* of the last lease, to the microsecond */
            *p++ = to_the_end ? 2 : (uint8_t)below(4);
            p = add(p, to_the_end ? lease_ms : below(65536), 2);
            continue;
        }
        uint8_t *head = p;
        p += 3;
        uint8_t *message = p;
        const uint32_t nodes = below(10) == 0 ? below(9) : 3;
        sequence += below(8) == 0 ? below(3000000) : below(3);
        p = add(p, FSW_GUARDIAN_MAGIC, 4);
        p = add(p, FSW_GUARDIAN_VERSION, 1);
        p = add(p, below(10) == 0 ? below(4) : 1, 1);
        p = add(p, nodes, 1);
        p = add(p, below(30) == 0 ? below(256) : 0, 1);
        p = add(p, sequence, 8);
        lease_ms = below(12) == 0 ? below(60000) : 1 + below(20000);
        p = add(p, lease_ms, 4);
        for (uint32_t i = 0; i < nodes; i++) {
            p = add(p, below(30) == 0 ? below(20000) : below(2501), 4);
            p = add(p, below(30) == 0 ? (uint64_t)below(2) - below(3) : 2 * below(3) + 2, 4);
            p = add(p, below(30) == 0 ? below(65536) : below(1001), 2);
            p = add(p, below(60) == 0 ? 1 : 0, 2);
        }
        p += 4;
        memset(p - 4, 0, 4);
        head[0] = below(12) == 0 ? 4 : 5;
        add(head + 1, (uint64_t)(p - message), 2);
        if (below(8) == 0) {
            message[below((uint32_t)(p - message))] ^= (uint8_t)(1U << below(8));
        }
    }
    return (size_t)(p - script);
}

int main(int argc, char **argv)
{
    static uint8_t script[4096];
    const long runs = argc > 1 ? strtol(argv[1], NULL, 10) : 1000;
    random_state = argc > 2 ? strtoull(argv[2], NULL, 10) | 1U : 1U;
    for (long run = 0; run < runs; run++) {
        size_t length = write_script(script, sizeof script);
        if (run % 4 == 0) { /* pure noise */
            length = below(sizeof script);
            for (size_t i = 0; i < length; i++) {
                script[i] = (uint8_t)below(256);
            }
        }
        LLVMFuzzerTestOneInput(script, length);
    }
    printf("%ld scripts, every promise kept\n", runs);
    return 0;
}
#endif
