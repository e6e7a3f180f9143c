/* One table of kernels: included twice by each kernels_<isa>.c, for float and for double, with
 *   REAL, REAL_IS_FLOAT   the real type
 *   FN(name)              name_f32 or name_f64
 *   TABLE                 name of the exported table
 * and, for the file, ISA_AVX512 / ISA_AVX2 / ISA_NEON / ISA_GENERIC (one is 1), ISA_NAME, ISA_ID and
 * VECTOR_BYTES. All else is static: an inline function compiled for a wide instruction set must not become
 * the copy that the linker keeps for everybody. */
#include "update_steps.h"
#include "vector_template.h"
#include "slim_template.h"
#include "math_template.h"
#include "curves_template.h"
#include "activations_template.h"
#include "matmul_template.h"
#include "row_template.h"
#include "losses_template.h"
#include "optimizers_template.h"
#include "blocks_template.h"
#include "following_template.h"
#include "weights_template.h"
#include "random_template.h"
#include "inputs_template.h"
#include "graph_template.h"
#include "norms_template.h"
#include "trig_template.h"
#include "noise_template.h"
#include "augment_template.h"
#include "peak_template.h"
#include "small_template.h"
#include "small_steps_template.h"

const fastnn_kernels TABLE = {
    .isa = ISA_NAME,
    .isa_id = ISA_ID,
    .itemsize = sizeof(REAL),
    .lanes = LANES,
    .panel = PANEL,
    .matmul = FN(matmul),
    .dense_rows = FN(dense_rows),
    .matmul_transposed = FN(matmul_transposed),
    .dense = FN(dense),
    .dots = FN(dots),
    .row_dots = FN(row_dots),
    .path = FN(path),
    .sum_rows = FN(sum_rows),
    .activation = FN(activation),
    .activation_and_slope = FN(activation_and_slope),
    .activation_backward = FN(activation_backward),
    .loss = FN(loss),
    .bound_losses = FN(bound_losses),
    .update = FN(update),
    .dot = FN(dot),
    .column_squares = FN(column_squares),
    .accumulate = FN(accumulate),
    .average = FN(average),
    .limit_columns = FN(limit_columns),
    .weights = FN(weights),
    .dropout = FN(dropout),
    .multiply = FN(multiply),
    .widen = FN(widen),
    .gather = FN(gather),
    .largest = FN(largest),
    .all_finite = FN(all_finite),
    .scale = FN(scale),
    .embed = FN(embed),
    .embed_gradient = FN(embed_gradient),
    .add = FN(add),
    .take_columns = FN(take_columns),
    .put_columns = FN(put_columns),
    .norm_rows = FN(norm_rows),
    .norm_rows_backward = FN(norm_rows_backward),
    .norm_rows_gradient = FN(norm_rows_gradient),
    .column_moments = FN(column_moments),
    .norm_columns = FN(norm_columns),
    .norm_columns_sums = FN(norm_columns_sums),
    .norm_columns_backward = FN(norm_columns_backward),
    .running = FN(running),
    .prelu = FN(prelu),
    .prelu_backward = FN(prelu_backward),
    .prelu_gradient = FN(prelu_gradient),
    .gaussian_noise = FN(gaussian_noise),
    .mix = FN(mix),
    .mixup_share = FN(mixup_share),
    .swap_noise = FN(swap_noise),
    .alpha_dropout = FN(alpha_dropout),
    .periodic = FN(periodic),
    .periodic_backward = FN(periodic_backward),
    .periodic_gradient = FN(periodic_gradient),
    .piecewise = FN(piecewise),
    .piecewise_backward = FN(piecewise_backward),
    .fma_loop = FN(fma_loop),
    .stream = FN(stream),
    .small_bytes = FN(small_bytes),
    .small_steps = FN(small_steps),
    .exp = FN(exp_n),
    .log = FN(log_n),
    .log1p = FN(log1p_n),
    .tanh = FN(tanh_n),
    .sigmoid = FN(sigmoid_n),
};
