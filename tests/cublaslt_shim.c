/* What fastnn/devices/cuda_cublaslt.py uses of cublasLt, over the memory of the host: enough of cublasLt.h of cuBLAS
 * 12.9.3 that what the real library refuses is refused, and that products have the numbers it should give.
 *
 * A product is not done when it is asked for: it becomes a job that the test's stream is given and runs in its turn, or
 * as often as its graph is launched. Columns come first, as in the real one. Quirks are set by name: what a library might
 * do otherwise than we expect. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_INITIALIZED = 1, INVALID = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, COMPUTE_32F = 68, FAST_16BF = 75, FAST_TF32 = 77 };
enum { POINTER_MODE = 2, TRANSA, TRANSB, EPILOGUE = 7, BIAS_POINTER = 8, AUX_POINTER = 11, AUX_LD = 12 };
enum { RELU = 2, BIAS = 4, DRELU = 8, BGRAD = 16, AUX = 128, BGRADA = 256 };
enum { PREF_WORKSPACE = 1, PREF_FIRST_ALIGNMENT = 5, PREF_LAST_ALIGNMENT = 8 };

typedef struct { uint64_t magic; int compute; int32_t attribute[8]; uint64_t bias, aux; int64_t aux_ld; } desc;
typedef struct { uint64_t magic, rows, cols; int64_t ld; } layout;
typedef struct { uint64_t magic, workspace; uint32_t alignment[4]; } preference;
typedef struct { uint64_t data[8]; } algorithm;
typedef struct { algorithm algo; size_t workspace; int state; float waves; int reserved[4]; } result;
typedef struct { desc d; layout a, b, c; const float *alpha, *beta; float factors[2]; const float *A, *B; float *C; } job;
typedef int (*queue_t)(void *stream, job *j);

static const uint64_t HANDLE = 0x11, DESC = 0x22, LAYOUT = 0x33, PREFERENCE = 0x44, ALGORITHM = 0x55;
static queue_t queue;
static int live, n_queued;
static struct { char name[32]; int value; } quirks[16];

static int quirk(const char *name)
{
    for (int i = 0; i < 16; i++)
        if (strcmp(quirks[i].name, name) == 0)
            return quirks[i].value;
    return 0;
}

void shim_reset(queue_t q)
{
    queue = q;
    n_queued = 0;
    memset(quirks, 0, sizeof quirks);
}
void shim_quirk(const char *name, int value)
{
    for (int i = 0; i < 16; i++)
        if (!quirks[i].name[0] || strcmp(quirks[i].name, name) == 0) {
            strncpy(quirks[i].name, name, 31);
            quirks[i].value = value;
            return;
        }
    abort();
}
int shim_live(void) { return live; }
int shim_queued(void) { return n_queued; }

size_t cublasLtGetVersion(void) { return quirk("version") ? (size_t)quirk("version") : 120903; }

static int made(void **out, size_t size, uint64_t magic)
{
    if (!out)
        return INVALID;
    *out = calloc(1, size);
    *(uint64_t *)*out = magic;
    live++;
    return OK;
}
static int ended(void *one, uint64_t magic)
{
    if (!one || *(uint64_t *)one != magic)
        return INVALID;
    *(uint64_t *)one = 0;
    free(one);
    live--;
    return OK;
}

int cublasLtCreate(void **handle) { return quirk("no card") ? NOT_INITIALIZED : made(handle, 8, HANDLE); }
int cublasLtDestroy(void *handle) { return ended(handle, HANDLE); }
int cublasLtMatmulDescDestroy(void *d) { return ended(d, DESC); }
int cublasLtMatrixLayoutDestroy(void *l) { return ended(l, LAYOUT); }
int cublasLtMatmulPreferenceDestroy(void *p) { return ended(p, PREFERENCE); }

int cublasLtMatmulDescCreate(desc **out, int compute, int scale)
{
    if (scale != R_32F || (compute != COMPUTE_32F && compute != FAST_16BF && compute != FAST_TF32))
        return INVALID;
    made((void **)out, sizeof(desc), DESC);
    (*out)->compute = compute;
    (*out)->attribute[EPILOGUE] = 1;
    return OK;
}

int cublasLtMatmulDescSetAttribute(desc *d, int name, const void *value, size_t size)
{
    if (!d || d->magic != DESC || !value)
        return INVALID;
    switch (name) {
    case POINTER_MODE: case TRANSA: case TRANSB: case EPILOGUE:
        if (size != 4)
            return INVALID;
        memcpy(&d->attribute[name], value, 4);
        return OK;
    case BIAS_POINTER: if (size != 8) return INVALID; memcpy(&d->bias, value, 8); return OK;
    case AUX_POINTER: if (size != 8) return INVALID; memcpy(&d->aux, value, 8); return OK;
    case AUX_LD: if (size != 8) return INVALID; memcpy(&d->aux_ld, value, 8); return OK;
    }
    return INVALID;
}

int cublasLtMatrixLayoutCreate(layout **out, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    if (type != R_32F || !rows || !cols || ld < (int64_t)rows)
        return INVALID;
    made((void **)out, sizeof(layout), LAYOUT);
    (*out)->rows = rows, (*out)->cols = cols, (*out)->ld = ld;
    return OK;
}

int cublasLtMatmulPreferenceCreate(preference **out)
{
    made((void **)out, sizeof(preference), PREFERENCE);
    for (int i = 0; i < 4; i++) (*out)->alignment[i] = 256;
    return OK;
}

int cublasLtMatmulPreferenceSetAttribute(preference *p, int name, const void *value, size_t size)
{
    if (!p || p->magic != PREFERENCE || !value)
        return INVALID;
    if (name == PREF_WORKSPACE && size == 8) {
        memcpy(&p->workspace, value, 8);
        return OK;
    }
    if (name < PREF_FIRST_ALIGNMENT || name > PREF_LAST_ALIGNMENT || size != 4)
        return INVALID;
    uint32_t one;
    memcpy(&one, value, 4);
    if (!one || one & (one - 1))
        return INVALID;
    p->alignment[name - PREF_FIRST_ALIGNMENT] = one;
    return OK;
}

/* Rows, columns and length of a product; whether layouts and epilogue belong together. */
static int judged(const void *handle, const desc *d, const layout *a, const layout *b, const layout *c, const layout *e)
{
    if (!handle || *(const uint64_t *)handle != HANDLE || !d || d->magic != DESC || !a || a->magic != LAYOUT || !b ||
        b->magic != LAYOUT || !c || c->magic != LAYOUT || !e || e->magic != LAYOUT)
        return INVALID;
    const int ta = d->attribute[TRANSA], tb = d->attribute[TRANSB], epilogue = d->attribute[EPILOGUE];
    const uint64_t m = ta ? a->cols : a->rows, k = ta ? a->rows : a->cols;
    if (m != c->rows || k != (tb ? b->cols : b->rows) || c->cols != (tb ? b->rows : b->cols) || e->rows != c->rows ||
        e->cols != c->cols || e->ld != c->ld)
        return INVALID;
    const int known[] = {1, RELU, RELU | AUX, BIAS, RELU | BIAS, RELU | AUX | BIAS, DRELU | AUX, DRELU | AUX | BGRAD, BGRADA};
    int is_known = 0;
    for (int i = 0; i < 9; i++) is_known |= known[i] == epilogue;
    if (!is_known || ((epilogue & (BIAS | BGRAD | BGRADA)) && !d->bias))
        return INVALID;
    if (epilogue & AUX && (!d->aux || d->aux_ld % 128 || d->aux_ld < (int64_t)c->rows))
        return INVALID;
    if (quirk("no epilogue") == epilogue || (quirk("no folding") && d->attribute[POINTER_MODE]) || quirk("nothing"))
        return NOT_SUPPORTED;
    return OK;
}

