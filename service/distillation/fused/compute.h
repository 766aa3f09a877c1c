/* Cross-entropy and softened KL divergences of rows of logits, and their gradient, in one pass.
 *
 * A row of each side is read once and stays in the cache for all terms. The gradient is computed
 * with the loss, because the weights of the terms are known: backward only scales it. Compiled once
 * for each kind of processor, with LANES and COMPUTE, the function's name. */

#include "rows.h"
#include "temperatures.h"

enum { CROSS_ENTROPY = 0 };

struct scratch {
    struct side teacher, student;
    float *teacher_exp, *student_exp;
};

/* exp((z - max) / T) of a row, padded with zeros; returns their sum. */
INLINE double exponentials(const float *below, float inverse, float *out, int64_t num_classes) {
    double sum = 0;
    for (int64_t i = 0; i < num_classes;) {
        vec block = {0};
        for (int n = 0; n < BLOCK && i < num_classes; n++, i += LANES) {
            vec e = exp_of(load(below + i) * inverse);
            if (i + LANES > num_classes) e *= lanes_before(num_classes, i);
            store(out + i, e);
            block += e;
        }
        sum += sum_of_lanes(block);
    }
    return sum;
}

/* gradient += q student_exp - p teacher_exp + offset. */
INLINE void add_gradient(float *gradient, const struct scratch *s, float q, float p, float offset,
                         int64_t num_classes) {
    int64_t i = 0;
    for (; i + LANES <= num_classes; i += LANES) {
        vec change = q * load(s->student_exp + i) + offset;
        if (p != 0) change -= p * load(s->teacher_exp + i);
        store(gradient + i, load(gradient + i) + change);
    }
    for (; i < num_classes; i++) {
        float change = q * s->student_exp[i] + offset;
        if (p != 0) change -= p * s->teacher_exp[i];
        gradient[i] += change;
    }
}

/* Cross-entropy of a row; adds `weight` times its gradient. */
INLINE double cross_entropy(const struct term *term, struct scratch *s, int64_t label,
                            double weight, float *gradient, int64_t num_classes) {
    const struct side *student = &s->student;
    double smoothing = term->bound;
    double sum = exponentials(student->below, 1.0f, s->student_exp, num_classes);
    double log_sum = log(sum);
    double loss = (1 - smoothing) * (log_sum - student->below[label]);
    if (smoothing > 0) loss += smoothing * (log_sum + (student->max - student->mean));
    if (gradient) {
        double offset = -weight * smoothing / num_classes;
        add_gradient(gradient, s, (float)(weight / sum), 0, (float)offset, num_classes);
        gradient[label] -= (float)(weight * (1 - smoothing));
    }
    return loss;
}

/* Means over classes with a = (u - max u) / T_tea, b alike, p and q their softmax: KL, and under p
 * the covariance of a and log p - log q; the means of a and b under p, and of b under q. */
struct moments {
    double kl, covariance, teacher_mean, student_mean, cross_mean;
};

INLINE struct moments moments_of(const struct scratch *s, float by_teacher, float by_student,
                                 double teacher_sum, double student_sum, bool with_temperatures,
                                 int64_t num_classes) {
    /* In two parts: rounding it would shift every class alike. */
    double difference = log(teacher_sum) - log(student_sum);
    float high = (float)difference, low = (float)(difference - high);
    double kl = 0, product = 0, first = 0, second = 0, cross = 0;
    for (int64_t i = 0; i < num_classes;) {
        vec kls = {0}, products = {0}, firsts = {0}, seconds = {0}, crosses = {0};
        for (int n = 0; n < BLOCK && i < num_classes; n++, i += LANES) {
            vec a = load(s->teacher.below + i) * by_teacher;
            vec b = load(s->student.below + i) * by_student;
            vec p = load(s->teacher_exp + i), part = p * ((a - b - high) - low);
            kls += part;
            if (with_temperatures) {
                products += part * a;
                firsts += p * a;
                crosses += p * b;
                seconds += load(s->student_exp + i) * b;
            }
        }
        kl += sum_of_lanes(kls);
        product += sum_of_lanes(products);
        first += sum_of_lanes(firsts);
        second += sum_of_lanes(seconds);
        cross += sum_of_lanes(crosses);
    }
    kl /= teacher_sum;
    first /= teacher_sum;
    return (struct moments){kl, product / teacher_sum - kl * first, first, second / student_sum,
                            cross / teacher_sum};
}

