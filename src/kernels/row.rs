//! One row times matrices: every weight is read once, which is what the products cost. What comes before and after them is
//! done in the same parallel region: by each thread for itself, or to its own outputs.

use half::{bf16, f16};

use super::blocks::{self, Activations};
use super::isa::{FAR, Isa, prefetch};
use super::matrix::{Matrix, Precision, WeightType};
use super::panels::{self, Element, PANEL};
use super::pool::{self, Filling, Fresh, Parts, Stage};
use super::rows::{add_to_scaled_row, multiply_row, rms_norm, square_relu_row, swiglu_row};
use super::scratch::Scratch;

/// So many bytes of weights are worth a part of a parallel region: a quarter of a microsecond.
const PART: usize = 4 << 10;

/// A row on its way to products, and the norm that is left to them.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// `[n_in]`.
    pub x: &'a [f32],
    /// Comes before all products.
    pub norm: Option<Norm<'a>>,
}

/// `x` over the root of its mean square, times a weight.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// As wide as the row, or as each of equal parts of it that have norms of their own.
    pub weight: &'a [f32],
    /// What is added to the mean of the squares.
    pub eps: f32,
}

/// A matrix, and what its outputs become after another.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// The weights.
    pub matrix: &'a Matrix,
    /// How a row meets blocks.
    pub precision: Precision,
    /// What outputs are added to, `[n_out]`.
    pub bias: Option<&'a [f32]>,
    /// What they are multiplied by, `[n_out]`.
    pub multipliers: Option<&'a [f32]>,
    /// What they are added to at last.
    pub residual: Option<Residual<'a>>,
}

/// What outputs are added to: they become `x + y · factor`.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// `[n_out]`.
    pub x: &'a [f32],
    /// What they are multiplied by.
    pub factor: f32,
}

/// A feed-forward layer: `down(silu(gate(x) · factor) · up(x))`, or `down(relu(up(x))²)` without a gate.
#[derive(Clone, Copy, Debug)]
pub struct Mlp<'a> {
    /// The gate, which has as many outputs as `up`, and its factor.
    pub gate: Option<(Product<'a>, f32)>,
    /// The inner numbers.
    pub up: Product<'a>,
    /// The outputs.
    pub down: Product<'a>,
}

/// A feed-forward layer behind another one, on what that adds to the residual stream: `x + mlp(norm(x)) · factor`.
#[derive(Clone, Copy, Debug)]
pub struct Then<'a> {
    /// Comes before it.
    pub norm: Norm<'a>,
    /// The layer, whose last product has no residual of its own.
    pub mlp: Mlp<'a>,
    /// What its answer is multiplied by.
    pub factor: f32,
}

/// What a layer's region ends with.
#[derive(Clone, Copy, Debug)]
pub struct Tail<'a> {
    /// The layer's last product.
    pub product: Product<'a>,
    /// What the region goes on with.
    pub then: Option<Then<'a>>,
}

impl<'a> Input<'a> {
    /// The row with its norm, where it has one.
    fn normed(self, isa: Isa) -> Option<Scratch> {
        let Norm { weight, eps } = self.norm?;
        let mut y = Scratch::new(self.x.len());
        rms_norm(isa, self.x, weight, eps, &mut y);
        Some(y)
    }

    /// The same, or the row as it is.
    pub fn to_normed(self, isa: Isa) -> Vec<f32> {
        self.normed(isa).as_deref().unwrap_or(self.x).to_vec()
    }
}

impl<'a> From<&'a [f32]> for Input<'a> {
    fn from(x: &'a [f32]) -> Self {
        Self { x, norm: None }
    }
}

/// A row as matrices meet it.
struct Row<'a> {
    isa: Isa,
    x: &'a [f32],
    normed: Option<Scratch>,
    /// The same, where it meets blocks.
    quantized: Option<Activations>,
}

