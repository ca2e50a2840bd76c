//! Functions of one number that compilers can make vectors of.

/// eˣ, with a relative error below 2e-7: zero below −87, and infinity above 88.7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, of which the first has few digits: its products with whole numbers are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Adding and subtracting it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let bounded = x.clamp(-87.0, 89.0);
    let whole = (bounded * LOG2_E + ROUND) - ROUND;
    let rest = (bounded - whole * LN_2[0]) - whole * LN_2[1];
    // A polynomial for (e^rest − 1 − rest) / rest² on [−ln 2 / 2, ln 2 / 2] (Cephes, expf).
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = sum * rest + coefficient;
    }
    let power = sum * rest * rest + rest + 1.0;
    // 2^128 is no f32: two factors reach it.
    let exponent = whole as i32;
    let (half, other) = (exponent >> 1, exponent - (exponent >> 1));
    let scaled = power * power_of_two(half) * power_of_two(other);
    let result = if x < -87.0 { 0.0 } else { scaled };
    if x.is_nan() { x } else { result }
}

#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) << 23) as u32)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x · sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_f64_to_two_ulp() {
        for x in (-86_000..88_700).map(|i| i as f32 * 1e-3) {
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(((got - want) / want).abs() < 2e-7, "e^{x}: {got} for {want}");
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(-200.0)), (1.0, 0.0, 0.0));
        assert_eq!((exp(100.0), exp(f32::INFINITY)), (f32::INFINITY, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn silu_reaches_its_limits() {
        assert_eq!((silu(0.0), silu(-200.0), silu(200.0)), (0.0, -0.0, 200.0));
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-7);
    }
}
