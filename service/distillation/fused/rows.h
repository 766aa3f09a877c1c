/* What rows.c computes, and the functions that compute it, one for each kind of processor. */
#ifndef ROWS_H
#define ROWS_H

#include <stdint.h>

/* `kind`: 0 for cross-entropy, or a rule of temperatures.h. `temperature`: T, or tau. `bound`: the
 * floor of shares, or the label smoothing. The same as native.py's Term. */
struct term {
    int64_t kind, is_detached;
    double weight, temperature, bound;
};

/* The teacher, the rows' weights and the labels may be NULL, and so the gradient. */
struct batch {
    const float *teacher, *student, *row_weights;
    const int64_t *labels;
    int64_t num_rows, num_classes;
    float *gradient;
};

/* Adds each term's losses of all rows to `sums`. `scratch`: four rows, each of whole vectors. */
typedef void compute_rows(const struct batch *batch, const struct term *terms, int64_t num_terms,
                          float *scratch, double *sums);

compute_rows compute_with_avx512, compute_with_avx2, compute_with_sse;

/* Floats in the widest vector of any of them: what rows of scratch memory are padded to. */
enum { MAX_LANES = 16 };

#endif
