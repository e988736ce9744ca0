//! Frozen weights on the host, and back.

use super::{
    qwen3::Qwen3,
    weights::{RowsOfWeight, copy_rows},
};
use crate::{config::Module, error::Result};
use halfbyte::{
    Backend, Float, FrozenWeight, Mat, elements, host,
    ops::{Dequantize, Op},
};

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// A linear layer's weight `[out, in]` as the model holds it; of what is in 4 bits, the values that they mean. None of
    /// the output head.
    ///
    /// # Errors
    /// The device or the host has too little memory.
    pub(crate) fn held(&self, backend: &B, module: Module) -> Result<Option<Vec<f32>>> {
        let Module::Layer(layer, projection) = module else { return Ok(None) };
        let weight = self.layers[layer].linears().into_iter().find_map(|linear| linear.weight_of(projection));
        Ok(match weight {
            None => None,
            Some(RowsOfWeight(FrozenWeight::Dense(weight))) => {
                let [rows, cols] = weight.mat().shape();
                let mut packed = backend.zeros(elements::<T>(&[rows, cols])?)?;
                copy_rows(backend, weight.mat(), packed.mat_mut(rows, cols))?;
                let held = packed.to_vec(backend)?;
                Some(host::collect(held.len(), held.into_iter().map(T::to_f32))?)
            }
            Some(RowsOfWeight(FrozenWeight::Quantized(weight))) => {
                let mut out = backend.zeros::<f32>(weight.rows * weight.cols)?;
                Dequantize { weight, out: out.view_mut() }.run(backend)?;
                Some(out.to_vec(backend)?)
            }
        })
    }

    /// Puts another weight `[out, in]` in the place of an unquantised one, rounded to the compute type. Gives whether
    /// there is one.
    ///
    /// # Errors
    /// It is of another shape, or the device refuses.
    pub(crate) fn hold(&mut self, backend: &B, module: Module, weight: &[f32]) -> Result<bool> {
        let Module::Layer(layer, projection) = module else { return Ok(false) };
        let mut linears = self.layers[layer].linears_mut().into_iter();
        let Some(held) = linears.find_map(|linear| linear.dense_mut(projection)) else { return Ok(false) };
        let packed = backend.upload(&host::collect(weight.len(), weight.iter().map(|&x| T::from_f32(x)))?)?;
        let [rows, cols] = held.shape();
        copy_rows(backend, Mat::new(packed.view(), rows, cols), held)?;
        backend.synchronize()?; // ops may read it early (`Linear::settled`)
        Ok(true)
    }
}
