/* One training step of a small net, and many of them: the rest of small_template.h. */

/* Rows of the batch number `step` side by side; 0: there is something wrong with them. Row numbers and labels are read
 * once: another thread may change them. */
INLINE int FN(small_gather)(const FN(small_plan) *p, ptrdiff_t step)
{
    const fastnn_small *s = p->s;
    const ptrdiff_t n = p->batch, n_in = s->n_in, n_out = p->layers[p->n_layers - 1].n_out, size = sizeof(REAL);
    const volatile int64_t *order = s->order + step * n, *labels = s->labels;
    /* Rows far enough ahead for memory to bring them. */
    const ptrdiff_t ahead = n > 8 ? n : 8, rest = (s->n_steps - step) * n;
    vec sum = vec_set(0);
    REAL *x = s->x_batch;
    for (ptrdiff_t i = 0; i < n; i++, x += s->ld_batch) {
        const ptrdiff_t row = (ptrdiff_t)order[i];
        if (row < 0 || row >= s->n_rows)
            return 0;
        const REAL *from = (const REAL *)s->x + row * s->ld_x;
        if (i + ahead < rest) { /* of whatever order holds: a prefetch never fails */
            const uintptr_t next = (uintptr_t)order[i + ahead];
            for (ptrdiff_t at = 0; at < n_in * size; at += 64)
                __builtin_prefetch((const void *)((uintptr_t)s->x + next * (uintptr_t)(s->ld_x * size) + (uintptr_t)at));
            if (labels)
                __builtin_prefetch((const void *)((uintptr_t)labels + next * sizeof *labels));
            else
                __builtin_prefetch((const void *)((uintptr_t)s->y + next * (uintptr_t)(n_out * size)));
        }
        ptrdiff_t j = 0;
        for (; j + LANES <= n_in; j += LANES) {
            const vec v = vec_load(from + j);
            vec_store(x + j, v);
            sum = vec_fma(v, vec_set(0), sum); /* NaN times zero and infinity times zero are NaN */
        }
        if (j < n_in) {
            const vec v = vec_load_part(from + j, n_in - j);
            vec_store(x + j, v); /* rows of the batch end with whole lines */
            sum = vec_fma(v, vec_set(0), sum);
        }
        if (labels) {
            const int64_t label = labels[row];
            if (label < 0 || label >= n_out)
                return 0;
            s->label_batch[i] = label;
            if (p->across)
                ((REAL_BITS *)p->labels_across)[i] = (REAL_BITS)label;
        } else if (p->across) {
            for (ptrdiff_t q = 0; q < n_out; q++) p->y[q * p->ld_across + i] = ((const REAL *)s->y)[row * n_out + q];
        } else {
            REAL *y = p->y + i * p->ld_y;
            const REAL *y_from = (const REAL *)s->y + row * n_out;
            for (j = 0; j + LANES <= n_out; j += LANES) vec_store(y + j, vec_load(y_from + j));
            if (j < n_out)
                vec_store(y + j, vec_load_part(y_from + j, n_out - j));
        }
        if (s->weight)
            s->weight_batch[i] = s->weight[row];
    }
    return vec_is_zero(sum);
}

/* z of a layer whose sums are dot products (fastnn_by_dots), which are made of rows of x and w as they lie; element (i, j)
 * goes to z[i * row + j * column]. */
static void FN(small_dots)(const FN(small_plan) *p, const FN(small_layer) *l, REAL *z, ptrdiff_t row, ptrdiff_t column,
                           const REAL *bias)
{
    const fastnn_epilogue e = {.bias = bias};
    FN(product_dots)(p->batch, l->n_out, l->n_in, l->x, l->ld_x, 1, l->turned ? l->turned : l->w,
                     l->turned ? 1 : l->ld_w, l->turned ? l->ld_turned : 1, z, row, column, &e);
}