/* The first class whose logit is `value`. */
INLINE int64_t index_of(const float *row, float value, int64_t num_classes) {
    int64_t i = 0;
    while (i < num_classes - 1 && row[i] != value) i++;
    return i;
}

/* T_tea T_stu KL of a row; adds `weight` times its gradient, also that through the temperatures. */
INLINE double softened_kl(const struct term *term, struct scratch *s, double weight,
                          float *gradient, int64_t num_classes) {
    const struct side *teacher = &s->teacher, *student = &s->student;
    double sum_of_both = 2 * term->temperature;
    bool is_negative = false, is_centered = false;
    struct share share = {0.5, 0.5, true};
    if (term->kind == LOGSUMEXP)
        share = root(teacher, student, term->temperature, term->bound, num_classes);
    else if (term->kind != FIXED)
        share = closed_form(teacher, student, (enum rule)term->kind, term->bound, &is_negative,
                            &is_centered);
    /* Rounded as the plain functions return them. */
    double t = (float)(sum_of_both * share.teacher), r = (float)(sum_of_both * share.student);
    float by_teacher = (float)(1 / t), by_student = (float)(1 / r);
    double p_sum = exponentials(teacher->below, by_teacher, s->teacher_exp, num_classes);
    double q_sum = exponentials(student->below, by_student, s->student_exp, num_classes);
    bool is_attached = gradient && term->kind != FIXED && !term->is_detached;
    struct moments m =
        moments_of(s, by_teacher, by_student, p_sum, q_sum, is_attached, num_classes);
    if (!gradient) return t * r * m.kl;

    double q = weight * t / q_sum, offset = 0, spike = 0;
    int64_t index = 0;
    if (is_attached && (share.holds || is_centered)) {
        /* d loss / d share; then d share / d v_i. */
        double by_t = r * m.kl - r * m.covariance;
        double by_r = t * m.kl - t * (m.student_mean - m.cross_mean);
        double slope = weight * sum_of_both * (by_t - by_r);
        if (term->kind == LOGSUMEXP) {
            double f = m.teacher_mean + (teacher->max - teacher->mean) / t;
            double g = m.student_mean + (student->max - student->mean) / r;
            slope /= -(f / share.teacher + g / share.student) * r;
            q += slope / q_sum;
            offset = -slope / num_classes;
        } else {
            double mean = is_centered ? student->mean : 0;
            double y = is_negative ? mean - student->min : student->max - mean;
            /* d share / d y = -x / (x + y)^2. */
            spike = -slope * share.teacher * share.student / y * (is_negative ? -1 : 1);
            if (is_centered) offset = -spike / num_classes;
            float value = is_negative ? student->min : student->max;
            index = index_of(student->row, value, num_classes);
        }
    }
    add_gradient(gradient, s, (float)q, (float)(weight * t / p_sum), (float)offset, num_classes);
    gradient[index] += (float)spike;
    return t * r * m.kl;
}

void COMPUTE(const struct batch *batch, const struct term *terms, int64_t num_terms, float *scratch,
             double *sums) {
    int64_t num_classes = batch->num_classes;
    int64_t padded = (num_classes + LANES - 1) / LANES * LANES;
    struct scratch s = {{.below = scratch}, {.below = scratch + padded}, scratch + 2 * padded,
                        scratch + 3 * padded};
    for (int64_t row = 0; row < batch->num_rows; row++) {
        int64_t start = row * num_classes;
        s.student = read_side(batch->student + start, s.student.below, num_classes);
        if (batch->teacher)
            s.teacher = read_side(batch->teacher + start, s.teacher.below, num_classes);
        float *gradient = batch->gradient ? batch->gradient + start : NULL;
        if (gradient) memset(gradient, 0, num_classes * sizeof(float));
        for (int64_t n = 0; n < num_terms; n++) {
            const struct term *term = terms + n;
            bool is_soft = term->kind != CROSS_ENTROPY;
            double row_weight = is_soft && batch->row_weights ? batch->row_weights[row] : 1.0;
            double weight = term->weight * row_weight / batch->num_rows;
            double loss = is_soft ? softened_kl(term, &s, weight, gradient, num_classes)
                                  : cross_entropy(term, &s, batch->labels[row], weight, gradient,
                                                  num_classes);
            sums[n] += row_weight * loss;
        }
    }
}
