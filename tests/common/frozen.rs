//! Random frozen weights, dense or in 4 bits.

use super::{
    cases::{Adapted, Product},
    make::Make,
    quantized::Quantized,
    tensor::{Layout, Tensor},
};
use halfbyte::{
    Backend, DenseBuf, Float, FrozenWeight, Mat, MatMut,
    ops::{GatherRows, Op},
    quant::Weight4,
};

/// What an [`Adapted`] product is made with.
pub enum Frozen<B: Backend, T: Float> {
    Quantized(Quantized<B>),
    Dense(DenseBuf<B, T>, Tensor<B, T>),
}

fn copy<B: Backend, T: Float>(backend: &B, table: Mat<'_, B, T>, out: MatMut<'_, B, T>) {
    let rows = backend.upload(&(0..table.shape()[0] as u32).collect::<Vec<_>>()).unwrap();
    GatherRows { table, rows: rows.view(), out }.run(backend).unwrap();
}

impl<B: Backend, T: Float> Frozen<B, T> {
    /// The room around a dense one is full of NaN.
    pub fn random(make: &Make<B>, case: &Adapted) -> Self {
        let Product { outputs, inputs, layout, .. } = case.product;
        let shape = [outputs, inputs];
        let Some(room) = case.dense else {
            return Frozen::Quantized(Quantized::random(make, shape, case.quantization, layout));
        };
        let values = make.normal(shape, Layout::Packed, 0.05);
        let nan = vec![T::from_f32(f32::NAN); (outputs + room) * (inputs + room)];
        let mut weight = DenseBuf::with_room(make.backend.upload(&nan).unwrap(), shape, room);
        copy(make.backend, values.mat(), weight.mat_mut());
        Frozen::Dense(weight, values)
    }

    pub fn weight(&self) -> FrozenWeight<'_, B, T> {
        match self {
            Frozen::Quantized(weight) => FrozenWeight::Quantized(weight.weight()),
            Frozen::Dense(weight, _) => FrozenWeight::Dense(weight.weight()),
        }
    }

    /// Of an op that takes no other.
    pub fn weight4(&self) -> Weight4<'_, B> {
        match self {
            Frozen::Quantized(weight) => weight.weight(),
            Frozen::Dense(..) => panic!("a weight in 4 bits"),
        }
    }

    /// What the op is defined with.
    pub fn exact(&self) -> Vec<f64> {
        match self {
            Frozen::Quantized(weight) => weight.exact::<T>(),
            Frozen::Dense(_, values) => values.to_f64(),
        }
    }

    /// Fails when an op wrote to the weight itself.
    pub fn assert_kept(&self, backend: &B, name: &str) {
        let Frozen::Dense(weight, values) = self else { return };
        let [rows, cols] = weight.shape();
        let mut now = backend.zeros(rows * cols).unwrap();
        copy(backend, weight.weight().mat(), now.mat_mut(rows, cols));
        let now = now.to_vec(backend).unwrap();
        let [now, want] = [&now[..], values.values()].map(bytemuck::cast_slice::<T, u8>);
        assert!(now == want, "{name}: W was written");
    }
}
