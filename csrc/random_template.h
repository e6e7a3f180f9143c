/* Dropout masks: vectors of Philox blocks. */

#define BLOCKS 16 /* Philox blocks in flight, 4 columns each: one AVX-512 vector of each counter word */

/* c0[b] .. c3[b] = the words of block (first + b), for all BLOCKS. */
INLINE void FN(philox_blocks)(uint32_t first, uint32_t row, uint32_t word2, uint32_t word3, uint64_t seed,
                              uint32_t c0[BLOCKS], uint32_t c1[BLOCKS], uint32_t c2[BLOCKS], uint32_t c3[BLOCKS])
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int b = 0; b < BLOCKS; b++) {
        c0[b] = first + (uint32_t)b;
        c1[b] = row;
        c2[b] = word2;
        c3[b] = word3;
    }
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        for (int b = 0; b < BLOCKS; b++) {
            const uint64_t p0 = (uint64_t)PHILOX_M0 * c0[b], p1 = (uint64_t)PHILOX_M1 * c2[b];
            c0[b] = (uint32_t)(p1 >> 32) ^ c1[b] ^ k0;
            c1[b] = (uint32_t)p1;
            c2[b] = (uint32_t)(p0 >> 32) ^ c3[b] ^ k1;
            c3[b] = (uint32_t)p0;
        }
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
}

/* The same words in their order. */
static void FN(philox_words)(uint32_t first, uint32_t row, uint32_t word2, uint32_t word3, uint64_t seed,
                             uint32_t words[4 * BLOCKS])
{
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
    FN(philox_blocks)(first, row, word2, word3, seed, c0, c1, c2, c3);
    for (int b = 0; b < BLOCKS; b++) {
        words[4 * b] = c0[b];
        words[4 * b + 1] = c1[b];
        words[4 * b + 2] = c2[b];
        words[4 * b + 3] = c3[b];
    }
}

/* mask[4 b + q] = word q of block (first + b) kept or not, for all BLOCKS. */
static void FN(mask_blocks)(uint32_t first, uint32_t row, uint32_t word2, uint32_t word3, uint64_t seed,
                            uint32_t threshold, REAL scale, REAL mask[4 * BLOCKS])
{
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
    FN(philox_blocks)(first, row, word2, word3, seed, c0, c1, c2, c3);
    for (int b = 0; b < BLOCKS; b++) {
        mask[4 * b] = c0[b] >= threshold ? scale : 0;
        mask[4 * b + 1] = c1[b] >= threshold ? scale : 0;
        mask[4 * b + 2] = c2[b] >= threshold ? scale : 0;
        mask[4 * b + 3] = c3[b] >= threshold ? scale : 0;
    }
}

static void FN(dropout)(uint64_t seed, uint64_t step, uint32_t layer, double rate, ptrdiff_t first_row,
                        ptrdiff_t m, ptrdiff_t n, void *a_, ptrdiff_t ld_a, void *mask_, ptrdiff_t ld_mask)
{
    REAL *a = a_, *mask = mask_;
    const uint32_t word2 = fastnn_dropout_word2(step), word3 = fastnn_dropout_word3(step, layer);
    /* rate * 2^32 rounded; the largest word stands for all rates that would round to 2^32 */
    const double limit = rate * 4294967296.0 + 0.5;
    const uint32_t threshold = limit >= 4294967295.0 ? 0xFFFFFFFFu : (uint32_t)limit;
    const REAL scale = (REAL)(1 / (1 - rate));
    REAL buffer[4 * BLOCKS] __attribute__((aligned(64)));
    for (ptrdiff_t i = 0; i < m; i++, a += ld_a, mask += ld_mask)
        for (ptrdiff_t j = 0; j < n; j += 4 * BLOCKS) {
            FN(mask_blocks)((uint32_t)(j / 4), (uint32_t)(first_row + i), word2, word3, seed, threshold, scale,
                            buffer);
            const ptrdiff_t count = n - j < 4 * BLOCKS ? n - j : 4 * BLOCKS;
            for (ptrdiff_t q = 0; q < count; q++) mask[j + q] = buffer[q];
            for (ptrdiff_t q = 0; a && q < count; q++) a[j + q] *= buffer[q];
        }
}
#undef BLOCKS
