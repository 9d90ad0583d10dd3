/* Reed-Solomon code (255,223) of the CCSDS, dual basis, interleaved: repairs up to 16 octets of each codeword.
 *
 * Source: CCSDS 131.0-B-5, section 4 and annex F. Field polynomial x^8 + x^7 + x^2 + x + 1, generator polynomial
 * with roots a^(11 j), j = 112..143. Called by tm_frame.c and, through flightsw/kernels.py, by tests. Never
 * allocates and keeps nothing: the caller owns the tables, which fsw_rs_init fills once.
 *
 * A block of interleave I has 255 I octets: octet p of codeword i stands at p I + i, information first. Octets are
 * in the dual basis throughout. The map from one basis to the other is linear, as the division by the generator
 * is, so the tables contain it and it costs nothing. A decoder first divides again: only a codeword whose remainder is
 * not zero is looked at more closely, and what is then handed out is a codeword again.
 */
#ifndef FSW_REED_SOLOMON_H
#define FSW_REED_SOLOMON_H

#include <stdint.h>

/* cffi: begin */
#define FSW_RS_CODE_OCTETS 255
#define FSW_RS_DATA_OCTETS 223
#define FSW_RS_PARITY_OCTETS 32
#define FSW_RS_INTERLEAVE_MAX 8

enum {
    FSW_RS_E_NULL = -1,          /* a pointer is NULL */
    FSW_RS_E_INTERLEAVE = -2,    /* interleave outside 1..8 */
    FSW_RS_E_UNCORRECTABLE = -3  /* a codeword has more than 16 wrong octets; the block must not be used */
};

struct fsw_rs_tables {
    uint64_t row[3][256][4];  /* remainder of an octet by the generator, one, two and three octets on; octet 0 lowest */
    uint8_t to_dual[256];
    uint8_t from_dual[256];
    uint8_t log[256];         /* to the base of a */
    uint8_t exp[512];         /* twice round, so that sums of two logarithms need no modulo */
};

int fsw_rs_init(struct fsw_rs_tables *tables);

/* Write the parity of the first 223 I octets of `block` to its last 32 I. */
int fsw_rs_encode(const struct fsw_rs_tables *tables, int32_t interleave, uint8_t *block);

/* Repair `block` in place; `corrected` is the number of octets that were wrong. */
int fsw_rs_decode(const struct fsw_rs_tables *tables, int32_t interleave, uint8_t *block, int32_t *corrected);
/* cffi: end */

#endif
