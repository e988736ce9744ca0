//! Weights that no op changes.

use crate::{
    backend::Backend,
    buffer::{Buf, Mat, MatMut, Storage, View},
    element::{Float, elements},
    error::Result,
    ops::Check,
    quant::Weight4,
};
use std::ops::Range;

/// A weight `[out, in]` that is not trained.
#[derive(Debug)]
pub enum FrozenWeight<'a, B: Storage, T: Float> {
    /// In 4 bits.
    Quantized(Weight4<'a, B>),
    /// In the compute type.
    Dense(DenseWeight<'a, B, T>),
}

impl<B: Storage, T: Float> Clone for FrozenWeight<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Storage, T: Float> Copy for FrozenWeight<'_, B, T> {}

impl<B: Storage, T: Float> FrozenWeight<'_, B, T> {
    /// Outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            FrozenWeight::Quantized(weight) => [weight.rows, weight.cols],
            FrozenWeight::Dense(weight) => weight.mat.shape(),
        }
    }

    pub(crate) fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        match self {
            FrozenWeight::Quantized(weight) => weight.verify(check),
            FrozenWeight::Dense(weight) => check.mat("weight", &weight.mat, weight.mat.shape()),
        }
    }
}

/// A dense weight `[out, in]`, perhaps with room around it ([`DenseBuf`]).
#[derive(Debug)]
pub struct DenseWeight<'a, B: Storage, T: Float> {
    mat: Mat<'a, B, T>,
    room: usize,
    settled: bool,
}

impl<B: Storage, T: Float> Clone for DenseWeight<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Storage, T: Float> Copy for DenseWeight<'_, B, T> {}

impl<'a, B: Storage, T: Float> DenseWeight<'a, B, T> {
    /// The weight alone.
    pub fn mat(self) -> Mat<'a, B, T> {
        self.mat
    }

    /// Says of it what [`crate::ops::Linear::settled`] says.
    pub fn settled(self) -> Self {
        DenseWeight { settled: true, ..self }
    }

    pub(crate) fn is_settled(self) -> bool {
        self.settled
    }

    /// So many columns behind the weight's and so many rows below them are scratch of ops.
    pub(crate) fn room(self) -> usize {
        self.room
    }
}

/// Without room.
impl<'a, B: Storage, T: Float> From<Mat<'a, B, T>> for DenseWeight<'a, B, T> {
    fn from(mat: Mat<'a, B, T>) -> Self {
        DenseWeight { mat, room: 0, settled: false }
    }
}

/// A dense weight's memory, with room around it: columns behind its rows and as many rows below, in which ops put factors of
/// adapters, so that one product takes both ([`crate::ops::LoraLinear`]).
///
/// Only ops see the room, and each fills what it reads of it; so they do that to a weight that is merely borrowed.
///
/// ```
/// use halfbyte::{Backend, Cpu, DenseBuf, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, values, rows) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[3_f32, 4.0, 5.0, 6.0])?, cpu.upload(&[0, 1])?);
/// let mut weight = DenseBuf::zeros(&cpu, [2, 2], LORA_ROOM)?;
/// GatherRows { table: values.mat(2, 2), rows: rows.view(), out: weight.mat_mut() }.run(&cpu)?;
/// let mut out = cpu.zeros::<f32>(2)?;
/// let (x, weight) = (x.mat(1, 2), weight.weight().mat());
/// Linear { x, weight, out: out.mat_mut(1, 2), accumulate: false, settled: false }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [11.0, 17.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct DenseBuf<B: Storage, T: Float> {
    /// `[out + room, in + room]`
    buf: Buf<B, T>,
    shape: [usize; 2],
    room: usize,
}

impl<B: Storage, T: Float> DenseBuf<B, T> {
    /// `buf`, `[out, in]`, as it is: without room. Panics when it has another length.
    pub fn new(buf: Buf<B, T>, shape: [usize; 2]) -> Self {
        Self::with_room(buf, shape, 0)
    }

    /// `buf`, `[out + room, in + room]`, as it is. Panics when it has another length.
    pub fn with_room(buf: Buf<B, T>, shape: [usize; 2], room: usize) -> Self {
        let [rows, cols] = shape.map(|len| len.checked_add(room));
        let len = rows.zip(cols).and_then(|(rows, cols)| rows.checked_mul(cols));
        assert_eq!(Some(buf.len()), len, "a buffer for {shape:?} and room for {room}");
        DenseBuf { buf, shape, room }
    }

    /// The weight.
    pub fn weight(&self) -> DenseWeight<'_, B, T> {
        let DenseBuf { shape: [rows, cols], room, .. } = *self;
        DenseWeight { mat: self.buf.mat(rows, cols + room).columns(0..cols), room, settled: false }
    }

    /// The weight as it lies in memory. Panics when there is room around it.
    pub fn packed(&self) -> View<'_, B, T> {
        assert_eq!(self.room, 0, "a weight without gaps");
        self.buf.view()
    }

    /// Some rows of the weight, for which there is no room. Panics when `range` is outside.
    pub fn rows(&self, range: Range<usize>) -> DenseWeight<'_, B, T> {
        self.weight().mat.rows(range).into()
    }

    /// The weight, to write.
    pub fn mat_mut(&mut self) -> MatMut<'_, B, T> {
        let DenseBuf { shape: [rows, cols], room, .. } = *self;
        self.buf.mat_mut(rows, cols + room).columns(0..cols)
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// So many columns behind the weight's, and rows below them.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Elements of weight and room.
    #[expect(clippy::len_without_is_empty, reason = "what it takes, not what it holds")]
    pub fn len(&self) -> usize {
        self.buf.len()
    }
}

impl<B: Backend, T: Float> DenseBuf<B, T> {
    /// Zeros.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn zeros(backend: &B, shape: [usize; 2], room: usize) -> Result<Self> {
        let more = shape.map(|len| len.saturating_add(room));
        Ok(Self::with_room(backend.zeros(elements::<T>(&more)?)?, shape, room))
    }
}
