/* One table of kernels: included twice by each kernels_<isa>.c, for float and for double, with
 *   REAL, REAL_IS_FLOAT   the real type
 *   FN(name)              name_f32 or name_f64
 *   TABLE                 name of the exported table
 * and, for the file, ISA_AVX512 / ISA_AVX2 / ISA_NEON / ISA_GENERIC (one is 1), ISA_NAME, ISA_ID and
 * VECTOR_BYTES. All else is static: an inline function compiled for a wide instruction set must not become
 * the copy that the linker keeps for everybody. */
#include "vector_template.h"
#include "slim_template.h"
#include "math_template.h"
#include "activations_template.h"
#include "matmul_template.h"
#include "row_template.h"
#include "losses_template.h"
#include "optimizers_template.h"
#include "weights_template.h"
#include "random_template.h"
#include "inputs_template.h"
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
    .path = FN(path),
    .sum_rows = FN(sum_rows),
    .activation = FN(activation),
    .activation_backward = FN(activation_backward),
    .log_softmax = FN(log_softmax),
    .loss = FN(loss),
    .update = FN(update),
    .weights = FN(weights),
    .dropout = FN(dropout),
    .multiply = FN(multiply),
    .widen = FN(widen),
    .gather = FN(gather),
    .all_finite = FN(all_finite),
    .scale = FN(scale),
    .embed = FN(embed),
    .embed_gradient = FN(embed_gradient),
    .fma_loop = FN(fma_loop),
    .small_bytes = FN(small_bytes),
    .small_steps = FN(small_steps),
    .exp = FN(exp_n),
    .log = FN(log_n),
    .log1p = FN(log1p_n),
    .tanh = FN(tanh_n),
    .sigmoid = FN(sigmoid_n),
};