impl<'a> Row<'a> {
    fn new(products: &[Product<'_>], isa: Isa, input: Input<'a>) -> Self {
        assert!(products.iter().all(|product| product.matrix.n_in() == input.x.len()), "matrices of as many inputs");
        let isa = isa.min(Isa::best());
        let is_rounded = |own: &Product<'_>| own.matrix.dtype().is_blocks() && own.precision == Precision::Fast;
        let mut row = Self { isa, x: input.x, normed: input.normed(isa), quantized: None };
        row.quantized = products.iter().any(is_rounded).then(|| Activations::quantize(row.numbers()));
        row
    }

    fn numbers(&self) -> &[f32] {
        self.normed.as_deref().unwrap_or(self.x)
    }
}

impl<'a> Product<'a> {
    /// The products as they are.
    pub fn plain(matrix: &'a Matrix, precision: Precision) -> Self {
        Self { matrix, precision, bias: None, multipliers: None, residual: None }
    }

    /// The outputs yet to come, and how many panels of them are worth a part of a parallel region.
    pub(super) fn outputs(&self) -> (Fresh, usize) {
        (Fresh::new(self.matrix.n_out(), PANEL), least(&[*self]))
    }

    /// Fills parts of the outputs: the number of the first panel, and numbers that are zero before.
    pub(super) fn fill<'p>(&self, isa: Isa, input: Input<'_>, parts: impl Iterator<Item = (usize, &'p mut [f32])>) {
        let mut parts = parts.peekable();
        if let Some((first, y)) = parts.peek() {
            self.ask_for(*first, y.len());
        }
        let row = Row::new(&[*self], isa, input);
        let mut next = parts.peek().map(|(first, _)| *first);
        for (first, y) in parts {
            if next != Some(first) {
                self.ask_for(first, y.len());
            }
            self.of(&row, first, y);
            next = Some(first + y.len().div_ceil(PANEL));
        }
    }

    /// Asks for the first weights of some outputs, which kernels ask for only further ahead; of the first two panels, since
    /// those of blocks meet a row two by two.
    fn ask_for(&self, first: usize, outputs: usize) {
        let panels = self.matrix.panels(first, outputs.div_ceil(PANEL).min(2));
        for panel in panels.chunks(self.matrix.panel_bytes().max(1)) {
            let (lines, _) = panel.as_chunks::<64>();
            lines.iter().take(FAR / 2 / 64).for_each(prefetch::<0, _>);
        }
    }

