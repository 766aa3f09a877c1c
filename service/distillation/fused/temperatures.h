/* DTKD's temperatures of one row; service/distillation/temperature.py has the rules. */
#ifndef TEMPERATURES_H
#define TEMPERATURES_H

#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "vectors.h"

enum rule { FIXED = 1, LARGEST = 2, LARGEST_ABSOLUTE = 3, LOGSUMEXP = 4 };

enum { NUM_ROOT_STEPS = 4 };

/* One row of logits. `below`: these minus their maximum, padded with zeros to whole vectors. */
struct side {
    const float *row;
    float *below;
    float max, min;
    double mean;
};

/* The teacher's share of 2 tau; `holds`: it is the rule's, and neither clamped nor the fallback. */
struct share {
    double teacher, student;
    bool holds;
};

INLINE struct side read_side(const float *row, float *below, int64_t num_classes) {
    vec max = spread(-INFINITY), min = spread(INFINITY);
    double sum = 0;
    int64_t i = 0;
    while (i + LANES <= num_classes) {
        vec block = {0};
        for (int n = 0; n < BLOCK && i + LANES <= num_classes; n++, i += LANES) {
            vec x = load(row + i);
            max = choose(x > max, x, max);
            min = choose(x < min, x, min);
            block += x;
        }
        sum += sum_of_lanes(block);
    }
    struct side side = {row, below, -INFINITY, INFINITY, 0};
    for (int lane = 0; lane < LANES; lane++) {
        side.max = max[lane] > side.max ? max[lane] : side.max;
        side.min = min[lane] < side.min ? min[lane] : side.min;
    }
    for (; i < num_classes; i++) {
        side.max = row[i] > side.max ? row[i] : side.max;
        side.min = row[i] < side.min ? row[i] : side.min;
        sum += row[i];
    }
    side.mean = sum / num_classes;
    for (i = 0; i + LANES <= num_classes; i += LANES) store(below + i, load(row + i) - side.max);
    vec last = {0};
    for (int lane = 0; i + lane < num_classes; lane++) last[lane] = row[i + lane] - side.max;
    if (i < num_classes) store(below + i, last);
    return side;
}

/* The largest logit, or the largest absolute one, of which `is_negative` says the sign. */
INLINE double largest(const struct side *side, enum rule rule, double mean, bool *is_negative) {
    double high = side->max - mean, low = mean - side->min;
    *is_negative = rule == LARGEST_ABSOLUTE && low > high;
    /* Comparisons have left out NaN, which only the mean tells. */
    if (isnan(side->mean)) return NAN;
    return *is_negative ? low : high;
}

INLINE struct share closed_form(const struct side *teacher, const struct side *student,
                                enum rule rule, double floor, bool *is_negative,
                                bool *is_centered) {
    bool unused;
    double x = largest(teacher, rule, 0, &unused), y = largest(student, rule, 0, is_negative);
    *is_centered = false;
    if (x > 0 && y > 0 && isfinite(x) && isfinite(y)) {
        struct share share = {x / (x + y), y / (x + y), true};
        if (share.teacher >= floor && share.student >= floor) return share;
    }
    x = largest(teacher, rule, teacher->mean, &unused);
    y = largest(student, rule, student->mean, is_negative);
    if (!(x + y > FLT_MIN) || !isfinite(x + y)) return (struct share){0.5, 0.5, false};
    double share = x / (x + y);
    *is_centered = share >= floor && share <= 1 - floor;
    share = fmin(fmax(share, floor), 1 - floor);
    return (struct share){share, 1 - share, false};
}

/* f = LSE(c t) - log K of centered logits c, relatively accurate; t f' and t^2 f''. */
struct sharpness {
    double value, first, second;
};

