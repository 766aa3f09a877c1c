/* Resizing with a triangle filter in integers: the same bytes on every x86-64 machine. */

#include "pixels.h"

#include <math.h>
#include <smmintrin.h>
#include <stdlib.h>
#include <string.h>

#define NUM_CHANNELS 4
/* The ends of a box cut off less than an eighth of the triangle's weight, so normalizing multiplies
 * weights by less than this. */
#define MOST_GAIN 1.15
/* 255 * 2^23 and half of 2^23 for rounding are below 2^31. */
#define MAX_BITS 23

/* Source positions that contribute to one output position. */
typedef struct {
    int32_t first, count;
} Span;

/* Weights of one axis, 1 being 1 << bits: spans[i] and weights[i * stride ...] belong to output i.
 * Weights are padded with a zero to an even count, because they are used in pairs. */
typedef struct {
    Span *spans;
    int16_t *weights;
    int64_t stride;
    int bits;
} Filter;

/* Half the width of the triangle around an output's center, in source pixels. */
static double support_of(int64_t length, int64_t resized) {
    double scale = (double)length / (double)resized;
    return scale > 1.0 ? scale : 1.0;
}

/* Source positions under the triangle of output i, clipped to the box. */
static Span span_of(int64_t length, int64_t resized, int64_t i) {
    double center = ((double)i + 0.5) * (double)length / (double)resized;
    double support = support_of(length, resized);
    int64_t first = (int64_t)floor(center - support + 0.5);
    int64_t last = (int64_t)floor(center + support + 0.5);
    if (first < 0) first = 0;
    if (last > length) last = length;
    return (Span){(int32_t)first, (int32_t)(last - first)};
}

Extent view_extent(const View *v) {
    Span top = span_of(v->box_height, v->resized_height, v->window_top);
    Span left = span_of(v->box_width, v->resized_width, v->window_left);
    Span bottom =
        span_of(v->box_height, v->resized_height, v->window_top + v->window_height - 1);
    Span right = span_of(v->box_width, v->resized_width, v->window_left + v->window_width - 1);
    return (Extent){v->box_top + top.first, v->box_left + left.first,
                    v->box_top + bottom.first + bottom.count,
                    v->box_left + right.first + right.count};
}

static double weight_at(int32_t position, double center, double support) {
    return fmax(0.0, 1.0 - fabs(position + 0.5 - center) / support);
}

/* Rounded weights of one output that add up to exactly one, so that flat areas stay flat. */
static void fill_weights(Span span, double center, double support, int bits, int16_t *weights) {
    double total = 0.0;
    for (int32_t k = 0; k < span.count; k++) total += weight_at(span.first + k, center, support);
    int32_t sum = 0, largest = 0;
    for (int32_t k = 0; k < span.count; k++) {
        double weight = weight_at(span.first + k, center, support) / total;
        weights[k] = (int16_t)floor(weight * (1 << bits) + 0.5);
        sum += weights[k];
        if (weights[k] > weights[largest]) largest = k;
    }
    weights[largest] = (int16_t)(weights[largest] + (1 << bits) - sum);
}

/* The number of bits with which the largest weight, about 1 / support, fits into 16 bits, and sums
 * of weighted bytes into 32. */
static int bits_for(double support) {
    int bits = (int)floor(log2(support * INT16_MAX / MOST_GAIN));
    return bits < MAX_BITS ? bits : MAX_BITS;
}

/* `shift` is subtracted from source positions. False if there is no memory. */
static int make_filter(Filter *filter, int64_t length, int64_t resized, int64_t start,
                       int64_t count, int64_t shift) {
    double support = support_of(length, resized);
    filter->bits = bits_for(support);
    filter->stride = 2 * ((int64_t)ceil(support) + 1);
    filter->spans = malloc((size_t)count * sizeof(Span));
    filter->weights = calloc((size_t)(count * filter->stride), sizeof(int16_t));
    if (!filter->spans || !filter->weights) return 0;
    for (int64_t i = 0; i < count; i++) {
        double center = ((double)(start + i) + 0.5) * (double)length / (double)resized;
        Span span = span_of(length, resized, start + i);
        int16_t *weights = filter->weights + i * filter->stride;
        fill_weights(span, center, support, filter->bits, weights);
        span.first -= (int32_t)shift;
        filter->spans[i] = span;
    }
    return 1;
}

static void free_filter(Filter *filter) {
    free(filter->spans);
    free(filter->weights);
}

static __m128i weight_pair(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, sizeof pair);
    return _mm_set1_epi32(pair);
}

static __m128i weigh(__m128i sum, __m128i bytes, __m128i weights) {
    return _mm_add_epi32(sum, _mm_madd_epi16(bytes, weights));
}

