/* How many units in the last place (ULP) exp, log, log1p, the activations of numbers and the slopes that some of them
 * keep miss the true value by, and how far a monotone one steps back.
 *
 *   accuracy [stride [name [part parts]]]
 *                              all functions, or one
 *                              float32: one in stride of the 2^32 inputs (default 1021; 1: all of them), 32
 *                              neighbours at a time
 *                              float64: 2^27 / stride + 2^20 random inputs; both: special ones
 *                              part of parts, from 0: float32 alone, one of so many equal stretches of its inputs
 *                              (a scan of 2^32 takes minutes); each begins where the one before ended
 *
 * Compiled once per instruction set, with its flags, -Icsrc and -DISA=avx512|avx2|generic|neon. Prints for
 * each function the largest error and where, how far below the result of a smaller input another one lies (above,
 * where the function falls), how many NaN or signs of zero are wrong (an infinity that is wrong counts as an error) or
 * step back where none may, and a hash of all results, which must be the same on every instruction set. Exits with 1
 * beyond a bound.
 *
 * The unit of a slope is the last place of numbers from 1/2 to 1: it passes through zero. */
#define STRING_(text) #text
#define STRING(text) STRING_(text)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define KERNELS_FILE(isa) STRING(JOIN(kernels_, isa).c)
#include KERNELS_FILE(ISA)
#undef REAL
#undef REAL_IS_FLOAT
#undef FN
#undef TABLE

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define AT_ONCE 4096

typedef long double wide;

#define WIDE double
#define M(name) name
#define R(name) name##_double
#include "references.h"
#undef WIDE
#undef M
#undef R
#define WIDE wide
#define M(name) name##l
#define R(name) name##_wide
#include "references.h"

/* An activation, or its slope, as a function of vectors. */
#define ACTIVATION_N(name, suffix)                                                       \
    static void name##_activation_##suffix(ptrdiff_t n, const void *x, void *out)        \
    {                                                                                    \
        activation_##suffix(FASTNN_##name, 1, n, x, n, out, n);                          \
    }
#define SLOPE_N(name, suffix, real)                                                      \
    static void name##_slope_n_##suffix(ptrdiff_t n, const void *x, void *out)           \
    {                                                                                    \
        real unused[AT_ONCE];                                                              \
        activation_and_slope_##suffix(FASTNN_##name, 1, n, x, n, unused, n, out, n);     \
    }
#define WRAP_elementwise(name) ACTIVATION_N(name, f32) ACTIVATION_N(name, f64)
#define WRAP_from_input(name) WRAP_elementwise(name) SLOPE_N(name, f32, float) SLOPE_N(name, f64, double)
#define WRAP_rowwise(name)
#define WRAP(name, kind) WRAP_##kind(name)
FASTNN_ACTIVATIONS(WRAP)

typedef struct {
    const char *name;
    void (*f32)(ptrdiff_t n, const void *x, void *out);
    void (*f64)(ptrdiff_t n, const void *x, void *out);
    double (*reference)(double);
    wide (*wide_reference)(wide);
    double bound_f32, bound_f64; /* ULP */
    enum { ANY, FROM_ZERO, SLOPE } kind; /* FROM_ZERO: defined for x >= 0 alone */
    double back_f32;             /* ULP that float32 may step back; -1: not monotone on either side */
    double turn;                 /* falls below it, rises above */
    double from, to;             /* steps back are allowed there alone */
} function;

#define NEVER (-INFINITY)
#define UNEVEN(name, ulp32, ulp64, back, turn, from, to)                                                         \
    {#name, name##_activation_f32, name##_activation_f64, name##_double, name##_wide, ulp32, ulp64, ANY, back, turn, \
     from, to}
