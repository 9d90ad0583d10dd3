/* Reed-Solomon code (255,223), see reed_solomon.h. Parity octet k is the coefficient of x^(31-k) of the remainder. */
#include "reed_solomon.h"

#include <stddef.h>
#include <string.h>

enum {
    CODE = FSW_RS_CODE_OCTETS,
    DATA = FSW_RS_DATA_OCTETS,
    PARITY = FSW_RS_PARITY_OCTETS,
    ERRORS = PARITY / 2,
    WORDS = PARITY / 8,
    TOGETHER = 5,    /* codewords divided at a time */
    ORDER = 255,     /* of the field's multiplicative group */
    STEP = 11,       /* the code is cyclic in b = a^11 */
    FIRST_ROOT = 112 /* b^112 */
};

/* Images of a^7, a^6, ... a^0 in the dual basis: 131.0-B-5, annex F. */
static const uint8_t DUAL_OF_POWER[8] = {0x8d, 0xef, 0xec, 0x86, 0xfa, 0x99, 0xaf, 0x7b};

static uint8_t multiply(const struct fsw_rs_tables *t, uint8_t a, uint8_t b)
{
    return a == 0 || b == 0 ? 0 : t->exp[t->log[a] + t->log[b]];
}

static uint8_t octet_of(const uint64_t words[WORDS], size_t k)
{
    return (uint8_t)(words[k / 8] >> (8 * (k % 8)));
}

static void fill_field(struct fsw_rs_tables *t)
{
    unsigned value = 1;
    for (unsigned power = 0; power < 512; power++) {
        t->exp[power] = (uint8_t)value;
        if (power < ORDER) {
            t->log[value] = (uint8_t)power;
        }
        value = (value << 1) ^ (value & 0x80 ? 0x187U : 0U);
    }
    t->log[0] = 0; /* has none; never looked up */
    for (unsigned value_in = 0; value_in < 256; value_in++) {
        uint8_t dual = 0;
        for (unsigned bit = 0; bit < 8; bit++) {
            dual = (uint8_t)(dual ^ (value_in >> bit & 1 ? DUAL_OF_POWER[7 - bit] : 0));
        }
        t->to_dual[value_in] = dual;
        t->from_dual[dual] = (uint8_t)value_in;
    }
}

static void fill_generator(const struct fsw_rs_tables *t, uint8_t generator[PARITY + 1])
{
    memset(generator, 0, PARITY + 1);
    generator[0] = 1;
    for (unsigned n = 0; n < PARITY; n++) {
        const uint8_t root = t->exp[(FIRST_ROOT + n) * STEP % ORDER];
        for (unsigned j = n + 1; j > 0; j--) {
            generator[j] = (uint8_t)(generator[j - 1] ^ multiply(t, generator[j], root));
        }
        generator[0] = multiply(t, generator[0], root);
    }
}

/* One octet further: shift the remainder up by an octet and take the one that falls out modulo the generator. */
static void advance(const struct fsw_rs_tables *t, const uint64_t from[WORDS], uint64_t to[WORDS])
{
    const uint64_t *fed_back = t->row[0][from[0] & 0xff];
    for (size_t w = 0; w < WORDS; w++) {
        const uint64_t next = w + 1 < WORDS ? from[w + 1] << 56 : 0;
        to[w] = (from[w] >> 8 | next) ^ fed_back[w];
    }
}

int fsw_rs_init(struct fsw_rs_tables *tables)
{
    uint8_t generator[PARITY + 1];

    if (tables == NULL) {
        return FSW_RS_E_NULL;
    }
    memset(tables, 0, sizeof *tables);
    fill_field(tables);
    fill_generator(tables, generator);
    for (unsigned octet = 0; octet < 256; octet++) {
        for (unsigned k = 0; k < PARITY; k++) {
            const uint8_t product = multiply(tables, tables->from_dual[octet], generator[PARITY - 1 - k]);
            tables->row[0][octet][k / 8] |= (uint64_t)tables->to_dual[product] << (8 * (k % 8));
        }
    }
    for (unsigned later = 1; later < 3; later++) {
        for (unsigned octet = 0; octet < 256; octet++) {
            advance(tables, tables->row[later - 1][octet], tables->row[later][octet]);
        }
    }
    return 0;
}

/* Divide the information of `n` neighbouring codewords, whose octets are `stride` apart, by the generator. Each waits
 * for its own tables most of the time, so several at once cost little more than one. 223 octets are 1 and 74 times 3. */
