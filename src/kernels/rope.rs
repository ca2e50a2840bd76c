//! Rotary position embedding (<https://arxiv.org/abs/2104.09864>) of vectors in place.

use super::isa::vectorized;

vectorized! {
    /// Turns the pairs of the first `2 · cos.len()` numbers of `x`: those a half apart, or neighbours.
    pub fn rotate(_isa: Isa, x: &mut [f32], cos: &[f32], sin: &[f32], are_neighbours: bool) {
        if are_neighbours {
            for (pair, (cos, sin)) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin)) {
                let [first, second] = *pair;
                *pair = [first * cos - second * sin, second * cos + first * sin];
            }
        } else if let Some((first, second)) = x.split_at_mut_checked(cos.len()) {
            for ((first, second), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                (*first, *second) = (*first * cos - *second * sin, *second * cos + *first * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::*;

    #[test]
    fn every_level_turns_pairs_as_f64_does_and_leaves_the_rest() {
        let wave = |count: usize, k: f32| (0..count).map(|i| (i as f32 * k).sin()).collect::<Vec<f32>>();
        for (pairs, width) in [(1, 2), (21, 42), (32, 80)] {
            let (x, cos, sin) = (wave(width, 0.7), wave(pairs, 0.3), wave(pairs, 0.9));
            for (isa, are_neighbours) in Isa::available().flat_map(|isa| [(isa, true), (isa, false)]) {
                let mut turned = x.clone();
                rotate(isa, &mut turned, &cos, &sin, are_neighbours);
                assert_eq!(turned[2 * pairs..], x[2 * pairs..]);
                for pair in 0..pairs {
                    let (a, b) = if are_neighbours { (2 * pair, 2 * pair + 1) } else { (pair, pair + pairs) };
                    let [first, second, cos, sin] = [x[a], x[b], cos[pair], sin[pair]].map(f64::from);
                    let want = [(a, first * cos - second * sin), (b, second * cos + first * sin)];
                    for (at, want) in want {
                        assert!((f64::from(turned[at]) - want).abs() < 1e-6, "{isa:?}: {} for {want}", turned[at]);
                    }
                }
            }
        }
    }
}
