"""The constants of the C functions in `pieces`, exact.

They are those of csrc/math_template.h, csrc/curves_template.h and csrc/trig_template.h, which say what each
bounds or approximates, and how well.
"""

from __future__ import annotations

import struct

__all__ = ["POLYNOMIALS", "constants"]

_BY_TYPE = {
    "float": {
        "MANTISSA": "23", "BIAS": "127", "BLOCK": "16",
        "LN2_HIGH": "0x1.62e4p-1R", "LN2_LOW": "0x1.7f7d1cp-20R", "LOG2E": "0x1.715476p+0R",
        "ROUNDER": "0x1.8p+23R", "EXP_LOWEST": "-104.0R", "EXP_HIGHEST": "89.0R", "EXPM1_FLAT": "-20.0R",
        "TANH_FLAT": "20.0R", "TANH_SMALL": "0.55R", "SQRT_HALF": "0x1.6a09e6p-1R",
        "TINY_SCALE": "0x1p+24R", "TINY_SHIFT": "24.0R", "TINY": "0x1p-126R",
        "SILU_FLAT": "110.0R", "MISH_LINE": "20.0R", "GELU_FLAT": "14.5R",
        "GELU_TANH_FLAT": "11.0R", "GELU_C1_LOW": "0x1.0de73ap-22R", "GELU_C1": "0x1.26aecp+1R",
        "GELU_C3_LOW": "-0x1.151aaep-29R", "GELU_C3": "0x1.a5a7dp-4R",
        "LN2": "0x1.62e43p-1R",
        "NEAR_ZERO": "0.5R", "MISH_NEAR": "0.25R",
    },
    "double": {
        "MANTISSA": "52", "BIAS": "1023", "BLOCK": "8",
        "LN2_HIGH": "0x1.62e42fefap-1", "LN2_LOW": "0x1.cf79abc9e3b3ap-40", "LOG2E": "0x1.71547652b82fep+0",
        "ROUNDER": "0x1.8p+52", "EXP_LOWEST": "-746.0", "EXP_HIGHEST": "710.0", "EXPM1_FLAT": "-40.0",
        "TANH_FLAT": "40.0", "TANH_SMALL": "0.55", "SQRT_HALF": "0x1.6a09e667f3bcdp-1",
        "TINY_SCALE": "0x1p+54", "TINY_SHIFT": "54.0", "TINY": "0x1p-1022",
        "SILU_FLAT": "760.0", "MISH_LINE": "40.0", "GELU_FLAT": "38.8",
        "GELU_TANH_FLAT": "22.0", "GELU_C1_LOW": "-0x1.ad12d7a64bcebp-49", "GELU_C1": "0x1.26aec21bce76p+1",
        "GELU_C3_LOW": "-0x1.b91c940e4cfcfp-58", "GELU_C3": "0x1.a5a7cf7572a98p-4",
        "LN2": "0x1.62e42fefa39efp-1",
    },
}  # fmt: skip
_SHARED = {
    "SELU_LEFT": "1.758099340847376859940218R",
    "SELU_RIGHT": "1.0507009873554804934193349852946R",
    "TWO_PI": "6.283185307179586476925286766559R",
}

