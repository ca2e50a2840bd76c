//! How layers ask for their tensors: by name and shape, from whatever holds them.

use candle_core::{DType, Device, Tensor};

use super::linear::Weight;
use super::ops::{self, Orientation, PerHead};
use crate::kernels::blocks::Format;
use crate::kernels::matrix::{Precision, WeightType};

use crate::error::{Error, Result};

/// Something that holds a model's tensors under the names of the native format.
pub trait TensorSource {
    /// The tensor in its storage type (f32, f16 or bf16) on `device`, or nothing where there is none of that name.
    ///
    /// # Errors
    /// The tensor is there but has another shape or an unsupported type, or it can't be read.
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Option<Tensor>>;

    /// The matrix [n_out, n_in] for the kernels of `device`, in the type `wanted` or as stored, or nothing where there is
    /// none of that name.
    ///
    /// # Errors
    /// Those of [`TensorSource::tensor`], or there is no memory for it.
    fn matrix(
        &self,
        name: &str,
        (n_out, n_in): (usize, usize),
        wanted: Option<WeightType>,
        device: &Device,
    ) -> Result<Option<Weight>> {
        let tensor = self.tensor(name, &[n_out, n_in], &Device::Cpu)?;
        tensor.map(|tensor| ops::hold(&tensor, wanted, device)).transpose()
    }

    /// The matrices of the tensor [heads · out, in], for the kernels of `device` and held as `settings` say, once in each of
    /// the `orientations`, or nothing where there is none of that name.
    ///
    /// # Errors
    /// Those of [`TensorSource::matrix`].
    fn per_head(
        &self,
        name: &str,
        [heads, n_out, n_in]: [usize; 3],
        orientations: &[Orientation],
        settings: Settings,
        device: &Device,
    ) -> Result<Option<Vec<PerHead>>> {
        let Some(w) = self.tensor(name, &[heads * n_out, n_in], device)? else { return Ok(None) };
        let w = w.reshape((heads, n_out, n_in))?;
        orientations.iter().map(|orientation| PerHead::new(&w, *orientation, settings)).collect::<Result<_>>().map(Some)
    }

    /// The error for a tensor that must be there and is not.
    fn missing(&self, name: &str, shape: &[usize]) -> Error;
}

/// How weights are held and multiplied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// The type of matrices in memory; none: as stored.
    pub dtype: Option<WeightType>,
    /// How exactly activations meet them.
    pub precision: Precision,
}

impl Settings {
    /// As stored, with f32 activations.
    pub const EXACT: Self = Self { dtype: None, precision: Precision::Exact };
}

/// The tensors of one part of a model: a source and the prefix of that part's names.
#[derive(Clone)]
pub struct Weights<'a> {
    source: &'a dyn TensorSource,
    device: &'a Device,
    settings: Settings,
    prefix: String,
}

impl<'a> Weights<'a> {
    /// All tensors of `source`, to be put on `device`.
    pub fn new(source: &'a dyn TensorSource, device: &'a Device, settings: Settings) -> Self {
        Self { source, device, settings, prefix: String::new() }
    }

    /// How exactly activations meet weights.
    pub fn precision(&self) -> Precision {
        self.settings.precision
    }

    /// The same weights, held and multiplied as exactly as they are stored.
    pub fn exact(&self) -> Self {
        Self { settings: Settings::EXACT, ..self.clone() }
    }

    /// The same weights, held as they are stored.
    pub fn as_stored(&self) -> Self {
        Self { settings: Settings { dtype: None, ..self.settings }, ..self.clone() }
    }

    /// The same weights, those that would have five bits or fewer in six: what every token passes through, embedding and
    /// head, is worth them.
    pub fn finer(&self) -> Self {
        let dtype = match self.settings.dtype {
            Some(WeightType::Blocks(Format::Q4K | Format::Q5K)) => Some(WeightType::Blocks(Format::Q6K)),
            dtype => dtype,
        };
        Self { settings: Settings { dtype, ..self.settings }, ..self.clone() }
    }

    /// A matrix [n_out, n_in] that must be there.
    pub fn matrix(&self, name: &str, n_out: usize, n_in: usize) -> Result<Weight> {
        let missing = || self.source.missing(&self.full_name(name), &[n_out, n_in]);
        self.matrix_if_present(name, n_out, n_in)?.ok_or_else(missing)
    }

    /// A matrix [n_out, n_in] that may be there.
    pub fn matrix_if_present(&self, name: &str, n_out: usize, n_in: usize) -> Result<Option<Weight>> {
        self.source.matrix(&self.full_name(name), (n_out, n_in), self.settings.dtype, self.device)
    }

    /// The matrices of a tensor [heads · out, in] that must be there, once in each of the `orientations`.
    pub fn per_head<const N: usize>(
        &self,
        name: &str,
        sizes: [usize; 3],
        orientations: [Orientation; N],
    ) -> Result<[PerHead; N]> {
        let [heads, n_out, n_in] = sizes;
        let missing = || self.source.missing(&self.full_name(name), &[heads * n_out, n_in]);
        let found = self.source.per_head(&self.full_name(name), sizes, &orientations, self.settings, self.device)?;
        found.and_then(|found| found.try_into().ok()).ok_or_else(missing)
    }

    /// The part named `part`.
    pub fn part(&self, part: impl std::fmt::Display) -> Self {
        Self { prefix: self.full_name(&format!("{part}.")), ..self.clone() }
    }

    /// Where the tensors go.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// A tensor that must be there, in its storage type.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.get_if_present(name, shape)?.ok_or_else(|| self.source.missing(&self.full_name(name), shape))
    }

    /// A tensor that may be there, in its storage type.
    pub fn get_if_present(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        self.source.tensor(&self.full_name(name), shape, self.device)
    }

    /// A tensor that must be there, as f32: norms, biases and the small parameters of the state-space layers.
    pub fn get_f32(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Ok(self.get(name, shape)?.to_dtype(DType::F32)?)
    }

    /// A tensor that may be there, as f32.
    pub fn get_f32_if_present(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let tensor = self.get_if_present(name, shape)?;
        Ok(tensor.map(|tensor| tensor.to_dtype(DType::F32)).transpose()?)
    }

    /// A norm's weight or bias: warned of where it holds a NaN or an infinity, since every logit is then NaN.
    pub fn warn_if_not_finite(&self, name: &str, values: &Tensor) -> Result<()> {
        let values = values.flatten_all()?.to_vec1::<f32>()?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            tracing::warn!(
                "{}[{at}] is not a finite number: what the model says will be meaningless",
                self.full_name(name)
            );
        }
        Ok(())
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
