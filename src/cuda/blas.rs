//! Large matrix products by cuBLASLt, where it is installed.
//!
//! cuBLASLt counts by columns: a row-major `[n, m]` is its `[m, n]`. So `out = x B` is asked for as
//! `outᵀ = Bᵀ xᵀ`: its A is the weight, its B is `x`.
#![allow(unsafe_code)]

mod algorithm;

use crate::{
    element::DType,
    error::{Error, Result},
};
use core::ffi::c_void;
use cudarc::{
    cublaslt::{
        result::{self, CublasError},
        sys,
    },
    driver::CudaStream,
};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};

/// Bytes of workspace: what NVIDIA recommends for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;
/// The alignment that is promised for every matrix, in bytes.
static ALIGNMENT: u32 = 16;

/// cuBLASLt, looked for at the first large product.
#[derive(Default)]
pub(super) struct Blas(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    Absent,
    Open(Library),
}

struct Library {
    plans: Plans,
    handle: Handle,
}

/// An open library.
struct Handle(sys::cublasLtHandle_t);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: `Library::open` made it. An error would say that it did not.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

// SAFETY: cuBLASLt's handles and descriptors belong to no thread; `Blas`'s lock lets one thread at a time use them.
unsafe impl Send for Library {}

/// `out (+)= x B`: `x` `[n, k]`, `out` `[n, m]`, `B` the transpose of a weight `[m, k]`; in a gradient a weight
/// `[k, m]`. All that the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BlasShape {
    pub(super) grad: bool,
    /// `x` is `[k, n]`: a sum over tokens.
    pub(super) x_transposed: bool,
    pub(super) accumulate: bool,
    pub(super) n: usize,
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) x_stride: usize,
    pub(super) weight_stride: usize,
    pub(super) out_stride: usize,
    pub(super) input: DType,
    pub(super) output: DType,
}

impl BlasShape {
    fn square(n: usize) -> Self {
        let dtype = DType::Bf16;
        BlasShape {
            grad: false,
            x_transposed: false,
            accumulate: false,
            n,
            m: n,
            k: n,
            x_stride: n,
            weight_stride: n,
            out_stride: n,
            input: dtype,
            output: dtype,
        }
    }
}

/// The matrices of one product. All begin at 16 bytes, and so do their rows.
#[derive(Clone, Copy)]
pub(super) struct BlasPointers {
    pub(super) x: *const c_void,
    pub(super) weight: *const c_void,
    pub(super) out: *mut c_void,
}

/// Plans by what they are for; none where cuBLASLt has no algorithm. Training on sequences of all lengths asks for more
/// and more shapes, so the plans that were made first go first. One that is made again is the same: the choice depends
/// on nothing but the key.
#[derive(Default)]
struct Plans {
    made: HashMap<BlasShape, Option<Plan>>,
    order: VecDeque<BlasShape>,
}

impl Plans {
    /// A few kilobytes each.
    const MOST: usize = 2048;

    fn get_or_make(&mut self, key: BlasShape, make: impl FnOnce() -> Result<Option<Plan>>) -> Result<Option<&Plan>> {
        if !self.made.contains_key(&key) {
            let plan = make()?;
            if self.order.len() == Self::MOST
                && let Some(oldest) = self.order.pop_front()
            {
                self.made.remove(&oldest);
            }
            self.made.insert(key, plan);
            self.order.push_back(key);
        }
        Ok(self.made[&key].as_ref())
    }
}

/// A descriptor of cuBLASLt, destroyed when dropped.
struct Descriptor<T: Copy>(T, unsafe fn(T) -> Result<(), CublasError>);

impl<T: Copy> Drop for Descriptor<T> {
    fn drop(&mut self) {
        // SAFETY: whoever made the descriptor gave the function that destroys its kind; nothing else does. An error
        // would say that it was not one.
        let _ = unsafe { (self.1)(self.0) };
    }
}

type Layout = Descriptor<sys::cublasLtMatrixLayout_t>;

struct Plan {
    product: Descriptor<sys::cublasLtMatmulDesc_t>,
    weight: Layout,
    x: Layout,
    out: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// Whether cuBLASLt is installed, which large products are given to.
pub fn has_cublaslt() -> bool {
    // SAFETY: does nothing but try to open the library, which cudarc would panic about.
    unsafe { sys::is_culib_present() }
}

fn refused(what: &'static str) -> impl Fn(CublasError) -> Error {
    move |source| Error::Blas { what, source }
}

fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
    }
}

impl Blas {
    /// Whether there is a cuBLASLt to ask; the first call opens it.
    pub(super) fn is_open(&self) -> Result<bool> {
        let mut state = self.0.lock();
        if let State::Unknown = *state {
            *state = Library::open()?;
        }
        Ok(matches!(*state, State::Open(_)))
    }

    /// Opens cuBLASLt and makes a plan, since the first one takes long, whatever it is for.
    pub(super) fn plan_something(&self) -> Result<()> {
        self.is_open()?;
        if let State::Open(library) = &mut *self.0.lock() {
            Plan::new(library.handle.0, &BlasShape::square(1024)).map_err(refused("planning a matrix product"))?;
        }
        Ok(())
    }

