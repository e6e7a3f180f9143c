"""The activations of one number, in the notation of `pieces`; those of a row stand there."""

__all__ = ["TEXT"]

TEXT = r"""
/// relu
static REAL @relu(REAL z)
{
    return 0.0R > z ? 0.0R : z;
}

/// leaky_relu
static REAL @leaky_relu(REAL z)
{
    const REAL left = 0.01R * z;
    return left > z ? left : z;
}

/// relu6
static REAL @relu6(REAL z)
{
    const REAL right = 0.0R > z ? 0.0R : z;
    return 6.0R < right ? 6.0R : right;
}

/// hard_tanh
static REAL @hard_tanh(REAL z)
{
    const REAL right = -1.0R > z ? -1.0R : z;
    return 1.0R < right ? 1.0R : right;
}

/// hard_sigmoid
static REAL @hard_sigmoid(REAL z)
{
    const REAL moved = z + 3.0R, right = 0.0R > moved ? 0.0R : moved;
    return (6.0R < right ? 6.0R : right) * (REAL)(1.0 / 6);
}

/// hard_swish
static REAL @hard_swish(REAL z)
{
    const REAL left = -3.0R > z ? -3.0R : z, inner = 3.0R < left ? 3.0R : left, from_turn = inner + 1.5R;
    const REAL sixth = (REAL)(1.0 / 6);
    if (3.0R < z)
        return z;
    if (inner < -2.25R)
        return left * ((left + 3.0R) * sixth);
    if (inner < -0.75R)
        return FMA(from_turn * from_turn, sixth, -0.375R);
    return COPYSIGN(ABS(FMA(inner * sixth, inner, inner * 0.5R)), inner);
}

/// softsign
static REAL @softsign(REAL z)
{
    const REAL t = ABS(z), sum = 1.0R + t, lost = t - (sum - 1.0R), part = 1.0R / sum, ratio = t * part;
    const REAL rest = FMA(-ratio, lost, FMA(-ratio, sum, t));
    return COPYSIGN(1.0R <= t ? 1.0R - part : FMA(rest, part, ratio), z);
}

/// elu
static REAL @elu(REAL z)
{
    return z < 0.0R ? @expm1_left(z) : z;
}

/// celu
static REAL @celu(REAL z)
{
    return z < 0.0R ? @expm1_left(z) : z;
}

/// selu
static REAL @selu(REAL z)
{
    return z < 0.0R ? @expm1_left(z) * SELU_LEFT : z * SELU_RIGHT;
}

/// softplus float
static REAL @softplus(REAL z)
{
    const REAL t = -ABS(z), square = z * z;
    REAL rounded, p;
    if (-NEAR_ZERO < t)
        return FMA(square, @softplus_near(square), 0.5R * z) + LN2;
    p = @exp_polynomial(@exp_remainder(-SILU_FLAT > t ? -SILU_FLAT : t, &rounded));
    return (0.0R > z ? 0.0R : z) + @softplus_log(@scaled(p, rounded));
}

/// softplus double
static REAL @softplus(REAL z)
{
    const REAL whole = ABS(z), t = SILU_FLAT < whole ? SILU_FLAT : whole;
    REAL rounded, p;
    p = @exp_polynomial(@exp_remainder(-t, &rounded));
    return 20.0R < z ? z : (0.0R > z ? 0.0R : z) + @softplus_log(@scaled(p, rounded));
}

/// silu
static REAL @silu(REAL z)
{
    const REAL whole = ABS(z), t = SILU_FLAT < whole ? SILU_FLAT : whole;
    REAL rounded, p, part;
    p = @exp_polynomial(@exp_remainder(-t, &rounded));
    part = 1.0R / (1.0R + @scaled(p, rounded));
    //float if (t < NEAR_ZERO)
    //float     return COPYSIGN(ABS(FMA(t * t, @silu_near(t * t), 0.5R * z)), z);
    return (-0.0R > z ? -0.0R : z) - @scaled(t * p * part, rounded);
}

/// mish
static REAL @mish(REAL z)
{
    const REAL right = -SILU_FLAT > z ? -SILU_FLAT : z, inner = MISH_LINE < right ? MISH_LINE : right;
    REAL rounded, p, e, part;
    p = @exp_polynomial(@exp_remainder(inner, &rounded));
    e = @scaled(p, rounded);
    part = 1.0R / FMA(e, e + 2.0R, 2.0R);
    //float if (z < 0.0R && !(z < -MISH_NEAR))
    //float     return FMA(z, 0.6R, z * z * @mish_near(z));
    return z < 0.0R ? @scaled(inner * ((e + 2.0R) * part) * p, rounded) : z * FMA(-2.0R, part, 1.0R);
}

/// gelu
static REAL @gelu(REAL z)
{
    const REAL whole = ABS(z), t = GELU_FLAT < whole ? GELU_FLAT : whole, half = 0.5R * t;
    const REAL rounded = FMA(t * t, -0.5R * LOG2E, ROUNDER), n = rounded - ROUNDER;
    const REAL r = FMA(n, -LN2_LOW, FMA(-half, t, n * -LN2_HIGH)), p = @exp_polynomial(r);
    const REAL g = @gelu_over(t) / @gelu_under(t);
    //float if (t < NEAR_ZERO)
    //float     return COPYSIGN(ABS(FMA(t * t, @gelu_near(t * t), 0.5R * z)), z);
    return (-0.0R > z ? -0.0R : z) - @scaled(t * g * p, rounded);
}

/// gelu_tanh
static REAL @gelu_tanh(REAL z)
{
    const REAL whole = ABS(z), t = GELU_TANH_FLAT < whole ? GELU_TANH_FLAT : whole;
    const REAL square = t * t, lost = FMA(t, t, -square), high = FMA(GELU_C3, square, GELU_C1);
    const REAL low = FMA(GELU_C3, square, GELU_C1 - high) +
                     FMA(GELU_C3, lost, FMA(GELU_C3_LOW, square, GELU_C1_LOW));
    const REAL rounded = FMA(-t, high, ROUNDER), n = rounded - ROUNDER;
    const REAL r = FMA(-t, low, FMA(-t, high, -n)), p = @exp2_polynomial(r);
    const REAL part = 1.0R / (1.0R + @scaled(p, rounded));
    //float if (t < NEAR_ZERO)
    //float     return COPYSIGN(ABS(FMA(t * t, @gelu_tanh_near(t * t), 0.5R * z)), z);
    return (-0.0R > z ? -0.0R : z) - @scaled(t * p * part, rounded);
}

/// sigmoid
static REAL @sigmoid(REAL x)
{
    const REAL size = ABS(x), e = @exp(-size), left = FMA(-e, e / (1.0R + e), e);
    const REAL half = x * 0.5R, square = half * half;
    if (size < 2.0R * TANH_SMALL)
        return FMA(0.5R, FMA(square * @tanh_terms(square), half, half), 0.5R);
    return x < 0.0R ? left : 1.0R - left;
}

/// tanh
static REAL @tanh(REAL x)
{
    const REAL size = ABS(x), square = size * size, twice = size + size;
    REAL rounded, p, value;
    if (size < TANH_SMALL) {
        value = FMA(square * @tanh_terms(square), size, size);
    } else {
        p = @exp_polynomial(@exp_remainder(TANH_FLAT < twice ? TANH_FLAT : twice, &rounded));
        value = 1.0R - 2.0R / FMA(p, @power_of_two(rounded), 1.0R);
    }
    return COPYSIGN(value, x);
}
"""