    /// Some outputs, from the panel `first` on, which are zero before.
    fn of(&self, row: &Row<'_>, first: usize, y: &mut [f32]) {
        let (matrix, isa, own) = (self.matrix, row.isa, first * PANEL..first * PANEL + y.len());
        let panels = matrix.panels(first, y.len().div_ceil(PANEL));
        match (matrix.dtype(), &row.quantized) {
            (WeightType::F32, _) => panels_times::<f32>(isa, bytemuck::cast_slice(panels), row.numbers(), y),
            (WeightType::F16, _) => panels_times::<f16>(isa, bytemuck::cast_slice(panels), row.numbers(), y),
            (WeightType::Bf16, _) => panels_times::<bf16>(isa, bytemuck::cast_slice(panels), row.numbers(), y),
            (WeightType::Blocks(format), Some(x)) if self.precision == Precision::Fast => {
                blocks::rows_times(isa, format, panels, x, y);
            }
            (WeightType::Blocks(format), _) => blocks::rows_times_f32(isa, format, panels, row.numbers(), y),
        }
        let of = |all: &'a [f32]| all.get(own.clone()).unwrap_or_default();
        if let Some(bias) = self.bias {
            add_to_scaled_row(isa, of(bias), 1.0, y);
        }
        if let Some(multipliers) = self.multipliers {
            multiply_row(isa, of(multipliers), y);
        }
        if let Some(Residual { x, factor }) = self.residual {
            add_to_scaled_row(isa, of(x), factor, y);
        }
    }
}

/// So many panels of matrices side by side are worth a part of a parallel region.
fn least(products: &[Product<'_>]) -> usize {
    let panel = products.iter().map(|product| product.matrix.panel_bytes()).max().unwrap_or_default();
    PART.div_ceil(panel.max(1))
}

/// One row times some panels of a plain type.
fn panels_times<T: Element>(isa: Isa, panels: &[T], x: &[f32], y: &mut [f32]) {
    for (panel, y) in panels.chunks_exact(panels::panel_len::<T>(x.len()).max(1)).zip(y.chunks_mut(PANEL)) {
        y.iter_mut().zip(panels::times(isa, panel, x)).for_each(|(y, sum)| *y = sum);
    }
}

/// What each of several products, which have as many inputs, makes of a row: of each `[n_out]`.
pub fn times_all<const N: usize>(products: [Product<'_>; N], isa: Isa, input: Input<'_>) -> [Vec<f32>; N] {
    let outputs = products.map(|product| product.outputs().0);
    pool::fill((outputs, least(&products)), |parts| {
        let row = Row::new(&products, isa, input);
        for (_, outputs) in parts {
            for (product, (first, y)) in products.iter().zip(outputs) {
                product.of(&row, first, y);
            }
        }
    })
}

/// `x` `[n_in]` times the transpose of a matrix, on this thread: `y` `[n_out]`, which is zero before.
pub(super) fn times_here(matrix: &Matrix, isa: Isa, x: &[f32], precision: Precision, y: &mut [f32]) {
    Product::plain(matrix, precision).fill(isa, x.into(), std::iter::once((0, y)));
}

impl Mlp<'_> {
    /// The inner numbers yet to come, and how many panels of them are worth a part of a parallel region.
    fn inner(&self) -> (Fresh, usize) {
        let gate = self.gate.map_or(self.up, |(gate, _)| gate);
        assert_eq!(gate.matrix.n_out(), self.up.matrix.n_out(), "matrices of one size");
        (self.up.outputs().0, least(&[gate, self.up]))
    }

    /// Fills parts of the inner numbers.
    fn fill_inner<'p>(&self, isa: Isa, input: Input<'_>, parts: impl Iterator<Item = (usize, &'p mut [f32])>) {
        let products = [self.gate.map_or(self.up, |(gate, _)| gate), self.up];
        let row = Row::new(&products, isa, input);
        for (first, ups) in parts {
            self.up.of(&row, first, ups);
            let Some((gate, factor)) = self.gate else {
                square_relu_row(isa, ups);
                continue;
            };
            let mut gates = Scratch::zeros(ups.len());
            gate.of(&row, first, &mut gates);
            swiglu_row(isa, &gates, factor, ups);
        }
    }
}

/// What a feed-forward layer makes of a row, in one parallel region.
///
/// # Panics
/// The gate has not as many outputs as `up`.
pub fn mlp(mlp: Mlp<'_>, isa: Isa, input: Input<'_>) -> Vec<f32> {
    let (inner, y) = (Filling::new(mlp.inner()), Filling::new(mlp.down.outputs()));
    pool::region(&[
        &inner.by(|parts| mlp.fill_inner(isa, input, parts)),
        &y.by(|parts| mlp.down.fill(isa, inner.whole().into(), parts)),
    ]);
    y.filled()
}

impl<'a> Then<'a> {
    /// What the layer makes of `x`, in a parallel region of its own.
    pub fn after(&self, isa: Isa, x: &[f32]) -> Vec<f32> {
        mlp(Mlp { down: self.onto(x), ..self.mlp }, isa, self.input(x))
    }

    fn input<'x>(&self, x: &'x [f32]) -> Input<'x>
    where
        'a: 'x,
    {
        Input { x, norm: Some(self.norm) }
    }

    /// The last product, which is added to `x`.
    fn onto<'x>(&self, x: &'x [f32]) -> Product<'x>
    where
        'a: 'x,
    {
        Product { residual: Some(Residual { x, factor: self.factor }), ..self.mlp.down }
    }
}