    /// Whether it is open and has an algorithm for this.
    pub(super) fn takes(&self, shape: &BlasShape) -> Result<bool> {
        Ok(self.is_open()? && self.0.lock().plan(shape)?.is_some())
    }

    /// Queues a product times `scale`. False: cuBLASLt is not open, or has no algorithm for this.
    ///
    /// # Safety
    /// The matrices are live and as large as `shape` says, the workspace has [`WORKSPACE`] bytes, and nothing else on
    /// `stream` uses it at the same time. The context of `stream` is this thread's.
    pub(super) unsafe fn multiply(
        &self,
        stream: &CudaStream,
        shape: &BlasShape,
        pointers: BlasPointers,
        scale: f32,
        workspace: *mut c_void,
    ) -> Result<bool> {
        let mut state = self.0.lock();
        let Some((handle, plan)) = state.plan(shape)? else { return Ok(false) };
        let BlasPointers { x, weight, out } = pointers;
        let accumulate = f32::from(u8::from(shape.accumulate));
        // SAFETY: the plan was made for this shape, and that pointers and workspace fit it is this function's contract.
        // The factors are read before the call returns.
        unsafe {
            result::matmul(
                handle,
                plan.product.0,
                (&raw const scale).cast(),
                (&raw const accumulate).cast(),
                weight,
                plan.weight.0,
                x,
                plan.x.0,
                out,
                plan.out.0,
                out,
                plan.out.0,
                &plan.algorithm,
                workspace,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
        .map_err(refused("multiplying matrices"))?;
        Ok(true)
    }
}

impl State {
    /// The open library, and the plan for a shape, where it has one.
    fn plan(&mut self, shape: &BlasShape) -> Result<Option<(sys::cublasLtHandle_t, &Plan)>> {
        let State::Open(Library { plans, handle }) = self else { return Ok(None) };
        let make = || Plan::new(handle.0, shape).map_err(refused("planning a matrix product"));
        Ok(plans.get_or_make(*shape, make)?.map(|plan| (handle.0, plan)))
    }
}

impl Library {
    fn open() -> Result<State> {
        if !has_cublaslt() {
            return Ok(State::Absent);
        }
        let handle = Handle(result::create_handle().map_err(refused("opening cuBLASLt"))?);
        Ok(State::Open(Library { plans: Plans::default(), handle }))
    }
}

fn layout(dtype: sys::cudaDataType, rows: usize, cols: usize, stride: usize) -> Result<Layout, CublasError> {
    let made = result::create_matrix_layout(dtype, rows as u64, cols as u64, stride as i64)?;
    Ok(Descriptor(made, result::destroy_matrix_layout))
}

/// f32 sums and factors; the weight transposed in a forward product.
fn description(grad: bool, x_transposed: bool) -> Result<Descriptor<sys::cublasLtMatmulDesc_t>, CublasError> {
    use sys::cublasLtMatmulDescAttributes_t as Attribute;
    let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F);
    let product = Descriptor(result::create_matmul_desc(compute, scale)?, result::destroy_matmul_desc);
    let of_weight = (!grad).then_some(Attribute::CUBLASLT_MATMUL_DESC_TRANSA);
    let of_x = x_transposed.then_some(Attribute::CUBLASLT_MATMUL_DESC_TRANSB);
    for attribute in of_weight.into_iter().chain(of_x) {
        let transpose = cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_T;
        let size = size_of_val(&transpose);
        // SAFETY: the attribute is one `cublasOperation_t`, read before the call returns.
        unsafe { result::set_matmul_desc_attribute(product.0, attribute, (&raw const transpose).cast(), size) }?;
    }
    Ok(product)
}

impl Plan {
    /// None: cuBLASLt has no algorithm for this.
    fn new(handle: sys::cublasLtHandle_t, shape: &BlasShape) -> Result<Option<Self>, CublasError> {
        let (input, output) = (data_type(shape.input), data_type(shape.output));
        let BlasShape { grad, x_transposed, n, m, k, x_stride, weight_stride, out_stride, .. } = *shape;
        let (rows, cols) = if grad { (m, k) } else { (k, m) };
        let (x_rows, x_cols) = if x_transposed { (n, k) } else { (k, n) };
        let mut plan = Plan {
            product: description(grad, x_transposed)?,
            weight: layout(input, rows, cols, weight_stride)?,
            x: layout(input, x_rows, x_cols, x_stride)?,
            out: layout(output, m, n, out_stride)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        match algorithm::choose(handle, &plan, shape) {
            Ok(algorithm) => plan.algorithm = algorithm,
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(plan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_bounded_and_the_oldest_goes_first() {
        let key = BlasShape::square;
        let mut plans = Plans::default();
        let mut made = 0;
        let mut ask = |plans: &mut Plans, n| {
            let make = || {
                made += 1;
                Ok(None)
            };
            assert!(plans.get_or_make(key(n), make).unwrap().is_none());
            made
        };
        for n in 0..Plans::MOST + 10 {
            ask(&mut plans, n);
        }
        assert_eq!((plans.made.len(), plans.order.len()), (Plans::MOST, Plans::MOST));
        assert_eq!(ask(&mut plans, 10), Plans::MOST + 10, "one that is kept is not made again");
        assert_eq!(ask(&mut plans, 0), Plans::MOST + 11, "the oldest was forgotten");
    }
}
