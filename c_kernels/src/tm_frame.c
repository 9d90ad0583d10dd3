/* One TM frame to and from the line, see tm_frame.h. */
#include "tm_frame.h"

#include <string.h>

static const uint8_t MARKER[FSW_FRAME_MARKER_OCTETS] = {0x1a, 0xcf, 0xfc, 0x1d};

static void fill_crc(uint16_t table[8][256])
{
    for (unsigned octet = 0; octet < 256; octet++) {
        unsigned crc = octet << 8;
        for (unsigned bit = 0; bit < 8; bit++) {
            crc = (crc << 1) ^ (crc & 0x8000U ? 0x1021U : 0U);
        }
        table[0][octet] = (uint16_t)crc;
    }
    for (unsigned later = 1; later < 8; later++) {
        for (unsigned octet = 0; octet < 256; octet++) {
            const unsigned before = table[later - 1][octet];
            table[later][octet] = (uint16_t)((before << 8) ^ table[0][before >> 8]);
        }
    }
}

/* x^8 + x^7 + x^5 + x^3 + 1 from all ones; bit 7 of the register is the oldest. */
static void fill_sequence(uint8_t sequence[FSW_FRAME_OCTETS_MAX])
{
    unsigned state = 0xff;
    for (size_t i = 0; i < FSW_FRAME_OCTETS_MAX; i++) {
        unsigned octet = 0;
        for (unsigned bit = 0; bit < 8; bit++) {
            const unsigned fed_back = (state >> 7 ^ state >> 4 ^ state >> 2 ^ state) & 1U;
            octet = octet << 1 | state >> 7;
            state = (state << 1 | fed_back) & 0xffU;
        }
        sequence[i] = (uint8_t)octet;
    }
}

int fsw_frame_init(struct fsw_frame_codec *codec, int32_t frame_octets, int32_t interleave)
{
    if (codec == NULL) {
        return FSW_FRAME_E_NULL;
    }
    if (frame_octets <= FSW_FRAME_CHECK_OCTETS || frame_octets > FSW_FRAME_OCTETS_MAX || interleave < 0 ||
        interleave > FSW_RS_INTERLEAVE_MAX || (interleave > 0 && frame_octets != FSW_RS_DATA_OCTETS * interleave)) {
        return FSW_FRAME_E_CODEC;
    }
    fsw_rs_init(&codec->code);
    fill_crc(codec->crc);
    fill_sequence(codec->sequence);
    codec->frame_octets = frame_octets;
    codec->interleave = interleave;
    codec->block_octets = frame_octets + FSW_RS_PARITY_OCTETS * interleave;
    return 0;
}

/* Whether the codec's numbers can be relied on for lengths: it is the caller's memory. */
static int is_sound(const struct fsw_frame_codec *codec)
{
    return codec->frame_octets > FSW_FRAME_CHECK_OCTETS && codec->frame_octets <= FSW_FRAME_OCTETS_MAX &&
           codec->interleave >= 0 && codec->interleave <= FSW_RS_INTERLEAVE_MAX &&
           (codec->interleave == 0 || codec->frame_octets == FSW_RS_DATA_OCTETS * codec->interleave) &&
           codec->block_octets == codec->frame_octets + FSW_RS_PARITY_OCTETS * codec->interleave;
}

/* Eight octets at a time: the first two meet the register, the others only their own tables. */
static unsigned crc_of(const uint16_t table[8][256], const uint8_t *octets, size_t n)
{
    unsigned crc = 0xffff;

    for (; n >= 8; n -= 8, octets += 8) {
        crc = (unsigned)(table[7][octets[0] ^ crc >> 8] ^ table[6][octets[1] ^ (crc & 0xff)] ^ table[5][octets[2]] ^
                         table[4][octets[3]] ^ table[3][octets[4]] ^ table[2][octets[5]] ^ table[1][octets[6]] ^
                         table[0][octets[7]]);
    }
    for (; n > 0; n--, octets++) {
        crc = (crc << 8 & 0xff00U) ^ table[0][crc >> 8 ^ *octets];
    }
    return crc;
}

int fsw_frame_encode(const struct fsw_frame_codec *codec, const uint8_t *body, size_t body_octets, uint8_t *line,
                     size_t line_octets)
{
    if (codec == NULL || body == NULL || line == NULL) {
        return FSW_FRAME_E_NULL;
    }
    if (!is_sound(codec)) {
        return FSW_FRAME_E_CODEC;
    }
    const size_t block_octets = (size_t)codec->block_octets;
    if (body_octets + FSW_FRAME_CHECK_OCTETS != (size_t)codec->frame_octets ||
        line_octets != FSW_FRAME_MARKER_OCTETS + block_octets) {
        return FSW_FRAME_E_LENGTH;
    }
    uint8_t *block = line + FSW_FRAME_MARKER_OCTETS;
    const unsigned crc = crc_of(codec->crc, body, body_octets);
    memcpy(line, MARKER, sizeof MARKER);
    memcpy(block, body, body_octets);
    block[body_octets] = (uint8_t)(crc >> 8);
    block[body_octets + 1] = (uint8_t)(crc & 0xff);
    if (codec->interleave > 0) {
        fsw_rs_encode(&codec->code, codec->interleave, block);
    }
    for (size_t i = 0; i < block_octets; i++) {
        block[i] = (uint8_t)(block[i] ^ codec->sequence[i]);
    }
    return 0;
}

int fsw_frame_decode(const struct fsw_frame_codec *codec, const uint8_t *block, size_t block_octets, uint8_t *out,
                     size_t out_octets, int32_t *corrected)
{
    if (codec == NULL || block == NULL || out == NULL || corrected == NULL) {
        return FSW_FRAME_E_NULL;
    }
    if (!is_sound(codec)) {
        return FSW_FRAME_E_CODEC;
    }
    if (block_octets != (size_t)codec->block_octets || out_octets != block_octets) {
        return FSW_FRAME_E_LENGTH;
    }
    *corrected = 0;
    for (size_t i = 0; i < block_octets; i++) {
        out[i] = (uint8_t)(block[i] ^ codec->sequence[i]);
    }
    if (codec->interleave > 0 && fsw_rs_decode(&codec->code, codec->interleave, out, corrected) != 0) {
        return FSW_FRAME_E_UNCORRECTABLE;
    }
    return crc_of(codec->crc, out, (size_t)codec->frame_octets) == 0 ? 0 : FSW_FRAME_E_CHECK;
}
