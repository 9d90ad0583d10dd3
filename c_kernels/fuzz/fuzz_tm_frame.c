/* Fuzz driver of tm_frame.c and reed_solomon.c. An input names a codec and what happens to a frame: it is sent and
 * damaged octet by octet, or the block is noise, or lengths and the codec's own numbers are wrong. What comes back is
 * held against what was sent and against the definitions of code and check, written out naively.
 *
 *   clang -fsanitize=fuzzer,address,undefined -DFSW_LIBFUZZER ...      coverage-guided
 *   gcc -fsanitize=address,undefined ... && ./fuzz_tm_frame RUNS SEED  random inputs, the same for the same seed
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "tm_frame.h"

enum { CODECS = 6, CHOICES = 16, HEADER = 4 };

static const int32_t FRAME_OCTETS[CODECS] = {40, 223, 223, 446, 1115, 1784};
static const int32_t INTERLEAVE[CODECS] = {0, 0, 1, 2, 5, 8};
static const uint8_t CHOICE[CHOICES] = {0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 4, 5}; /* short ones more often */
static struct fsw_frame_codec codecs[CODECS];
static uint8_t conventional[256]; /* octets of the dual basis */

static unsigned bitwise_crc(const uint8_t *octets, size_t n)
{
    unsigned crc = 0xffff;
    for (size_t i = 0; i < n; i++) {
        crc ^= (unsigned)octets[i] << 8;
        for (int k = 0; k < 8; k++) {
            crc = (crc << 1 ^ (crc & 0x8000U ? 0x1021U : 0U)) & 0xffffU;
        }
    }
    return crc;
}

static uint8_t bitwise_product(unsigned a, unsigned b)
{
    unsigned product = 0;
    for (; b != 0; b >>= 1) {
        product ^= b & 1U ? a : 0U;
        a = a << 1 ^ (a & 0x80U ? 0x187U : 0U);
    }
    return (uint8_t)product;
}

static void fill_conventional(void)
{
    static const uint8_t image[8] = {0x7b, 0xaf, 0x99, 0xfa, 0x86, 0xec, 0xef, 0x8d};
    for (unsigned value = 0; value < 256; value++) {
        uint8_t dual = 0;
        for (unsigned bit = 0; bit < 8; bit++) {
            dual = (uint8_t)(dual ^ (value >> bit & 1U ? image[bit] : 0));
        }
        conventional[dual] = (uint8_t)value;
    }
}

/* By definition a codeword vanishes at a^(11 j), j = 112..143. */
static void require_codeword(const uint8_t *block, size_t stride, unsigned root_of)
{
    uint8_t root = 1, sum = 0;
    for (unsigned power = 0; power < 11U * (112U + root_of % 32U); power++) {
        root = bitwise_product(root, 2);
    }
    for (size_t p = 0; p < 255; p++) {
        sum = (uint8_t)(bitwise_product(sum, root) ^ conventional[block[p * stride]]);
    }
    REQUIRE(sum == 0);
}

/* A block that was accepted: the frame's check closes, and it lies within reach of a frame sent. */
static void require_in_reach(const struct fsw_frame_codec *codec, const uint8_t *block, const uint8_t *out,
                             int32_t corrected)
{
    const size_t octets = (size_t)codec->block_octets, stride = (size_t)codec->interleave;
    uint8_t line[FSW_FRAME_MARKER_OCTETS + FSW_FRAME_OCTETS_MAX];
    int32_t wrong = 0;

    REQUIRE(bitwise_crc(out, (size_t)codec->frame_octets) == 0);
    REQUIRE(fsw_frame_encode(codec, out, (size_t)codec->frame_octets - 2, line, 4 + octets) == 0);
    for (size_t i = 0; i < octets; i++) {
        wrong += line[4 + i] != block[i];
    }
    REQUIRE(wrong == corrected && wrong <= 16 * (int32_t)stride);
}

static void send_and_damage(const struct fsw_frame_codec *codec, const uint8_t *data, size_t size, unsigned seed)
{
    const size_t body_octets = (size_t)codec->frame_octets - 2, octets = (size_t)codec->block_octets;
    const size_t stride = codec->interleave > 0 ? (size_t)codec->interleave : 1;
    uint8_t *body = malloc(body_octets), *line = malloc(4 + octets), *out = malloc(octets); /* exact: ASan sees beyond */
    uint8_t sent[FSW_FRAME_OCTETS_MAX];
    int32_t corrected = -1;

    REQUIRE(body != NULL && line != NULL && out != NULL);
    for (size_t i = 0; i < body_octets; i++) {
        seed = seed * 1664525U + 1013904223U;
        body[i] = (uint8_t)(seed >> 24);
    }
    REQUIRE(fsw_frame_encode(codec, body, body_octets, line, 4 + octets) == 0);
    REQUIRE(memcmp(line, "\x1a\xcf\xfc\x1d", 4) == 0);
    memcpy(sent, line + 4, octets);
    if (codec->interleave > 0 && seed % 256 == 0) {
        uint8_t plain[FSW_FRAME_OCTETS_MAX];
        for (size_t i = 0; i < octets; i++) {
            plain[i] = line[4 + i] ^ codec->sequence[i];
        }
        for (size_t i = 0; i < stride; i++) {
            require_codeword(plain + i, stride, seed >> 8);
        }
    }
    for (; size >= 3; data += 3, size -= 3) {
        line[4 + ((size_t)data[0] << 8 | data[1]) % octets] ^= data[2];
    }
    int32_t wrong = 0, worst = 0;
    for (size_t i = 0; i < stride; i++) {
        int32_t in_codeword = 0;
        for (size_t p = i; p < octets; p += stride) {
            in_codeword += line[4 + p] != sent[p];
        }
        wrong += in_codeword;
        worst = in_codeword > worst ? in_codeword : worst;
    }
    const int code = fsw_frame_decode(codec, line + 4, octets, out, octets, &corrected);
    if (worst <= (codec->interleave > 0 ? 16 : 0)) {
        REQUIRE(code == 0 && corrected == wrong);
        REQUIRE(memcmp(out, body, body_octets) == 0);
        REQUIRE(seed % 16 != 0 || bitwise_crc(out, body_octets + 2) == 0);
    } else if (code == 0) {
        require_in_reach(codec, line + 4, out, corrected);
    } else {
        REQUIRE(code == FSW_FRAME_E_CHECK || (code == FSW_FRAME_E_UNCORRECTABLE && codec->interleave > 0));
    }
    free(body);
    free(line);
    free(out);
}

