/* How many units in the last place (ULP) exp, log, log1p, tanh and sigmoid miss the true value by.
 *
 *   accuracy [stride]     float32: every stride-th of the 2^32 inputs (default 1021; 1: all of them)
 *                         float64: 2^27 / stride + 2^20 random inputs; both: special ones
 *
 * Compiled once per instruction set, with its flags, -Icsrc and -DISA=avx512|avx2|generic|neon. Prints for
 * each function the largest error and where, how many NaN or signs of zero are wrong (an infinity that is
 * wrong counts as an error), and a hash of all results, which must be the same on every instruction set.
 * Exits with 1 beyond a bound. */
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

#define CHUNK 4096

typedef long double wide;

/* The references: double libm for float, long double for double. */
static double sigmoid_double(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static wide sigmoid_wide(wide x) { return x < 0 ? expl(x) / (1 + expl(x)) : 1 / (1 + expl(-x)); }

typedef struct {
    const char *name;
    void (*f32)(ptrdiff_t n, const void *x, void *out);
    void (*f64)(ptrdiff_t n, const void *x, void *out);
    double (*reference)(double);
    wide (*wide_reference)(wide);
    double bound_f32, bound_f64; /* ULP */
    int from_zero;               /* defined for x >= 0 alone */
} function;

/* Bounds: for float32 what was measured over all inputs, rounded up; for float64 a little more than in
 * samples. */
static const function functions[] = {
    {"exp", exp_n_f32, exp_n_f64, exp, expl, 0.9, 1.0, 0},
    {"log", log_n_f32, log_n_f64, log, logl, 0.9, 1.0, 0},
    {"log1p", log1p_n_f32, log1p_n_f64, log1p, log1pl, 1.5, 1.4, 1},
    {"tanh", tanh_n_f32, tanh_n_f64, tanh, tanhl, 1.6, 1.7, 0},
    {"sigmoid", sigmoid_n_f32, sigmoid_n_f64, sigmoid_double, sigmoid_wide, 1.7, 1.8, 0},
};

typedef struct {
    double worst_ulp, worst_x;
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

static void compare(tally *t, double x, wide got, uint64_t bits, wide expected, int digits, int lowest,
                    int highest)
{
    const wide scale = digits == FLT_MANT_DIG ? FLT_EPSILON / 2 : DBL_EPSILON / 2; /* 2^-digits */
    t->inputs++;
    if (isnan(expected) || isnan(got)) {
        bits = 0x7ff8; /* payloads of NaN differ between processors */
        t->wrong += !isnan(expected) || !isnan(got);
    } else {
        /* The sign of a result that underflowed counts as well. */
        t->wrong += got == 0 && !signbit(got) != !signbit(expected);
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
    const uint32_t bits = (uint32_t)((i - N_SPECIALS) * stride);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static tally run_f32(const function *f, uint64_t stride)
{
    static float x[CHUNK], out[CHUNK];
    const uint64_t n = N_SPECIALS + (((uint64_t)1 << 32) + stride - 1) / stride;
    tally t = {0};
    for (uint64_t i = 0; i < n;) {
        ptrdiff_t count = 0;
        for (; count < CHUNK && i < n; i++) {
            x[count] = (float)sample_f32(i, stride);
            count += !(f->from_zero && x[count] < 0);
        }
        f->f32(count, x, out);
        for (ptrdiff_t j = 0; j < count; j++) {
            uint32_t bits;
            memcpy(&bits, &out[j], sizeof bits);
            compare(&t, x[j], out[j], bits, f->reference(x[j]), FLT_MANT_DIG, FLT_MIN_EXP, FLT_MAX_EXP);
        }
    }
    return t;
}

static tally run_f64(const function *f, uint64_t n)
{
    static double x[CHUNK], out[CHUNK];
    tally t = {0};
    for (uint64_t i = 0; i < n;) {
        ptrdiff_t count = 0;
        for (; count < CHUNK && i < n; i++) {
            x[count] = sample_f64(i);
            count += !(f->from_zero && x[count] < 0);
        }
        f->f64(count, x, out);
        for (ptrdiff_t j = 0; j < count; j++) {
            uint64_t bits;
            memcpy(&bits, &out[j], sizeof bits);
            const wide expected = f->wide_reference(x[j]);
            compare(&t, x[j], out[j], bits, expected, DBL_MANT_DIG, DBL_MIN_EXP, DBL_MAX_EXP);
        }
    }
    return t;
}

static int report(const char *type, const char *name, tally t, double bound)
{
    const int bad = t.wrong || !(t.worst_ulp <= bound);
    printf("%-8s %-8s %-8s %11" PRIu64 " inputs  %6.3f ULP at %-24a %" PRIu64 " wrong  hash %016" PRIx64 "%s\n",
           STRING(ISA), type, name, t.inputs, t.worst_ulp, t.worst_x, t.wrong, t.hash, bad ? "  FAILED" : "");
    fflush(stdout);
    return bad;
}

int main(int argc, char **argv)
{
    const uint64_t stride = argc > 1 ? strtoull(argv[1], NULL, 10) : 1021;
    if (stride < 1 || argc > 2) {
        fprintf(stderr, "usage: accuracy [stride >= 1]\n");
        return 2;
    }
    int bad = 0;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        const function *f = &functions[i];
        bad |= report("float32", f->name, run_f32(f, stride), f->bound_f32);
        bad |= report("float64", f->name, run_f64(f, N_SPECIALS + ((uint64_t)1 << 27) / stride + (1 << 20)), f->bound_f64);
    }
    return bad;
}
