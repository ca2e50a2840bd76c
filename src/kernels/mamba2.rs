//! One token of the Mamba2 recurrence, in one pass over the state.

use rayon::prelude::*;

use super::{LANES, PARALLEL_WORK};

/// One token's inputs to the recurrence, after convolution and discretization.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// x [heads · head_dim].
    pub x: &'a [f32],
    /// B [groups · state_size]; a head uses the group `head / (heads / groups)`.
    pub b: &'a [f32],
    /// C [groups · state_size].
    pub c: &'a [f32],
    /// Δ `[heads]`.
    pub dt: &'a [f32],
    /// exp(Δ · A) `[heads]`.
    pub decay: &'a [f32],
    /// D `[heads]`.
    pub d: &'a [f32],
    /// How many groups share `b` and `c`.
    pub groups: usize,
}

/// One head's share of [`Inputs`].
struct Head<'a> {
    b: &'a [f32], // [state_size]
    c: &'a [f32], // [state_size]
    dt: f32,
    decay: f32,
    d: f32,
}

impl<'a> Inputs<'a> {
    fn head(&self, head: usize) -> Option<Head<'a>> {
        let state_size = self.b.len() / self.groups;
        let start = head / (self.dt.len() / self.groups) * state_size;
        let group = start..start + state_size;
        Some(Head {
            b: self.b.get(group.clone())?,
            c: self.c.get(group)?,
            dt: *self.dt.get(head)?,
            decay: *self.decay.get(head)?,
            d: *self.d.get(head)?,
        })
    }
}

/// Advances `state` [heads, head_dim, state_size] by one token and writes `y` [heads · head_dim]:
/// `S ← decay · S + Δ · x ⊗ B`, `y = S · C + D · x` (Mamba2, <https://arxiv.org/abs/2405.21060>).
pub fn step(state: &mut [f32], inputs: Inputs<'_>, y: &mut [f32]) {
    let heads = inputs.dt.len();
    let (per_head, head_dim) = (state.len() / heads, y.len() / heads);
    let own = state.par_chunks_mut(per_head).zip(y.par_chunks_mut(head_dim)).zip(inputs.x.par_chunks(head_dim));
    own.enumerate().with_min_len(PARALLEL_WORK.div_ceil(per_head)).for_each(|(head, ((state, y), x))| {
        if let Some(head) = inputs.head(head) {
            step_head(state, &head, x, y);
        }
    });
}

fn step_head(state: &mut [f32], head: &Head<'_>, x: &[f32], y: &mut [f32]) {
    for ((row, y), &x) in state.chunks_exact_mut(head.b.len()).zip(y).zip(x) {
        *y = advance_row(row, head.decay, head.dt * x, head.b, head.c) + head.d * x;
    }
}

/// `row ← decay · row + input · b`; returns `row · c` of the new row. All are [state_size].
fn advance_row(row: &mut [f32], decay: f32, input: f32, b: &[f32], c: &[f32]) -> f32 {
    let (row_lanes, row_rest) = row.as_chunks_mut::<LANES>();
    let ((b_lanes, b_rest), (c_lanes, c_rest)) = (b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for ((row, b), c) in row_lanes.iter_mut().zip(b_lanes).zip(c_lanes) {
        for (((sum, s), b), c) in sums.iter_mut().zip(row).zip(b).zip(c) {
            *s = decay * *s + input * b;
            *sum += *s * c;
        }
    }
    let mut total: f32 = sums.iter().sum();
    for ((s, b), c) in row_rest.iter_mut().zip(b_rest).zip(c_rest) {
        *s = decay * *s + input * b;
        total += *s * c;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The recurrence as the paper has it, in f64 and by index.
    fn exact_step(state: &mut [f64], inputs: Inputs<'_>, head_dim: usize, state_size: usize) -> Vec<f64> {
        let heads = inputs.dt.len();
        let mut y = vec![0.0; heads * head_dim];
        for h in 0..heads {
            let group = h / (heads / inputs.groups);
            for p in 0..head_dim {
                let x = f64::from(inputs.x[h * head_dim + p]);
                for n in 0..state_size {
                    let s = &mut state[(h * head_dim + p) * state_size + n];
                    *s = f64::from(inputs.decay[h]) * *s
                        + f64::from(inputs.dt[h]) * x * f64::from(inputs.b[group * state_size + n]);
                    y[h * head_dim + p] += *s * f64::from(inputs.c[group * state_size + n]);
                }
                y[h * head_dim + p] += f64::from(inputs.d[h]) * x;
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equals_the_recurrence_in_f64(
            groups in 1usize..4, per_group in 1usize..4, head_dim in 1usize..20, state_size in 1usize..50,
            large: bool, seed in 0u32..1000,
        ) {
            let state_size = if large { state_size + 700 } else { state_size }; // shared among threads
            let heads = groups * per_group;
            let wave = |n: usize, k: f32| (0..n).map(|i| ((i as f32 + seed as f32) * k).sin()).collect::<Vec<f32>>();
            let (x, b, c) = (wave(heads * head_dim, 0.3), wave(groups * state_size, 0.5), wave(groups * state_size, 0.7));
            let (dt, d) = (wave(heads, 0.9), wave(heads, 1.1));
            let decay: Vec<f32> = wave(heads, 1.3).iter().map(|v| v.abs()).collect();
            let inputs = Inputs { x: &x, b: &b, c: &c, dt: &dt, decay: &decay, d: &d, groups };
            let mut state = wave(heads * head_dim * state_size, 0.2);
            let mut exact: Vec<f64> = state.iter().map(|v| f64::from(*v)).collect();
            let mut y = vec![f32::NAN; heads * head_dim];

            step(&mut state, inputs, &mut y);
            let want = exact_step(&mut exact, inputs, head_dim, state_size);

            let bound = 4.0 * (state_size as f64 + 4.0) * f64::from(f32::EPSILON);
            for (got, want) in y.iter().zip(&want).chain(state.iter().zip(&exact)) {
                prop_assert!((f64::from(*got) - want).abs() <= bound, "{} for {}", got, want);
            }
        }
    }
}