int cublasLtMatmulAlgoGetHeuristic(void *handle, const desc *d, const layout *a, const layout *b, const layout *c,
                                   const layout *e, const preference *p, int n, result *found, int *n_found)
{
    int status = judged(handle, d, a, b, c, e);
    if (status)
        return status;
    if (!p || p->magic != PREFERENCE || n < 1 || !found || !n_found)
        return INVALID;
    memset(found, 0, sizeof *found);
    *n_found = quirk("no algorithm") ? 0 : 1;
    found->workspace = 1 << 20;
    found->state = p->workspace < found->workspace ? NOT_SUPPORTED : OK;
    found->algo.data[0] = ALGORITHM << 32 | (uint32_t)d->attribute[EPILOGUE];
    found->algo.data[1] = found->workspace;
    for (int i = 0; i < 4; i++) found->algo.data[2 + i] = p->alignment[i];
    return OK;
}

int cublasLtMatmul(void *handle, const desc *d, const float *alpha, const float *A, const layout *a, const float *B,
                   const layout *b, const float *beta, const float *C, const layout *c, float *D, const layout *e,
                   const algorithm *algo, void *workspace, size_t room, void *stream)
{
    int status = judged(handle, d, a, b, c, e);
    if (status)
        return status;
    if (!alpha || !beta || !A || !B || !C || C != D || !algo || !workspace || !stream ||
        algo->data[0] != (ALGORITHM << 32 | (uint32_t)d->attribute[EPILOGUE]) || room < algo->data[1])
        return INVALID;
    const float *places[] = {A, B, C, D};
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)places[i] % (algo->data[2 + i] < 16 ? algo->data[2 + i] : 16)) /* NumPy's own are of 16 */
            return INVALID;
    job *j = malloc(sizeof *j);
    *j = (job){*d, *a, *b, *c, alpha, beta, {0, 0}, A, B, D};
    if (!d->attribute[POINTER_MODE]) /* of the host: they are read now */
        j->factors[0] = *alpha, j->factors[1] = *beta;
    n_queued++;
    return queue(stream, j);
}