#define ACTIVATION(name, ulp32, ulp64, turn) UNEVEN(name, ulp32, ulp64, 0, turn, 0, 0)
#define SLOPE_OF(name, ulp32, ulp64)                                                                                   \
    {#name "'", name##_slope_n_f32, name##_slope_n_f64, name##_slope_double, name##_slope_wide, ulp32, ulp64, SLOPE, \
     -1, NEVER, 0, 0}

/* Bounds: for float32 what was measured over all inputs, rounded up; for float64 a little more than in
 * samples. */
static const function functions[] = {
    {"exp", exp_n_f32, exp_n_f64, exp, expl, 0.9, 1.0, ANY, 1, NEVER, -INFINITY, INFINITY},
    {"log", log_n_f32, log_n_f64, log, logl, 0.9, 1.0, ANY, 1, NEVER, -INFINITY, INFINITY},
    {"log1p", log1p_n_f32, log1p_n_f64, log1p, log1pl, 1.5, 1.4, FROM_ZERO, 1, NEVER, 0, INFINITY},
    ACTIVATION(tanh, 1.6, 1.7, NEVER),
    ACTIVATION(sigmoid, 1.7, 1.8, NEVER),
    ACTIVATION(identity, 0, 0, NEVER),
    ACTIVATION(relu, 0, 0, NEVER),
    ACTIVATION(leaky_relu, 0.9, 0.7, NEVER),
    ACTIVATION(relu6, 0, 0, NEVER),
    ACTIVATION(hard_tanh, 0, 0, NEVER),
    ACTIVATION(hard_sigmoid, 1.4, 1.4, NEVER),
    ACTIVATION(hard_swish, 1.5, 1.5, -1.5),
    ACTIVATION(softsign, 1.5, 1.5, NEVER),
    ACTIVATION(elu, 1.0, 1.2, NEVER),
    ACTIVATION(selu, 2.0, 2.0, NEVER),
    ACTIVATION(celu, 1.0, 1.2, NEVER),
    ACTIVATION(softplus, 1.8, 1.8, NEVER),
    UNEVEN(silu, 3.7, 3.6, 4, -1.2784645427610738, -4.3, -0.5),
    UNEVEN(mish, 4.6, 4.6, 4, -1.1924312145154186, -4.3, -0.25),
    UNEVEN(gelu, 7.1, 8.5, 5, -0.7517915246935644, -2, -0.49),
    UNEVEN(gelu_tanh, 3.6, 3.6, 4, -0.7524614220710162, -2, -0.5),
    SLOPE_OF(hard_swish, 0.7, 0.7),
    SLOPE_OF(silu, 2.0, 2.1),
    SLOPE_OF(mish, 3.2, 3.6),
    SLOPE_OF(gelu, 2.4, 2.4),
    SLOPE_OF(gelu_tanh, 2.0, 2.3),
};

typedef struct {
    double worst_ulp, worst_x;
    double worst_back;         /* ULP */
    double last_x, extreme;    /* of the results since x went the other way */
    uint64_t wrong, inputs, hash;
} tally;

/* Error in units of the last place of the type with `digits` bits whose smallest exponent is `lowest`. An
 * infinity counts as the first number out of range. */
static double ulps(wide got, wide expected, int digits, int lowest, int highest)
{
    const wide edge = ldexpl(1, highest);
    if (isinf(got))
        got = copysignl(edge, got);
    if (fabsl(expected) > edge)
        expected = copysignl(edge, expected);
    int exponent = lowest;
    if (expected != 0)
        frexpl(expected, &exponent);
    if (exponent < lowest)
        exponent = lowest;
    return (double)ldexpl(fabsl(got - expected), digits - exponent);
}

