/* XXH64 with seed 0, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md: a digest that
 * tells millions of images apart at the speed of memory. It does not resist forgery. */

#include "pixels.h"

#include <string.h>

#define PRIME_1 0x9E3779B185EBCA87u
#define PRIME_2 0xC2B2AE3D27D4EB4Fu
#define PRIME_3 0x165667B19E3779F9u
#define PRIME_4 0x85EBCA77C2B2AE63u
#define PRIME_5 0x27D4EB2F165667C5u
#define NUM_LANES 4
#define STRIPE_BYTES 32

static uint64_t rotated(uint64_t value, int count) {
    return (value << count) | (value >> (64 - count));
}

/* x86-64 is little-endian, as the specification asks for. */
static uint64_t word_64(const uint8_t *data) {
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

static uint32_t word_32(const uint8_t *data) {
    uint32_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

static uint64_t with_word(uint64_t lane, uint64_t word) {
    return rotated(lane + word * PRIME_2, 31) * PRIME_1;
}

/* Digest of all full stripes. */
static uint64_t of_stripes(const uint8_t *data, uint64_t num_stripes) {
    uint64_t lanes[NUM_LANES] = {PRIME_1 + PRIME_2, PRIME_2, 0, -PRIME_1};
    for (uint64_t stripe = 0; stripe < num_stripes; stripe++, data += STRIPE_BYTES)
        for (int i = 0; i < NUM_LANES; i++)
            lanes[i] = with_word(lanes[i], word_64(data + 8 * i));
    uint64_t digest = rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12) +
                      rotated(lanes[3], 18);
    for (int i = 0; i < NUM_LANES; i++)
        digest = (digest ^ with_word(0, lanes[i])) * PRIME_1 + PRIME_4;
    return digest;
}

/* The digest with the bytes after the last full stripe. */
static uint64_t with_rest(uint64_t digest, const uint8_t *data, uint64_t num_bytes) {
    for (; num_bytes >= 8; data += 8, num_bytes -= 8)
        digest = rotated(digest ^ with_word(0, word_64(data)), 27) * PRIME_1 + PRIME_4;
    if (num_bytes >= 4) {
        digest = rotated(digest ^ (word_32(data) * PRIME_1), 23) * PRIME_2 + PRIME_3;
        data += 4, num_bytes -= 4;
    }
    for (; num_bytes > 0; data++, num_bytes--)
        digest = rotated(digest ^ (*data * PRIME_5), 11) * PRIME_1;
    return digest;
}

/* `out`: the digest of `num_bytes` bytes. */
PIXELS_API void pixels_digest(const uint8_t *data, uint64_t num_bytes, uint64_t *out) {
    uint64_t num_stripes = num_bytes / STRIPE_BYTES;
    uint64_t digest = num_stripes ? of_stripes(data, num_stripes) : PRIME_5;
    uint64_t num_in_stripes = num_stripes * STRIPE_BYTES;
    digest = with_rest(digest + num_bytes, data + num_in_stripes, num_bytes - num_in_stripes);
    digest = (digest ^ (digest >> 33)) * PRIME_2;
    digest = (digest ^ (digest >> 29)) * PRIME_3;
    *out = digest ^ (digest >> 32);
}
