/* Losses as they are told where each output's share of them has bounds (fastnn_bounds): scikit-learn's logarithms are
 * of probabilities that are cut off near 0 and 1, label by label. Gradients know nothing of it, so this is a pass of
 * its own behind a loss, which reads the outputs once and computes nothing anew but rows near a bound. */

/* Whether some of m rows of n outputs are farther from 0 than `edge`; a NaN is not. */
static int FN(any_beyond)(ptrdiff_t m, ptrdiff_t n, const REAL *z, ptrdiff_t ld, double edge)
{
    vec most = vec_set(0);
    for (ptrdiff_t i = 0; i < m; i++, z += ld) {
        ptrdiff_t j = 0;
        for (; j + LANES <= n; j += LANES) most = vec_max(vec_abs(vec_load(z + j)), most);
        if (j < n)
            most = vec_max(vec_abs(vec_load_part(z + j, n - j)), most);
    }
    return !vec_is_zero(vec_where(vec_set((REAL)edge), less, most, vec_set(1), vec_set(0)));
}

/* The binary cross-entropy of a row of n outputs z with targets y, which lie at strides: to the bits of the loss where
 * no output's share is cut off. */
static REAL FN(bounded_loss)(const fastnn_bounds *b, ptrdiff_t n, const REAL *z, ptrdiff_t z_stride, const REAL *y,
                             ptrdiff_t y_stride)
{
    const vec least = vec_set((REAL)b->floor), most = vec_set((REAL)b->cap);
    vec sum[BLOCK_VECTORS];
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) sum[v] = vec_set(0);
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        REAL zs[BLOCK] = {0}, ys[BLOCK] = {0};
        for (ptrdiff_t q = 0; q < BLOCK && j + q < n; q++) {
            zs[q] = z[(j + q) * z_stride];
            ys[q] = y[(j + q) * y_stride];
        }
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++)
            if (n - j > v * LANES) {
                vec gradient;
                const vec share = FN(binary_cross_entropy_terms)(vec_load(zs + v * LANES), vec_load(ys + v * LANES), &gradient);
                sum[v] += vec_select(FN(lanes_before)(n, j + v * LANES), vec_min(vec_max(share, least), most), vec_set(0));
            }
    }
    return FN(tree_sum)(sum) / (REAL)n;
}

static void FN(bound_losses)(const fastnn_bounds *b, ptrdiff_t m, ptrdiff_t n, const void *z_, ptrdiff_t ld_z,
                             const void *y_, ptrdiff_t ld_y, double *loss_rows)
{
    const REAL *z = z_, *y = y_;
    if (!FN(any_beyond)(m, n, z, ld_z, b->edge))
        return;
    for (ptrdiff_t i = 0; i < m; i++) /* what is not finite stays so */
        if (loss_rows[i] - loss_rows[i] == 0 && FN(any_beyond)(1, n, z + i * ld_z, ld_z, b->edge))
            loss_rows[i] = FN(bounded_loss)(b, n, z + i * ld_z, 1, y + i * ld_y, 1);
}