static void compare(tally *t, int kind, double x, wide got, uint64_t bits, wide expected, int digits, int lowest,
                    int highest)
{
    const wide scale = digits == FLT_MANT_DIG ? FLT_EPSILON / 2 : DBL_EPSILON / 2; /* 2^-digits */
    t->inputs++;
    if (isnan(expected) || isnan(got)) {
        bits = 0x7ff8; /* payloads of NaN differ between processors */
        t->wrong += !isnan(expected) || !isnan(got);
    } else {
        /* The sign of a result that underflowed counts as well. */
        t->wrong += kind != SLOPE && got == 0 && !signbit(got) != !signbit(expected);
        /* A unit is at least |expected| 2^-digits: most inputs need no closer look. */
        if (fabsl(got - expected) > t->worst_ulp * fabsl(expected) * scale) {
            const double error = ulps(got, expected, digits, lowest, highest);
            if (error > t->worst_ulp) {
                t->worst_ulp = error;
                t->worst_x = x;
            }
        }
    }
    t->hash = (t->hash ^ bits) * 0x9e3779b97f4a7c15u;
    t->hash ^= t->hash >> 29;
}

/* How far a result lies on the wrong side of those before it. Inputs run from 0 to +inf, then from -0 to -inf, with
 * NaN between; specials come in no order. */
static void step_back(tally *t, const function *f, double x, double got)
{
    /* Whether results rise in the direction that x goes. */
    const int rises = (x > 0 || x < f->turn);
    const int was = (t->last_x > 0 || t->last_x < f->turn);
    if (isnan(x) || x == 0 || rises != was || signbit(x) != signbit(t->last_x) || fabs(x) < fabs(t->last_x) ||
        isnan(t->last_x) || isinf(got)) {
        t->extreme = got;
    } else if (rises ? got < t->extreme : got > t->extreme) {
        const double back = ulps(got, t->extreme, FLT_MANT_DIG, FLT_MIN_EXP, FLT_MAX_EXP);
        if (back > t->worst_back)
            t->worst_back = back;
        t->wrong += back > 0 && !(x >= f->from && x <= f->to);
    } else {
        t->extreme = got;
    }
    t->last_x = x;
}

static uint64_t scrambled(uint64_t i)
{
    i *= 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 30)) * 0xbf58476d1ce4e5b9u;
    i = (i ^ (i >> 27)) * 0x94d049bb133111ebu;
    return i ^ (i >> 31);
}

/* Infinities, NaN, zeros, ends of the normal numbers and of the functions' ranges; with both signs. */
static const double specials[] = {
    0, INFINITY, NAN, 0.5, 1, 2, 1e-8, 1e-17, DBL_MIN, DBL_TRUE_MIN, DBL_MAX, FLT_MIN, FLT_TRUE_MIN, FLT_MAX,
    87.33654, 88.72283, 103.97208, 708.39641, 709.78271, 744.44007, 745.13321, 9.01, 19.06, 0.55,
    M_LN2 / 2, M_LN2, M_SQRT1_2, M_SQRT2};
#define N_SPECIALS ((uint64_t)(2 * sizeof specials / sizeof specials[0]))
static double special(uint64_t i) { return i % 2 ? -specials[i / 2] : specials[i / 2]; }

/* Number i: specials, then bits at random, numbers of everyday size, and neighbours of 0 and 1. */
static double sample_f64(uint64_t i)
{
    if (i < N_SPECIALS)
        return special(i);
    const uint64_t bits = scrambled(i);
    double x;
    memcpy(&x, &bits, sizeof x);
    const double uniform = (double)(bits >> 11) * 0x1p-52 - 1;
    switch (i % 4) {
    case 0: return x;
    case 1: return uniform * 750;
    case 2: return 1 + uniform / 2;
    default: return uniform * 2;
    }
}