/* Forward through the last layer, across: z (n_out, batch), then its output. */
static void FN(forward_across)(const FN(small_plan) *p, const FN(small_layer) *l)
{
    const ptrdiff_t ld = p->ld_across, n = VECTORS(p->batch);
    if (fastnn_by_dots(l->n_out, l->n_in)) {
        for (ptrdiff_t j = 0; j < l->n_out; j++) /* what fills up the rows of nobody: zeros, as products have them */
            vec_store(p->z_across + j * ld + (n - 1) * LANES, vec_set(0));
        FN(small_dots)(p, l, p->z_across, 1, ld, NULL);
    } else {
        FN(turn_whole)(p->batch, l->n_in, l->x, l->ld_x, p->x_across, ld);
        FN(small_product)(&l->forward, 0, l->n_out, n);
    }
    for (ptrdiff_t j = 0; l->b && j < l->n_out; j++)
        for (ptrdiff_t q = 0; q < n; q++) {
            REAL *z = p->z_across + j * ld + q * LANES;
            vec_store(z, vec_load(z) + l->b[j]);
        }
    if (l->of->activation != FASTNN_identity)
        FN(activation)(l->of->activation, l->n_out, n * LANES, p->z_across, ld, p->z_across, ld);
}

/* Loss and gradient at the last output, across. */
static void FN(loss_across)(const FN(small_plan) *p, const FN(small_layer) *l, double scale)
{
    const ptrdiff_t ld = p->ld_across, n = l->n_out;
    const fastnn_small *s = p->s;
    if (n < 1)
        __builtin_unreachable();
    if (!s->labels)
        scale /= (double)n; /* a mean over the outputs */
    for (ptrdiff_t i = 0; i < p->batch; i += LANES) {
        vec e[BLOCK], loss, factor = vec_set((REAL)scale);
        if (s->weight) {
            REAL factors[LANES] = {0};
            for (int r = 0; r < LANES && i + r < p->batch; r++)
                factors[r] = FN(row_factor)(s->weight_batch, i + r, scale);
            factor = vec_load(factors);
        }
        for (ptrdiff_t j = 0; j < n; j++) e[j] = vec_load(p->z_across + j * ld + i);
        loss = FN(loss_columns)(s->loss, n, e, (ivec)vec_load(p->labels_across + i), p->y + i, ld, factor);
        for (ptrdiff_t j = 0; j < n; j++) vec_store(p->d_across + j * ld + i, e[j]);
        vec_store(p->losses + i, loss);
    }
    if (l->of->activation != FASTNN_identity)
        FN(activation_backward)(l->of->activation, n, VECTORS(p->batch) * LANES, p->z_across, ld, p->d_across, ld,
                                p->d_across, ld);
}

/* What the derivative of a layer's activation is computed from. */
INLINE const REAL *FN(tells_slope)(const fastnn_small_layer *l)
{
    return l->slope ? l->slope : l->a;
}

static void FN(small_forward)(const FN(small_plan) *p, const FN(small_layer) *l)
{
    const int activation = l->of->activation;
    const ptrdiff_t n = VECTORS(l->n_out);
    const int by_dots = fastnn_by_dots(l->n_out, l->n_in);
    if (by_dots) {
        for (ptrdiff_t i = 0; i < p->batch; i++) /* neurons of nobody: zeros, as products have them */
            vec_store(l->of->a + i * l->of->ld + (n - 1) * LANES, vec_set(0));
        FN(small_dots)(p, l, l->of->a, l->of->ld, 1, l->b);
    } else {
        FN(small_product)(&l->forward, 0, p->batch, n);
    }
    if (l->of->slope)
        FN(activation_and_slope)(activation, p->batch, n * LANES, l->of->a, l->of->ld, l->of->a, l->of->ld, l->of->slope,
                                 l->of->ld);
    else if (activation != FASTNN_identity && (activation != FASTNN_relu || by_dots))
        FN(activation)(activation, p->batch, n * LANES, l->of->a, l->of->ld, l->of->a, l->of->ld);
}

/* Loss and gradient at the last output, lanes along the outputs; with late_logs, what a loss is above a logarithm, and
 * of what total that is to be taken. */
static void FN(small_loss)(const FN(small_plan) *p, const FN(small_layer) *l, double scale, REAL *totals)
{
    const fastnn_small *s = p->s;
    const REAL *a = l->of->a;
    REAL *d = l->of->d;
    const ptrdiff_t ld = l->of->ld, n = l->n_out;
    const double *weight = s->weight ? s->weight_batch : NULL;
    if (p->late_logs) {
        for (ptrdiff_t i = 0; i < p->batch; i++)
            totals[i] = FN(cross_entropy_short)(n, a + i * ld, (ptrdiff_t)s->label_batch[i],
                                                FN(row_factor)(weight, i, scale), d + i * ld, &p->losses[i]);
    } else if (n <= BLOCK && !s->labels) {
        for (ptrdiff_t i = 0; i < p->batch; i++) /* a mean over the outputs */
            p->losses[i] = FN(values_short)(s->loss, n, a + i * ld, p->y + i * p->ld_y,
                                            FN(row_factor)(weight, i, scale / (double)n), d + i * ld);
    } else {
        const fastnn_loss plain = {.loss = s->loss};
        FN(loss)(&plain, p->batch, n, a, ld, s->labels ? s->label_batch : NULL, p->y, p->ld_y, weight, scale,
                 s->loss_rows, d, ld);
        for (ptrdiff_t i = 0; i < p->batch; i++) p->losses[i] = (REAL)s->loss_rows[i];
    }
    if (l->of->activation != FASTNN_identity)
        FN(activation_backward)(l->of->activation, p->batch, VECTORS(n) * LANES, FN(tells_slope)(l->of), ld, d, ld, d,
                                ld);
}

