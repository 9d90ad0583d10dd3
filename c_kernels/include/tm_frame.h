/* One TM frame to and from the line in one pass: error control, Reed-Solomon code, randomiser, sync marker.
 *
 * Source: CCSDS 132.0-B-3, section 4.1.6 (CRC-16), 131.0-B-5, sections 4 (code), 9 (marker) and 10 (randomiser). Called
 * through flightsw/kernels.py by both ends of the downlink. Never allocates, keeps nothing between calls, and knows
 * nothing of what is in a frame; the caller owns the codec, which fsw_frame_init fills once.
 */
#ifndef FSW_TM_FRAME_H
#define FSW_TM_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "reed_solomon.h"

/* cffi: begin */
#define FSW_FRAME_OCTETS_MAX 2048    /* of a frame, and of the block that codes it */
#define FSW_FRAME_MARKER_OCTETS 4
#define FSW_FRAME_CHECK_OCTETS 2

enum {
    FSW_FRAME_E_NULL = -1,           /* a pointer is NULL */
    FSW_FRAME_E_CODEC = -2,          /* frame_octets outside 3..2048, or not 223 times an interleave of 1..8 */
    FSW_FRAME_E_LENGTH = -3,         /* an input or output has not the length that the codec asks for */
    FSW_FRAME_E_UNCORRECTABLE = -4,  /* more wrong octets than the code repairs */
    FSW_FRAME_E_CHECK = -5           /* the frame error control field does not close */
};

struct fsw_frame_codec {
    struct fsw_rs_tables code;
    uint16_t crc[8][256];            /* CRC-16 of an octet, then of it and one to seven zero octets */
    uint8_t sequence[FSW_FRAME_OCTETS_MAX]; /* of the randomiser */
    int32_t frame_octets;
    int32_t interleave;              /* 0: not coded */
    int32_t block_octets;            /* on the line, after the marker */
};

int fsw_frame_init(struct fsw_frame_codec *codec, int32_t frame_octets, int32_t interleave);

/* Make of a frame without its error control field what goes on the line: marker and block. */
int fsw_frame_encode(const struct fsw_frame_codec *codec, const uint8_t *body, size_t body_octets, uint8_t *line,
                     size_t line_octets);

/* Read a frame from a block found behind a marker. `out` has the block's length and begins with the frame, its error
 * control field included; `corrected` counts the octets that were wrong. On an error `out` must not be used. */
int fsw_frame_decode(const struct fsw_frame_codec *codec, const uint8_t *block, size_t block_octets, uint8_t *out,
                     size_t out_octets, int32_t *corrected);
/* cffi: end */

#endif
