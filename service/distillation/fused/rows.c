/* The functions that Python calls: the losses of a batch, as this processor computes them best. */

#include "rows.h"

#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

static compute_rows *best(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return compute_with_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return compute_with_avx2;
#endif
    return compute_with_sse;
}

/* Mean losses of each term, and their weighted sum behind them; the gradient of this sum with
 * respect to the student's rows. Teacher, row weights, labels and gradient may be NULL.
 *
 * Returns -1 if there is no memory, otherwise how many rows are in order: fewer than all where a
 * label is not a class. */
EXPORT int64_t rows_losses(const float *teacher, const float *student, const int64_t *labels,
                           const float *row_weights, int64_t num_rows, int64_t num_classes,
                           const struct term *terms, int64_t num_terms, float *gradient,
                           float *values) {
    for (int64_t row = 0; labels && row < num_rows; row++)
        if (labels[row] < 0 || labels[row] >= num_classes) return row;
    int64_t padded = (num_classes + MAX_LANES - 1) / MAX_LANES * MAX_LANES;
    float *scratch = malloc(4 * padded * sizeof(float));
    double *sums = calloc(num_terms, sizeof(double));
    if (!scratch || !sums) {
        free(scratch);
        free(sums);
        return -1;
    }
    struct batch batch = {teacher, student, row_weights, labels, num_rows, num_classes, gradient};
    best()(&batch, terms, num_terms, scratch, sums);
    double total = 0;
    for (int64_t n = 0; n < num_terms; n++) {
        double mean = sums[n] / num_rows;
        values[n] = (float)mean;
        total += terms[n].weight * mean;
    }
    values[num_terms] = (float)total;
    free(scratch);
    free(sums);
    return num_rows;
}

/* values *= factor. Most often it is 1, and nothing is read. */
EXPORT void rows_scale(float *values, int64_t num_values, const float *factor) {
    float by = *factor;
    if (by == 1.0f) return;
    for (int64_t i = 0; i < num_values; i++) values[i] *= by;
}
