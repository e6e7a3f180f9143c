"""The C functions that an exported model may need: scalar twins of the kernels, operation by operation.

Written once for both types. In the text ``REAL`` is float or double, ``@`` the prefix of all names, ``1.0R``
a number of the type, ``FMA`` and its like the functions of <math.h> for it, and words in capitals the
constants of `numbers`. What a piece calls is found by the names after an ``@``. What a vector kernel writes
as ``vec_max(a, b)`` is ``a > b ? a : b``: the second operand wins where either is NaN or both are zeros.
"""

from __future__ import annotations

import re

from . import activations
from .numbers import POLYNOMIALS, constants

__all__ = ["NAMES", "written"]

# "/// name": a piece for both types; "/// name float" for one. What follows "//float " is in the float form
# alone. In the order in which C wants them.
_TEXT = r"""
/// bits
/* An unsigned integer as wide as the numbers, and both views of it. */
#ifdef UINT_MACRO
typedef UINT_MACRO @bits;
#else
typedef UINT_TYPE @bits;
#endif
typedef char @bits_are_as_wide[sizeof(@bits) == sizeof(REAL) ? 1 : -1];
typedef union {
    REAL number;
    @bits bits;
} @pun;

/// bits_of
static @bits @bits_of(REAL x)
{
    @pun both;
    both.number = x;
    return both.bits;
}

/// of_bits
static REAL @of_bits(@bits bits)
{
    @pun both;
    both.bits = bits;
    return both.number;
}

/// power_of_two
/* 2^n, a normal number; the low bits of rounded hold n. */
static REAL @power_of_two(REAL rounded)
{
    return @of_bits((@bits)((@bits_of(rounded) << MANTISSA) + POWER_OFFSET));
}

/// scaled
/* 2^n p, rounded once; two factors, as 2^n may be no normal number. The low bits of rounded hold n. */
static REAL @scaled(REAL p, REAL rounded)
{
    const @bits both = (@bits)(@bits_of(rounded) - SCALE_OFFSET), half = both >> 1;
    return p * @of_bits((@bits)(half << MANTISSA)) * @of_bits((@bits)((both - half) << MANTISSA));
}

/// exp_remainder
/* r of x = n log(2) + r; the low bits of rounded hold n. */
static REAL @exp_remainder(REAL x, REAL *rounded)
{
    const REAL n = (*rounded = FMA(x, LOG2E, ROUNDER)) - ROUNDER;
    return FMA(n, -LN2_LOW, FMA(n, -LN2_HIGH, x));
}

/// exp_polynomial
static REAL @exp_polynomial(REAL r)
{
    return FMA(FMA(@exp_terms(r), r, 1.0R), r, 1.0R);
}

/// exp2_polynomial float
/* 2^r for |r| <= 1/2. */
static REAL @exp2_polynomial(REAL r)
{
    return FMA(@exp2_terms(r), r, 1.0R);
}

/// exp2_polynomial double
/* 2^r for |r| <= 1/2. */
static REAL @exp2_polynomial(REAL r)
{
    return @exp_polynomial(r * LN2);
}

/// softplus_log float
/* log(1 + x) for 0 <= x <= exp(-NEAR_ZERO). */
static REAL @softplus_log(REAL x)
{
    return FMA(x * x, @softplus_terms(x), x);
}

/// softplus_log double
/* log(1 + x) for 0 <= x <= 1. */
static REAL @softplus_log(REAL x)
{
    const REAL s = x / (2.0R + x), z = s * s, half_square = 0.5R * x * x;
    return x + FMA(s, FMA(z, @softplus_terms(z), half_square), -half_square);
}

/// exp
static REAL @exp(REAL x)
{
    REAL rounded, p;
    x = EXP_LOWEST > x ? EXP_LOWEST : x;
    x = EXP_HIGHEST < x ? EXP_HIGHEST : x;
    p = @exp_polynomial(@exp_remainder(x, &rounded));
    return @scaled(p, rounded);
}

/// expm1_left
/* exp(x) - 1 for x <= 0. */
static REAL @expm1_left(REAL x)
{
    REAL rounded;
    const REAL r = @exp_remainder(EXPM1_FLAT > x ? EXPM1_FLAT : x, &rounded);
    const REAL s = FMA(@exp_terms(r) * r, r, r), power = @power_of_two(rounded);
    return FMA(power, s, power - 1.0R);
}

/// log_reduced float
/* log(2^e (1 + f)). */
static REAL @log_reduced(REAL e, REAL f)
{
    const REAL tail = f * f * @log_terms(f);
    return FMA(e, LN2_HIGH, f + FMA(e, LN2_LOW, tail));
}

/// log_reduced double
/* log(2^e (1 + f)). */
static REAL @log_reduced(REAL e, REAL f)
{
    const REAL s = f / (2.0R + f), z = s * s, half_square = 0.5R * f * f;
    const REAL q = z * @log_terms(z);
    const REAL tail = FMA(s, half_square + q, FMA(e, LN2_LOW, -half_square));
    return FMA(e, LN2_HIGH, f + tail);
}

/// log
static REAL @log(REAL x)
{
    const REAL y = x < TINY ? x * TINY_SCALE : x, shift = x < TINY ? TINY_SHIFT : 0.0R;
    @bits e;
    REAL m;
    if (!(x < INFINITY))
        return x;
    if (!(x > 0.0R))
        return x < 0.0R ? (REAL)NAN : -INFINITY;
    e = (@bits)(@bits_of(y) + LOG_OFFSET) >> MANTISSA;
    m = @of_bits((@bits)(@bits_of(y) - ((e - BIAS) << MANTISSA)));
    return @log_reduced(((REAL)e - BIAS.0R) - shift, m - 1.0R);
}

/// sincos_turns
/* sin and cos of 2 pi x. */
static REAL @sincos_turns(REAL x, REAL *cosine)
{
    const REAL rest = x - ((x + ROUNDER) - ROUNDER), shifted = 4.0R * rest + ROUNDER;
    const REAL turn = rest - 0.25R * (shifted - ROUNDER);
    const int quarter = (int)(@bits_of(shifted) & 3);
    const REAL angle = turn * TWO_PI, square = angle * angle;
    const REAL s = FMA(angle * square, @sin_terms(square), angle);
    const REAL c = FMA(square * square, @cos_terms(square), FMA(-0.5R, square, 1.0R));
    const REAL sine = quarter & 1 ? c : s, other = quarter & 1 ? s : c;
    *cosine = (quarter + 1) & 2 ? -other : other;
    return quarter & 2 ? -sine : sine;
}

/// tree_sum
/* Number i meets number i + half: the order is part of the result. */
static REAL @tree_sum(REAL *sum)
{
    int half, i;
    for (half = BLOCK / 2; half > 0; half /= 2)
        for (i = 0; i < half; i++) sum[i] += sum[i + half];
    return sum[0];
}

/// row_sum
static REAL @row_sum(ptrdiff_t n, const REAL *x)
{
    REAL sum[BLOCK];
    ptrdiff_t j;
    int i;
    for (i = 0; i < BLOCK; i++) sum[i] = i < n ? x[i] : 0.0R;
    for (j = BLOCK; j < n; j += BLOCK)
        for (i = 0; i < BLOCK; i++) sum[i] += j + i < n ? x[j + i] : 0.0R;
    return @tree_sum(sum);
}

/// row_max
static REAL @row_max(ptrdiff_t n, const REAL *x)
{
    REAL best = x[0];
    ptrdiff_t j;
    for (j = 1; j < n; j++) best = best > x[j] ? best : x[j];
    return best;
}

/// exp_row
/* The sum of exp(z - max), which are kept in e where it is not NULL; e may be z. */
static REAL @exp_row(ptrdiff_t n, const REAL *z, REAL max, REAL *e)
{
    REAL sum[BLOCK], value;
    ptrdiff_t j;
    int i;
    for (i = 0; i < BLOCK; i++) sum[i] = 0.0R;
    for (j = 0; j < n; j += BLOCK)
        for (i = 0; i < BLOCK && j + i < n; i++) {
            value = @exp(z[j + i] - max);
            sum[i] += value;
            if (e)
                e[j + i] = value;
        }
    return @tree_sum(sum);
}

/// softmax
static void @softmax(ptrdiff_t n, const REAL *z, REAL *out)
{
    const REAL sum = @exp_row(n, z, @row_max(n, z), out);
    ptrdiff_t j;
    for (j = 0; j < n; j++) out[j] /= sum;
}

/// log_softmax
static void @log_softmax(ptrdiff_t n, const REAL *z, REAL *out)
{
    const REAL max = @row_max(n, z), log_sum = @log(@exp_row(n, z, max, NULL));
    ptrdiff_t j;
    for (j = 0; j < n; j++) out[j] = (z[j] - max) - log_sum;
}

/// dense
/* out = x w + bias: each sum from zero in the order of the rows of w, then its bias. */
static void @dense(ptrdiff_t n_in, ptrdiff_t n_out, const REAL *w, const REAL *bias, const REAL *x,
                   REAL *restrict out)
{
    ptrdiff_t p, j;
    for (j = 0; j < n_out; j++) out[j] = 0.0R;
    for (p = 0; p < n_in; p++, w += n_out)
        for (j = 0; j < n_out; j++) out[j] = FMA(x[p], w[j], out[j]);
    if (bias)
        for (j = 0; j < n_out; j++) out[j] += bias[j];
}

/// dots
/* The same where a few outputs have many inputs: BLOCK sums, of every BLOCK-th input each, zeros where there
   is none, and a tree. */
static void @dots(ptrdiff_t n_in, ptrdiff_t n_out, const REAL *w, const REAL *bias, const REAL *x, REAL *out)
{
    REAL sum[BLOCK];
    ptrdiff_t p, j;
    int i;
    for (j = 0; j < n_out; j++) {
        for (i = 0; i < BLOCK; i++) sum[i] = 0.0R;
        for (p = 0; p < n_in; p += BLOCK)
            for (i = 0; i < BLOCK; i++)
                sum[i] = p + i < n_in ? FMA(x[p + i], w[(p + i) * n_out + j], sum[i]) : sum[i] + 0.0R;
        out[j] = @tree_sum(sum);
        if (bias)
            out[j] += bias[j];
    }
}

/// norm
/* A row less its mean (of none: 0), by its deviation; gamma and beta may be NULL. */
static void @norm(ptrdiff_t n, REAL mean, REAL eps, const REAL *gamma, const REAL *beta, const REAL *x,
                  REAL *out)
{
    REAL sum[BLOCK], scale, v;
    ptrdiff_t j;
    int i;
    for (i = 0; i < BLOCK; i++) sum[i] = 0.0R;
    for (j = 0; j < n; j += BLOCK)
        for (i = 0; i < BLOCK; i++) {
            v = (j + i < n ? x[j + i] : mean) - mean;
            sum[i] = FMA(v, v, sum[i]);
        }
    scale = 1.0R / SQRT(@tree_sum(sum) / (REAL)n + eps);
    for (j = 0; j < n; j++) {
        v = (x[j] - mean) * scale;
        out[j] = beta ? FMA(v, gamma[j], beta[j]) : gamma ? v * gamma[j] : v;
    }
}

/// category
/* A row of a table (n_categories, width) by its code: zeros for an unknown one, NaN for a broken number. */
static void @category(REAL code, ptrdiff_t n_categories, ptrdiff_t width, const REAL *table, REAL *out)
{
    const int is_whole = code - code == 0.0R && FLOOR(code) == code;
    const int is_known = is_whole && code >= 0.0R && code < (REAL)n_categories;
    const REAL *row = is_known ? table + (ptrdiff_t)code * width : table;
    ptrdiff_t q;
    for (q = 0; q < width; q++) out[q] = is_known ? row[q] : is_whole ? 0.0R : (REAL)NAN;
}

/// periodic
/* Of each column the sines of 2 pi f x for its k frequencies f, then the cosines. */
static void @periodic(ptrdiff_t n, ptrdiff_t k, const REAL *f, const REAL *x, REAL *out)
{
    ptrdiff_t j, q;
    for (j = 0; j < n; j++, f += k, out += 2 * k)
        for (q = 0; q < k; q++) out[q] = @sincos_turns(f[q] * x[j], &out[k + q]);
}

/// piecewise
/* How much of each bin lies below x; the first and the last go on beyond their ends. */
static void @piecewise(ptrdiff_t n_bins, const REAL *edges, REAL x, REAL *out)
{
    ptrdiff_t b;
    REAL v;
    for (b = 0; b < n_bins; b++) {
        v = (x - edges[b]) / (edges[b + 1] - edges[b]);
        if (b > 0 && v < 0.0R)
            v = 0.0R;
        if (b < n_bins - 1 && v > 1.0R)
            v = 1.0R;
        out[b] = v;
    }
}
"""