INLINE struct sharpness sharpness_of(const struct side *side, double t, int64_t num_classes) {
    float top = (float)(side->max - side->mean), scale = (float)t;
    /* Where exp would overflow, all is relative to the largest; otherwise exp(x) - 1 - x and
     * x (exp(x) - 1) are added, which are positive and so lose no digits where all x are small. */
    bool is_large = top * scale > 30.0f;
    double sum = 0, first = 0, second = 0;
    for (int64_t i = 0; i < num_classes;) {
        vec sums = {0}, firsts = {0}, seconds = {0};
        for (int n = 0; n < BLOCK && i < num_classes; n++, i += LANES) {
            vec x = load(side->below + i);
            if (!is_large) x += top;
            x *= scale;
            if (i + LANES > num_classes) x *= lanes_before(num_classes, i);
            struct exponential e = exponential_of(x);
            vec less_one = e.scale * (e.r + e.rest) + (e.scale - 1.0f);
            vec whole = less_one + 1.0f;
            if (is_large && i + LANES > num_classes) whole *= lanes_before(num_classes, i);
            sums += is_large ? whole : e.scale * e.rest + ((e.scale - 1.0f) - x + e.scale * e.r);
            firsts += x * (is_large ? whole : less_one);
            seconds += x * x * whole;
        }
        sum += sum_of_lanes(sums);
        first += sum_of_lanes(firsts);
        second += sum_of_lanes(seconds);
    }
    double total = is_large ? sum : num_classes + sum;
    first /= total;
    second = second / total - first * first;
    double offset = is_large ? (double)top * t : 0;
    double value = is_large ? offset + log(sum / num_classes) : log1p(sum / num_classes);
    return (struct sharpness){value, first + offset, second};
}

/* Root mean square of the centered logits. */
INLINE double rms_of(const struct side *side, int64_t num_classes) {
    float top = (float)(side->max - side->mean);
    double sum = 0;
    for (int64_t i = 0; i < num_classes;) {
        vec squares = {0};
        for (int n = 0; n < BLOCK && i < num_classes; n++, i += LANES) {
            vec x = load(side->below + i) + top;
            if (i + LANES > num_classes) x *= lanes_before(num_classes, i);
            squares += x * x;
        }
        sum += sum_of_lanes(squares);
    }
    return sqrt(sum / num_classes);
}

/* See temperature.py's _find_root, whose steps these are. */
INLINE struct share root(const struct side *teacher, const struct side *student,
                         double base_temperature, double floor, int64_t num_classes) {
    if (!isfinite(teacher->max - teacher->mean) || !isfinite(student->max - student->mean))
        return (struct share){0.5, 0.5, false};
    double scale = 1 / (2 * base_temperature);
    double x = rms_of(teacher, num_classes) * scale, y = rms_of(student, num_classes) * scale;
    if (x == 0 && y == 0) return (struct share){0.5, 0.5, false};
    double lowest = log(floor / (1 - floor)), low = lowest, high = -lowest;
    double logit = fmin(fmax(log(x / y), lowest), -lowest);
    bool is_flat = fmin(x, y) < 1e-8;
    for (int step = 0; step < NUM_ROOT_STEPS && !is_flat; step++) {
        double share = 1 / (1 + exp(-logit));
        struct sharpness f = sharpness_of(teacher, scale / share, num_classes);
        struct sharpness g = sharpness_of(student, scale / (1 - share), num_classes);
        double gap = log(f.value / g.value);
        double f_slope = f.first / f.value, g_slope = g.first / g.value;
        double slope = -(1 - share) * f_slope - share * g_slope;
        double f_bend = (f.second + f.first) / f.value - f_slope * f_slope;
        double g_bend = (g.second + g.first) / g.value - g_slope * g_slope;
        double bend = (1 - share) * (1 - share) * f_bend - share * share * g_bend +
                      share * (1 - share) * (f_slope - g_slope);
        if (gap > 0) low = logit;
        else high = logit;
        double halley = 1 - gap * bend / (2 * slope * slope);
        double next = logit - gap / slope / fmin(fmax(halley, 0.3), 3.0);
        double inside = fmin(fmax(next, low), high);
        bool is_end = inside == lowest || inside == -lowest;
        logit = inside == next || is_end ? inside : 0.5 * (low + high);
        /* The next step would move by the order of the cube. */
        if (fabs(gap) < 1e-3 && !is_end) break;
    }
    double share = 1 / (1 + exp(-logit));
    bool is_end = logit <= lowest || logit >= -lowest;
    return (struct share){share, 1 / (1 + exp(logit)), !is_end};
}

#endif
