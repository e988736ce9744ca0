//! Large matrix products by cuBLASLt, where it is installed.
//!
//! cuBLASLt counts by columns: a row-major `[n, m]` is its `[m, n]`. So `out = x B` is asked for as
//! `outᵀ = Bᵀ xᵀ`: its A is the weight, its B is `x`.

use super::{Cuda, Product, is_aligned};
use crate::{Buf, DType, Error, Result, cuda::device::lock};
use core::ffi::c_void;
use cudarc::cublaslt::{
    result::{self, CublasError},
    sys,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
};

/// What NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;
/// The alignment that is promised for every matrix, in bytes.
static ALIGNMENT: u32 = 16;

/// cuBLASLt, looked for at the first large product.
#[derive(Default)]
pub(in crate::cuda) struct Blas(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    Absent,
    Open(Library),
}

struct Library {
    plans: Plans,
    workspace: Buf<Cuda, u8>,
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

/// What the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    grad: bool,
    shape: [usize; 3],
    strides: [usize; 2],
    types: [DType; 2],
}

/// Plans by what they are for; none where cuBLASLt has no algorithm. Training on sequences of all lengths asks for more
/// and more shapes, so the plans that were made first go first. One that is made again is the same: the choice depends
/// on nothing but the key.
#[derive(Default)]
struct Plans {
    made: HashMap<Key, Option<Plan>>,
    order: VecDeque<Key>,
}

impl Plans {
    /// A few kilobytes each.
    const MOST: usize = 1024;

    fn get_or_make(&mut self, key: Key, make: impl FnOnce() -> Result<Option<Plan>>) -> Result<Option<&Plan>> {
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
    move |error| Error::Cuda { what, reason: format!("cuBLASLt answers {error}") }
}

fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
    }
}

impl Cuda {
    /// Queues `product` with a dense weight of its input type. False: cuBLASLt is not installed, or does not take it.
    ///
    /// # Safety
    /// `product` and `weight` point to live memory, as long as the product's dimensions say.
    pub(super) unsafe fn blas(&self, product: &Product, weight: *const c_void) -> Result<bool> {
        let cols = if product.grad { product.m } else { product.k };
        let aligned = is_aligned(product.x, product.x_stride, product.input)
            && is_aligned(product.out, product.out_stride, product.output)
            && is_aligned(weight, cols, product.input);
        if !aligned || product.n == 0 || product.m == 0 || product.k == 0 {
            return Ok(false);
        }
        let _turn = self.turn()?;
        let mut state = lock(&self.blas.0);
        if let State::Unknown = *state {
            *state = Library::open(self)?;
        }
        match &mut *state {
            // SAFETY: `product` and `weight` are as this function's contract says.
            State::Open(library) => unsafe { library.multiply(self, product, weight) },
            _ => Ok(false),
        }
    }
}

impl Library {
    fn open(cuda: &Cuda) -> Result<State> {
        if !has_cublaslt() {
            return Ok(State::Absent);
        }
        let workspace = cuda.alloc_zeros(WORKSPACE)?;
        let handle = Handle(result::create_handle().map_err(refused("opening cuBLASLt"))?);
        Ok(State::Open(Library { plans: Plans::default(), workspace, handle }))
    }

    /// # Safety
    /// As for [`Cuda::blas`].
    unsafe fn multiply(&mut self, cuda: &Cuda, product: &Product, weight: *const c_void) -> Result<bool> {
        let key = Key {
            grad: product.grad,
            shape: [product.n, product.m, product.k],
            strides: [product.x_stride, product.out_stride],
            types: [product.input, product.output],
        };
        let handle = self.handle.0;
        let make = || Plan::new(handle, product).map_err(refused("planning a matrix product"));
        let Some(plan) = self.plans.get_or_make(key, make)? else { return Ok(false) };
        let (alpha, beta) = (1f32, f32::from(u8::from(product.accumulate)));
        // SAFETY: the plan was made for these dimensions, and that the pointers fit them is this function's contract.
        // The factors are read before the call returns.
        unsafe {
            result::matmul(
                handle,
                plan.product.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                weight,
                plan.weight.0,
                product.x,
                plan.x.0,
                product.out,
                plan.out.0,
                product.out,
                plan.out.0,
                &plan.algorithm,
                self.workspace.view_mut().ptr() as _,
                WORKSPACE,
                cuda.queue.stream.cu_stream().cast(),
            )
        }
        .map_err(refused("multiplying matrices"))?;
        Ok(true)
    }
}

fn layout(dtype: sys::cudaDataType, rows: usize, cols: usize, stride: usize) -> Result<Layout, CublasError> {
    let made = result::create_matrix_layout(dtype, rows as u64, cols as u64, stride as i64)?;
    Ok(Descriptor(made, result::destroy_matrix_layout))
}

/// f32 sums and factors; the weight transposed in a forward product.
fn description(grad: bool) -> Result<Descriptor<sys::cublasLtMatmulDesc_t>, CublasError> {
    let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F);
    let product = Descriptor(result::create_matmul_desc(compute, scale)?, result::destroy_matmul_desc);
    if !grad {
        let transpose = cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_T;
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        let size = size_of_val(&transpose);
        // SAFETY: the attribute is one `cublasOperation_t`, read before the call returns.
        unsafe { result::set_matmul_desc_attribute(product.0, attribute, (&raw const transpose).cast(), size) }?;
    }
    Ok(product)
}

impl Plan {
    /// None: cuBLASLt has no algorithm for this.
    fn new(handle: sys::cublasLtHandle_t, product: &Product) -> Result<Option<Self>, CublasError> {
        let (input, output) = (data_type(product.input), data_type(product.output));
        let Product { n, m, k, x_stride, out_stride, .. } = *product;
        let (rows, cols) = if product.grad { (m, k) } else { (k, m) };
        let mut plan = Plan {
            product: description(product.grad)?,
            weight: layout(input, rows, cols, rows)?,
            x: layout(input, k, n, x_stride)?,
            out: layout(output, m, n, out_stride)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        match plan.choose(handle) {
            Ok(algorithm) => plan.algorithm = algorithm,
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(plan))
    }

    fn choose(&self, handle: sys::cublasLtHandle_t) -> Result<sys::cublasLtMatmulAlgo_t, CublasError> {
        let Plan { product, weight, x, out, .. } = self;
        let preference = Descriptor(result::create_matmul_pref()?, result::destroy_matmul_pref);
        prefer(preference.0)?;
        // SAFETY: all descriptors were made above, and live until the call returns.
        let found =
            unsafe { result::get_matmul_algo_heuristic(handle, product.0, weight.0, x.0, out.0, out.0, preference.0) }?;
        Ok(found.algo)
    }
}

/// Workspace, alignments, and sums of parts in f32 only.
fn prefer(preference: sys::cublasLtMatmulPreference_t) -> Result<(), CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let workspace = WORKSPACE as u64;
    let parts = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    let alignments = [
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ];
    // SAFETY: the workspace is a 64-bit number, the others are 32-bit ones.
    unsafe {
        let set = |attribute, value: *const c_void, size| {
            result::set_matmul_pref_attribute(preference, attribute, value, size)
        };
        set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), 8)?;
        set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const parts).cast(), 4)?;
        for attribute in alignments {
            set(attribute, (&raw const ALIGNMENT).cast(), 4)?;
        }
    }
    Ok(())
}