static double sample_f32(uint64_t i, uint64_t stride)
{
    if (i < N_SPECIALS)
        return special(i);
    /* Neighbours, for a step back lies between them. */
    const uint64_t j = i - N_SPECIALS;
    const uint32_t bits = (uint32_t)(j / 32 * 32 * stride + j % 32);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static tally run_f32(const function *f, uint64_t stride, uint64_t part, uint64_t parts)
{
    static float x[AT_ONCE], out[AT_ONCE];
    const int lowest = f->kind == SLOPE ? 0 : FLT_MIN_EXP;
    const uint64_t all = N_SPECIALS + (((uint64_t)1 << 32) + stride - 1) / stride;
    const uint64_t n = all * (part + 1) / parts;
    tally t = {0};
    /* A part looks at 32 inputs of the one before: what it is to lie above of does not begin anew. */
    for (uint64_t i = part ? all * part / parts - 32 : 0; i < n;) {
        ptrdiff_t count = 0;
        for (; count < AT_ONCE && i < n; i++) {
            x[count] = (float)sample_f32(i, stride);
            count += !(f->kind == FROM_ZERO && x[count] < 0);
        }
        f->f32(count, x, out);
        for (ptrdiff_t j = 0; j < count; j++) {
            uint32_t bits;
            memcpy(&bits, &out[j], sizeof bits);
            if (f->back_f32 >= 0)
                step_back(&t, f, x[j], out[j]);
            compare(&t, f->kind, x[j], out[j], bits, f->reference(x[j]), FLT_MANT_DIG, lowest, FLT_MAX_EXP);
        }
    }
    return t;
}

static tally run_f64(const function *f, uint64_t n)
{
    static double x[AT_ONCE], out[AT_ONCE];
    const int lowest = f->kind == SLOPE ? 0 : DBL_MIN_EXP;
    tally t = {0};
    for (uint64_t i = 0; i < n;) {
        ptrdiff_t count = 0;
        for (; count < AT_ONCE && i < n; i++) {
            x[count] = sample_f64(i);
            count += !(f->kind == FROM_ZERO && x[count] < 0);
        }
        f->f64(count, x, out);
        for (ptrdiff_t j = 0; j < count; j++) {
            uint64_t bits;
            memcpy(&bits, &out[j], sizeof bits);
            const wide expected = f->wide_reference(x[j]);
            compare(&t, f->kind, x[j], out[j], bits, expected, DBL_MANT_DIG, lowest, DBL_MAX_EXP);
        }
    }
    return t;
}

static int report(const char *type, const function *f, tally t, double bound, double bound_back)
{
    const int bad = t.wrong || !(t.worst_ulp <= bound) || (bound_back >= 0 && !(t.worst_back <= bound_back));
    char back[16] = "-";
    if (bound_back >= 0)
        snprintf(back, sizeof back, "%.3g", t.worst_back);
    printf("%-8s %-8s %-12s %11" PRIu64 " inputs  %6.3f ULP at %-24a back %-4s %" PRIu64
           " wrong  hash %016" PRIx64 "%s\n",
           STRING(ISA), type, f->name, t.inputs, t.worst_ulp, t.worst_x, back, t.wrong, t.hash, bad ? "  FAILED" : "");
    fflush(stdout);
    return bad;
}

int main(int argc, char **argv)
{
    const uint64_t stride = argc > 1 ? strtoull(argv[1], NULL, 10) : 1021;
    const uint64_t part = argc > 4 ? strtoull(argv[3], NULL, 10) : 0, parts = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
    if (stride < 1 || argc == 4 || argc > 5 || part >= parts || parts > 4096) {
        fprintf(stderr, "usage: accuracy [stride >= 1 [name [part < parts, parts <= 4096]]]\n");
        return 2;
    }
    int bad = 0, found = 0;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        const function *f = &functions[i];
        if (argc > 2 && strcmp(f->name, argv[2]))
            continue;
        found = 1;
        bad |= report("float32", f, run_f32(f, stride, part, parts), f->bound_f32, f->back_f32);
        if (parts > 1)
            continue;
        const uint64_t n = N_SPECIALS + ((uint64_t)1 << 27) / stride + (1 << 20);
        bad |= report("float64", f, run_f64(f, n), f->bound_f64, -1);
    }
    if (!found) {
        fprintf(stderr, "accuracy: no function %s\n", argv[2]);
        return 2;
    }
    return bad;
}
