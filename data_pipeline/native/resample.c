/* Resizing with a triangle filter in integers: the same bytes on every x86-64 machine. */

#include "pixels.h"

#include <math.h>
#include <smmintrin.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_BITS 14
#define WEIGHT_ONE (1 << WEIGHT_BITS)

/* Source positions that one output position draws on. */
typedef struct {
    int32_t first, count;
} Span;

/* Weights of one axis: spans[i] and weights[i * stride ...] belong to output i. Weights are padded
 * with a zero to an even count, because they are used in pairs. */
typedef struct {
    Span *spans;
    int16_t *weights;
    int64_t stride;
} Filter;

/* Half the width of the triangle around an output's centre, in source pixels. */
static double support_of(int64_t length, int64_t resized) {
    double scale = (double)length / (double)resized;
    return scale > 1.0 ? scale : 1.0;
}

/* Source positions under the triangle of output i, cut off at the ends of the box. */
static Span span_of(int64_t length, int64_t resized, int64_t i) {
    double centre = ((double)i + 0.5) * (double)length / (double)resized;
    double support = support_of(length, resized);
    int64_t first = (int64_t)floor(centre - support + 0.5);
    int64_t last = (int64_t)floor(centre + support + 0.5);
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

/* Rounded weights of one output that add up to exactly one, so that flat areas stay flat. */
static void fill_weights(Span span, double centre, double support, int16_t *weights) {
    double total = 0.0;
    for (int32_t k = 0; k < span.count; k++) {
        total += fmax(0.0, 1.0 - fabs(span.first + k + 0.5 - centre) / support);
    }
    int32_t sum = 0, largest = 0;
    for (int32_t k = 0; k < span.count; k++) {
        double weight = fmax(0.0, 1.0 - fabs(span.first + k + 0.5 - centre) / support);
        weights[k] = (int16_t)floor(weight / total * WEIGHT_ONE + 0.5);
        sum += weights[k];
        if (weights[k] > weights[largest]) largest = k;
    }
    weights[largest] = (int16_t)(weights[largest] + WEIGHT_ONE - sum);
}

/* `shift` is subtracted from source positions. False where memory is short. */
static int make_filter(Filter *filter, int64_t length, int64_t resized, int64_t start,
                       int64_t count, int64_t shift) {
    double support = support_of(length, resized);
    filter->stride = 2 * ((int64_t)ceil(support) + 1);
    filter->spans = malloc((size_t)count * sizeof(Span));
    filter->weights = calloc((size_t)(count * filter->stride), sizeof(int16_t));
    if (!filter->spans || !filter->weights) return 0;
    for (int64_t i = 0; i < count; i++) {
        double centre = ((double)(start + i) + 0.5) * (double)length / (double)resized;
        Span span = span_of(length, resized, start + i);
        fill_weights(span, centre, support, filter->weights + i * filter->stride);
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

/* One row of `num_bytes` bytes from the rows of a span, 16 bytes at a time. */
static void blend_rows(const uint8_t *rows, int64_t stride, int64_t num_bytes, int32_t count,
                       const int16_t *weights, uint8_t *out) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i half = _mm_set1_epi32(WEIGHT_ONE / 2);
    for (int64_t x = 0; x < num_bytes; x += 16) {
        __m128i s0 = half, s1 = half, s2 = half, s3 = half;
        for (int32_t k = 0; k < count; k += 2) {
            const uint8_t *row = rows + k * stride + x;
            __m128i pair = weight_pair(weights + k);
            __m128i upper = _mm_loadu_si128((const __m128i *)row);
            __m128i lower =
                k + 1 < count ? _mm_loadu_si128((const __m128i *)(row + stride)) : zero;
            __m128i low = _mm_unpacklo_epi8(upper, lower);
            __m128i high = _mm_unpackhi_epi8(upper, lower);
            s0 = weigh(s0, _mm_unpacklo_epi8(low, zero), pair);
            s1 = weigh(s1, _mm_unpackhi_epi8(low, zero), pair);
            s2 = weigh(s2, _mm_unpacklo_epi8(high, zero), pair);
            s3 = weigh(s3, _mm_unpackhi_epi8(high, zero), pair);
        }
        __m128i low = _mm_packs_epi32(_mm_srai_epi32(s0, WEIGHT_BITS),
                                      _mm_srai_epi32(s1, WEIGHT_BITS));
        __m128i high = _mm_packs_epi32(_mm_srai_epi32(s2, WEIGHT_BITS),
                                       _mm_srai_epi32(s3, WEIGHT_BITS));
        _mm_storeu_si128((__m128i *)(out + x), _mm_packus_epi16(low, high));
    }
}

/* Output pixels of one row, two source pixels at a time; step is +3 or, mirrored, -3. */
static void blend_columns(const uint8_t *row, const Filter *filter, int64_t count, int64_t step,
                          uint8_t *out) {
    const __m128i half = _mm_set1_epi32(WEIGHT_ONE / 2);
    const __m128i interleave =
        _mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1);
    for (int64_t i = 0; i < count; i++, out += step) {
        const int16_t *weights = filter->weights + i * filter->stride;
        const uint8_t *pixels = row + 4 * filter->spans[i].first;
        __m128i sum = half;
        for (int32_t k = 0; k < filter->spans[i].count; k += 2) {
            __m128i two = _mm_loadl_epi64((const __m128i *)(pixels + 4 * k));
            sum = weigh(sum, _mm_shuffle_epi8(two, interleave), weight_pair(weights + k));
        }
        sum = _mm_srai_epi32(sum, WEIGHT_BITS);
        sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);
        uint32_t pixel = (uint32_t)_mm_cvtsi128_si32(sum);
        out[0] = (uint8_t)pixel;
        out[1] = (uint8_t)(pixel >> 8);
        out[2] = (uint8_t)(pixel >> 16);
    }
}

int32_t resample(const Region *region, const View *view, int mirrored, uint8_t *out) {
    Extent extent = view_extent(view);
    int64_t num_bytes = 4 * (extent.right - extent.left);
    const uint8_t *pixels =
        region->pixels + (extent.top - region->top) * region->stride +
        4 * (extent.left - region->left);
    Filter rows = {0}, columns = {0};
    /* Bytes are blended 16 at a time and read 8 at a time: the row has room for both. */
    uint8_t *row = malloc((size_t)num_bytes + 32);
    int ready = row &&
                make_filter(&rows, view->box_height, view->resized_height, view->window_top,
                            view->window_height, extent.top - view->box_top) &&
                make_filter(&columns, view->box_width, view->resized_width, view->window_left,
                            view->window_width, extent.left - view->box_left);
    int64_t start = mirrored ? 3 * (view->window_width - 1) : 0;
    for (int64_t i = 0; ready && i < view->window_height; i++) {
        blend_rows(pixels + rows.spans[i].first * region->stride, region->stride, num_bytes,
                   rows.spans[i].count, rows.weights + i * rows.stride, row);
        blend_columns(row, &columns, view->window_width, mirrored ? -3 : 3,
                      out + 3 * view->window_width * i + start);
    }
    free_filter(&rows);
    free_filter(&columns);
    free(row);
    return ready ? PIXELS_OK : PIXELS_NO_MEMORY;
}