/* small_loss's or loss_across's losses as they are told where bounds are of each output. */
static void FN(small_bounds)(const FN(small_plan) *p, const FN(small_layer) *l)
{
    const fastnn_bounds *b = &p->s->bounds;
    const int across = p->across;
    const REAL *z = across ? p->z_across : l->of->a;
    const ptrdiff_t ld = across ? p->ld_across : l->of->ld, ld_y = across ? p->ld_across : p->ld_y;
    /* Whole vectors: what is behind a row makes no difference but to the time. */
    if (!FN(any_beyond)(across ? l->n_out : p->batch, VECTORS(across ? p->batch : l->n_out) * LANES, z, ld, b->edge))
        return;
    for (ptrdiff_t i = 0; i < p->batch; i++)
        if (p->losses[i] - p->losses[i] == 0)
            p->losses[i] = across ? FN(bounded_loss)(b, l->n_out, z + i, ld, p->y + i, ld_y)
                                  : FN(bounded_loss)(b, l->n_out, z + i * ld, 1, p->y + i * ld_y, 1);
}

/* A row's loss as it is told; what ends the run, if it is beyond the limit. NaN stays. */
INLINE double FN(told_row)(const fastnn_bounds *b, double row)
{
    if (row > b->cap || row > b->limit)
        return row > b->limit ? (double)REAL_INFINITY : b->cap;
    return row < b->floor ? b->floor : row;
}

/* A gradient of biases: stored, or SGD without momentum at once. */
typedef struct {
    REAL *to;
    int update;
    REAL minus_rate;
    double decay;
} FN(small_bias);

INLINE void FN(take_bias)(const FN(small_bias) *to, ptrdiff_t j, vec g)
{
    if (to->update) {
        const vec b = vec_load(to->to + j);
        if (to->decay != 0)
            g = vec_fma(vec_set((REAL)to->decay), b, g);
        g = vec_fma(vec_set(to->minus_rate), g, b);
    }
    vec_store(to->to + j, g);
}

/* Four sums a row and their tree, as sum_rows has them; lanes along the rows of the batch. */
typedef REAL FN(four) __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
static void FN(sum_across)(ptrdiff_t m, ptrdiff_t n, const REAL *d, ptrdiff_t ld, const FN(small_bias) *to)
{
    REAL sums[BLOCK] = {0};
    for (ptrdiff_t j = 0; j < n; j++, d += ld) {
        FN(four) s = {0, 0, 0, 0};
        ptrdiff_t i = 0;
        for (; i + 4 <= m; i += 4) s += *(const FN(four) *)(d + i);
        UNROLL for (int q = 0; q < 3; q++)
            if (i + q < m)
                s[q] += d[i + q];
        sums[j] = (s[0] + s[1]) + (s[2] + s[3]);
    }
    for (ptrdiff_t j = 0; j < n; j += LANES) FN(take_bias)(to, j, vec_load(sums + j));
}

/* The same with lanes along the outputs. */
static void FN(small_sum_rows)(ptrdiff_t m, ptrdiff_t n, const REAL *d, ptrdiff_t ld, const FN(small_bias) *to)
{
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        vec s[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
        const REAL *row = d + j;
        ptrdiff_t i = 0;
        for (; i + 4 <= m; i += 4, row += 4 * ld)
            UNROLL for (int q = 0; q < 4; q++) s[q] += vec_load(row + q * ld);
        UNROLL for (int q = 0; q < 3; q++)
            if (i + q < m)
                s[q] += vec_load(row + q * ld);
        FN(take_bias)(to, j, (s[0] + s[1]) + (s[2] + s[3]));
    }
}

