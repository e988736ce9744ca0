//! Large matrix products by cuBLASLt, where it is installed.
//!
//! cuBLASLt counts by columns: a row-major `[n, m]` is its `[m, n]`. So `out = x B` is asked for as
//! `outᵀ = Bᵀ xᵀ`: its A is the weight, its B is `x`.

use super::{
    Cuda,
    device::lock,
    product::{Product, is_aligned},
};
use crate::{Buf, DType, Error, Result};
use core::ffi::c_void;
use cudarc::cublaslt::{
    result::{self, CublasError},
    sys,
};
use std::{collections::HashMap, sync::Mutex};

/// What NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;
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
    handle: sys::cublasLtHandle_t,
    workspace: Buf<Cuda, u8>,
    /// None: cuBLASLt has no algorithm for this shape.
    plans: HashMap<Key, Option<Plan>>,
}

// SAFETY: cuBLASLt's handles and descriptors belong to no thread; the lock lets one thread at a time use them.
unsafe impl Send for Library {}

/// What the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    grad: bool,
    shape: [usize; 3],
    strides: [usize; 2],
    types: [DType; 2],
}

struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made by `Plan::new`, and used by nothing else. Errors would say that they were not.
        unsafe {
            let _ = result::destroy_matmul_desc(self.product);
            for layout in [self.weight, self.x, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: made by `Library::open`; the plans are gone.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
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
        self.bind()?;
        let mut state = lock(&self.blas.0);
        if let State::Unknown = *state {
            *state = Library::open(self)?;
        }
        match &mut *state {
            // SAFETY: the caller's word.
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
        let handle = result::create_handle().map_err(refused("opening cuBLASLt"))?;
        Ok(State::Open(Library { handle, workspace, plans: HashMap::new() }))
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
        let plan = match self.plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Plan::new(self.handle, product).map_err(refused("planning a matrix product"))?)
            }
        };
        let Some(plan) = plan else { return Ok(false) };
        let (alpha, beta) = (1f32, f32::from(u8::from(product.accumulate)));
        // SAFETY: the plan was made for these dimensions, and the pointers are the caller's word. The factors are
        // read before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                plan.product,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                weight,
                plan.weight,
                product.x,
                plan.x,
                product.out,
                plan.out,
                product.out,
                plan.out,
                &plan.algorithm,
                self.workspace.view_mut().ptr() as _,
                WORKSPACE,
                cuda.stream.cu_stream().cast(),
            )
        }
        .map_err(refused("multiplying matrices"))?;
        Ok(true)
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, product: &Product) -> Result<Option<Self>, CublasError> {
        let (input, output) = (data_type(product.input), data_type(product.output));
        let [n, m, k] = [product.n, product.m, product.k].map(|d| d as u64);
        let (rows, cols) = if product.grad { (m, k) } else { (k, m) };
        let mut plan = Plan {
            product: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType::CUDA_R_32F,
            )?,
            weight: result::create_matrix_layout(input, rows, cols, rows as i64)?,
            x: result::create_matrix_layout(input, k, n, product.x_stride as i64)?,
            out: result::create_matrix_layout(output, m, n, product.out_stride as i64)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        if !product.grad {
            let transpose = cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_T;
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
            let size = size_of_val(&transpose);
            // SAFETY: the attribute is one `cublasOperation_t`.
            unsafe { result::set_matmul_desc_attribute(plan.product, attribute, (&raw const transpose).cast(), size) }?;
        }
        Ok(plan.choose(handle)?.then_some(plan))
    }

    /// Asks for an algorithm. False: there is none.
    fn choose(&mut self, handle: sys::cublasLtHandle_t) -> Result<bool, CublasError> {
        let preference = result::create_matmul_pref()?;
        // SAFETY: everything was made by `Plan::new` or above, and is live.
        let found = unsafe {
            let found = prefer(preference).and_then(|()| {
                result::get_matmul_algo_heuristic(
                    handle,
                    self.product,
                    self.weight,
                    self.x,
                    self.out,
                    self.out,
                    preference,
                )
            });
            result::destroy_matmul_pref(preference)?;
            found
        };
        match found {
            Ok(found) => self.algorithm = found.algo,
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
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
