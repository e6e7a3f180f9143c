/* Losses, each fused with its gradient and its output activation. A new loss is a line in FASTNN_LOSSES (fastnn.h), the
 * fields of fastnn_loss that it reads, and one function here, name_loss: by output (losses_by_output_template.h), where
 * one function gives the loss and the gradient of one output, or by row (losses_by_row_template.h).
 *
 * A row's numbers depend on that row alone. A NaN or an infinity is never replaced, so that training sees
 * it. */

/* What a loss is given; see `loss` of the table. */
typedef struct {
    const fastnn_loss *of;
    ptrdiff_t m, n;
    const REAL *z;
    ptrdiff_t ld_z;
    const int64_t *labels;
    const REAL *y;
    ptrdiff_t ld_y;
    const double *weight;
    double scale, *loss_rows;
    REAL *dz;
    ptrdiff_t ld_dz;
} FN(loss_call);

#include "cross_entropy_template.h"
#include "losses_of_values_template.h"
#include "losses_by_output_template.h"
#include "losses_by_row_template.h"
#include "told_losses_template.h"

/* Three losses whose plain form takes no numbers, and which small_steps knows. */

static void FN(cross_entropy_loss)(const FN(loss_call) *c)
{
    if (!c->labels || c->of->smoothing != 0)
        FN(distribution_loss)(c, 0);
    else
        FN(cross_entropy)(c->m, c->n, c->z, c->ld_z, c->labels, c->weight, c->scale, c->loss_rows, c->dz, c->ld_dz);
}

static void FN(binary_cross_entropy_loss)(const FN(loss_call) *c)
{
    if (c->of->each)
        FN(weighted_binary_cross_entropy_loss)(c);
    else
        FN(binary_cross_entropy)(c->m, c->n, c->z, c->ld_z, c->y, c->ld_y, c->weight, c->scale, c->loss_rows, c->dz,
                                 c->ld_dz);
}

static void FN(mse_loss)(const FN(loss_call) *c)
{
    FN(mse)(c->m, c->n, c->z, c->ld_z, c->y, c->ld_y, c->weight, c->scale, c->loss_rows, c->dz, c->ld_dz);
}

static void FN(loss)(const fastnn_loss *of, ptrdiff_t m, ptrdiff_t n, const void *z, ptrdiff_t ld_z,
                     const int64_t *labels, const void *y, ptrdiff_t ld_y, const double *weight, double scale,
                     double *loss_rows, void *dz, ptrdiff_t ld_dz)
{
    const FN(loss_call) call = {of, m, n, z, ld_z, labels, y, ld_y, weight, scale, loss_rows, dz, ld_dz};
#define CASE(name, ...) \
    case FASTNN_##name: FN(name##_loss)(&call); return;
    switch (of->loss) { FASTNN_LOSSES(CASE) }
#undef CASE
}

/* loss() for LANES rows across, of what small_steps takes. */
static vec FN(loss_columns)(int loss, ptrdiff_t n, vec e[BLOCK], ivec labels, const REAL *y, ptrdiff_t ld_y, vec factor)
{
    switch (loss) {
    case FASTNN_cross_entropy: return FN(cross_entropy_columns)(n, e, labels, factor);
    case FASTNN_binary_cross_entropy: return FN(binary_cross_entropy_columns)(n, e, y, ld_y, factor);
    case FASTNN_mse: return FN(mse_columns)(n, e, y, ld_y, factor);
    }
    return vec_set(REAL_NAN);
}

/* loss() for one short row of values; its factor is divided by n already. */
INLINE REAL FN(values_short)(int loss, ptrdiff_t n, const REAL *z, const REAL *y, REAL factor, REAL *dz)
{
    switch (loss) {
    case FASTNN_binary_cross_entropy: return FN(binary_cross_entropy_short)(n, z, y, factor, dz);
    case FASTNN_mse: return FN(mse_short)(n, z, y, factor, dz);
    }
    return REAL_NAN;
}