/* From the gradient at z of a layer to that at the layer before, and to its own gradient or parameters. */
static void FN(small_backward)(const FN(small_plan) *p, ptrdiff_t i, const fastnn_update *u)
{
    const FN(small_layer) *l = &p->layers[i];
    const ptrdiff_t n_in = VECTORS(l->n_in), n_out = VECTORS(l->n_out);
    const REAL rate = (REAL)u->lr;
    const int folded = FN(small_folds)(p->s);
    if (i > 0) {
        const fastnn_small_layer *before = l->of - 1;
        const int activation = before->activation;
        FN(small_product)(&l->input, 0, p->batch, n_in);
        if (activation != FASTNN_identity && activation != FASTNN_relu)
            FN(activation_backward)(activation, p->batch, n_in * LANES, FN(tells_slope)(before), before->ld, before->d,
                                    before->ld, before->d, before->ld);
    }
    if (!folded) {
        if (l->turned_first)
            FN(small_product)(&l->against, 0, l->n_out, n_in);
        else
            FN(small_product)(&l->along, 0, l->n_in, n_out);
    } else {
        /* A second sum is cheaper than a transpose where the batch is short. */
        const int both = p->batch <= SMALL_TWICE;
        if (l->w && (both || !l->turned_first))
            FN(small_update)(&l->along, rate, l->n_in, n_out);
        if (l->turned && (both || l->turned_first))
            FN(small_update)(&l->against, rate, l->n_out, n_in);
        if (!both)
            FN(renew_small)(l);
    }
    if (!l->b)
        return;
    const FN(small_bias) to = {.to = folded ? l->b : p->gradient + l->at_bias, .update = folded,
                               .minus_rate = -rate, .decay = p->s->decay};
    if (l->across)
        FN(sum_across)(p->batch, l->n_out, p->d_across, p->ld_across, &to);
    else
        FN(small_sum_rows)(p->batch, l->n_out, l->of->d, l->of->ld, &to);
}

/* Half of l2 times the squares of the matrices: see fastnn_small. */
static double FN(small_penalty)(const FN(small_plan) *p)
{
    ptrdiff_t at = 0;
    for (ptrdiff_t i = 0; i < p->n_layers; i++) {
        const FN(small_layer) *l = &p->layers[i];
        const REAL *w = l->w;
        if (!w) { /* the last, across: its columns are its rows until they are turned */
            FN(turn_whole)(l->n_out, l->n_in, l->turned, l->ld_turned, p->x_across, l->ld_w);
            w = p->x_across;
        }
        FN(column_squares)(l->n_in, l->n_out, w, l->ld_w, p->squares + at);
        at += l->n_out;
    }
    return 0.5 * p->s->l2 * fastnn_sum(at, p->squares);
}

/* What a step's rows have lost joins the sum. */
static void FN(tell_loss)(fastnn_small *s, ptrdiff_t step, double loss, double penalty)
{
    loss *= s->told;
    loss += penalty;
    s->loss_sum += loss;
    if (s->step_losses)
        s->step_losses[step] = loss;
}

/* Losses whose logarithms are yet to be taken: a few steps', a vector of rows in all. Nothing waits for them, but a
 * logarithm in each step fills the queues of the CPU for longer than the step has other work. */
typedef struct {
    ptrdiff_t rows, first_step;
    REAL totals[LANES], above[LANES];
    double weights[LANES], penalties[LANES];
} FN(late_losses);

static void FN(add_late_losses)(FN(late_losses) *late, fastnn_small *s)
{
    REAL losses[LANES];
    vec_store(losses, vec_load(late->above) + vec_log(vec_load(late->totals)));
    for (ptrdiff_t i = 0; i < late->rows; i += s->batch) {
        double loss = 0;
        for (ptrdiff_t r = i; r < i + s->batch; r++) {
            const double row = FN(told_row)(&s->bounds, losses[r]);
            loss += s->weight ? late->weights[r] * row : row;
        }
        FN(tell_loss)(s, late->first_step++, loss, late->penalties[i]);
    }
    late->rows = 0;
}

/* The optimizer's step on parameters begin .. end of the workspace. */
static void FN(small_update_run)(const FN(small_plan) *p, fastnn_target target, double decay, ptrdiff_t begin, ptrdiff_t end)
{
    target.decay = decay;
    target.w = p->parameters + begin;
    for (int q = 0; q < 2; q++) target.states[q] = p->states[q] ? p->states[q] + begin : NULL;
    FN(update_rows)(&target, 0, 1, end - begin, p->gradient + begin, 0);
}