static float rounded(float v, int compute)
{
    uint32_t bits;
    if (quirk("always tf32") && compute == COMPUTE_32F)
        compute = FAST_TF32;
    if (compute == COMPUTE_32F || isnan(v))
        return v;
    memcpy(&bits, &v, 4);
    bits = compute == FAST_TF32 ? (bits + 0x1000u) & ~0x1FFFu : (bits + 0x7FFFu + (bits >> 16 & 1)) & 0xFFFF0000u;
    memcpy(&v, &bits, 4);
    return v;
}

void shim_run(const job *j)
{
    const desc *d = &j->d;
    const int ta = d->attribute[TRANSA], tb = d->attribute[TRANSB], epilogue = d->attribute[EPILOGUE];
    const int64_t m = j->c.rows, n = j->c.cols, k = ta ? j->a.rows : j->a.cols;
    const float alpha = d->attribute[POINTER_MODE] ? *j->alpha : j->factors[0];
    const float beta = d->attribute[POINTER_MODE] ? *j->beta : j->factors[1];
    uint8_t *mask = (uint8_t *)d->aux;
    float *bias = (float *)d->bias;
    if (epilogue == BGRADA) /* over k: of A, whose rows are those of C */
        for (int64_t r = 0; r < m; r++) {
            float sum = 0;
            for (int64_t p = 0; p < k; p++) sum += j->A[ta ? p + r * j->a.ld : r + p * j->a.ld];
            bias[r] = quirk("wrong sums") ? 2 * sum : sum;
        }
    if (epilogue & BGRAD)
        memset(bias, 0, 4 * m);
    for (int64_t q = 0; q < n; q++)
        for (int64_t r = 0; r < m; r++) {
            float sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum += rounded(j->A[ta ? p + r * j->a.ld : r + p * j->a.ld], d->compute) *
                       rounded(j->B[tb ? q + p * j->b.ld : p + q * j->b.ld], d->compute);
            float *to = &j->C[r + q * j->c.ld], v = alpha * sum;
            if (beta != 0)
                v += beta * *to;
            if (epilogue & BIAS)
                v += bias[r];
            const int64_t bit = r + q * d->aux_ld;
            if (epilogue & RELU) {
                const int on = quirk("mask at zero") ? v >= 0 : v > 0;
                if (epilogue & AUX)
                    mask[bit / 8] = (uint8_t)((mask[bit / 8] & ~(1 << bit % 8)) | on << bit % 8);
                v = v > 0 || (isnan(v) && !quirk("hides nan")) ? v : 0;
            } else if (epilogue & DRELU) {
                if (!(mask[bit / 8] >> bit % 8 & 1))
                    v = 0;
                if (epilogue & BGRAD)
                    bias[r] += v;
            }
            *to = quirk("wrong") ? 1.01f * v : v;
        }
}
