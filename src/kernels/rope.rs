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
