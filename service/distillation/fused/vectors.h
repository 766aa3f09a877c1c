/* LANES floats at once, in GCC's vector extension.
 *
 * NaN and infinity keep their meaning: nothing here may be compiled with -ffast-math. */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
/* Vectors that are summed in float32 before their sum is added in float64. */
#define BLOCK 32

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

INLINE vec load(const float *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float *to, vec x) { memcpy(to, &x, sizeof x); }

INLINE vec spread(float x) { return x - (vec){0}; }

INLINE vec choose(ivec mask, vec yes, vec no) {
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

INLINE double sum_of_lanes(vec x) {
    double total = 0;
    for (int lane = 0; lane < LANES; lane++) total += x[lane];
    return total;
}

/* 1 for the lanes that belong to the row, of the vector that starts at `first`, else 0. */
INLINE vec lanes_before(int64_t end, int64_t first) {
    vec inside;
    for (int lane = 0; lane < LANES; lane++) inside[lane] = first + lane < end ? 1.0f : 0.0f;
    return inside;
}

/* exp(x) = scale (1 + r + rest) with |r| <= ln(2) / 2, for x <= 88: scale is a power of 2, and
 * rest = exp(r) - 1 - r is relatively accurate. Below -87, as for exp(-87), which is less than
 * float32's resolution of anything that it is added to. */
struct exponential {
    vec r, rest, scale;
};

INLINE struct exponential exponential_of(vec x) {
    const float shift = 12582912.0f; /* 1.5 x 2^23: adding it rounds to an integer. */
    /* The comparison with NaN is false, and so NaN is kept. */
    x = choose(x < -87.0f, spread(-87.0f), x);
    vec shifted = x * 1.44269504f + shift;
    vec n = shifted - shift;
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec rest = spread(1.0f / 5040);
    rest = rest * r + 1.0f / 720;
    rest = rest * r + 1.0f / 120;
    rest = rest * r + 1.0f / 24;
    rest = rest * r + 1.0f / 6;
    rest = (rest * r + 0.5f) * (r * r);
    ivec exponent = (ivec)shifted - 0x4b400000 + 127;
    return (struct exponential){r, rest, (vec)(exponent << 23)};
}

/* exp(x) for x <= 88; 0 below -87. */
INLINE vec exp_of(vec x) {
    struct exponential e = exponential_of(x);
    vec value = e.scale * (1.0f + (e.r + e.rest));
    return choose(x < -87.0f, spread(0.0f), value);
}

#endif