# Coefficients by rising power.
POLYNOMIALS = {
    "float": {
        "exp_terms": "0x1.fffffcp-2 0x1.555492p-3 0x1.5558f2p-5 0x1.1239f2p-7 0x1.6a241ap-10",
        "log_terms": "-0x1.fffff8p-2 0x1.55555p-2 -0x1.000426p-2 0x1.99a3f2p-3 -0x1.54276ep-3 "
        "0x1.22719cp-3 -0x1.0f3766p-3 0x1.084864p-3 -0x1.38302p-4",
        "tanh_terms": "-0x1.55554ap-2 0x1.110d26p-3 -0x1.b9287ap-5 0x1.593d08p-6 -0x1.9b3046p-8",
        "gelu_over": "0x1.0p-1 0x1.c01908p-2 0x1.762344p-3 0x1.4b449ap-5 0x1.0bad2p-8",
        "gelu_under": "1.0 0x1.ac4eb2p+0 0x1.3345fap+0 0x1.df3d7cp-2 0x1.9f35bp-4 0x1.4f7a7cp-7",
        "silu_near": "0x1p-2 -0x1.555516p-6 0x1.10e0fep-9 -0x1.a53b9cp-13",
        "gelu_near": "0x1.988454p-2 -0x1.1058a2p-4 0x1.46cad2p-7 -0x1.2ddcep-10",
        "gelu_tanh_near": "0x1.988454p-2 -0x1.11b1b4p-4 0x1.4e4136p-7 -0x1.3c0d42p-10",
        "softplus_near": "0x1p-3 -0x1.55553cp-8 0x1.6bf036p-12 -0x1.a95b24p-16",
        "softplus_terms": "-0x1.fffff4p-2 0x1.5552b2p-2 -0x1.ff9a54p-3 0x1.95d8e6p-3 -0x1.412de6p-3 "
        "0x1.c485d8p-4 -0x1.d0f728p-5 0x1.e31686p-7",
        "mish_near": "0x1.47ad92p-2 -0x1.0761d4p-6 -0x1.7f4654p-5 -0x1.3da4c2p-8",
        "exp2_terms": "0x1.62e43p-1 0x1.ebfbdcp-3 0x1.c6af7ap-5 0x1.3b2ddap-7 0x1.5f0976p-10 0x1.4172b6p-13",
        "sin_terms": "-0x1.555556p-3 0x1.111112p-7 -0x1.a01a02p-13 0x1.71de3ap-19",
        "cos_terms": "0x1.555556p-5 -0x1.6c16c2p-10 0x1.a01a02p-16 -0x1.27e4fcp-22",
    },
    "double": {
        "exp_terms": "0x1.0p-1 0x1.555555555555bp-3 0x1.5555555555503p-5 0x1.111111110ec56p-7 "
        "0x1.6c16c16c304ep-10 0x1.a01a01b38132bp-13 0x1.a01a01367f3fep-16 0x1.71ddf019339cbp-19 "
        "0x1.27e5b459392fep-22 0x1.af6bf566435d5p-26 0x1.1e3d2402fc015p-29",
        "log_terms": "0x1.5555555555593p-1 0x1.999999997f9f8p-2 0x1.249249422a477p-2 0x1.c71c51d7ccca9p-3 "
        "0x1.746649b02527dp-3 0x1.39a095798ac24p-3 0x1.2f118033f6cap-3",
        "tanh_terms": "-0x1.555555555554fp-2 0x1.111111111079fp-3 -0x1.ba1ba1b97d88fp-5 0x1.664f485970a49p-6 "
        "-0x1.226e2f147ae33p-7 0x1.d6d29b96e2c14p-9 -0x1.7d8fd3ad41d83p-10 0x1.3483ae8f3e629p-11 "
        "-0x1.e96fc5deeb129p-13 0x1.5d745a45dc7a1p-14 -0x1.47110b169479dp-16",
        "softplus_terms": "0x1.5555555555535p-1 0x1.99999999a06c1p-2 0x1.249249209119bp-2 "
        "0x1.c71c741a01f1ap-3 0x1.745cb45a6d3ccp-3 0x1.3b1dd39bb9821p-3 0x1.10682fc5bbe22p-3 "
        "0x1.efd17e0f93d99p-4 0x1.55cf9c34cbe35p-4 0x1.5c5be3745fe1ep-3",
        "gelu_over": "0x1.0p-1 0x1.a7d9159b787d9p-1 0x1.5be21b91b96f9p-1 0x1.6dcdcbca13ac5p-2 "
        "0x1.0e5102d3a4d34p-3 0x1.240955baeddep-5 0x1.d28181d2ab597p-8 0x1.1058dca0ae1f4p-10 "
        "0x1.be988501c532ep-14 0x1.d3a78c005c27cp-18 0x1.e0d4ea3c40b9ap-23",
        "gelu_under": "0x1.0p+0 0x1.3a0d9f9d0d181p+1 0x1.6885138bf2f98p+1 0x1.001ee29309bacp+1 "
        "0x1.f5a4454850b46p-1 0x1.6485922d82ad9p-2 0x1.78897f6fe4e93p-4 0x1.28b194681dfe2p-6 "
        "0x1.57a042806169dp-9 0x1.18736ee7932c5p-12 0x1.250f19addeb17p-16 0x1.2d510b972597fp-21",
        "sin_terms": " ".join(
            (sign / n).hex()
            for sign, n in zip(
                (-1, 1) * 4,
                (6, 120, 5040, 362880, 39916800, 6227020800, 1307674368000, 355687428096000),
                strict=True,
            )
        ),
        "cos_terms": " ".join(
            (sign / n).hex()
            for sign, n in zip(
                (1, -1) * 4,
                (24, 720, 40320, 3628800, 479001600, 87178291200, 20922789888000, 6402373705728000),
                strict=True,
            )
        ),
    },
}


def constants(real: str) -> dict[str, str]:
    """Constants by name; those of bits are computed from the others."""
    code, width = ("<f", 4) if real == "float" else ("<d", 8)
    suffix = "U" if width == 4 else "ULL"
    found = dict(_BY_TYPE[real])

    def bits(text: str) -> int:
        number = float.fromhex(text.removesuffix("R"))
        return int.from_bytes(struct.pack(code, number), "little")

    def literal(value: int) -> str:
        return f"0x{value % (1 << 8 * width):x}{suffix}"

    rounder, shift = bits(found["ROUNDER"]), int(found["MANTISSA"])
    return {
        **found,
        **_SHARED,
        "POWER_OFFSET": literal(bits("1.0") - (rounder << shift)),
        "SCALE_OFFSET": literal(rounder - 2 * int(found["BIAS"])),
        "LOG_OFFSET": literal(bits("1.0") - bits(found["SQRT_HALF"])),
        "UINT_MACRO": f"__UINT{8 * width}_TYPE__",
        "UINT_TYPE": "unsigned int" if width == 4 else "unsigned long long",
    }
