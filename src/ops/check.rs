//! An op, and the check of its arguments.

use crate::{
    buffer::{Mat, MatMut, Storage, View, ViewMut},
    element::Element,
    error::{Error, Result},
    quant::{BLOCK_SIZES, GROUP, Scales, Weight4, n_blocks},
};

/// An op whose arguments have been verified. [`Op::check`] is the only way to make one.
#[derive(Debug)]
pub struct Checked<O>(O);

impl<O> Checked<O> {
    pub(crate) fn get(&self) -> &O {
        &self.0
    }

    /// The verified op, for the backend that runs it.
    pub fn into_inner(self) -> O {
        self.0
    }
}

/// How an op is called, and how a backend runs it: made from the list of all ops in `backend.rs`.
pub trait Launch<B: Storage>: Sized {
    /// The op's name, as in errors, files, kernels and benches.
    const NAME: &'static str;

    /// Hands a verified op to its backend.
    fn launch(op: Checked<Self>, backend: &B) -> Result<()>;
}

/// Multiplications and additions of a product of so many rows, columns and terms.
pub(super) fn product_flops(dims: [usize; 3]) -> f64 {
    2.0 * dims.iter().map(|&d| d as f64).product::<f64>()
}

/// An op on memory of `B`.
pub trait Op<B: Storage>: Sized {
    /// Finds the first argument that does not fit the others or is not the backend's. Must look at every view of the
    /// op: what it does not show to `check` is not known to be the backend's.
    fn verify(&self, check: &Check<'_, B>) -> Result<()>;

    /// Multiplications and additions of its matrix products; 0 where there are none, or where only the device knows.
    fn flops(&self) -> f64 {
        0.0
    }

    /// Verifies the arguments.
    fn check(self, backend: &B) -> Result<Checked<Self>>
    where
        Self: Launch<B>,
    {
        self.verify(&Check::new(Self::NAME, backend))?;
        Ok(Checked(self))
    }

    /// Verifies the arguments and runs the op.
    fn run(self, backend: &B) -> Result<()>
    where
        Self: Launch<B>,
    {
        Self::launch(self.check(backend)?, backend)
    }
}

/// The largest dimension, length or stride that kernels take: positions inside one row fit 32 bits.
const MAX_DIM: usize = i32::MAX as usize;

// What `verify` multiplies are two dimensions that `Check::dims` has seen: the product must fit.
const _: () = assert!(usize::BITS >= 64, "halfbyte needs a 64-bit machine");

/// The argument checks of one op on one backend.
#[derive(Debug)]
pub struct Check<'b, B: Storage> {
    op: &'static str,
    backend: &'b B,
}

impl<'b, B: Storage> Check<'b, B> {
    pub(crate) fn new(op: &'static str, backend: &'b B) -> Self {
        Check { op, backend }
    }

    pub(crate) fn value(&self, ok: bool, arg: &'static str, got: impl ToString, want: &'static str) -> Result<()> {
        if ok { Ok(()) } else { Err(Error::Value { op: self.op, arg, got: got.to_string(), want }) }
    }

    fn admit(&self, arg: &'static str, owner: &B::Owner) -> Result<()> {
        if self.backend.admit(owner)? { Ok(()) } else { Err(Error::Foreign { op: self.op, arg }) }
    }

    /// A view of any length.
    pub(crate) fn view<T: Element>(&self, arg: &'static str, view: &View<'_, B, T>) -> Result<()> {
        self.admit(arg, view.owner())
    }

    /// A view of any length, to write.
    pub(crate) fn view_mut<T: Element>(&self, arg: &'static str, view: &ViewMut<'_, B, T>) -> Result<()> {
        self.admit(arg, view.owner())
    }

    pub(crate) fn len<T: Element>(&self, arg: &'static str, view: &View<'_, B, T>, want: usize) -> Result<()> {
        self.view(arg, view)?;
        self.length(arg, view.len(), want)
    }

    pub(crate) fn len_mut<T: Element>(&self, arg: &'static str, view: &ViewMut<'_, B, T>, want: usize) -> Result<()> {
        self.view_mut(arg, view)?;
        self.length(arg, view.len(), want)
    }

    fn length(&self, arg: &'static str, got: usize, want: usize) -> Result<()> {
        if got == want { Ok(()) } else { Err(Error::Len { op: self.op, arg, got, want }) }
    }

    pub(crate) fn mat<T: Element>(&self, arg: &'static str, mat: &Mat<'_, B, T>, want: [usize; 2]) -> Result<()> {
        self.view(arg, &mat.view)?;
        self.shape(arg, mat.shape(), mat.stride, want)
    }

    pub(crate) fn mat_mut<T: Element>(
        &self,
        arg: &'static str,
        mat: &MatMut<'_, B, T>,
        want: [usize; 2],
    ) -> Result<()> {
        self.view_mut(arg, &mat.view)?;
        self.shape(arg, mat.shape(), mat.stride, want)
    }

    fn shape(&self, arg: &'static str, got: [usize; 2], stride: usize, want: [usize; 2]) -> Result<()> {
        if got != want {
            return Err(Error::Shape { op: self.op, arg, got, want });
        }
        self.dims(&[got[0], got[1], stride])
    }

    /// Every dimension is something that kernels can count to.
    pub(crate) fn dims(&self, dims: &[usize]) -> Result<()> {
        match dims.iter().find(|&&d| d > MAX_DIM) {
            Some(d) => self.value(false, "a dimension", d, "dimensions must be below 2^31"),
            None => Ok(()),
        }
    }

    /// Kernels know the block sizes that bitsandbytes writes.
    pub(crate) fn block_size(&self, size: usize) -> Result<()> {
        self.value(BLOCK_SIZES.contains(&size), "the block size", size, "it must be a power of two from 32 to 4096")
    }
}

impl<B: Storage> Weight4<'_, B> {
    pub(crate) fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        check.dims(&[self.rows, self.cols])?;
        check.block_size(self.block_size)?;
        let len = self.rows * self.cols;
        let blocks = n_blocks(len, self.block_size);
        check.len("weight.codes", &self.codes, len.div_ceil(2))?;
        match &self.scales {
            Scales::Plain(absmax) => check.len("weight.absmax", absmax, blocks),
            Scales::Nested { codes, groups } => {
                check.len("weight.absmax", codes, blocks)?;
                check.len("weight.nested_absmax", groups, blocks.div_ceil(GROUP))
            }
        }
    }
}
