/* The kernels for generic, in float and in double. The flags are in setup.py. */
#define ISA_GENERIC 1
#define ISA_NEON 0
#define ISA_AVX2 0
#define ISA_AVX512 0
#define ISA_NAME "generic"
#define ISA_ID FASTNN_ISA_generic
#define VECTOR_BYTES 16
#include "fastnn.h"
#include "random.h"
#include "tuning.h"

#define REAL float
#define REAL_IS_FLOAT 1
#define FN(name) name##_f32
#define TABLE fastnn_kernels_f32_generic
#include "kernels_template.h"
#undef REAL
#undef REAL_IS_FLOAT
#undef FN
#undef TABLE

#define REAL double
#define REAL_IS_FLOAT 0
#define FN(name) name##_f64
#define TABLE fastnn_kernels_f64_generic
#include "kernels_template.h"
