/* Noise for training, keyed as dropout's masks are: see random_template.h. */

/* n normal numbers, of columns 0 .. n-1 of a row: Box and Muller (1958), two from two words. The words' lowest bits
 * are left out, so that float holds the uniform numbers exactly: none is beyond 5.8. */
#define NORMAL_WORDS 64 /* a vector of each Philox word */
static void FN(normal_numbers)(const uint32_t words[NORMAL_WORDS], REAL out[NORMAL_WORDS])
{
    REAL first[NORMAL_WORDS / 2], second[NORMAL_WORDS / 2];
    for (int i = 0; i < NORMAL_WORDS / 2; i++) {
        first[i] = ((REAL)(int32_t)(words[2 * i] >> 9) + (REAL)0.5) * (REAL)0x1p-23;
        second[i] = (REAL)(int32_t)(words[2 * i + 1] >> 8) * (REAL)0x1p-24;
    }
    for (int i = 0; i < NORMAL_WORDS / 2; i += LANES) {
        vec c;
        const vec radius = vec_sqrt(-2 * vec_log(vec_load(first + i))), s = FN(sincos_turns)(vec_load(second + i), &c);
        vec_store(first + i, radius * c);
        vec_store(second + i, radius * s);
    }
    for (int i = 0; i < NORMAL_WORDS / 2; i++) {
        out[2 * i] = first[i];
        out[2 * i + 1] = second[i];
    }
}

static void FN(gaussian_noise)(uint64_t seed, uint64_t step, uint32_t layer, double deviation, ptrdiff_t first_row,
                               ptrdiff_t m, ptrdiff_t n, void *a_, ptrdiff_t ld_a)
{
    REAL *a = a_;
    const uint32_t word2 = fastnn_dropout_word2(step), word3 = fastnn_dropout_word3(step, layer);
    uint32_t words[NORMAL_WORDS];
    REAL numbers[NORMAL_WORDS];
    for (ptrdiff_t i = 0; i < m; i++, a += ld_a)
        for (ptrdiff_t j = 0; j < n; j += NORMAL_WORDS) {
            FN(philox_words)((uint32_t)(j / 4), (uint32_t)(first_row + i), word2, word3, seed, words);
            FN(normal_numbers)(words, numbers);
            const ptrdiff_t count = n - j < NORMAL_WORDS ? n - j : NORMAL_WORDS;
            for (ptrdiff_t q = 0; q < count; q += LANES) {
                const vec v = vec_fma(vec_load(numbers + q), vec_set((REAL)deviation), FN(load_up_to)(a + j + q, count - q));
                FN(store_up_to)(a + j + q, v, count - q);
            }
        }
}
#undef NORMAL_WORDS

/* mask: what dropout gives with `scale` for what is kept. a = kept ? scale a + shift : dropped. */
static void FN(alpha_dropout)(double scale, double shift, double dropped, ptrdiff_t m, ptrdiff_t n, void *a_,
                              ptrdiff_t ld_a, void *mask_, ptrdiff_t ld_mask)
{
    REAL *a = a_, *mask = mask_;
    for (; m > 0; m--, a += ld_a, mask += ld_mask)
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            const vec k = FN(load_up_to)(mask + j, n - j);
            const vec kept = vec_fma(FN(load_up_to)(a + j, n - j), vec_set((REAL)scale), vec_set((REAL)shift));
            FN(store_up_to)(a + j, vec_where(vec_set(0), less, k, kept, vec_set((REAL)dropped)), n - j);
            FN(store_up_to)(mask + j, vec_where(vec_set(0), less, k, vec_set((REAL)scale), vec_set(0)), n - j);
        }
}

/* Numbers in bins (Gorishniy et al. 2022): column j of x has n_edges[j] edges, one after the other in `edges`, and
 * gives one output a bin: how much of it lies below x, the first and the last going on beyond their ends. */
static void FN(piecewise)(ptrdiff_t m, ptrdiff_t n, const int64_t *n_edges, const double *edges, const void *x_,
                          ptrdiff_t ld_x, void *out_, ptrdiff_t ld_out)
{
    const REAL *x = x_;
    REAL *out = out_;
    for (; m > 0; m--, x += ld_x, out += ld_out) {
        const double *e = edges;
        REAL *o = out;
        for (ptrdiff_t j = 0; j < n; j++) {
            const int64_t n_bins = n_edges[j] - 1;
            for (int64_t b = 0; b < n_bins; b++) {
                REAL v = (x[j] - (REAL)e[b]) / ((REAL)e[b + 1] - (REAL)e[b]);
                if (b > 0 && v < 0)
                    v = 0;
                if (b < n_bins - 1 && v > 1)
                    v = 1;
                *o++ = v;
            }
            e += n_edges[j];
        }
    }
}

static void FN(piecewise_backward)(ptrdiff_t m, ptrdiff_t n, const int64_t *n_edges, const double *edges,
                                   const void *x_, ptrdiff_t ld_x, const void *d_, ptrdiff_t ld_d, void *dx_,
                                   ptrdiff_t ld_dx)
{
    const REAL *x = x_, *d = d_;
    REAL *dx = dx_;
    for (; m > 0; m--, x += ld_x, d += ld_d, dx += ld_dx) {
        const double *e = edges;
        const REAL *g = d;
        for (ptrdiff_t j = 0; j < n; j++) {
            const int64_t n_bins = n_edges[j] - 1;
            REAL sum = 0;
            for (int64_t b = 0; b < n_bins; b++, g++) {
                const REAL width = (REAL)e[b + 1] - (REAL)e[b], v = (x[j] - (REAL)e[b]) / width;
                if (!((b > 0 && v < 0) || (b < n_bins - 1 && v > 1)))
                    sum += *g / width;
            }
            dx[j] = sum;
            e += n_edges[j];
        }
    }
}