#include "small_row_template.h"

/* Steps s->begin .. s->n_steps; the number of the first that was not done. */
static ptrdiff_t FN(small_steps)(fastnn_small *s)
{
    FN(small_plan) p = FN(plan_small)(s, s->work);
    const FN(small_layer) *last = &p.layers[p.n_layers - 1];
    fastnn_update u = s->update;
    const int folded = FN(small_folds)(s);
    fastnn_target target = {.update = &u, .lr = 1, .decay = s->decay, .w = p.parameters,
                                  .states = {p.states[0], p.states[1]}};
    memset(s->work, 0, (size_t)p.bytes);
    FN(copy_all_small)(&p, 0);
    for (ptrdiff_t i = 0; i < p.n_layers; i++) FN(renew_small)(&p.layers[i]);
    ptrdiff_t step = s->begin;
    FN(late_losses) late = {.rows = 0};
    const int by_rows = FN(row_takes)(&p, 1) ? 1 : FN(row_takes)(&p, 2) ? 2 : 0;
    if (by_rows)
        step = by_rows == 1 ? FN(row_steps_1)(&p, s, step, &late) : FN(row_steps_2)(&p, s, step, &late);
    for (; !by_rows && step < s->end; step++) {
        if (!FN(small_gather)(&p, step))
            break;
        double total = (double)p.batch, loss = 0;
        if (s->weight) {
            total = 0;
            for (ptrdiff_t i = 0; i < p.batch; i++) total += s->weight_batch[i];
        }
        const double scale = total > s->least_weight ? s->factor / total : 0;
        const double penalty = s->l2 != 0 ? FN(small_penalty)(&p) : 0;
        const double decay = s->l2 != 0 && total > s->least_weight ? s->decay + s->l2 / total : s->decay;
        if (s->l2 != 0 && folded)
            for (ptrdiff_t i = 0; i < p.n_layers; i++) p.layers[i].along.decay = p.layers[i].against.decay = decay;
        for (ptrdiff_t i = 0; i < p.n_layers - p.across; i++) FN(small_forward)(&p, &p.layers[i]);
        if (p.across) {
            FN(forward_across)(&p, last);
            FN(loss_across)(&p, last, scale);
        } else {
            FN(small_loss)(&p, last, scale, late.totals + late.rows);
        }
        if (s->bounds.by_output)
            FN(small_bounds)(&p, last);
        if (p.late_logs) {
            if (late.rows == 0)
                late.first_step = step;
            late.penalties[late.rows] = penalty;
            for (ptrdiff_t i = 0; i < p.batch; i++) {
                const REAL above = p.losses[i];
                late.above[late.rows + i] = above;
                if (s->weight)
                    late.weights[late.rows + i] = s->weight_batch[i];
                loss += above + late.totals[late.rows + i]; /* the total is no less than 1: finite where the loss is */
            }
        } else {
            for (ptrdiff_t i = 0; i < p.batch; i++) {
                const double row = FN(told_row)(&s->bounds, p.losses[i]);
                loss += s->weight ? s->weight_batch[i] * row : row;
            }
        }
        /* Some loss is not finite or beyond the limit, or their sum: the general way will know. */
        if (!(loss <= s->bounds.limit && loss >= -s->bounds.limit))
            break;
        u.lr = s->rates[step];
        if (u.optimizer != FASTNN_sgd)
            fastnn_begin_update(&u, s->first_step + (uint64_t)step + 1);
        for (ptrdiff_t i = p.n_layers - 1; i >= 0; i--) FN(small_backward)(&p, i, &u);
        if (!folded) {
            if (s->l2 == 0) {
                FN(update_rows)(&target, 0, 1, p.n, p.gradient, 0);
            } else { /* biases have no part in the penalty */
                FN(small_update_run)(&p, target, decay, 0, p.n_weights);
                FN(small_update_run)(&p, target, s->decay, p.n_weights, p.n);
            }
            for (ptrdiff_t i = 0; i < p.n_layers; i++) FN(renew_small)(&p.layers[i]);
        }
        s->weight_sum += total;
        if (!p.late_logs)
            FN(tell_loss)(s, step, loss, penalty);
        else if ((late.rows += p.batch) + p.batch > LANES)
            FN(add_late_losses)(&late, s);
    }
    if (late.rows)
        FN(add_late_losses)(&late, s);
    FN(copy_all_small)(&p, 1);
    return step;
}
