//! Functions of one number that compilers can make vectors of.

use super::isa::Isa;

/// eˣ, with a relative error below 2e-7: zero below −87, and infinity above 88.
#[inline(always)]
pub fn exp(isa: Isa, x: f32) -> f32 {
    let finite = exp_bounded(isa, x.clamp(-87.0, 88.0));
    let low = if x < -87.0 { 0.0 } else { finite };
    if x > 88.0 { f32::INFINITY } else { low }
}

/// eˣ for x between −87 and 88.
#[inline(always)]
fn exp_bounded(isa: Isa, x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, of which the first has few digits: its products with whole numbers are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Added, it rounds to a whole number, which the low bits of the sum are.
    const ROUND: f32 = 12_582_912.0;
    let sum = isa.mul_add(x, LOG2_E, ROUND);
    let whole = sum - ROUND;
    let rest = isa.mul_add(whole, -LN_2[1], isa.mul_add(whole, -LN_2[0], x));
    // A polynomial for (e^rest − 1 − rest) / rest² on [−ln 2 / 2, ln 2 / 2] (Cephes, expf).
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = isa.mul_add(polynomial, rest, coefficient);
    }
    let power = isa.mul_add(polynomial, rest * rest, rest) + 1.0;
    let exponent = sum.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    power * f32::from_bits(exponent << 23)
}

/// x · sigmoid(x), where sigmoid(x) = 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn silu(isa: Isa, x: f32) -> f32 {
    x / (1.0 + exp_bounded(isa, (-x).clamp(-87.0, 88.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_f64_to_two_ulp() {
        for isa in [Isa::Scalar, Isa::best()] {
            let exp = |x| exp(isa, x);
            for x in (-86_000..88_000).map(|i| i as f32 * 1e-3) {
                let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
                assert!(((got - want) / want).abs() < 2e-7, "e^{x}: {got} for {want}");
            }
            assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(-200.0)), (1.0, 0.0, 0.0));
            assert_eq!((exp(100.0), exp(f32::INFINITY)), (f32::INFINITY, f32::INFINITY));
            assert!(exp(f32::NAN).is_nan());
        }
    }

    #[test]
    fn silu_reaches_its_limits() {
        let silu = |x| silu(Isa::Scalar, x);
        assert_eq!((silu(0.0), silu(200.0)), (0.0, 200.0));
        assert!(silu(-200.0).abs() < 1e-35 && silu(f32::NAN).is_nan());
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-7);
    }
}
