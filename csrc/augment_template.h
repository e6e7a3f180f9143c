/* What a training step does to the rows that it has gathered; random numbers are keyed as dropout's masks are. */

#define FIRST_LANE(v) ((v)[0])

/* a = other + share (a - other): one rounding of the FMA, and one of the difference. */
static void FN(mix)(ptrdiff_t n, double share, const void *other_, void *a_)
{
    const REAL *other = other_;
    REAL *a = a_;
    const vec s = vec_set((REAL)share);
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec o = FN(load_up_to)(other + j, n - j);
        FN(store_up_to)(a + j, vec_fma(s, FN(load_up_to)(a + j, n - j) - o, o), n - j);
    }
}

static REAL FN(scalar_log)(REAL x) { return FIRST_LANE(vec_log(vec_set(x))); }
static REAL FN(scalar_exp)(REAL x) { return FIRST_LANE(vec_exp(vec_set(x))); }

/* A number of the Beta distribution (alpha, alpha), by Johnk (1964) up to alpha = 1, in logarithms so that no power
 * underflows, and by Cheng's BB (1978) above; and a word beside it. Each attempt has a Philox block of its own; more than half succeed. */
static double FN(mixup_share)(uint64_t seed, uint64_t step, uint32_t layer, double alpha, uint32_t *word)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (uint32_t attempt = 0; attempt < 256; attempt++) {
        const uint32_t counter[4] = {attempt, 0, fastnn_dropout_word2(step), fastnn_dropout_word3(step, layer)};
        uint32_t words[4];
        fastnn_philox(counter, key, words);
        if (attempt == 0)
            *word = words[2];
        const REAL u = ((REAL)(words[0] >> 9) + (REAL)0.5) * (REAL)0x1p-23; /* never 0 or 1, in float neither */
        const REAL v = ((REAL)(words[1] >> 9) + (REAL)0.5) * (REAL)0x1p-23, a = (REAL)alpha;
        if (alpha <= 1) {
            const REAL x = FN(scalar_log)(u) / a, y = FN(scalar_log)(v) / a, most = x > y ? x : y;
            const REAL ex = FN(scalar_exp)(x - most), sum = ex + FN(scalar_exp)(y - most);
            if (most + FN(scalar_log)(sum) <= 0)
                return (double)(ex / sum);
        } else {
            const REAL beta = FIRST_LANE(vec_sqrt(vec_set(1 / a))), odds = beta * FN(scalar_log)(u / (1 - u));
            const REAL w = a * FN(scalar_exp)(odds), z = u * u * v;
            const REAL r = (a + 1 / beta) * odds - (REAL)1.3862943611198906, s = a + r - w; /* log 4 */
            const REAL t = FN(scalar_log)(z);
            if (s + (REAL)2.6094379124341003 >= 5 * z || s >= t || /* 1 + log 5 */
                r + 2 * a * FN(scalar_log)(2 * a / (a + w)) >= t)
                return (double)(w / (a + w));
        }
    }
    return 0.5; /* 2^-256 */
}

/* Each number of a row becomes, with a probability of threshold / 2^32, that of the same column in a row of the batch
 * drawn by the same word, of which only those below the threshold are in use. -1: order names no row. */
static int FN(swap_noise)(const fastnn_swap *s, ptrdiff_t row, void *a_)
{
    REAL *a = a_;
    const uint32_t word2 = fastnn_dropout_word2(s->step), word3 = fastnn_dropout_word3(s->step, s->layer);
    uint32_t words[64];
    for (ptrdiff_t j = 0; j < s->n; j += 64) {
        FN(philox_words)((uint32_t)(j / 4), (uint32_t)row, word2, word3, s->seed, words);
        for (ptrdiff_t q = 0; q < 64 && j + q < s->n; q++) {
            if (words[q] >= s->threshold)
                continue;
            const ptrdiff_t place = (ptrdiff_t)((uint64_t)words[q] * (uint64_t)s->batch / s->threshold);
            const ptrdiff_t other = s->order ? (ptrdiff_t)((const volatile int64_t *)s->order)[place] : place;
            if (other < 0 || other >= s->n_rows)
                return -1;
            const ptrdiff_t at = other * s->ld_x + j + q;
            if (s->is_bytes)
                FN(widen)(1, (const uint8_t *)s->x + at, s->factor, s->shift, a + j + q);
            else if (s->scaled)
                FN(scale)(1, 1, s->factor, s->shift, (const REAL *)s->x + at, 1, a + j + q, 1);
            else
                a[j + q] = ((const REAL *)s->x)[at];
        }
    }
    return 0;
}
#undef FIRST_LANE