static void take_noise(const struct fsw_frame_codec *codec, const uint8_t *data, size_t size)
{
    const size_t octets = (size_t)codec->block_octets;
    uint8_t *block = malloc(octets), *out = malloc(octets);
    int32_t corrected = -1;

    REQUIRE(block != NULL && out != NULL);
    for (size_t i = 0; i < octets; i++) {
        block[i] = (uint8_t)(size == 0 ? 0 : data[i % size] + i / size);
    }
    if (fsw_frame_decode(codec, block, octets, out, octets, &corrected) == 0) {
        require_in_reach(codec, block, out, corrected);
    }
    free(block);
    free(out);
}

static void misuse(const struct fsw_frame_codec *codec, const uint8_t *data, size_t size)
{
    static struct fsw_frame_codec broken; /* large, and always overwritten first */
    uint8_t in[FSW_FRAME_OCTETS_MAX] = {0}, out[FSW_FRAME_MARKER_OCTETS + FSW_FRAME_OCTETS_MAX + 1];
    int32_t number[2] = {0, 0}, corrected = 0;

    memcpy(number, data, size < sizeof number ? size : sizeof number);
    const size_t body = (size_t)codec->frame_octets - 2, block = (size_t)codec->block_octets;
    const size_t less_in = (uint32_t)number[0] % 3, less_out = (uint32_t)number[1] % 3; /* 1 is right */
    const int is_right = less_in == 1 && less_out == 1;
    const int encoded = fsw_frame_encode(codec, in, body + 1 - less_in, out, block + 5 - less_out);
    REQUIRE(encoded == (is_right ? 0 : FSW_FRAME_E_LENGTH));
    const int decoded = fsw_frame_decode(codec, in, block + 1 - less_in, out, block + 1 - less_out, &corrected);
    REQUIRE((decoded == FSW_FRAME_E_LENGTH) == !is_right);
    const int started = fsw_frame_init(&broken, number[0], number[1]);
    REQUIRE(started == 0 || started == FSW_FRAME_E_CODEC);
    REQUIRE(started != 0 || (number[0] >= 3 && number[0] <= FSW_FRAME_OCTETS_MAX && number[1] >= 0 && number[1] <= 8));
    memcpy(&broken, codec, sizeof broken);
    broken.frame_octets = number[0];
    broken.interleave = number[1];
    if (broken.frame_octets != codec->frame_octets || broken.interleave != codec->interleave) {
        REQUIRE(fsw_frame_decode(&broken, in, block, out, block, &corrected) < 0);
    }
    int32_t *none = NULL;
    REQUIRE(fsw_frame_decode(codec, in, block, out, block, none) == FSW_FRAME_E_NULL);
    REQUIRE(fsw_rs_encode(&codec->code, 9, in) == FSW_RS_E_INTERLEAVE);
    REQUIRE(fsw_rs_decode(&codec->code, 0, in, &corrected) == FSW_RS_E_INTERLEAVE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (codecs[0].frame_octets == 0) {
        fill_conventional();
        for (size_t i = 0; i < CODECS; i++) {
            REQUIRE(fsw_frame_init(&codecs[i], FRAME_OCTETS[i], INTERLEAVE[i]) == 0);
        }
    }
    if (size < HEADER) {
        return 0;
    }
    const struct fsw_frame_codec *codec = &codecs[CHOICE[data[0] % CHOICES]];
    const unsigned seed = (unsigned)data[2] << 8 | data[3];
    if (data[1] < 192) {
        send_and_damage(codec, data + HEADER, size - HEADER, seed);
    } else if (data[1] < 254) {
        take_noise(codec, data + HEADER, size - HEADER);
    } else {
        misuse(codec, data + HEADER, size - HEADER);
    }
    return 0;
}

#ifndef FSW_LIBFUZZER
int main(int argc, char **argv)
{
    const long runs = argc > 1 ? strtol(argv[1], NULL, 10) : 1000;
    uint64_t random = argc > 2 ? strtoull(argv[2], NULL, 10) | 1U : 1U;
    for (long run = 0; run < runs; run++) {
        uint8_t script[HEADER + 3 * 96];
        uint8_t *end = script + sizeof script;
        for (uint8_t *p = script; p < end; p++) {
            *p = (uint8_t)(next_word(&random) >> 40);
        }
        /* Little damage most of the time, and now and then more than can be repaired: up to 96 octets in 8 codewords. */
        static const uint8_t most[8] = {1, 3, 3, 5, 9, 17, 33, 97};
        const size_t damages = (size_t)(random >> 33) % most[run % 8];
        LLVMFuzzerTestOneInput(script, HEADER + 3 * damages);
    }
    printf("%ld frames, every promise kept\n", runs);
    return 0;
}
#endif