static inline __attribute__((always_inline)) void divide(const struct fsw_rs_tables *t, const uint8_t *data,
                                                         size_t stride, const size_t n, uint64_t remainder[][WORDS])
{
    uint64_t r[TOGETHER][WORDS];

    for (size_t i = 0; i < n; i++) {
        memcpy(r[i], t->row[0][data[i]], sizeof r[i]);
    }
    for (size_t p = 1; p < DATA; p += 3) {
        for (size_t i = 0; i < n; i++) {
            const uint8_t *at = data + p * stride + i;
            const uint64_t *a = t->row[2][(r[i][0] & 0xff) ^ at[0]];
            const uint64_t *b = t->row[1][(r[i][0] >> 8 & 0xff) ^ at[stride]];
            const uint64_t *c = t->row[0][(r[i][0] >> 16 & 0xff) ^ at[2 * stride]];
            r[i][0] = (r[i][0] >> 24 | r[i][1] << 40) ^ a[0] ^ b[0] ^ c[0];
            r[i][1] = (r[i][1] >> 24 | r[i][2] << 40) ^ a[1] ^ b[1] ^ c[1];
            r[i][2] = (r[i][2] >> 24 | r[i][3] << 40) ^ a[2] ^ b[2] ^ c[2];
            r[i][3] = r[i][3] >> 24 ^ a[3] ^ b[3] ^ c[3];
        }
    }
    memcpy(remainder, r, n * sizeof r[0]);
}

/* Remainders of all codewords of a block. */
static void divide_all(const struct fsw_rs_tables *t, const uint8_t *block, size_t interleave, uint64_t remainder[][WORDS])
{
    size_t i = 0;

    for (; i + TOGETHER <= interleave; i += TOGETHER) {
        divide(t, block + i, interleave, TOGETHER, remainder + i);
    }
    for (; i < interleave; i++) {
        divide(t, block + i, interleave, 1, remainder + i);
    }
}

int fsw_rs_encode(const struct fsw_rs_tables *tables, int32_t interleave, uint8_t *block)
{
    uint64_t remainder[FSW_RS_INTERLEAVE_MAX][WORDS];

    if (tables == NULL || block == NULL) {
        return FSW_RS_E_NULL;
    }
    if (interleave < 1 || interleave > FSW_RS_INTERLEAVE_MAX) {
        return FSW_RS_E_INTERLEAVE;
    }
    const size_t stride = (size_t)interleave;
    divide_all(tables, block, stride, remainder);
    for (size_t i = 0; i < stride; i++) {
        uint8_t *parity = block + DATA * stride + i;
        for (size_t k = 0; k < PARITY; k++) {
            parity[k * stride] = octet_of(remainder[i], k);
        }
    }
    return 0;
}

/* Add the parity that came with a codeword to what division gave; returns 0 where they agree. */
static uint64_t compare(const uint8_t *codeword, size_t stride, uint64_t remainder[WORDS])
{
    const uint8_t *parity = codeword + DATA * stride;
    uint64_t any = 0;

    for (size_t w = 0; w < WORDS; w++) {
        for (size_t k = 0; k < 8; k++) {
            remainder[w] ^= (uint64_t)parity[(8 * w + k) * stride] << (8 * k);
        }
        any |= remainder[w];
    }
    return any;
}

/* Values of the remainder at the roots of the generator, by Horner's rule for all roots at a time. */
static void syndromes_of(const struct fsw_rs_tables *t, const uint64_t remainder[WORDS], uint8_t syndrome[PARITY])
{
    unsigned root[PARITY]; /* its logarithm */

    for (unsigned j = 0; j < PARITY; j++) {
        root[j] = (FIRST_ROOT + j) * STEP % ORDER;
        syndrome[j] = 0;
    }
    for (size_t k = 0; k < PARITY; k++) {
        const uint8_t coefficient = t->from_dual[octet_of(remainder, k)];
        for (size_t j = 0; j < PARITY; j++) {
            const uint8_t further = t->exp[t->log[syndrome[j]] + root[j]];
            syndrome[j] = (uint8_t)((syndrome[j] != 0 ? further : 0) ^ coefficient);
        }
    }
}

/* Berlekamp and Massey: the shortest feedback register that makes the syndromes; returns its length. */
static size_t locator_of(const struct fsw_rs_tables *t, const uint8_t syndrome[PARITY], uint8_t locator[PARITY + 1])
{
    uint8_t before[PARITY + 1] = {0, 1}; /* the register before the last change of length, shifted */
    size_t length = 0;

    memset(locator, 0, PARITY + 1);
    locator[0] = 1;
    for (size_t n = 0; n < PARITY; n++) {
        uint8_t discrepancy = syndrome[n];
        for (size_t i = 1; i <= length; i++) {
            discrepancy = (uint8_t)(discrepancy ^ multiply(t, locator[i], syndrome[n - i]));
        }
        if (discrepancy != 0) {
            const int longer = 2 * length <= n;
            const uint8_t inverse = t->exp[ORDER - t->log[discrepancy]];
            for (size_t i = 0; i <= PARITY; i++) {
                const uint8_t was = locator[i];
                locator[i] = (uint8_t)(was ^ multiply(t, discrepancy, before[i]));
                if (longer) {
                    before[i] = multiply(t, was, inverse);
                }
            }
            if (longer) {
                length = n + 1 - length;
            }
        }
        memmove(before + 1, before, PARITY);
        before[0] = 0;
    }
    return length;
}