# A microcontroller reads weights once, from flash, and has no vectors: sums stay in a register.
_DENSE_BY_OUTPUT = r"""
/* out = x w + bias: each sum from zero in the order of the rows of w, then its bias. */
static void @dense(ptrdiff_t n_in, ptrdiff_t n_out, const REAL *w, const REAL *bias, const REAL *x, REAL *out)
{
    ptrdiff_t p, j;
    REAL sum;
    for (j = 0; j < n_out; j++) {
        sum = 0.0R;
        for (p = 0; p < n_in; p++) sum = FMA(x[p], w[p * n_out + j], sum);
        out[j] = bias ? sum + bias[j] : sum;
    }
}
"""

_FUNCTIONS = {"FMA": "fma", "ABS": "fabs", "SQRT": "sqrt", "COPYSIGN": "copysign", "FLOOR": "floor"}


def _polynomial(real: str, name: str) -> str:
    """A function of that polynomial: Horner's order, but for the one whose terms go by pairs."""
    terms = [f"{c}R" for c in POLYNOMIALS[real][name].split()]
    if name == "softplus_terms":
        lines = ["    const REAL square = x * x;", f"    REAL sum = FMA({terms[-1]}, x, {terms[-2]});"]
        pairs = zip(terms[-4::-2], terms[-3::-2], strict=True)
        lines += [f"    sum = FMA(sum, square, FMA({high}, x, {low}));" for low, high in pairs]
    else:
        lines = [f"    REAL sum = {terms[-1]};"]
        lines += [f"    sum = FMA(sum, x, {c});" for c in reversed(terms[:-1])]
    return "\n".join([f"static REAL @{name}(REAL x)", "{", *lines, "    return sum;", "}", ""])


