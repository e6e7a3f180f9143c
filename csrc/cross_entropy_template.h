/* Softmax cross-entropy of logits and labels, fused with its gradient: row by row, and for many short rows with lanes
 * along the rows. */

/* weight[i] * scale, rounded once to REAL. */
INLINE REAL FN(row_factor)(const double *weight, ptrdiff_t i, double scale)
{
    return (REAL)(weight ? weight[i] * scale : scale);
}

/* p - 1 in the lane of `label`, p elsewhere; first: column of lane 0. */
INLINE vec FN(minus_one_hot)(vec p, ptrdiff_t first, ptrdiff_t label)
{
    const ivec lanes = LANE_NUMBERS;
    const ivec here = lanes == (ivec){0} + (REAL_BITS)(label - first);
    return p - (vec)(here & (ivec)vec_set(1));
}

/* dz = softmax less one hot, times factor; returns the sum of exp(z - max), and max. dz may be z, or NULL. */
INLINE REAL FN(cross_entropy_row)(ptrdiff_t n, const REAL *z, ptrdiff_t label, REAL factor, REAL *dz, REAL *max)
{
    REAL total;
    vec e[BLOCK_VECTORS] = {{0}};
    if (n <= BLOCK) {
        FN(exp_short_row)(n, z, e, max, &total);
    } else {
        *max = row_max(n, z);
        total = FN(exp_row)(n, z, *max, dz);
    }
    for (ptrdiff_t j = 0; dz && j < n; j += BLOCK) {
        if (n > BLOCK)
            FN(load_block)(dz + j, n - j, 0, e);
        UNROLL for (int i = 0; i < BLOCK_VECTORS; i++)
            e[i] = FN(minus_one_hot)(e[i] / total, j + i * LANES, label) * factor;
        FN(store_block)(dz + j, n - j, e);
    }
    return total;
}

/* ---- LANES rows across: lanes run along rows, and number j of each is columns[j], j < n <= BLOCK */

/* The tree of tree_max and tree_sum, number i being columns[i]. */
#define TURNED_TREE(result, n, columns, combine)                                                \
    do {                                                                                        \
        vec tree[BLOCK];                                                                        \
        tree[0] = (columns)[0];                                                                 \
        for (ptrdiff_t i = 1; i < (n); i++) tree[i] = (columns)[i];                             \
        for (ptrdiff_t half = BLOCK / 2; half > 0; half /= 2)                                   \
            for (ptrdiff_t i = 0; i < half && i + half < (n); i++)                              \
                tree[i] = combine(tree[i], tree[i + half]);                                     \
        (result) = tree[0];                                                                     \
    } while (0)

/* exp(e - max) in place; gives max and returns the sum. */
INLINE vec FN(exp_columns)(ptrdiff_t n, vec e[BLOCK], vec *max)
{
    if (n < 1)
        __builtin_unreachable(); /* there is a label among them */
    vec sum;
    TURNED_TREE(*max, n, e, vec_max);
    for (ptrdiff_t j = 0; j < n; j++) e[j] = vec_exp(e[j] - *max);
    TURNED_TREE(sum, n, e, SUM_OF);
    return sum;
}

/* From these exponentials to the gradients. */
INLINE void FN(cross_entropy_gradients)(ptrdiff_t n, vec e[BLOCK], vec sum, ivec label, vec factor)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        const ivec here = label == (ivec){0} + (REAL_BITS)j;
        e[j] = (e[j] / sum - (vec)(here & (ivec)vec_set(1))) * factor;
    }
}

/* The losses; e: logits, then their gradients. */
static vec FN(many_cross_entropy_columns)(ptrdiff_t n, vec e[BLOCK], ivec label, vec factor)
{
    vec max, chosen = e[0];
    for (ptrdiff_t j = 1; j < n; j++) chosen = vec_select(label == (ivec){0} + (REAL_BITS)j, e[j], chosen);
    const vec sum = FN(exp_columns)(n, e, &max);
    FN(cross_entropy_gradients)(n, e, sum, label, factor);
    return (max - chosen) + vec_log(sum);
}

/* The same for up to four outputs whose number the compiler knows, which then stay in registers. */
INLINE vec FN(few_cross_entropy_columns)(const int n, vec e[BLOCK], ivec label, vec factor)
{
    vec tree[4], max, sum, chosen = e[0];
    UNROLL for (int j = 1; j < 4; j++)
        if (j < n)
            chosen = vec_select(label == (ivec){0} + (REAL_BITS)j, e[j], chosen);
#define FEW_TREE(result, combine)                                     \
    UNROLL for (int j = 0; j < 4; j++) if (j < n) tree[j] = e[j];     \
    if (n > 2)                                                        \
        tree[0] = combine(tree[0], tree[2]);                          \
    if (n > 3)                                                        \
        tree[1] = combine(tree[1], tree[3]);                          \
    (result) = n > 1 ? combine(tree[0], tree[1]) : tree[0];
    FEW_TREE(max, vec_max)
    UNROLL for (int j = 0; j < 4; j++)
        if (j < n)
            e[j] = vec_exp(e[j] - max);
    FEW_TREE(sum, SUM_OF)
#undef FEW_TREE
    UNROLL for (int j = 0; j < 4; j++)
        if (j < n)
            e[j] = (e[j] / sum - (vec)((label == (ivec){0} + (REAL_BITS)j) & (ivec)vec_set(1))) * factor;
    return (max - chosen) + vec_log(sum);
}

INLINE vec FN(cross_entropy_columns)(ptrdiff_t n, vec e[BLOCK], ivec label, vec factor)
{
    switch (n) {
    case 1: return FN(few_cross_entropy_columns)(1, e, label, factor);
    case 2: return FN(few_cross_entropy_columns)(2, e, label, factor);
    case 3: return FN(few_cross_entropy_columns)(3, e, label, factor);
    case 4: return FN(few_cross_entropy_columns)(4, e, label, factor);
    }
    return FN(many_cross_entropy_columns)(n, e, label, factor);
}