/* Chien: powers of b at which the locator vanishes, as the logarithms (to b) of their inverses. */
static size_t roots_of(const struct fsw_rs_tables *t, const uint8_t locator[PARITY + 1], size_t length,
                       uint8_t position[ERRORS])
{
    unsigned power[ERRORS];  /* logarithm of each term but the first, at b^-at */
    unsigned step[ERRORS];
    size_t terms = 0, found = 0;

    for (unsigned i = 1; i <= length; i++) {
        if (locator[i] != 0) {
            power[terms] = t->log[locator[i]];
            step[terms++] = (ORDER - i * STEP % ORDER) % ORDER;
        }
    }
    for (unsigned at = 0; at < CODE && found < length; at++) {
        uint8_t sum = 1;
        for (size_t i = 0; i < terms; i++) {
            sum = (uint8_t)(sum ^ t->exp[power[i]]);
            power[i] += step[i];
            power[i] -= power[i] >= ORDER ? ORDER : 0;
        }
        if (sum == 0) {
            position[found++] = (uint8_t)at;
        }
    }
    return found;
}

/* Forney: the error at degree `at` is X^-111 evaluator(1/X) / locator'(1/X), where X = b^at. */
static uint8_t error_at(const struct fsw_rs_tables *t, const uint8_t locator[PARITY + 1], size_t length,
                        const uint8_t evaluator[ERRORS], unsigned at)
{
    const unsigned inverse = (ORDER - at * STEP % ORDER) % ORDER; /* logarithm of 1/X */
    uint8_t numerator = 0, denominator = 0;

    for (unsigned i = 0; i < length; i++) {
        numerator = (uint8_t)(numerator ^ multiply(t, evaluator[i], t->exp[i * inverse % ORDER]));
    }
    for (unsigned i = 1; i <= length; i += 2) { /* the derivative keeps odd powers only */
        denominator = (uint8_t)(denominator ^ multiply(t, locator[i], t->exp[(i - 1) * inverse % ORDER]));
    }
    if (numerator == 0 || denominator == 0) {
        return 0;
    }
    const unsigned quotient = t->log[numerator] + (unsigned)ORDER - t->log[denominator];
    return t->exp[(quotient + (FIRST_ROOT - 1) * inverse) % ORDER];
}

/* Repair one codeword whose remainder is not zero; returns how many octets were wrong, 0 where they are too many. */
static int32_t repair(const struct fsw_rs_tables *t, const uint64_t remainder[WORDS], uint8_t *codeword, size_t stride)
{
    uint8_t syndrome[PARITY], locator[PARITY + 1], evaluator[ERRORS] = {0}, position[ERRORS];

    syndromes_of(t, remainder, syndrome);
    const size_t length = locator_of(t, syndrome, locator);
    if (length == 0 || length > ERRORS || roots_of(t, locator, length, position) != length) {
        return 0;
    }
    for (size_t i = 0; i < length; i++) {
        for (size_t j = 0; j <= i; j++) {
            evaluator[i] = (uint8_t)(evaluator[i] ^ multiply(t, locator[j], syndrome[i - j]));
        }
    }
    for (size_t i = 0; i < length; i++) {
        uint8_t *octet = codeword + (size_t)(CODE - 1 - position[i]) * stride;
        *octet = (uint8_t)(*octet ^ t->to_dual[error_at(t, locator, length, evaluator, position[i])]);
    }
    return (int32_t)length;
}

int fsw_rs_decode(const struct fsw_rs_tables *tables, int32_t interleave, uint8_t *block, int32_t *corrected)
{
    uint64_t remainder[FSW_RS_INTERLEAVE_MAX][WORDS];

    if (tables == NULL || block == NULL || corrected == NULL) {
        return FSW_RS_E_NULL;
    }
    if (interleave < 1 || interleave > FSW_RS_INTERLEAVE_MAX) {
        return FSW_RS_E_INTERLEAVE;
    }
    const size_t stride = (size_t)interleave;
    int32_t wrong = 0;
    divide_all(tables, block, stride, remainder);
    for (size_t i = 0; i < stride; i++) {
        if (compare(block + i, stride, remainder[i]) == 0) {
            continue;
        }
        const int32_t repaired = repair(tables, remainder[i], block + i, stride);
        divide(tables, block + i, stride, 1, remainder + i);
        if (repaired == 0 || compare(block + i, stride, remainder[i]) != 0) {
            return FSW_RS_E_UNCORRECTABLE;
        }
        wrong += repaired;
    }
    *corrected = wrong;
    return 0;
}
