/* sin and cos of 2 pi x, x in turns: the reduction to an eighth of a turn is exact, whatever x is. Series of Taylor,
 * cut where the next term is below half a unit in the last place at pi / 4. */
#undef TWO_PI

#define TWO_PI ((REAL)6.283185307179586476925286766559)
#if REAL_IS_FLOAT
static const REAL FN(sin_coefficients)[] = {-0x1.555556p-3f, 0x1.111112p-7f, -0x1.a01a02p-13f, 0x1.71de3ap-19f};
static const REAL FN(cos_coefficients)[] = {0x1.555556p-5f, -0x1.6c16c2p-10f, 0x1.a01a02p-16f, -0x1.27e4fcp-22f};
#else
static const REAL FN(sin_coefficients)[] = {
    -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800.0, -1.0 / 1307674368000.0,
    1.0 / 355687428096000.0};
static const REAL FN(cos_coefficients)[] = {
    1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600.0, -1.0 / 87178291200.0,
    1.0 / 20922789888000.0, -1.0 / 6402373705728000.0};
#endif

/* sin(2 pi x); cosine = cos(2 pi x). NaN for infinities and NaN. */
INLINE vec FN(sincos_turns)(vec x, vec *cosine)
{
    const vec rounder = vec_set(ROUNDER), one = vec_set(1);
    const vec rest = x - ((x + rounder) - rounder); /* exact; a whole number where x is beyond half of ROUNDER */
    const vec shifted = 4 * rest + rounder;
    const vec turn = rest - (REAL)0.25 * (shifted - rounder);
    const uvec quarter = (uvec)shifted & 3;
    const vec angle = turn * TWO_PI, square = angle * angle;
    const vec s = vec_fma(angle * square, POLYNOMIAL(sin_coefficients, square), angle);
    const vec c = vec_fma(square * square, POLYNOMIAL(cos_coefficients, square), vec_fma(vec_set((REAL)-0.5), square, one));
    const ivec odd = (ivec)((quarter & 1) == 1);
    /* the sign goes where quarter has its second bit: of the sine at 2 and 3, of the cosine at 1 and 2 */
    const uvec top = (uvec)vec_set((REAL)-0.0);
    const uvec sign_s = (quarter & 2) == 2, sign_c = ((quarter + 1) & 2) == 2;
    *cosine = (vec)((uvec)vec_select(odd, s, c) ^ (sign_c & top));
    return (vec)((uvec)vec_select(odd, c, s) ^ (sign_s & top));
}

/* out (m, 2 n k): of each column of x (m, n) the sines of 2 pi x f for its k frequencies f (n, k), then the cosines. */
static void FN(periodic)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *frequencies_, const void *x_, ptrdiff_t ld_x,
                         void *out_, ptrdiff_t ld_out)
{
    const REAL *x = x_, *frequencies = frequencies_;
    REAL *out = out_;
    for (; m > 0; m--, x += ld_x, out += ld_out)
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL *f = frequencies + j * k;
            REAL *o = out + 2 * j * k;
            for (ptrdiff_t q = 0; q < k; q += LANES) {
                const ptrdiff_t rest = k - q;
                vec c;
                const vec s = FN(sincos_turns)(FN(load_up_to)(f + q, rest) * x[j], &c);
                FN(store_up_to)(o + q, s, rest);
                FN(store_up_to)(o + k + q, c, rest);
            }
        }
}

/* At x, from the outputs a: sin' = 2 pi f cos, cos' = -2 pi f sin. */
static void FN(periodic_backward)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *frequencies_, const void *a_,
                                  ptrdiff_t ld_a, const void *d_, ptrdiff_t ld_d, void *dx_, ptrdiff_t ld_dx)
{
    const REAL *a = a_, *d = d_, *frequencies = frequencies_;
    REAL *dx = dx_;
    for (; m > 0; m--, a += ld_a, d += ld_d, dx += ld_dx)
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL *f = frequencies + j * k, *s = a + 2 * j * k, *ds = d + 2 * j * k;
            vec sum[BLOCK_VECTORS];
            UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) sum[i] = vec_set(0);
            for (ptrdiff_t q = 0; q < k; q += BLOCK)
                UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) {
                    const ptrdiff_t at = q + i * LANES, rest = k - at;
                    if (rest <= 0)
                        break;
                    const vec g = FN(load_up_to)(ds + at, rest) * FN(load_up_to)(s + k + at, rest);
                    const vec t = vec_fma(-FN(load_up_to)(ds + k + at, rest), FN(load_up_to)(s + at, rest), g);
                    sum[i] = vec_fma(t, FN(load_up_to)(f + at, rest), sum[i]);
                }
            dx[j] = FN(tree_sum)(sum) * TWO_PI;
        }
}

/* Of the frequencies, (n, k), over m rows in row order. */
static void FN(periodic_gradient)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *x_, ptrdiff_t ld_x, const void *a_,
                                  ptrdiff_t ld_a, const void *d_, ptrdiff_t ld_d, void *g_)
{
    const REAL *x = x_, *a = a_, *d = d_;
    REAL *g = g_;
    for (ptrdiff_t j = 0; j < n; j++)
        for (ptrdiff_t q = 0; q < k; q += LANES) {
            const ptrdiff_t rest = k - q, at = 2 * j * k + q;
            vec sum = vec_set(0);
            for (ptrdiff_t i = 0; i < m; i++) {
                const REAL *s = a + i * ld_a + at, *ds = d + i * ld_d + at;
                const vec t = FN(load_up_to)(ds, rest) * FN(load_up_to)(s + k, rest);
                sum = vec_fma(vec_fma(-FN(load_up_to)(ds + k, rest), FN(load_up_to)(s, rest), t), vec_set(x[i * ld_x + j]),
                              sum);
            }
            FN(store_up_to)(g + j * k + q, sum * TWO_PI, rest);
        }
}
