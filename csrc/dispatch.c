/* Which kernels there are, which this CPU can run; random numbers drawn on the host. Compiled with the
 * baseline flags: this file runs before anything is known about the CPU. */
#include "fastnn.h"
#include "random.h"

#define DECLARE(isa) extern const fastnn_kernels fastnn_kernels_f32_##isa, fastnn_kernels_f64_##isa;
DECLARE(generic)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
#elif defined(__aarch64__)
DECLARE(neon)
#endif

static int cpu_has(int isa)
{
    switch (isa) {
    case FASTNN_ISA_generic:
        return 1;
#if defined(__x86_64__)
    /* What the compiler may use under x86-64-v3 and -v4, system support for the registers included. */
    case FASTNN_ISA_avx2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2");
    case FASTNN_ISA_avx512:
        return cpu_has(FASTNN_ISA_avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
#elif defined(__aarch64__)
    case FASTNN_ISA_neon: /* part of every aarch64 */
        return 1;
#endif
    default:
        return 0;
    }
}

const fastnn_kernels *fastnn_kernels_of(int isa, int itemsize)
{
    if (!cpu_has(isa) || (itemsize != 4 && itemsize != 8))
        return NULL;
#define TABLE_OF(name)           \
    case FASTNN_ISA_##name:      \
        return itemsize == 4 ? &fastnn_kernels_f32_##name : &fastnn_kernels_f64_##name;
    switch (isa) {
        TABLE_OF(generic)
#if defined(__x86_64__)
        TABLE_OF(avx2)
        TABLE_OF(avx512)
#elif defined(__aarch64__)
        TABLE_OF(neon)
#endif
    default:
        return NULL;
    }
}

int fastnn_best_isa(void)
{
    for (int isa = FASTNN_N_ISAS - 1; isa > 0; isa--)
        if (fastnn_kernels_of(isa, 4))
            return isa;
    return FASTNN_ISA_generic;
}

#define NAME(name, ...) #name,
static const char *const isa_names[] = {FASTNN_ISAS(NAME)};
static const char *const activation_names[] = {FASTNN_ACTIVATIONS(NAME)};
static const char *const loss_names[] = {FASTNN_LOSSES(NAME)};
static const char *const optimizer_names[] = {FASTNN_OPTIMIZERS(NAME)};
static const char *const path_names[] = {FASTNN_PATHS(NAME)};
const char *fastnn_isa_name(int i) { return i >= 0 && i < FASTNN_N_ISAS ? isa_names[i] : NULL; }
const char *fastnn_activation_name(int i) { return i >= 0 && i < FASTNN_N_ACTIVATIONS ? activation_names[i] : NULL; }
const char *fastnn_loss_name(int i) { return i >= 0 && i < FASTNN_N_LOSSES ? loss_names[i] : NULL; }
const char *fastnn_path_name(int i) { return i >= 0 && i < FASTNN_N_PATHS ? path_names[i] : NULL; }
const char *fastnn_optimizer_name(int i) { return i >= 0 && i < FASTNN_N_OPTIMIZERS ? optimizer_names[i] : NULL; }

enum { label, values };
#define SECOND(name, second) second,
#define SECOND_NAME(name, second) #second,
static const char *const activation_kinds[] = {FASTNN_ACTIVATIONS(SECOND_NAME)};
#define TARGET(name, target, numbers) target,
#define NUMBERS(name, target, numbers) #numbers,
static const int loss_targets[] = {FASTNN_LOSSES(TARGET)};
static const char *const loss_numbers[] = {FASTNN_LOSSES(NUMBERS)};
static const int optimizer_states[] = {FASTNN_OPTIMIZERS(SECOND)};
const char *fastnn_activation_kind(int i) { return i >= 0 && i < FASTNN_N_ACTIVATIONS ? activation_kinds[i] : NULL; }
int fastnn_loss_takes_labels(int i) { return loss_targets[i] == label; }
const char *fastnn_loss_numbers(int i) { return loss_numbers[i]; }
int fastnn_optimizer_states(int i) { return optimizer_states[i]; }

void fastnn_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        const uint64_t p0 = (uint64_t)PHILOX_M0 * c0, p1 = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static void host_block(uint64_t seed, uint64_t block, uint32_t word1, uint32_t word2, uint32_t stream, uint32_t out[4])
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    /* blocks beyond 2^32 spill into the last word, below the stream's bits */
    const uint32_t counter[4] = {(uint32_t)block, word1, word2,
                                 fastnn_stream_word(stream, (uint32_t)(block >> 32) & 0xFFFFFFF)};
    fastnn_philox(counter, key, out);
}

void fastnn_shuffle(uint64_t seed, uint64_t epoch, ptrdiff_t n, int64_t *order)
{
    uint32_t words[4];
    for (ptrdiff_t i = 0; i < n; i++) order[i] = i;
    for (ptrdiff_t i = n - 1, draw = 0; i > 0; i--, draw++) {
        if (draw % 2 == 0)
            host_block(seed, (uint64_t)draw / 2, (uint32_t)epoch, (uint32_t)(epoch >> 32), FASTNN_STREAM_SHUFFLE, words);
        const uint64_t r = words[draw % 2 * 2] | (uint64_t)words[draw % 2 * 2 + 1] << 32;
        /* the high half of a 64 x 64 bit product: 0 .. i, off from uniform by less than 2^-32 */
        const ptrdiff_t j = (ptrdiff_t)((unsigned __int128)r * (uint64_t)(i + 1) >> 64);
        const int64_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

void fastnn_uniform(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, double *out)
{
    uint32_t words[4];
    for (ptrdiff_t i = 0; i < n; i++) {
        if (i % 2 == 0)
            host_block(seed, (uint64_t)i / 2, layer, parameter, FASTNN_STREAM_WEIGHTS, words);
        /* 52 bits and a half, so that 0 and 1 are never drawn */
        const uint32_t high = words[i % 2 * 2] >> 6, low = words[i % 2 * 2 + 1] >> 6;
        out[i] = (high * 67108864.0 + low + 0.5) * 0x1p-52;
    }
}

void fastnn_uniform_single(uint64_t seed, uint32_t layer, uint32_t parameter, ptrdiff_t n, float *out)
{
    uint32_t words[4];
    for (ptrdiff_t i = 0; i < n; i++) {
        if (i % 2 == 0)
            host_block(seed, (uint64_t)i / 2, layer, parameter, FASTNN_STREAM_WEIGHTS, words);
        /* with a 24th bit the half would round 1 - 2^-25 to 1 */
        out[i] = ((float)(words[i % 2 * 2] >> 9) + 0.5f) * 0x1p-23f;
    }
}