/* Output pixels of one row, two source pixels at a time; step is +4 or, mirrored, -4 bytes. */
static void blend_columns(const uint8_t *row, const Filter *filter, int64_t count, int64_t step,
                          uint8_t *out) {
    const __m128i half = _mm_set1_epi32(1 << (filter->bits - 1));
    const __m128i interleave =
        _mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1);
    for (int64_t i = 0; i < count; i++, out += step) {
        const int16_t *weights = filter->weights + i * filter->stride;
        const uint8_t *pixels = row + NUM_CHANNELS * filter->spans[i].first;
        __m128i sum = half;
        for (int32_t k = 0; k < filter->spans[i].count; k += 2) {
            __m128i two = _mm_loadl_epi64((const __m128i *)(pixels + NUM_CHANNELS * k));
            sum = weigh(sum, _mm_shuffle_epi8(two, interleave), weight_pair(weights + k));
        }
        sum = _mm_srai_epi32(sum, filter->bits);
        sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);
        int32_t pixel = _mm_cvtsi128_si32(sum);
        memcpy(out, &pixel, sizeof pixel);
    }
}

/* Four pixels blended from the rows of a span. */
static __m128i blend_four(const uint8_t *rows, int64_t stride, int32_t count, int bits,
                          const int16_t *weights) {
    const __m128i zero = _mm_setzero_si128();
    __m128i s0 = _mm_set1_epi32(1 << (bits - 1)), s1 = s0, s2 = s0, s3 = s0;
    for (int32_t k = 0; k < count; k += 2, rows += 2 * stride) {
        __m128i pair = weight_pair(weights + k);
        __m128i upper = _mm_loadu_si128((const __m128i *)rows);
        __m128i lower =
            k + 1 < count ? _mm_loadu_si128((const __m128i *)(rows + stride)) : zero;
        __m128i low = _mm_unpacklo_epi8(upper, lower);
        __m128i high = _mm_unpackhi_epi8(upper, lower);
        s0 = weigh(s0, _mm_unpacklo_epi8(low, zero), pair);
        s1 = weigh(s1, _mm_unpackhi_epi8(low, zero), pair);
        s2 = weigh(s2, _mm_unpacklo_epi8(high, zero), pair);
        s3 = weigh(s3, _mm_unpackhi_epi8(high, zero), pair);
    }
    __m128i low = _mm_packs_epi32(_mm_srai_epi32(s0, bits), _mm_srai_epi32(s1, bits));
    __m128i high = _mm_packs_epi32(_mm_srai_epi32(s2, bits), _mm_srai_epi32(s3, bits));
    return _mm_packus_epi16(low, high);
}

/* One output row of RGB from the rows of output i's span. */
static void blend_rows(const uint8_t *rows, int64_t stride, const Filter *filter, int64_t i,
                       int64_t num_pixels, uint8_t *out) {
    const __m128i drop_fourth =
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const int16_t *weights = filter->weights + i * filter->stride;
    Span span = filter->spans[i];
    rows += span.first * stride;
    for (int64_t x = 0; x < num_pixels; x += 4) {
        __m128i four =
            blend_four(rows + NUM_CHANNELS * x, stride, span.count, filter->bits, weights);
        uint8_t rgb[16];
        _mm_storeu_si128((__m128i *)rgb, _mm_shuffle_epi8(four, drop_fourth));
        int64_t left = num_pixels - x;
        if (left >= 4) {
            memcpy(out + 3 * x, rgb, 12);
        } else {
            memcpy(out + 3 * x, rgb, 3 * (size_t)left);
        }
    }
}

/* Columns first, then rows, with bytes between the two, as Pillow and torchvision do: the same
 * roundings at the same steps. */
int32_t resample(const Region *region, const View *view, int mirrored, uint8_t *out) {
    Extent extent = view_extent(view);
    int64_t width = view->window_width, num_rows = extent.bottom - extent.top;
    const uint8_t *pixels = region->pixels + (extent.top - region->top) * region->stride +
                            NUM_CHANNELS * (extent.left - region->left);
    Filter rows = {0}, columns = {0};
    int64_t stride = NUM_CHANNELS * width;
    /* Rows are blended 16 bytes at a time, so 16 bytes past the end are needed. */
    uint8_t *narrowed = malloc((size_t)(num_rows * stride) + 16);
    int ready = narrowed &&
                make_filter(&rows, view->box_height, view->resized_height, view->window_top,
                            view->window_height, extent.top - view->box_top) &&
                make_filter(&columns, view->box_width, view->resized_width, view->window_left,
                            width, extent.left - view->box_left);
    int64_t step = mirrored ? -NUM_CHANNELS : NUM_CHANNELS;
    uint8_t *first = narrowed + (mirrored ? stride - NUM_CHANNELS : 0);
    for (int64_t y = 0; ready && y < num_rows; y++) {
        blend_columns(pixels + y * region->stride, &columns, width, step, first + y * stride);
    }
    for (int64_t i = 0; ready && i < view->window_height; i++) {
        blend_rows(narrowed, stride, &rows, i, width, out + 3 * width * i);
    }
    free_filter(&rows);
    free_filter(&columns);
    free(narrowed);
    return ready ? PIXELS_OK : PIXELS_NO_MEMORY;
}