def _pieces(real: str, by_output: bool) -> dict[str, str]:
    """All pieces of a type by name, those that are called before those that call."""
    found = {}
    for part in (_TEXT + activations.TEXT).split("\n///")[1:]:
        head, _, body = part.partition("\n")
        name, *only = head.split()
        if not only or only == [real]:
            body = re.sub(r"//float " if real == "float" else r" *//float .*\n", "", body)
            found[name] = body.strip("\n") + "\n"
    if by_output:
        found["dense"] = _DENSE_BY_OUTPUT.lstrip("\n")
    polynomials = {name: _polynomial(real, name) for name in POLYNOMIALS[real]}
    first = {name: found.pop(name) for name in ("bits", "bits_of", "of_bits")}
    return {**first, **polynomials, **found}


NAMES = frozenset(_pieces("float", False)) | frozenset(_pieces("double", False))


def written(needed: set[str], real: str, name: str, *, by_output: bool = False) -> str:
    """The C text of the pieces that are needed and of those that they call.

    Parameters
    ----------
    needed : set of str
        Out of `NAMES`.
    real : "float" or "double"
    name : str
        What all names begin with.
    by_output : bool
        Products go output by output, for processors without vectors.
    """
    pieces = _pieces(real, by_output)
    wanted: set[str] = set()
    pending = set(needed)
    while pending:
        piece = pending.pop()
        wanted.add(piece)
        called = set(re.findall(r"@(\w+)", pieces[piece])) - {"pun", "bits_are_as_wide"}
        if "@pun" in pieces[piece]:
            called.add("bits")
        pending |= called - wanted
    text = "\n".join(body for piece, body in pieces.items() if piece in wanted and body.strip())
    suffix = "f" if real == "float" else ""
    comments: list[str] = []

    def aside(match: re.Match[str]) -> str:
        comments.append(match[0])
        return f"\0{len(comments) - 1}\0"

    text = re.sub(r"/\*.*?\*/", aside, text, flags=re.DOTALL)  # words in capitals are names there
    values = constants(real)
    text = re.sub(r"\bBIAS\.0R", f"{values['BIAS']}.0R", text)
    text = re.sub(r"(?<![\w@])[A-Z][A-Z0-9_]+\b", lambda m: values.get(m[0], m[0]), text)
    for word, function in _FUNCTIONS.items():
        text = re.sub(rf"\b{word}\(", f"{function}{suffix}(", text)
    text = re.sub(r"(?<=[0-9.])R\b", suffix, text)
    text = re.sub(r"\bREAL\b", real, text)
    text = re.sub("\0(\\d+)\0", lambda m: comments[int(m[1])], text)
    return re.sub(r"@", f"{name}_", text)