#if TURNS_IN_REGISTERS
/* LANES rows of at most BLOCK outputs across the diagonal, so that lanes run along rows and nothing is reduced
 * within a register; absent rows are zeros. */
static void FN(load_turned)(ptrdiff_t rows, ptrdiff_t n, const REAL *z, ptrdiff_t ld_z, vec columns[BLOCK])
{
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t count = n - j < LANES ? n - j : LANES;
        vec block[LANES];
        UNROLL for (int i = 0; i < LANES; i++)
            block[i] = i < rows ? vec_load_part(z + i * ld_z + j, count) : vec_set(0);
        FN(transpose)(block);
        UNROLL for (int i = 0; i < LANES; i++) columns[j + i] = block[i];
    }
}

static void FN(store_turned)(ptrdiff_t rows, ptrdiff_t n, const vec columns[BLOCK], REAL *a, ptrdiff_t ld_a)
{
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const ptrdiff_t count = n - j < LANES ? n - j : LANES;
        vec block[LANES];
        UNROLL for (int i = 0; i < LANES; i++) block[i] = columns[j + i];
        FN(transpose)(block);
        UNROLL for (int i = 0; i < LANES; i++)
            if (i < rows)
                vec_store_part(a + i * ld_a + j, block[i], count);
    }
}

/* cross_entropy_row for up to LANES short rows at once, to the same bits: three outputs cost three exponentials
 * instead of sixteen rows of one each and two trees. Gives totals and maxima. */
static void FN(cross_entropy_rows)(ptrdiff_t rows, ptrdiff_t n, const REAL *z, ptrdiff_t ld_z, const int64_t *labels,
                                   const double *weight, double scale, REAL *dz, ptrdiff_t ld_dz, REAL *total,
                                   REAL *max)
{
    vec e[BLOCK], largest, sum;
    FN(load_turned)(rows, n, z, ld_z, e);
    sum = FN(exp_columns)(n, e, &largest);
    vec_store(total, sum);
    vec_store(max, largest);
    if (!dz)
        return;
    ivec label = {0};
    vec factor = vec_set(0);
    for (int i = 0; i < LANES; i++)
        if (i < rows) {
            label[i] = (REAL_BITS)labels[i];
            factor[i] = FN(row_factor)(weight, i, scale);
        }
    FN(cross_entropy_gradients)(n, e, sum, label, factor);
    FN(store_turned)(rows, n, e, dz, ld_dz);
}
#endif

/* log(sum(exp(z))) - z[label] = (max - z[label]) + log(sum(exp(z - max))): nothing overflows, and the
 * logarithm is never negative. */
static void FN(cross_entropy)(ptrdiff_t m, ptrdiff_t n, const REAL *z, ptrdiff_t ld_z, const int64_t *labels,
                              const double *weight, double scale, double *loss_rows, REAL *dz, ptrdiff_t ld_dz)
{
    REAL total[BLOCK] = {0}, max[BLOCK] = {0}, chosen[BLOCK] = {0}; /* logarithms are taken for many rows at a time */
    for (ptrdiff_t first = 0; first < m; first += BLOCK) {
        const ptrdiff_t rows = m - first < BLOCK ? m - first : BLOCK;
        for (ptrdiff_t r = 0; r < rows; r++) /* read before dz may overwrite it */
            chosen[r] = z[(first + r) * ld_z + (ptrdiff_t)labels[first + r]];
        ptrdiff_t r = 0;
#if TURNS_IN_REGISTERS
        for (; n <= BLOCK && rows - r > LANES / 4; r += LANES) {
            const ptrdiff_t i = first + r, count = rows - r < LANES ? rows - r : LANES;
            FN(cross_entropy_rows)(count, n, z + i * ld_z, ld_z, labels + i, weight ? weight + i : NULL, scale,
                                   dz ? dz + i * ld_dz : NULL, ld_dz, total + r, max + r);
        }
#endif
        for (; r < rows; r++) {
            const ptrdiff_t i = first + r;
            total[r] = FN(cross_entropy_row)(n, z + i * ld_z, (ptrdiff_t)labels[i], FN(row_factor)(weight, i, scale),
                                             dz ? dz + i * ld_dz : NULL, &max[r]);
        }
        for (ptrdiff_t l = 0; l < rows; l += LANES) {
            const vec loss = (vec_load(max + l) - vec_load(chosen + l)) + vec_log(vec_load(total + l));
            for (int q = 0; q < LANES; q++)
                if (l + q < rows)
                    loss_rows[first + l + q] = loss[q];
        }
    }
}

/* Its loss is *above + log(the result): the logarithm is left to the caller, who can take many at once. */
INLINE REAL FN(cross_entropy_short)(ptrdiff_t n, const REAL *z, ptrdiff_t label, REAL factor, REAL *dz, REAL *above)
{
    vec e[BLOCK_VECTORS], copy[BLOCK_VECTORS];
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) {
        const ivec here = LANE_NUMBERS < (ivec){0} + (REAL_BITS)(n - v * LANES);
        copy[v] = e[v] = vec_select(here, vec_load(z + v * LANES), vec_set(-REAL_INFINITY));
    }
    const REAL max = FN(short_tree_max)(n, copy), chosen = z[label];
    FN(exp_block)(n, max, e);
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) copy[v] = e[v];
    const REAL total = FN(short_tree_sum)(n, copy);
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++)
        vec_store(dz + v * LANES, FN(minus_one_hot)(e[v] / total, v * LANES, label) * factor);
    *above = max - chosen;
    return total;
}
