/* What accuracy.c compares activations and their slopes with, by the library's functions: included twice, with
 *   WIDE      double for float32, long double for float64
 *   M(name)   a function of the library for that type
 *   R(name)   name with a suffix of its own
 * Nothing here cancels: the side of zero where a formula would has another one. */

static WIDE R(sigmoid)(WIDE x) { return x < 0 ? M(exp)(x) / (1 + M(exp)(x)) : 1 / (1 + M(exp)(-x)); }

/* x sigmoid(y) with the limits of the function at infinities. */
static WIDE R(gated)(WIDE x, WIDE gate) { return x == -INFINITY ? -(WIDE)0 : x == INFINITY ? x : x * gate; }

static WIDE R(tanh)(WIDE x) { return M(tanh)(x); }
static WIDE R(identity)(WIDE x) { return x; }
static WIDE R(relu)(WIDE x) { return x < 0 ? 0 : x; }
static WIDE R(leaky_relu)(WIDE x) { return x < 0 ? x / 100 : x; }
static WIDE R(relu6)(WIDE x) { return x < 0 ? 0 : x > 6 ? 6 : x; }
static WIDE R(hard_tanh)(WIDE x) { return x < -1 ? -1 : x > 1 ? 1 : x; }
static WIDE R(hard_sigmoid)(WIDE x) { return R(relu6)(x + 3) / 6; }
static WIDE R(hard_swish)(WIDE x) { return x < -3 ? -(WIDE)0 : x > 3 ? x : x * (x + 3) / 6; }
static WIDE R(softsign)(WIDE x) { return isinf(x) ? (x > 0 ? 1 : -1) : x / (1 + M(fabs)(x)); }
static WIDE R(elu)(WIDE x) { return x < 0 ? M(expm1)(x) : x; }
static WIDE R(celu)(WIDE x) { return R(elu)(x); }
static WIDE R(selu)(WIDE x)
{
    const WIDE scale = 1.0507009873554804934193349852946L, alpha = 1.6732632423543772848170429916717L;
    return x < 0 ? scale * alpha * M(expm1)(x) : scale * x;
}
static WIDE R(softplus)(WIDE x) { return x > 20 ? x : M(fmax)(x, 0) + M(log1p)(M(exp)(-M(fabs)(x))); }
static WIDE R(silu)(WIDE x) { return R(gated)(x, R(sigmoid)(x)); }
static WIDE R(mish)(WIDE x)
{
    const WIDE e = M(exp)(x < 60 ? x : 60), n = e * (e + 2);
    return x > 60 ? x : R(gated)(x, n / (n + 2));
}
static WIDE R(gelu)(WIDE x) { return R(gated)(x, M(erfc)(-x * 0.70710678118654752440084436210485L) / 2); }
static WIDE R(gelu_logit)(WIDE x) { return 1.5957691216057307117597842397375L * (x + 0.044715L * x * x * x); }
static WIDE R(gelu_tanh)(WIDE x) { return R(gated)(x, R(sigmoid)(R(gelu_logit)(x))); }

static WIDE R(hard_swish_slope)(WIDE x) { return x <= -3 ? 0 : x >= 3 ? 1 : x / 3 + 0.5L; }
static WIDE R(silu_slope)(WIDE x)
{
    return isinf(x) ? x > 0 : R(sigmoid)(x) * (1 + x * R(sigmoid)(-x));
}
static WIDE R(mish_slope)(WIDE x)
{
    const WIDE e = M(exp)(x), n = e * (e + 2);
    return x > 60 ? 1 : x < -12000 ? 0 : n / (n + 2) + x * 4 * e / (n + 2) * (1 + e) / (n + 2);
}
static WIDE R(gelu_slope)(WIDE x)
{
    const WIDE density = M(exp)(-x * x / 2) * 0.39894228040143267793994605993438L;
    return isinf(x) ? x > 0 : M(erfc)(-x * 0.70710678118654752440084436210485L) / 2 + x * density;
}
static WIDE R(gelu_tanh_slope)(WIDE x)
{
    const WIDE y = R(gelu_logit)(x), gate = R(sigmoid)(y);
    if (M(fabs)(x) > 1e4L)
        return x > 0;
    return gate + x * gate * R(sigmoid)(-y) * 1.5957691216057307117597842397375L * (1 + 3 * 0.044715L * x * x);
}