impl Tail<'_> {
    /// Goes through the stages `before`, the layer's last product, which `fill` makes, and what comes after it, in one parallel
    /// region.
    pub(super) fn behind(
        &self,
        isa: Isa,
        before: &[&dyn Stage],
        fill: impl Fn(&mut Parts<'_, '_, Fresh>) + Sync,
    ) -> Vec<f32> {
        let x = Filling::new(self.product.outputs());
        let product = x.by(fill);
        let Some(then) = self.then else {
            pool::region(&[before, &[&product]].concat());
            return x.filled();
        };
        let (inner, y) = (Filling::new(then.mlp.inner()), Filling::new(then.mlp.down.outputs()));
        let fill_inner = inner.by(|parts| then.mlp.fill_inner(isa, then.input(x.whole()), parts));
        let down = y.by(|parts| then.onto(x.whole()).fill(isa, inner.whole().into(), parts));
        pool::region(&[before, &[&product, &fill_inner, &down]].concat());
        y.filled()
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::kernels::blocks::Format;
    use crate::kernels::matrix::tests::{matrix, wave};
    use crate::kernels::pool::Pool;
    use crate::kernels::rows::swiglu;

    /// Outputs by themselves, and then what becomes of them, each by its definition.
    fn one_by_one(product: &Product<'_>, x: &[f32]) -> Vec<f32> {
        let y = product.matrix.times(Isa::best(), x, product.precision);
        let of = |all: Option<&[f32]>, at: usize, none: f32| all.map_or(none, |all| all[at]);
        let becomes = |(at, y): (usize, f32)| {
            let y = (y + of(product.bias, at, 0.0)) * of(product.multipliers, at, 1.0);
            product.residual.map_or(y, |Residual { x, factor }| x[at] + y * factor)
        };
        y.into_iter().enumerate().map(becomes).collect()
    }

    fn assert_close(got: &[f32], want: &[f32]) {
        let far = got.iter().zip(want).find(|(got, want)| (**got - **want).abs() > 1e-5 * want.abs().max(1.0));
        assert_eq!((got.len(), far), (want.len(), None));
    }

    #[test]
    fn a_row_s_products_take_along_what_comes_before_and_after_them() {
        let (n_in, n_out) = (37, 1030);
        let (first, second) = (matrix(WeightType::Bf16, n_out, n_in), matrix(WeightType::F16, n_out, n_in));
        let [x, weight] = [0.73, 0.31].map(|k| wave(n_in, k));
        let [bias, multipliers, residual] = [0.9, 0.57, 0.2].map(|k| wave(n_out, k));
        let input = Input { x: &x, norm: Some(Norm { weight: &weight, eps: 1e-5 }) };
        let mut normed = vec![0.0; n_in];
        rms_norm(Isa::best(), &x, &weight, 1e-5, &mut normed);
        let [first, second] = [&first, &second].map(|matrix| Product::plain(matrix, Precision::Fast));
        let first = Product { bias: Some(&bias), multipliers: Some(&multipliers), ..first };
        let second = Product { residual: Some(Residual { x: &residual, factor: 0.3 }), ..second };
        let got = Pool::new(3).unwrap().install(|| times_all([first, second], Isa::best(), input));
        for (got, product) in got.iter().zip([first, second]) {
            assert_close(got, &one_by_one(&product, &normed));
        }
    }

    #[test]
    fn a_feed_forward_layer_is_its_products_one_after_the_other() {
        let (n_in, n_inner, pool) = (64, 1030, Pool::new(3).unwrap());
        let [up, gate] = [WeightType::Bf16, WeightType::F16].map(|dtype| matrix(dtype, n_inner, n_in));
        let (down, bias) = (matrix(WeightType::Bf16, 200, n_inner), wave(n_inner, 0.41));
        let [x, residual] = [wave(n_in, 0.73), wave(200, 0.2)];
        let [up, gate, down] = [&up, &gate, &down].map(|matrix| Product::plain(matrix, Precision::Fast));
        let (up, gate) = (Product { bias: Some(&bias), ..up }, Product { bias: Some(&bias), ..gate });
        let down = Product { residual: Some(Residual { x: &residual, factor: 0.3 }), ..down };
        let run = |gate| pool.install(|| mlp(Mlp { gate, up, down }, Isa::best(), Input::from(&*x)));

        let mut inner = one_by_one(&up, &x);
        let squares: Vec<f32> = inner.iter().map(|y| y.max(0.0).powi(2)).collect();
        assert_close(&run(None), &one_by_one(&down, &squares));
        swiglu(Isa::best(), &one_by_one(&gate, &x), 0.5, &mut inner);
        assert_close(&run(Some((gate, 0.5))), &one_by_one(&down, &inner));
    }

    #[test]
    fn a_region_goes_on_from_a_layer_s_last_product_through_a_feed_forward_layer() {
        let (hidden, n_inner, pool) = (200, 1030, Pool::new(3).unwrap());
        let [up, gate] = [WeightType::Bf16, WeightType::F16].map(|dtype| matrix(dtype, n_inner, hidden));
        let (down, last) = (matrix(WeightType::Bf16, hidden, n_inner), matrix(WeightType::F32, hidden, 37));
        let [x, weight, residual] = [(37, 0.73), (hidden, 0.31), (hidden, 0.2)].map(|(count, k)| wave(count, k));
        let [up, gate, down, last] = [&up, &gate, &down, &last].map(|own| Product::plain(own, Precision::Fast));
        let (norm, mlp) = (Norm { weight: &weight, eps: 1e-5 }, Mlp { gate: Some((gate, 0.5)), up, down });
        let last = Product { residual: Some(Residual { x: &residual, factor: 0.3 }), ..last };
        let run = |then| {
            let (ones, given) = (Filling::new((Fresh::new(37, 1), 2)), Filling::new((Fresh::new(37, 1), 2)));
            let tail = Tail { product: last, then };
            let fill_ones = ones.by(|parts| parts.for_each(|(_, y)| y.fill(1.0)));
            let give = given.by(|parts| {
                for (first, y) in parts {
                    let factors = ones.whole()[first..].iter().zip(&x[first..]);
                    y.iter_mut().zip(factors).for_each(|(y, (one, x))| *y = one * x);
                }
            });
            let fill = |parts: &mut Parts<'_, '_, Fresh>| last.fill(Isa::best(), given.whole().into(), parts);
            let y = pool.install(|| tail.behind(Isa::best(), &[&fill_ones, &give], fill));
            assert_eq!(given.whole(), x);
            y
        };
        let y = run(None);
        assert_close(&y, &one_by_one(&last, &x));
        let down = Product { residual: Some(Residual { x: &y, factor: 0.7 }), ..down };
        let input = Input { x: &y, norm: Some(norm) };
        let got = run(Some(Then { norm, mlp, factor: 0.7 }));
        assert_close(&got, &super::mlp(Mlp { down, ..mlp }, Isa::best(), input));
    }

    #[test]
    fn pieces_of_blocks_change_no_bit() {
        let fill = |first: usize, panel: &mut [u8]| {
            (first..).zip(panel).for_each(|(at, byte)| *byte = (at * 37 % 61) as u8);
        };
        let x = wave(512, 0.73);
        for (format, n_out) in [Format::Q8_0, Format::Q4K].into_iter().flat_map(|format| [(format, 16), (format, 1030)])
        {
            let matrix = Matrix::new(WeightType::Blocks(format), n_out, 512, fill).unwrap();
            for precision in [Precision::Fast, Precision::Exact] {
                let product = Product::plain(&matrix, precision);
                let times = || times_all([product], Isa::best(), Input::from(&*x));
                let alone = times();
                assert!(alone[0].iter().any(|y| *y != 0.0));
                for threads in [2, 3, 7, 80] {
                    assert_eq!(Pool::new(threads).unwrap().install(times), alone, "{format:?} {n_out} {threads}");
                }
            }
        }
    }

    #[test]
    fn a_row_meets_blocks_as_the_precision_says() {
        let (n_in, n_out, x) = (64, 100, wave(64, 0.73));
        let fill =
            |first: usize, panel: &mut [u8]| (first..).zip(panel).for_each(|(at, byte)| *byte = (at * 37 % 61) as u8);
        let matrix = Matrix::new(WeightType::Blocks(Format::Q8_0), n_out, n_in, fill).unwrap();
        for isa in Isa::available() {
            let (mut exact, mut fast) = (vec![0.0; n_out], vec![0.0; n_out]);
            let panels = matrix.panels(0, n_out.div_ceil(PANEL));
            blocks::rows_times_f32(isa, Format::Q8_0, panels, &x, &mut exact);
            blocks::rows_times(isa, Format::Q8_0, panels, &Activations::quantize(&x), &mut fast);
            assert_ne!(exact, fast);
            for (precision, want) in [(Precision::Exact, exact), (Precision::Fast, fast)] {
                let product = Product::plain(&matrix, precision);
                assert_eq!(times_all([product], isa, Input::from(&*x)), slice::from_ref(&want));
            }
        }
    }
}
