// Made from kernels/params.h by `HALFBYTE_BLESS=1 cargo test --test bindings`; do not edit.

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Matrix {
    pub ptr: *const ::core::ffi::c_void,
    pub stride: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Matrix"][::core::mem::size_of::<Matrix>() - 16usize];
    ["Alignment of Matrix"][::core::mem::align_of::<Matrix>() - 8usize];
    ["Offset of field: Matrix::ptr"][::core::mem::offset_of!(Matrix, ptr) - 0usize];
    ["Offset of field: Matrix::stride"][::core::mem::offset_of!(Matrix, stride) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MatrixMut {
    pub ptr: *mut ::core::ffi::c_void,
    pub stride: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MatrixMut"][::core::mem::size_of::<MatrixMut>() - 16usize];
    ["Alignment of MatrixMut"][::core::mem::align_of::<MatrixMut>() - 8usize];
    ["Offset of field: MatrixMut::ptr"][::core::mem::offset_of!(MatrixMut, ptr) - 0usize];
    ["Offset of field: MatrixMut::stride"][::core::mem::offset_of!(MatrixMut, stride) - 8usize];
};
pub const ELEMENTWISE_THREADS: u32 = 256;
pub const ELEMENTWISE_PER_THREAD: u32 = 8;
pub const QUANT_GROUP: u32 = 256;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Weight4Params {
    pub codes: *const ::core::ffi::c_uchar,
    pub absmax: *const f32,
    pub absmax_codes: *const ::core::ffi::c_uchar,
    pub groups: *const f32,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub block_shift: ::core::ffi::c_uint,
    pub fp4: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Weight4Params"][::core::mem::size_of::<Weight4Params>() - 48usize];
    ["Alignment of Weight4Params"][::core::mem::align_of::<Weight4Params>() - 8usize];
    ["Offset of field: Weight4Params::codes"][::core::mem::offset_of!(Weight4Params, codes) - 0usize];
    ["Offset of field: Weight4Params::absmax"][::core::mem::offset_of!(Weight4Params, absmax) - 8usize];
    ["Offset of field: Weight4Params::absmax_codes"][::core::mem::offset_of!(Weight4Params, absmax_codes) - 16usize];
    ["Offset of field: Weight4Params::groups"][::core::mem::offset_of!(Weight4Params, groups) - 24usize];
    ["Offset of field: Weight4Params::rows"][::core::mem::offset_of!(Weight4Params, rows) - 32usize];
    ["Offset of field: Weight4Params::cols"][::core::mem::offset_of!(Weight4Params, cols) - 36usize];
    ["Offset of field: Weight4Params::block_shift"][::core::mem::offset_of!(Weight4Params, block_shift) - 40usize];
    ["Offset of field: Weight4Params::fp4"][::core::mem::offset_of!(Weight4Params, fp4) - 44usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QuantizeParams {
    pub x: *const ::core::ffi::c_void,
    pub codes: *mut ::core::ffi::c_uchar,
    pub absmax: *mut f32,
    pub len: ::core::ffi::c_ulonglong,
    pub block_shift: ::core::ffi::c_uint,
    pub fp4: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QuantizeParams"][::core::mem::size_of::<QuantizeParams>() - 40usize];
    ["Alignment of QuantizeParams"][::core::mem::align_of::<QuantizeParams>() - 8usize];
    ["Offset of field: QuantizeParams::x"][::core::mem::offset_of!(QuantizeParams, x) - 0usize];
    ["Offset of field: QuantizeParams::codes"][::core::mem::offset_of!(QuantizeParams, codes) - 8usize];
    ["Offset of field: QuantizeParams::absmax"][::core::mem::offset_of!(QuantizeParams, absmax) - 16usize];
    ["Offset of field: QuantizeParams::len"][::core::mem::offset_of!(QuantizeParams, len) - 24usize];
    ["Offset of field: QuantizeParams::block_shift"][::core::mem::offset_of!(QuantizeParams, block_shift) - 32usize];
    ["Offset of field: QuantizeParams::fp4"][::core::mem::offset_of!(QuantizeParams, fp4) - 36usize];
};
pub const QUANTIZE_THREADS: u32 = 512;
pub const QUANTIZE_PER_THREAD: u32 = 8;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct NestAbsmaxParams {
    pub absmax: *const f32,
    pub codes: *mut ::core::ffi::c_uchar,
    pub groups: *mut f32,
    pub offset: *mut f32,
    pub sums: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub run_shift: ::core::ffi::c_uint,
    pub n_runs: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NestAbsmaxParams"][::core::mem::size_of::<NestAbsmaxParams>() - 56usize];
    ["Alignment of NestAbsmaxParams"][::core::mem::align_of::<NestAbsmaxParams>() - 8usize];
    ["Offset of field: NestAbsmaxParams::absmax"][::core::mem::offset_of!(NestAbsmaxParams, absmax) - 0usize];
    ["Offset of field: NestAbsmaxParams::codes"][::core::mem::offset_of!(NestAbsmaxParams, codes) - 8usize];
    ["Offset of field: NestAbsmaxParams::groups"][::core::mem::offset_of!(NestAbsmaxParams, groups) - 16usize];
    ["Offset of field: NestAbsmaxParams::offset"][::core::mem::offset_of!(NestAbsmaxParams, offset) - 24usize];
    ["Offset of field: NestAbsmaxParams::sums"][::core::mem::offset_of!(NestAbsmaxParams, sums) - 32usize];
    ["Offset of field: NestAbsmaxParams::n"][::core::mem::offset_of!(NestAbsmaxParams, n) - 40usize];
    ["Offset of field: NestAbsmaxParams::run_shift"][::core::mem::offset_of!(NestAbsmaxParams, run_shift) - 44usize];
    ["Offset of field: NestAbsmaxParams::n_runs"][::core::mem::offset_of!(NestAbsmaxParams, n_runs) - 48usize];
};
pub const NEST_ABSMAX_COLUMNS: u32 = 32;
pub const NEST_ABSMAX_RUNS_THREADS: u32 = 256;
pub const NEST_ABSMAX_MEAN_THREADS: u32 = 1024;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DequantizeParams {
    pub weight: Weight4Params,
    pub out: MatrixMut,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DequantizeParams"][::core::mem::size_of::<DequantizeParams>() - 64usize];
    ["Alignment of DequantizeParams"][::core::mem::align_of::<DequantizeParams>() - 8usize];
    ["Offset of field: DequantizeParams::weight"][::core::mem::offset_of!(DequantizeParams, weight) - 0usize];
    ["Offset of field: DequantizeParams::out"][::core::mem::offset_of!(DequantizeParams, out) - 48usize];
};
pub const DEQUANTIZE_THREADS: u32 = 256;
pub const DEQUANTIZE_PER_THREAD: u32 = 32;
pub const GEMM_MMA_THREADS: u32 = 256;
pub const GEMM_MMA_TILE_OUT: u32 = 128;
pub const GEMM_MMA_TILE_K: u32 = 64;
pub const GEMM_MMA_X_STAGES: u32 = 3;
pub const GEMM_MMA_DENSE_STAGES: u32 = 3;
pub const GEMM_MMA_QUANTIZED_STAGES: u32 = 2;
pub const GEMM_SIMT_THREADS: u32 = 256;
pub const GEMM_SIMT_TILE: u32 = 64;
pub const GEMM_SIMT_TILE_K: u32 = 16;
pub const GEMM_SIMT_ROWS_TOKENS: u32 = 8;
pub const GEMM_SKINNY_TOKENS: u32 = 16;
pub const GEMM_SKINNY_ROWS: u32 = 16;
pub const GEMM_SUM_THREADS: u32 = 256;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GemvCut {
    pub steps: ::core::ffi::c_uint,
    pub parts: ::core::ffi::c_uint,
    pub tiles: ::core::ffi::c_uint,
    pub each: ::core::ffi::c_uint,
    pub more: ::core::ffi::c_uint,
    pub group: ::core::ffi::c_uint,
    pub scale_bytes: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemvCut"][::core::mem::size_of::<GemvCut>() - 28usize];
    ["Alignment of GemvCut"][::core::mem::align_of::<GemvCut>() - 4usize];
    ["Offset of field: GemvCut::steps"][::core::mem::offset_of!(GemvCut, steps) - 0usize];
    ["Offset of field: GemvCut::parts"][::core::mem::offset_of!(GemvCut, parts) - 4usize];
    ["Offset of field: GemvCut::tiles"][::core::mem::offset_of!(GemvCut, tiles) - 8usize];
    ["Offset of field: GemvCut::each"][::core::mem::offset_of!(GemvCut, each) - 12usize];
    ["Offset of field: GemvCut::more"][::core::mem::offset_of!(GemvCut, more) - 16usize];
    ["Offset of field: GemvCut::group"][::core::mem::offset_of!(GemvCut, group) - 20usize];
    ["Offset of field: GemvCut::scale_bytes"][::core::mem::offset_of!(GemvCut, scale_bytes) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Linear4Params {
    pub x: Matrix,
    pub weight: Weight4Params,
    pub out: MatrixMut,
    pub partial: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub accumulate: ::core::ffi::c_uint,
    pub splits: ::core::ffi::c_uint,
    pub cut: GemvCut,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Linear4Params"][::core::mem::size_of::<Linear4Params>() - 128usize];
    ["Alignment of Linear4Params"][::core::mem::align_of::<Linear4Params>() - 8usize];
    ["Offset of field: Linear4Params::x"][::core::mem::offset_of!(Linear4Params, x) - 0usize];
    ["Offset of field: Linear4Params::weight"][::core::mem::offset_of!(Linear4Params, weight) - 16usize];
    ["Offset of field: Linear4Params::out"][::core::mem::offset_of!(Linear4Params, out) - 64usize];
    ["Offset of field: Linear4Params::partial"][::core::mem::offset_of!(Linear4Params, partial) - 80usize];
    ["Offset of field: Linear4Params::n"][::core::mem::offset_of!(Linear4Params, n) - 88usize];
    ["Offset of field: Linear4Params::accumulate"][::core::mem::offset_of!(Linear4Params, accumulate) - 92usize];
    ["Offset of field: Linear4Params::splits"][::core::mem::offset_of!(Linear4Params, splits) - 96usize];
    ["Offset of field: Linear4Params::cut"][::core::mem::offset_of!(Linear4Params, cut) - 100usize];
};
pub const LINEAR4_SKINNY_THREADS: u32 = 512;
pub const LINEAR4_SKINNY_STAGES: u32 = 3;
pub const LINEAR4_SKINNY_SMALL_THREADS: u32 = 256;
pub const LINEAR4_SKINNY_SMALL_STAGES: u32 = 2;
pub const LINEAR4_SKINNY_UNIT_K: u32 = 256;
pub const LINEAR4_SKINNY_UNIT_BYTES: u32 = 2048;
pub const LINEAR4_SKINNY_TABLE_BYTES: u32 = 65536;
pub const LINEAR4_SKINNY_STATIC_BYTES: u32 = 1024;
pub const LINEAR4_GEMV_THREADS: u32 = 544;
pub const LINEAR4_GEMV_MAX_COLS: u32 = 25600;
pub const LINEAR4_GEMV_SHARED: u32 = 229376;
pub const LINEAR4_GEMV_STATIC_BYTES: u32 = 64;
pub const LINEAR4_GEMV_WARPS: u32 = 16;
pub const LINEAR4_GEMV_STAGE_TILES: u32 = 4;
pub const LINEAR4_GEMV_SUM_TILES: u32 = 12;
pub const LINEAR4_GEMV_SCALES_BYTES: u32 = 16384;
pub const LINEAR4_GEMV_GROUPS_BYTES: u32 = 512;
pub const LINEAR4_GEMV_PLAIN_SCALES_BYTES: u32 = 51712;
pub const LINEAR4_GEMV_SCALE_PAD: u32 = 16;
pub const LINEAR4_GEMV8_SHARED: u32 = 232448;
pub const LINEAR4_GEMV8_THREADS: u32 = 640;
#[repr(C)]
#[repr(align(128))]
#[derive(Debug, Copy, Clone)]
pub struct TensorMap {
    pub words: [::core::ffi::c_ulonglong; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TensorMap"][::core::mem::size_of::<TensorMap>() - 128usize];
    ["Alignment of TensorMap"][::core::mem::align_of::<TensorMap>() - 128usize];
    ["Offset of field: TensorMap::words"][::core::mem::offset_of!(TensorMap, words) - 0usize];
};
#[repr(C)]
#[repr(align(128))]
#[derive(Debug, Copy, Clone)]
pub struct Linear4WgmmaParams {
    pub codes: TensorMap,
    pub x: TensorMap,
    pub weight: Weight4Params,
    pub out: MatrixMut,
    pub partial: *mut f32,
    pub tickets: *mut ::core::ffi::c_uint,
    pub n: ::core::ffi::c_uint,
    pub accumulate: ::core::ffi::c_uint,
    pub token_tiles: ::core::ffi::c_uint,
    pub whole: ::core::ffi::c_uint,
    pub splits: ::core::ffi::c_uint,
    pub units: ::core::ffi::c_uint,
    pub patience: ::core::ffi::c_uint,
    pub dense: *const ::core::ffi::c_void,
    pub dense_k: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Linear4WgmmaParams"][::core::mem::size_of::<Linear4WgmmaParams>() - 384usize];
    ["Alignment of Linear4WgmmaParams"][::core::mem::align_of::<Linear4WgmmaParams>() - 128usize];
    ["Offset of field: Linear4WgmmaParams::codes"][::core::mem::offset_of!(Linear4WgmmaParams, codes) - 0usize];
    ["Offset of field: Linear4WgmmaParams::x"][::core::mem::offset_of!(Linear4WgmmaParams, x) - 128usize];
    ["Offset of field: Linear4WgmmaParams::weight"][::core::mem::offset_of!(Linear4WgmmaParams, weight) - 256usize];
    ["Offset of field: Linear4WgmmaParams::out"][::core::mem::offset_of!(Linear4WgmmaParams, out) - 304usize];
    ["Offset of field: Linear4WgmmaParams::partial"][::core::mem::offset_of!(Linear4WgmmaParams, partial) - 320usize];
    ["Offset of field: Linear4WgmmaParams::tickets"][::core::mem::offset_of!(Linear4WgmmaParams, tickets) - 328usize];
    ["Offset of field: Linear4WgmmaParams::n"][::core::mem::offset_of!(Linear4WgmmaParams, n) - 336usize];
    ["Offset of field: Linear4WgmmaParams::accumulate"]
        [::core::mem::offset_of!(Linear4WgmmaParams, accumulate) - 340usize];
    ["Offset of field: Linear4WgmmaParams::token_tiles"]
        [::core::mem::offset_of!(Linear4WgmmaParams, token_tiles) - 344usize];
    ["Offset of field: Linear4WgmmaParams::whole"][::core::mem::offset_of!(Linear4WgmmaParams, whole) - 348usize];
    ["Offset of field: Linear4WgmmaParams::splits"][::core::mem::offset_of!(Linear4WgmmaParams, splits) - 352usize];
    ["Offset of field: Linear4WgmmaParams::units"][::core::mem::offset_of!(Linear4WgmmaParams, units) - 356usize];
    ["Offset of field: Linear4WgmmaParams::patience"][::core::mem::offset_of!(Linear4WgmmaParams, patience) - 360usize];
    ["Offset of field: Linear4WgmmaParams::dense"][::core::mem::offset_of!(Linear4WgmmaParams, dense) - 368usize];
    ["Offset of field: Linear4WgmmaParams::dense_k"][::core::mem::offset_of!(Linear4WgmmaParams, dense_k) - 376usize];
};
pub const LINEAR4_WGMMA_STAGE_K: u32 = 256;
pub const LINEAR4_WGMMA_X_K: u32 = 64;
pub const LINEAR4_WGMMA_MAX_SPLITS: u32 = 8;
pub const LINEAR4_WGMMA_SHARED_BYTES: u32 = 232448;
pub const LINEAR4_FEW_WHOLE_TOKENS: u32 = 64;
pub const LINEAR4_GRAD_WGMMA_STAGE_ROWS: u32 = 64;
pub const LINEAR4_GRAD_WGMMA_COLS: u32 = 256;
pub const LINEAR4_GRAD_WGMMA_THREADS: u32 = 384;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearParams {
    pub x: Matrix,
    pub weight: Matrix,
    pub out: MatrixMut,
    pub partial: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub accumulate: ::core::ffi::c_uint,
    pub splits: ::core::ffi::c_uint,
    pub settled: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearParams"][::core::mem::size_of::<LinearParams>() - 80usize];
    ["Alignment of LinearParams"][::core::mem::align_of::<LinearParams>() - 8usize];
    ["Offset of field: LinearParams::x"][::core::mem::offset_of!(LinearParams, x) - 0usize];
    ["Offset of field: LinearParams::weight"][::core::mem::offset_of!(LinearParams, weight) - 16usize];
    ["Offset of field: LinearParams::out"][::core::mem::offset_of!(LinearParams, out) - 32usize];
    ["Offset of field: LinearParams::partial"][::core::mem::offset_of!(LinearParams, partial) - 48usize];
    ["Offset of field: LinearParams::n"][::core::mem::offset_of!(LinearParams, n) - 56usize];
    ["Offset of field: LinearParams::rows"][::core::mem::offset_of!(LinearParams, rows) - 60usize];
    ["Offset of field: LinearParams::cols"][::core::mem::offset_of!(LinearParams, cols) - 64usize];
    ["Offset of field: LinearParams::accumulate"][::core::mem::offset_of!(LinearParams, accumulate) - 68usize];
    ["Offset of field: LinearParams::splits"][::core::mem::offset_of!(LinearParams, splits) - 72usize];
    ["Offset of field: LinearParams::settled"][::core::mem::offset_of!(LinearParams, settled) - 76usize];
};
pub const LINEAR_SKINNY_THREADS: u32 = 256;
pub const LINEAR_SKINNY8_CTAS: u32 = 3;
pub const LINEAR_SKINNY16_CTAS: u32 = 2;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ScreenParams {
    pub weight: Matrix,
    pub codes: *mut ::core::ffi::c_schar,
    pub bounds: MatrixMut,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ScreenParams"][::core::mem::size_of::<ScreenParams>() - 48usize];
    ["Alignment of ScreenParams"][::core::mem::align_of::<ScreenParams>() - 8usize];
    ["Offset of field: ScreenParams::weight"][::core::mem::offset_of!(ScreenParams, weight) - 0usize];
    ["Offset of field: ScreenParams::codes"][::core::mem::offset_of!(ScreenParams, codes) - 16usize];
    ["Offset of field: ScreenParams::bounds"][::core::mem::offset_of!(ScreenParams, bounds) - 24usize];
    ["Offset of field: ScreenParams::rows"][::core::mem::offset_of!(ScreenParams, rows) - 40usize];
    ["Offset of field: ScreenParams::cols"][::core::mem::offset_of!(ScreenParams, cols) - 44usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LinearMaxParams {
    pub linear: LinearParams,
    pub codes: *const ::core::ffi::c_schar,
    pub bounds: Matrix,
    pub highest: *mut f32,
    pub ctas: ::core::ffi::c_uint,
    pub k: ::core::ffi::c_uint,
    pub levels: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearMaxParams"][::core::mem::size_of::<LinearMaxParams>() - 128usize];
    ["Alignment of LinearMaxParams"][::core::mem::align_of::<LinearMaxParams>() - 8usize];
    ["Offset of field: LinearMaxParams::linear"][::core::mem::offset_of!(LinearMaxParams, linear) - 0usize];
    ["Offset of field: LinearMaxParams::codes"][::core::mem::offset_of!(LinearMaxParams, codes) - 80usize];
    ["Offset of field: LinearMaxParams::bounds"][::core::mem::offset_of!(LinearMaxParams, bounds) - 88usize];
    ["Offset of field: LinearMaxParams::highest"][::core::mem::offset_of!(LinearMaxParams, highest) - 104usize];
    ["Offset of field: LinearMaxParams::ctas"][::core::mem::offset_of!(LinearMaxParams, ctas) - 112usize];
    ["Offset of field: LinearMaxParams::k"][::core::mem::offset_of!(LinearMaxParams, k) - 116usize];
    ["Offset of field: LinearMaxParams::levels"][::core::mem::offset_of!(LinearMaxParams, levels) - 120usize];
};
pub const SCREEN_THREADS: u32 = 256;
pub const LINEAR_MAX_CTAS: u32 = 2;
pub const LINEAR_MAX_TOKENS: u32 = 8;
pub const LINEAR_MAX_DP2A_TOKENS: u32 = 2;
pub const LINEAR_MAX_MMA_SHARED: u32 = 8352;
pub const LINEAR_MAX_MMA_LEVELS: u32 = 32639;
pub const LINEAR_MAX_STEP: u32 = 512;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct WeightGradParams {
    pub x: Matrix,
    pub d_out: Matrix,
    pub d_weight: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of WeightGradParams"][::core::mem::size_of::<WeightGradParams>() - 56usize];
    ["Alignment of WeightGradParams"][::core::mem::align_of::<WeightGradParams>() - 8usize];
    ["Offset of field: WeightGradParams::x"][::core::mem::offset_of!(WeightGradParams, x) - 0usize];
    ["Offset of field: WeightGradParams::d_out"][::core::mem::offset_of!(WeightGradParams, d_out) - 16usize];
    ["Offset of field: WeightGradParams::d_weight"][::core::mem::offset_of!(WeightGradParams, d_weight) - 32usize];
    ["Offset of field: WeightGradParams::n"][::core::mem::offset_of!(WeightGradParams, n) - 40usize];
    ["Offset of field: WeightGradParams::rows"][::core::mem::offset_of!(WeightGradParams, rows) - 44usize];
    ["Offset of field: WeightGradParams::cols"][::core::mem::offset_of!(WeightGradParams, cols) - 48usize];
};
pub const WEIGHT_GRAD_THREADS: u32 = 256;
pub const WEIGHT_GRAD_MMA_TILE: u32 = 128;
pub const WEIGHT_GRAD_MMA_TOKENS: u32 = 32;
pub const WEIGHT_GRAD_MMA_STAGES: u32 = 4;
pub const WEIGHT_GRAD_SIMT_TILE: u32 = 64;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DropoutParams {
    pub seed: ::core::ffi::c_ulonglong,
    pub stream: ::core::ffi::c_ulonglong,
    pub threshold: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DropoutParams"][::core::mem::size_of::<DropoutParams>() - 24usize];
    ["Alignment of DropoutParams"][::core::mem::align_of::<DropoutParams>() - 8usize];
    ["Offset of field: DropoutParams::seed"][::core::mem::offset_of!(DropoutParams, seed) - 0usize];
    ["Offset of field: DropoutParams::stream"][::core::mem::offset_of!(DropoutParams, stream) - 8usize];
    ["Offset of field: DropoutParams::threshold"][::core::mem::offset_of!(DropoutParams, threshold) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TransposeParams {
    pub x: Matrix,
    pub out: MatrixMut,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TransposeParams"][::core::mem::size_of::<TransposeParams>() - 40usize];
    ["Alignment of TransposeParams"][::core::mem::align_of::<TransposeParams>() - 8usize];
    ["Offset of field: TransposeParams::x"][::core::mem::offset_of!(TransposeParams, x) - 0usize];
    ["Offset of field: TransposeParams::out"][::core::mem::offset_of!(TransposeParams, out) - 16usize];
    ["Offset of field: TransposeParams::rows"][::core::mem::offset_of!(TransposeParams, rows) - 32usize];
    ["Offset of field: TransposeParams::cols"][::core::mem::offset_of!(TransposeParams, cols) - 36usize];
};
pub const LORA_PARTS: u32 = 4;
pub const LORA_TRANSPOSE_THREADS: u32 = 256;
pub const LORA_TRANSPOSE_TILE: u32 = 32;
pub const LORA_TRANSPOSE_MATRICES: u32 = 2;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraTransposeParams {
    pub matrices: [TransposeParams; 8usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraTransposeParams"][::core::mem::size_of::<LoraTransposeParams>() - 320usize];
    ["Alignment of LoraTransposeParams"][::core::mem::align_of::<LoraTransposeParams>() - 8usize];
    ["Offset of field: LoraTransposeParams::matrices"][::core::mem::offset_of!(LoraTransposeParams, matrices) - 0usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraDownParams {
    pub x: Matrix,
    pub a: *const ::core::ffi::c_void,
    pub out: MatrixMut,
    pub out_t: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub r: ::core::ffi::c_uint,
    pub scale: f32,
    pub dropout: DropoutParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraDownParams"][::core::mem::size_of::<LoraDownParams>() - 96usize];
    ["Alignment of LoraDownParams"][::core::mem::align_of::<LoraDownParams>() - 8usize];
    ["Offset of field: LoraDownParams::x"][::core::mem::offset_of!(LoraDownParams, x) - 0usize];
    ["Offset of field: LoraDownParams::a"][::core::mem::offset_of!(LoraDownParams, a) - 16usize];
    ["Offset of field: LoraDownParams::out"][::core::mem::offset_of!(LoraDownParams, out) - 24usize];
    ["Offset of field: LoraDownParams::out_t"][::core::mem::offset_of!(LoraDownParams, out_t) - 40usize];
    ["Offset of field: LoraDownParams::n"][::core::mem::offset_of!(LoraDownParams, n) - 56usize];
    ["Offset of field: LoraDownParams::cols"][::core::mem::offset_of!(LoraDownParams, cols) - 60usize];
    ["Offset of field: LoraDownParams::r"][::core::mem::offset_of!(LoraDownParams, r) - 64usize];
    ["Offset of field: LoraDownParams::scale"][::core::mem::offset_of!(LoraDownParams, scale) - 68usize];
    ["Offset of field: LoraDownParams::dropout"][::core::mem::offset_of!(LoraDownParams, dropout) - 72usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraDownsParams {
    pub parts: [LoraDownParams; 4usize],
    pub count: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraDownsParams"][::core::mem::size_of::<LoraDownsParams>() - 392usize];
    ["Alignment of LoraDownsParams"][::core::mem::align_of::<LoraDownsParams>() - 8usize];
    ["Offset of field: LoraDownsParams::parts"][::core::mem::offset_of!(LoraDownsParams, parts) - 0usize];
    ["Offset of field: LoraDownsParams::count"][::core::mem::offset_of!(LoraDownsParams, count) - 384usize];
};
pub const LORA_DOWN_TOKENS: u32 = 32;
pub const LORA_DOWN_WARPS: u32 = 8;
pub const LORA_DOWN_FEW_TOKENS: u32 = 16;
pub const LORA_DOWN_SKINNY_WARPS: u32 = 16;
pub const LORA_DOWN_LONE_WARPS: u32 = 32;
pub const LORA_DOWN_CLUSTER: u32 = 8;
pub const LORA_DOWN_CLUSTER_WARPS: u32 = 8;
pub const LORA_DOWN_SIMT_WARPS: u32 = 8;
pub const LORA_DOWN_SIMT_COLS: u32 = 8;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraUpParams {
    pub xa: Matrix,
    pub b: *const ::core::ffi::c_void,
    pub out: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub r: ::core::ffi::c_uint,
    pub scale: f32,
    pub dropout: DropoutParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraUpParams"][::core::mem::size_of::<LoraUpParams>() - 80usize];
    ["Alignment of LoraUpParams"][::core::mem::align_of::<LoraUpParams>() - 8usize];
    ["Offset of field: LoraUpParams::xa"][::core::mem::offset_of!(LoraUpParams, xa) - 0usize];
    ["Offset of field: LoraUpParams::b"][::core::mem::offset_of!(LoraUpParams, b) - 16usize];
    ["Offset of field: LoraUpParams::out"][::core::mem::offset_of!(LoraUpParams, out) - 24usize];
    ["Offset of field: LoraUpParams::n"][::core::mem::offset_of!(LoraUpParams, n) - 40usize];
    ["Offset of field: LoraUpParams::cols"][::core::mem::offset_of!(LoraUpParams, cols) - 44usize];
    ["Offset of field: LoraUpParams::r"][::core::mem::offset_of!(LoraUpParams, r) - 48usize];
    ["Offset of field: LoraUpParams::scale"][::core::mem::offset_of!(LoraUpParams, scale) - 52usize];
    ["Offset of field: LoraUpParams::dropout"][::core::mem::offset_of!(LoraUpParams, dropout) - 56usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraUpsParams {
    pub parts: [LoraUpParams; 4usize],
    pub in_turn: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraUpsParams"][::core::mem::size_of::<LoraUpsParams>() - 328usize];
    ["Alignment of LoraUpsParams"][::core::mem::align_of::<LoraUpsParams>() - 8usize];
    ["Offset of field: LoraUpsParams::parts"][::core::mem::offset_of!(LoraUpsParams, parts) - 0usize];
    ["Offset of field: LoraUpsParams::in_turn"][::core::mem::offset_of!(LoraUpsParams, in_turn) - 320usize];
};
pub const LORA_UP_THREADS: u32 = 256;
pub const LORA_UP_TOKENS: u32 = 64;
pub const LORA_UP_COLS: u32 = 256;
pub const LORA_UP_TOGETHER: u32 = 3;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraSkinnyParams {
    pub down: LoraDownParams,
    pub up: LoraUpParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraSkinnyParams"][::core::mem::size_of::<LoraSkinnyParams>() - 176usize];
    ["Alignment of LoraSkinnyParams"][::core::mem::align_of::<LoraSkinnyParams>() - 8usize];
    ["Offset of field: LoraSkinnyParams::down"][::core::mem::offset_of!(LoraSkinnyParams, down) - 0usize];
    ["Offset of field: LoraSkinnyParams::up"][::core::mem::offset_of!(LoraSkinnyParams, up) - 96usize];
};
pub const LORA_SKINNY_CLUSTER: u32 = 8;
pub const LORA_SKINNY_WARPS: u32 = 8;
pub const LORA_SKINNY_TOKENS: u32 = 16;
pub const LORA_SKINNY_MAX_R: u32 = 64;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraLinearCopyParams {
    pub x: Matrix,
    pub out: MatrixMut,
    pub rows: ::core::ffi::c_uint,
    pub used: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraLinearCopyParams"][::core::mem::size_of::<LoraLinearCopyParams>() - 48usize];
    ["Alignment of LoraLinearCopyParams"][::core::mem::align_of::<LoraLinearCopyParams>() - 8usize];
    ["Offset of field: LoraLinearCopyParams::x"][::core::mem::offset_of!(LoraLinearCopyParams, x) - 0usize];
    ["Offset of field: LoraLinearCopyParams::out"][::core::mem::offset_of!(LoraLinearCopyParams, out) - 16usize];
    ["Offset of field: LoraLinearCopyParams::rows"][::core::mem::offset_of!(LoraLinearCopyParams, rows) - 32usize];
    ["Offset of field: LoraLinearCopyParams::used"][::core::mem::offset_of!(LoraLinearCopyParams, used) - 36usize];
    ["Offset of field: LoraLinearCopyParams::cols"][::core::mem::offset_of!(LoraLinearCopyParams, cols) - 40usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraLinearFactor {
    pub ptr: *const ::core::ffi::c_void,
    pub row: ::core::ffi::c_uint,
    pub rows: ::core::ffi::c_uint,
    pub col: ::core::ffi::c_uint,
    pub r: ::core::ffi::c_uint,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraLinearFactor"][::core::mem::size_of::<LoraLinearFactor>() - 32usize];
    ["Alignment of LoraLinearFactor"][::core::mem::align_of::<LoraLinearFactor>() - 8usize];
    ["Offset of field: LoraLinearFactor::ptr"][::core::mem::offset_of!(LoraLinearFactor, ptr) - 0usize];
    ["Offset of field: LoraLinearFactor::row"][::core::mem::offset_of!(LoraLinearFactor, row) - 8usize];
    ["Offset of field: LoraLinearFactor::rows"][::core::mem::offset_of!(LoraLinearFactor, rows) - 12usize];
    ["Offset of field: LoraLinearFactor::col"][::core::mem::offset_of!(LoraLinearFactor, col) - 16usize];
    ["Offset of field: LoraLinearFactor::r"][::core::mem::offset_of!(LoraLinearFactor, r) - 20usize];
    ["Offset of field: LoraLinearFactor::scale"][::core::mem::offset_of!(LoraLinearFactor, scale) - 24usize];
};
pub const LORA_LINEAR_FACTORS: u32 = 4;
pub const LORA_LINEAR_THREADS: u32 = 256;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraLinearFactorsParams {
    pub factors: [LoraLinearFactor; 4usize],
    pub count: ::core::ffi::c_uint,
    pub out: MatrixMut,
    pub first_row: ::core::ffi::c_uint,
    pub rows: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraLinearFactorsParams"][::core::mem::size_of::<LoraLinearFactorsParams>() - 168usize];
    ["Alignment of LoraLinearFactorsParams"][::core::mem::align_of::<LoraLinearFactorsParams>() - 8usize];
    ["Offset of field: LoraLinearFactorsParams::factors"]
        [::core::mem::offset_of!(LoraLinearFactorsParams, factors) - 0usize];
    ["Offset of field: LoraLinearFactorsParams::count"]
        [::core::mem::offset_of!(LoraLinearFactorsParams, count) - 128usize];
    ["Offset of field: LoraLinearFactorsParams::out"][::core::mem::offset_of!(LoraLinearFactorsParams, out) - 136usize];
    ["Offset of field: LoraLinearFactorsParams::first_row"]
        [::core::mem::offset_of!(LoraLinearFactorsParams, first_row) - 152usize];
    ["Offset of field: LoraLinearFactorsParams::rows"]
        [::core::mem::offset_of!(LoraLinearFactorsParams, rows) - 156usize];
    ["Offset of field: LoraLinearFactorsParams::cols"]
        [::core::mem::offset_of!(LoraLinearFactorsParams, cols) - 160usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraLinearParams {
    pub xa: LoraLinearCopyParams,
    pub factors: LoraLinearFactorsParams,
    pub decode: DequantizeParams,
    pub xa_end: ::core::ffi::c_uint,
    pub factors_end: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraLinearParams"][::core::mem::size_of::<LoraLinearParams>() - 288usize];
    ["Alignment of LoraLinearParams"][::core::mem::align_of::<LoraLinearParams>() - 8usize];
    ["Offset of field: LoraLinearParams::xa"][::core::mem::offset_of!(LoraLinearParams, xa) - 0usize];
    ["Offset of field: LoraLinearParams::factors"][::core::mem::offset_of!(LoraLinearParams, factors) - 48usize];
    ["Offset of field: LoraLinearParams::decode"][::core::mem::offset_of!(LoraLinearParams, decode) - 216usize];
    ["Offset of field: LoraLinearParams::xa_end"][::core::mem::offset_of!(LoraLinearParams, xa_end) - 280usize];
    ["Offset of field: LoraLinearParams::factors_end"]
        [::core::mem::offset_of!(LoraLinearParams, factors_end) - 284usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct NormLinear4Params {
    pub linear: Linear4Params,
    pub norm: *const f32,
    pub eps: f32,
    pub normed: MatrixMut,
    pub gated: MatrixMut,
    pub xa: MatrixMut,
    pub a: [*const ::core::ffi::c_void; 4usize],
    pub b: [LoraLinearFactor; 4usize],
    pub adapters: ::core::ffi::c_uint,
    pub columns: ::core::ffi::c_uint,
    pub tickets: *mut ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormLinear4Params"][::core::mem::size_of::<NormLinear4Params>() - 368usize];
    ["Alignment of NormLinear4Params"][::core::mem::align_of::<NormLinear4Params>() - 8usize];
    ["Offset of field: NormLinear4Params::linear"][::core::mem::offset_of!(NormLinear4Params, linear) - 0usize];
    ["Offset of field: NormLinear4Params::norm"][::core::mem::offset_of!(NormLinear4Params, norm) - 128usize];
    ["Offset of field: NormLinear4Params::eps"][::core::mem::offset_of!(NormLinear4Params, eps) - 136usize];
    ["Offset of field: NormLinear4Params::normed"][::core::mem::offset_of!(NormLinear4Params, normed) - 144usize];
    ["Offset of field: NormLinear4Params::gated"][::core::mem::offset_of!(NormLinear4Params, gated) - 160usize];
    ["Offset of field: NormLinear4Params::xa"][::core::mem::offset_of!(NormLinear4Params, xa) - 176usize];
    ["Offset of field: NormLinear4Params::a"][::core::mem::offset_of!(NormLinear4Params, a) - 192usize];
    ["Offset of field: NormLinear4Params::b"][::core::mem::offset_of!(NormLinear4Params, b) - 224usize];
    ["Offset of field: NormLinear4Params::adapters"][::core::mem::offset_of!(NormLinear4Params, adapters) - 352usize];
    ["Offset of field: NormLinear4Params::columns"][::core::mem::offset_of!(NormLinear4Params, columns) - 356usize];
    ["Offset of field: NormLinear4Params::tickets"][::core::mem::offset_of!(NormLinear4Params, tickets) - 360usize];
};
pub const NORM_LINEAR4_GEMV_MAX_COLS: u32 = 4096;
pub const NORM_LINEAR4_GEMV_MAX_XA: u32 = 1024;
pub const NORM_LINEAR4_GEMV_STATIC_BYTES: u32 = 2432;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraWeightGradParams {
    pub x: Matrix,
    pub xa: Matrix,
    pub xa_t: Matrix,
    pub partial: *mut f32,
    pub out: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub cols: ::core::ffi::c_uint,
    pub r: ::core::ffi::c_uint,
    pub splits: ::core::ffi::c_uint,
    pub split_len: ::core::ffi::c_uint,
    pub transposed: ::core::ffi::c_uint,
    pub scale: f32,
    pub dropout: DropoutParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraWeightGradParams"][::core::mem::size_of::<LoraWeightGradParams>() - 120usize];
    ["Alignment of LoraWeightGradParams"][::core::mem::align_of::<LoraWeightGradParams>() - 8usize];
    ["Offset of field: LoraWeightGradParams::x"][::core::mem::offset_of!(LoraWeightGradParams, x) - 0usize];
    ["Offset of field: LoraWeightGradParams::xa"][::core::mem::offset_of!(LoraWeightGradParams, xa) - 16usize];
    ["Offset of field: LoraWeightGradParams::xa_t"][::core::mem::offset_of!(LoraWeightGradParams, xa_t) - 32usize];
    ["Offset of field: LoraWeightGradParams::partial"]
        [::core::mem::offset_of!(LoraWeightGradParams, partial) - 48usize];
    ["Offset of field: LoraWeightGradParams::out"][::core::mem::offset_of!(LoraWeightGradParams, out) - 56usize];
    ["Offset of field: LoraWeightGradParams::n"][::core::mem::offset_of!(LoraWeightGradParams, n) - 64usize];
    ["Offset of field: LoraWeightGradParams::cols"][::core::mem::offset_of!(LoraWeightGradParams, cols) - 68usize];
    ["Offset of field: LoraWeightGradParams::r"][::core::mem::offset_of!(LoraWeightGradParams, r) - 72usize];
    ["Offset of field: LoraWeightGradParams::splits"][::core::mem::offset_of!(LoraWeightGradParams, splits) - 76usize];
    ["Offset of field: LoraWeightGradParams::split_len"]
        [::core::mem::offset_of!(LoraWeightGradParams, split_len) - 80usize];
    ["Offset of field: LoraWeightGradParams::transposed"]
        [::core::mem::offset_of!(LoraWeightGradParams, transposed) - 84usize];
    ["Offset of field: LoraWeightGradParams::scale"][::core::mem::offset_of!(LoraWeightGradParams, scale) - 88usize];
    ["Offset of field: LoraWeightGradParams::dropout"]
        [::core::mem::offset_of!(LoraWeightGradParams, dropout) - 96usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraWeightGradsParams {
    pub factors: [LoraWeightGradParams; 8usize],
    pub count: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraWeightGradsParams"][::core::mem::size_of::<LoraWeightGradsParams>() - 968usize];
    ["Alignment of LoraWeightGradsParams"][::core::mem::align_of::<LoraWeightGradsParams>() - 8usize];
    ["Offset of field: LoraWeightGradsParams::factors"]
        [::core::mem::offset_of!(LoraWeightGradsParams, factors) - 0usize];
    ["Offset of field: LoraWeightGradsParams::count"][::core::mem::offset_of!(LoraWeightGradsParams, count) - 960usize];
};
pub const LORA_WEIGHT_GRAD_WARPS: u32 = 8;
pub const LORA_WEIGHT_GRAD_THREADS: u32 = 256;
pub const LORA_WEIGHT_GRAD_COLS: u32 = 64;
pub const LORA_WEIGHT_GRAD_RUN: u32 = 16;
pub const LORA_WEIGHT_GRAD_TILE_TOKENS: u32 = 128;
pub const LORA_WEIGHT_GRAD_STAGES: u32 = 3;
pub const LORA_WEIGHT_GRAD_MAX_R: u32 = 256;
pub const LORA_WEIGHT_GRAD_SIMT_COLS: u32 = 8;
pub const LORA_WEIGHT_GRAD_SUMS: u32 = 8;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraOutGradParams {
    pub d_b: LoraWeightGradParams,
    pub b: *const ::core::ffi::c_void,
    pub partial: *mut f32,
    pub d_xa: MatrixMut,
    pub d_xa_t: MatrixMut,
    pub beside: MatrixMut,
    pub groups: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraOutGradParams"][::core::mem::size_of::<LoraOutGradParams>() - 192usize];
    ["Alignment of LoraOutGradParams"][::core::mem::align_of::<LoraOutGradParams>() - 8usize];
    ["Offset of field: LoraOutGradParams::d_b"][::core::mem::offset_of!(LoraOutGradParams, d_b) - 0usize];
    ["Offset of field: LoraOutGradParams::b"][::core::mem::offset_of!(LoraOutGradParams, b) - 120usize];
    ["Offset of field: LoraOutGradParams::partial"][::core::mem::offset_of!(LoraOutGradParams, partial) - 128usize];
    ["Offset of field: LoraOutGradParams::d_xa"][::core::mem::offset_of!(LoraOutGradParams, d_xa) - 136usize];
    ["Offset of field: LoraOutGradParams::d_xa_t"][::core::mem::offset_of!(LoraOutGradParams, d_xa_t) - 152usize];
    ["Offset of field: LoraOutGradParams::beside"][::core::mem::offset_of!(LoraOutGradParams, beside) - 168usize];
    ["Offset of field: LoraOutGradParams::groups"][::core::mem::offset_of!(LoraOutGradParams, groups) - 184usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraOutGradsParams {
    pub parts: [LoraOutGradParams; 4usize],
    pub tiles: ::core::ffi::c_uint,
    pub columns: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraOutGradsParams"][::core::mem::size_of::<LoraOutGradsParams>() - 776usize];
    ["Alignment of LoraOutGradsParams"][::core::mem::align_of::<LoraOutGradsParams>() - 8usize];
    ["Offset of field: LoraOutGradsParams::parts"][::core::mem::offset_of!(LoraOutGradsParams, parts) - 0usize];
    ["Offset of field: LoraOutGradsParams::tiles"][::core::mem::offset_of!(LoraOutGradsParams, tiles) - 768usize];
    ["Offset of field: LoraOutGradsParams::columns"][::core::mem::offset_of!(LoraOutGradsParams, columns) - 772usize];
};
pub const LORA_OUT_GRAD_TILES: u32 = 8;
pub const LORA_OUT_GRAD_STAGES: u32 = 4;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraOutGradSumsParams {
    pub of: LoraOutGradsParams,
    pub blocks: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraOutGradSumsParams"][::core::mem::size_of::<LoraOutGradSumsParams>() - 784usize];
    ["Alignment of LoraOutGradSumsParams"][::core::mem::align_of::<LoraOutGradSumsParams>() - 8usize];
    ["Offset of field: LoraOutGradSumsParams::of"][::core::mem::offset_of!(LoraOutGradSumsParams, of) - 0usize];
    ["Offset of field: LoraOutGradSumsParams::blocks"]
        [::core::mem::offset_of!(LoraOutGradSumsParams, blocks) - 776usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraLinearSumsParams {
    pub sums: LoraOutGradSumsParams,
    pub sums_end: ::core::ffi::c_uint,
    pub operands: LoraLinearParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraLinearSumsParams"][::core::mem::size_of::<LoraLinearSumsParams>() - 1080usize];
    ["Alignment of LoraLinearSumsParams"][::core::mem::align_of::<LoraLinearSumsParams>() - 8usize];
    ["Offset of field: LoraLinearSumsParams::sums"][::core::mem::offset_of!(LoraLinearSumsParams, sums) - 0usize];
    ["Offset of field: LoraLinearSumsParams::sums_end"]
        [::core::mem::offset_of!(LoraLinearSumsParams, sums_end) - 784usize];
    ["Offset of field: LoraLinearSumsParams::operands"]
        [::core::mem::offset_of!(LoraLinearSumsParams, operands) - 792usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RmsNormParams {
    pub x: Matrix,
    pub add: Matrix,
    pub sum: MatrixMut,
    pub weight: *const f32,
    pub out: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub d: ::core::ffi::c_uint,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsNormParams"][::core::mem::size_of::<RmsNormParams>() - 88usize];
    ["Alignment of RmsNormParams"][::core::mem::align_of::<RmsNormParams>() - 8usize];
    ["Offset of field: RmsNormParams::x"][::core::mem::offset_of!(RmsNormParams, x) - 0usize];
    ["Offset of field: RmsNormParams::add"][::core::mem::offset_of!(RmsNormParams, add) - 16usize];
    ["Offset of field: RmsNormParams::sum"][::core::mem::offset_of!(RmsNormParams, sum) - 32usize];
    ["Offset of field: RmsNormParams::weight"][::core::mem::offset_of!(RmsNormParams, weight) - 48usize];
    ["Offset of field: RmsNormParams::out"][::core::mem::offset_of!(RmsNormParams, out) - 56usize];
    ["Offset of field: RmsNormParams::n"][::core::mem::offset_of!(RmsNormParams, n) - 72usize];
    ["Offset of field: RmsNormParams::d"][::core::mem::offset_of!(RmsNormParams, d) - 76usize];
    ["Offset of field: RmsNormParams::eps"][::core::mem::offset_of!(RmsNormParams, eps) - 80usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RmsNormGradParams {
    pub x: Matrix,
    pub weight: *const f32,
    pub d_out: Matrix,
    pub d_x: MatrixMut,
    pub out: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub d: ::core::ffi::c_uint,
    pub accumulate: ::core::ffi::c_uint,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsNormGradParams"][::core::mem::size_of::<RmsNormGradParams>() - 88usize];
    ["Alignment of RmsNormGradParams"][::core::mem::align_of::<RmsNormGradParams>() - 8usize];
    ["Offset of field: RmsNormGradParams::x"][::core::mem::offset_of!(RmsNormGradParams, x) - 0usize];
    ["Offset of field: RmsNormGradParams::weight"][::core::mem::offset_of!(RmsNormGradParams, weight) - 16usize];
    ["Offset of field: RmsNormGradParams::d_out"][::core::mem::offset_of!(RmsNormGradParams, d_out) - 24usize];
    ["Offset of field: RmsNormGradParams::d_x"][::core::mem::offset_of!(RmsNormGradParams, d_x) - 40usize];
    ["Offset of field: RmsNormGradParams::out"][::core::mem::offset_of!(RmsNormGradParams, out) - 56usize];
    ["Offset of field: RmsNormGradParams::n"][::core::mem::offset_of!(RmsNormGradParams, n) - 72usize];
    ["Offset of field: RmsNormGradParams::d"][::core::mem::offset_of!(RmsNormGradParams, d) - 76usize];
    ["Offset of field: RmsNormGradParams::accumulate"]
        [::core::mem::offset_of!(RmsNormGradParams, accumulate) - 80usize];
    ["Offset of field: RmsNormGradParams::eps"][::core::mem::offset_of!(RmsNormGradParams, eps) - 84usize];
};
pub const RMS_NORM_THREADS: u32 = 256;
pub const RMS_NORM_MANY_THREADS: u32 = 128;
pub const RMS_NORM_GRAD_KEPT: u32 = 2;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QkNormRopeParams {
    pub qkv: Matrix,
    pub q_weight: *const f32,
    pub k_weight: *const f32,
    pub positions: *const ::core::ffi::c_uint,
    pub cos: *const f32,
    pub sin: *const f32,
    pub q: MatrixMut,
    pub k: MatrixMut,
    pub seqs: *const ::core::ffi::c_uint,
    pub k_cache: *mut ::core::ffi::c_void,
    pub v_cache: *mut ::core::ffi::c_void,
    pub k_scales: *mut f32,
    pub v_scales: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub q_heads: ::core::ffi::c_uint,
    pub kv_heads: ::core::ffi::c_uint,
    pub dim: ::core::ffi::c_uint,
    pub max_positions: ::core::ffi::c_uint,
    pub n_seqs: ::core::ffi::c_uint,
    pub capacity: ::core::ffi::c_uint,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QkNormRopeParams"][::core::mem::size_of::<QkNormRopeParams>() - 160usize];
    ["Alignment of QkNormRopeParams"][::core::mem::align_of::<QkNormRopeParams>() - 8usize];
    ["Offset of field: QkNormRopeParams::qkv"][::core::mem::offset_of!(QkNormRopeParams, qkv) - 0usize];
    ["Offset of field: QkNormRopeParams::q_weight"][::core::mem::offset_of!(QkNormRopeParams, q_weight) - 16usize];
    ["Offset of field: QkNormRopeParams::k_weight"][::core::mem::offset_of!(QkNormRopeParams, k_weight) - 24usize];
    ["Offset of field: QkNormRopeParams::positions"][::core::mem::offset_of!(QkNormRopeParams, positions) - 32usize];
    ["Offset of field: QkNormRopeParams::cos"][::core::mem::offset_of!(QkNormRopeParams, cos) - 40usize];
    ["Offset of field: QkNormRopeParams::sin"][::core::mem::offset_of!(QkNormRopeParams, sin) - 48usize];
    ["Offset of field: QkNormRopeParams::q"][::core::mem::offset_of!(QkNormRopeParams, q) - 56usize];
    ["Offset of field: QkNormRopeParams::k"][::core::mem::offset_of!(QkNormRopeParams, k) - 72usize];
    ["Offset of field: QkNormRopeParams::seqs"][::core::mem::offset_of!(QkNormRopeParams, seqs) - 88usize];
    ["Offset of field: QkNormRopeParams::k_cache"][::core::mem::offset_of!(QkNormRopeParams, k_cache) - 96usize];
    ["Offset of field: QkNormRopeParams::v_cache"][::core::mem::offset_of!(QkNormRopeParams, v_cache) - 104usize];
    ["Offset of field: QkNormRopeParams::k_scales"][::core::mem::offset_of!(QkNormRopeParams, k_scales) - 112usize];
    ["Offset of field: QkNormRopeParams::v_scales"][::core::mem::offset_of!(QkNormRopeParams, v_scales) - 120usize];
    ["Offset of field: QkNormRopeParams::n"][::core::mem::offset_of!(QkNormRopeParams, n) - 128usize];
    ["Offset of field: QkNormRopeParams::q_heads"][::core::mem::offset_of!(QkNormRopeParams, q_heads) - 132usize];
    ["Offset of field: QkNormRopeParams::kv_heads"][::core::mem::offset_of!(QkNormRopeParams, kv_heads) - 136usize];
    ["Offset of field: QkNormRopeParams::dim"][::core::mem::offset_of!(QkNormRopeParams, dim) - 140usize];
    ["Offset of field: QkNormRopeParams::max_positions"]
        [::core::mem::offset_of!(QkNormRopeParams, max_positions) - 144usize];
    ["Offset of field: QkNormRopeParams::n_seqs"][::core::mem::offset_of!(QkNormRopeParams, n_seqs) - 148usize];
    ["Offset of field: QkNormRopeParams::capacity"][::core::mem::offset_of!(QkNormRopeParams, capacity) - 152usize];
    ["Offset of field: QkNormRopeParams::eps"][::core::mem::offset_of!(QkNormRopeParams, eps) - 156usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct QkNormRopeGradParams {
    pub qkv: Matrix,
    pub q_weight: *const f32,
    pub k_weight: *const f32,
    pub positions: *const ::core::ffi::c_uint,
    pub cos: *const f32,
    pub sin: *const f32,
    pub d_q: Matrix,
    pub d_k: Matrix,
    pub d_qk: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub q_heads: ::core::ffi::c_uint,
    pub kv_heads: ::core::ffi::c_uint,
    pub dim: ::core::ffi::c_uint,
    pub max_positions: ::core::ffi::c_uint,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QkNormRopeGradParams"][::core::mem::size_of::<QkNormRopeGradParams>() - 128usize];
    ["Alignment of QkNormRopeGradParams"][::core::mem::align_of::<QkNormRopeGradParams>() - 8usize];
    ["Offset of field: QkNormRopeGradParams::qkv"][::core::mem::offset_of!(QkNormRopeGradParams, qkv) - 0usize];
    ["Offset of field: QkNormRopeGradParams::q_weight"]
        [::core::mem::offset_of!(QkNormRopeGradParams, q_weight) - 16usize];
    ["Offset of field: QkNormRopeGradParams::k_weight"]
        [::core::mem::offset_of!(QkNormRopeGradParams, k_weight) - 24usize];
    ["Offset of field: QkNormRopeGradParams::positions"]
        [::core::mem::offset_of!(QkNormRopeGradParams, positions) - 32usize];
    ["Offset of field: QkNormRopeGradParams::cos"][::core::mem::offset_of!(QkNormRopeGradParams, cos) - 40usize];
    ["Offset of field: QkNormRopeGradParams::sin"][::core::mem::offset_of!(QkNormRopeGradParams, sin) - 48usize];
    ["Offset of field: QkNormRopeGradParams::d_q"][::core::mem::offset_of!(QkNormRopeGradParams, d_q) - 56usize];
    ["Offset of field: QkNormRopeGradParams::d_k"][::core::mem::offset_of!(QkNormRopeGradParams, d_k) - 72usize];
    ["Offset of field: QkNormRopeGradParams::d_qk"][::core::mem::offset_of!(QkNormRopeGradParams, d_qk) - 88usize];
    ["Offset of field: QkNormRopeGradParams::n"][::core::mem::offset_of!(QkNormRopeGradParams, n) - 104usize];
    ["Offset of field: QkNormRopeGradParams::q_heads"]
        [::core::mem::offset_of!(QkNormRopeGradParams, q_heads) - 108usize];
    ["Offset of field: QkNormRopeGradParams::kv_heads"]
        [::core::mem::offset_of!(QkNormRopeGradParams, kv_heads) - 112usize];
    ["Offset of field: QkNormRopeGradParams::dim"][::core::mem::offset_of!(QkNormRopeGradParams, dim) - 116usize];
    ["Offset of field: QkNormRopeGradParams::max_positions"]
        [::core::mem::offset_of!(QkNormRopeGradParams, max_positions) - 120usize];
    ["Offset of field: QkNormRopeGradParams::eps"][::core::mem::offset_of!(QkNormRopeGradParams, eps) - 124usize];
};
pub const QK_NORM_ROPE_THREADS: u32 = 128;
pub const QK_NORM_ROPE_HEADS: u32 = 4;
pub const ATTENTION_STAGES: u32 = 2;
pub const ATTENTION_SIMT_WARPS: u32 = 4;
pub const ATTENTION_MMA_THREADS: u32 = 128;
pub const ATTENTION_MMA_QUERIES: u32 = 128;
pub const ATTENTION_MMA_KEYS: u32 = 64;
pub const ATTENTION_GRAD_KV_MMA_KEYS: u32 = 64;
pub const ATTENTION_GRAD_KV_MMA_QUERIES: u32 = 64;
pub const ATTENTION_GRAD_Q_MMA_QUERIES: u32 = 128;
pub const ATTENTION_GRAD_Q_MMA_KEYS: u32 = 32;
pub const ATTENTION_WGMMA_COPY_ROWS: u32 = 64;
pub const ATTENTION_WGMMA_COPY_COLUMNS: u32 = 64;
pub const ATTENTION_WGMMA_THREADS: u32 = 384;
pub const ATTENTION_WGMMA_SHARED_BYTES: u32 = 232448;
pub const ATTENTION_WGMMA_QUERIES: u32 = 128;
pub const ATTENTION_GRAD_Q_WGMMA_QUERIES: u32 = 128;
pub const ATTENTION_GRAD_WGMMA_KEYS: u32 = 128;
pub const ATTENTION_GRAD_WGMMA_QUERIES: u32 = 64;
pub const ATTENTION_GRAD_SUMS_THREADS: u32 = 128;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttentionParams {
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    pub cu_seqlens: *const ::core::ffi::c_uint,
    pub prefix_k: Matrix,
    pub prefix_v: Matrix,
    pub prefixes: *const ::core::ffi::c_uint,
    pub out: MatrixMut,
    pub lse: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub n_prefix: ::core::ffi::c_uint,
    pub n_seqs: ::core::ffi::c_uint,
    pub max_len: ::core::ffi::c_uint,
    pub q_heads: ::core::ffi::c_uint,
    pub kv_heads: ::core::ffi::c_uint,
    pub dim: ::core::ffi::c_uint,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionParams"][::core::mem::size_of::<AttentionParams>() - 152usize];
    ["Alignment of AttentionParams"][::core::mem::align_of::<AttentionParams>() - 8usize];
    ["Offset of field: AttentionParams::q"][::core::mem::offset_of!(AttentionParams, q) - 0usize];
    ["Offset of field: AttentionParams::k"][::core::mem::offset_of!(AttentionParams, k) - 16usize];
    ["Offset of field: AttentionParams::v"][::core::mem::offset_of!(AttentionParams, v) - 32usize];
    ["Offset of field: AttentionParams::cu_seqlens"][::core::mem::offset_of!(AttentionParams, cu_seqlens) - 48usize];
    ["Offset of field: AttentionParams::prefix_k"][::core::mem::offset_of!(AttentionParams, prefix_k) - 56usize];
    ["Offset of field: AttentionParams::prefix_v"][::core::mem::offset_of!(AttentionParams, prefix_v) - 72usize];
    ["Offset of field: AttentionParams::prefixes"][::core::mem::offset_of!(AttentionParams, prefixes) - 88usize];
    ["Offset of field: AttentionParams::out"][::core::mem::offset_of!(AttentionParams, out) - 96usize];
    ["Offset of field: AttentionParams::lse"][::core::mem::offset_of!(AttentionParams, lse) - 112usize];
    ["Offset of field: AttentionParams::n"][::core::mem::offset_of!(AttentionParams, n) - 120usize];
    ["Offset of field: AttentionParams::n_prefix"][::core::mem::offset_of!(AttentionParams, n_prefix) - 124usize];
    ["Offset of field: AttentionParams::n_seqs"][::core::mem::offset_of!(AttentionParams, n_seqs) - 128usize];
    ["Offset of field: AttentionParams::max_len"][::core::mem::offset_of!(AttentionParams, max_len) - 132usize];
    ["Offset of field: AttentionParams::q_heads"][::core::mem::offset_of!(AttentionParams, q_heads) - 136usize];
    ["Offset of field: AttentionParams::kv_heads"][::core::mem::offset_of!(AttentionParams, kv_heads) - 140usize];
    ["Offset of field: AttentionParams::dim"][::core::mem::offset_of!(AttentionParams, dim) - 144usize];
    ["Offset of field: AttentionParams::scale"][::core::mem::offset_of!(AttentionParams, scale) - 148usize];
};
#[repr(C)]
#[repr(align(128))]
#[derive(Debug, Copy, Clone)]
pub struct AttentionWgmmaParams {
    pub q: TensorMap,
    pub k: TensorMap,
    pub v: TensorMap,
    pub prefix_k: TensorMap,
    pub prefix_v: TensorMap,
    pub attention: AttentionParams,
    pub ticket: *mut ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionWgmmaParams"][::core::mem::size_of::<AttentionWgmmaParams>() - 896usize];
    ["Alignment of AttentionWgmmaParams"][::core::mem::align_of::<AttentionWgmmaParams>() - 128usize];
    ["Offset of field: AttentionWgmmaParams::q"][::core::mem::offset_of!(AttentionWgmmaParams, q) - 0usize];
    ["Offset of field: AttentionWgmmaParams::k"][::core::mem::offset_of!(AttentionWgmmaParams, k) - 128usize];
    ["Offset of field: AttentionWgmmaParams::v"][::core::mem::offset_of!(AttentionWgmmaParams, v) - 256usize];
    ["Offset of field: AttentionWgmmaParams::prefix_k"]
        [::core::mem::offset_of!(AttentionWgmmaParams, prefix_k) - 384usize];
    ["Offset of field: AttentionWgmmaParams::prefix_v"]
        [::core::mem::offset_of!(AttentionWgmmaParams, prefix_v) - 512usize];
    ["Offset of field: AttentionWgmmaParams::attention"]
        [::core::mem::offset_of!(AttentionWgmmaParams, attention) - 640usize];
    ["Offset of field: AttentionWgmmaParams::ticket"][::core::mem::offset_of!(AttentionWgmmaParams, ticket) - 792usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttentionGradParams {
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    pub out: Matrix,
    pub d_out: Matrix,
    pub cu_seqlens: *const ::core::ffi::c_uint,
    pub lse: *const f32,
    pub delta: *mut f32,
    pub d_q: MatrixMut,
    pub d_k: MatrixMut,
    pub d_v: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub n_seqs: ::core::ffi::c_uint,
    pub max_len: ::core::ffi::c_uint,
    pub q_heads: ::core::ffi::c_uint,
    pub kv_heads: ::core::ffi::c_uint,
    pub dim: ::core::ffi::c_uint,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionGradParams"][::core::mem::size_of::<AttentionGradParams>() - 184usize];
    ["Alignment of AttentionGradParams"][::core::mem::align_of::<AttentionGradParams>() - 8usize];
    ["Offset of field: AttentionGradParams::q"][::core::mem::offset_of!(AttentionGradParams, q) - 0usize];
    ["Offset of field: AttentionGradParams::k"][::core::mem::offset_of!(AttentionGradParams, k) - 16usize];
    ["Offset of field: AttentionGradParams::v"][::core::mem::offset_of!(AttentionGradParams, v) - 32usize];
    ["Offset of field: AttentionGradParams::out"][::core::mem::offset_of!(AttentionGradParams, out) - 48usize];
    ["Offset of field: AttentionGradParams::d_out"][::core::mem::offset_of!(AttentionGradParams, d_out) - 64usize];
    ["Offset of field: AttentionGradParams::cu_seqlens"]
        [::core::mem::offset_of!(AttentionGradParams, cu_seqlens) - 80usize];
    ["Offset of field: AttentionGradParams::lse"][::core::mem::offset_of!(AttentionGradParams, lse) - 88usize];
    ["Offset of field: AttentionGradParams::delta"][::core::mem::offset_of!(AttentionGradParams, delta) - 96usize];
    ["Offset of field: AttentionGradParams::d_q"][::core::mem::offset_of!(AttentionGradParams, d_q) - 104usize];
    ["Offset of field: AttentionGradParams::d_k"][::core::mem::offset_of!(AttentionGradParams, d_k) - 120usize];
    ["Offset of field: AttentionGradParams::d_v"][::core::mem::offset_of!(AttentionGradParams, d_v) - 136usize];
    ["Offset of field: AttentionGradParams::n"][::core::mem::offset_of!(AttentionGradParams, n) - 152usize];
    ["Offset of field: AttentionGradParams::n_seqs"][::core::mem::offset_of!(AttentionGradParams, n_seqs) - 156usize];
    ["Offset of field: AttentionGradParams::max_len"][::core::mem::offset_of!(AttentionGradParams, max_len) - 160usize];
    ["Offset of field: AttentionGradParams::q_heads"][::core::mem::offset_of!(AttentionGradParams, q_heads) - 164usize];
    ["Offset of field: AttentionGradParams::kv_heads"]
        [::core::mem::offset_of!(AttentionGradParams, kv_heads) - 168usize];
    ["Offset of field: AttentionGradParams::dim"][::core::mem::offset_of!(AttentionGradParams, dim) - 172usize];
    ["Offset of field: AttentionGradParams::scale"][::core::mem::offset_of!(AttentionGradParams, scale) - 176usize];
};
#[repr(C)]
#[repr(align(128))]
#[derive(Debug, Copy, Clone)]
pub struct AttentionGradWgmmaParams {
    pub q: TensorMap,
    pub k: TensorMap,
    pub v: TensorMap,
    pub d_out: TensorMap,
    pub grad: AttentionGradParams,
    pub sums: *mut f32,
    pub tiles: ::core::ffi::c_uint,
    pub turns: *mut ::core::ffi::c_uint,
    pub ticket: *mut ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionGradWgmmaParams"][::core::mem::size_of::<AttentionGradWgmmaParams>() - 768usize];
    ["Alignment of AttentionGradWgmmaParams"][::core::mem::align_of::<AttentionGradWgmmaParams>() - 128usize];
    ["Offset of field: AttentionGradWgmmaParams::q"][::core::mem::offset_of!(AttentionGradWgmmaParams, q) - 0usize];
    ["Offset of field: AttentionGradWgmmaParams::k"][::core::mem::offset_of!(AttentionGradWgmmaParams, k) - 128usize];
    ["Offset of field: AttentionGradWgmmaParams::v"][::core::mem::offset_of!(AttentionGradWgmmaParams, v) - 256usize];
    ["Offset of field: AttentionGradWgmmaParams::d_out"]
        [::core::mem::offset_of!(AttentionGradWgmmaParams, d_out) - 384usize];
    ["Offset of field: AttentionGradWgmmaParams::grad"]
        [::core::mem::offset_of!(AttentionGradWgmmaParams, grad) - 512usize];
    ["Offset of field: AttentionGradWgmmaParams::sums"]
        [::core::mem::offset_of!(AttentionGradWgmmaParams, sums) - 696usize];
    ["Offset of field: AttentionGradWgmmaParams::tiles"]
        [::core::mem::offset_of!(AttentionGradWgmmaParams, tiles) - 704usize];
    ["Offset of field: AttentionGradWgmmaParams::turns"]
        [::core::mem::offset_of!(AttentionGradWgmmaParams, turns) - 712usize];
    ["Offset of field: AttentionGradWgmmaParams::ticket"]
        [::core::mem::offset_of!(AttentionGradWgmmaParams, ticket) - 720usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DecodeAttentionParams {
    pub qkv: Matrix,
    pub q_weight: *const f32,
    pub k_weight: *const f32,
    pub positions: *const ::core::ffi::c_uint,
    pub cos: *const f32,
    pub sin: *const f32,
    pub k_cache: *mut ::core::ffi::c_void,
    pub v_cache: *mut ::core::ffi::c_void,
    pub k_scales: *mut f32,
    pub v_scales: *mut f32,
    pub out: MatrixMut,
    pub partial: *mut f32,
    pub tickets: *mut ::core::ffi::c_uint,
    pub n_seqs: ::core::ffi::c_uint,
    pub capacity: ::core::ffi::c_uint,
    pub q_heads: ::core::ffi::c_uint,
    pub kv_heads: ::core::ffi::c_uint,
    pub dim: ::core::ffi::c_uint,
    pub max_positions: ::core::ffi::c_uint,
    pub splits: ::core::ffi::c_uint,
    pub packed: ::core::ffi::c_uint,
    pub settled: ::core::ffi::c_uint,
    pub eps: f32,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DecodeAttentionParams"][::core::mem::size_of::<DecodeAttentionParams>() - 168usize];
    ["Alignment of DecodeAttentionParams"][::core::mem::align_of::<DecodeAttentionParams>() - 8usize];
    ["Offset of field: DecodeAttentionParams::qkv"][::core::mem::offset_of!(DecodeAttentionParams, qkv) - 0usize];
    ["Offset of field: DecodeAttentionParams::q_weight"]
        [::core::mem::offset_of!(DecodeAttentionParams, q_weight) - 16usize];
    ["Offset of field: DecodeAttentionParams::k_weight"]
        [::core::mem::offset_of!(DecodeAttentionParams, k_weight) - 24usize];
    ["Offset of field: DecodeAttentionParams::positions"]
        [::core::mem::offset_of!(DecodeAttentionParams, positions) - 32usize];
    ["Offset of field: DecodeAttentionParams::cos"][::core::mem::offset_of!(DecodeAttentionParams, cos) - 40usize];
    ["Offset of field: DecodeAttentionParams::sin"][::core::mem::offset_of!(DecodeAttentionParams, sin) - 48usize];
    ["Offset of field: DecodeAttentionParams::k_cache"]
        [::core::mem::offset_of!(DecodeAttentionParams, k_cache) - 56usize];
    ["Offset of field: DecodeAttentionParams::v_cache"]
        [::core::mem::offset_of!(DecodeAttentionParams, v_cache) - 64usize];
    ["Offset of field: DecodeAttentionParams::k_scales"]
        [::core::mem::offset_of!(DecodeAttentionParams, k_scales) - 72usize];
    ["Offset of field: DecodeAttentionParams::v_scales"]
        [::core::mem::offset_of!(DecodeAttentionParams, v_scales) - 80usize];
    ["Offset of field: DecodeAttentionParams::out"][::core::mem::offset_of!(DecodeAttentionParams, out) - 88usize];
    ["Offset of field: DecodeAttentionParams::partial"]
        [::core::mem::offset_of!(DecodeAttentionParams, partial) - 104usize];
    ["Offset of field: DecodeAttentionParams::tickets"]
        [::core::mem::offset_of!(DecodeAttentionParams, tickets) - 112usize];
    ["Offset of field: DecodeAttentionParams::n_seqs"]
        [::core::mem::offset_of!(DecodeAttentionParams, n_seqs) - 120usize];
    ["Offset of field: DecodeAttentionParams::capacity"]
        [::core::mem::offset_of!(DecodeAttentionParams, capacity) - 124usize];
    ["Offset of field: DecodeAttentionParams::q_heads"]
        [::core::mem::offset_of!(DecodeAttentionParams, q_heads) - 128usize];
    ["Offset of field: DecodeAttentionParams::kv_heads"]
        [::core::mem::offset_of!(DecodeAttentionParams, kv_heads) - 132usize];
    ["Offset of field: DecodeAttentionParams::dim"][::core::mem::offset_of!(DecodeAttentionParams, dim) - 136usize];
    ["Offset of field: DecodeAttentionParams::max_positions"]
        [::core::mem::offset_of!(DecodeAttentionParams, max_positions) - 140usize];
    ["Offset of field: DecodeAttentionParams::splits"]
        [::core::mem::offset_of!(DecodeAttentionParams, splits) - 144usize];
    ["Offset of field: DecodeAttentionParams::packed"]
        [::core::mem::offset_of!(DecodeAttentionParams, packed) - 148usize];
    ["Offset of field: DecodeAttentionParams::settled"]
        [::core::mem::offset_of!(DecodeAttentionParams, settled) - 152usize];
    ["Offset of field: DecodeAttentionParams::eps"][::core::mem::offset_of!(DecodeAttentionParams, eps) - 156usize];
    ["Offset of field: DecodeAttentionParams::scale"][::core::mem::offset_of!(DecodeAttentionParams, scale) - 160usize];
};
pub const DECODE_ATTENTION_THREADS: u32 = 256;
pub const DECODE_ATTENTION_HEADS: u32 = 8;
pub const DECODE_ATTENTION_TILE: u32 = 16;
pub const DECODE_ATTENTION_INT8_TILE: u32 = 32;
pub const DECODE_ATTENTION_MAX_SPLITS: u32 = 64;
pub const DECODE_ATTENTION_MERGED: u32 = 32;
pub const DECODE_ATTENTION_STATS: u32 = 8;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DequantizeRowsParams {
    pub codes: Matrix,
    pub scales: Matrix,
    pub out: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub heads: ::core::ffi::c_uint,
    pub dim: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DequantizeRowsParams"][::core::mem::size_of::<DequantizeRowsParams>() - 64usize];
    ["Alignment of DequantizeRowsParams"][::core::mem::align_of::<DequantizeRowsParams>() - 8usize];
    ["Offset of field: DequantizeRowsParams::codes"][::core::mem::offset_of!(DequantizeRowsParams, codes) - 0usize];
    ["Offset of field: DequantizeRowsParams::scales"][::core::mem::offset_of!(DequantizeRowsParams, scales) - 16usize];
    ["Offset of field: DequantizeRowsParams::out"][::core::mem::offset_of!(DequantizeRowsParams, out) - 32usize];
    ["Offset of field: DequantizeRowsParams::n"][::core::mem::offset_of!(DequantizeRowsParams, n) - 48usize];
    ["Offset of field: DequantizeRowsParams::heads"][::core::mem::offset_of!(DequantizeRowsParams, heads) - 52usize];
    ["Offset of field: DequantizeRowsParams::dim"][::core::mem::offset_of!(DequantizeRowsParams, dim) - 56usize];
};
pub const DEQUANTIZE_ROWS_THREADS: u32 = 128;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SwigluParams {
    pub gate_up: Matrix,
    pub out: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub f: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SwigluParams"][::core::mem::size_of::<SwigluParams>() - 40usize];
    ["Alignment of SwigluParams"][::core::mem::align_of::<SwigluParams>() - 8usize];
    ["Offset of field: SwigluParams::gate_up"][::core::mem::offset_of!(SwigluParams, gate_up) - 0usize];
    ["Offset of field: SwigluParams::out"][::core::mem::offset_of!(SwigluParams, out) - 16usize];
    ["Offset of field: SwigluParams::n"][::core::mem::offset_of!(SwigluParams, n) - 32usize];
    ["Offset of field: SwigluParams::f"][::core::mem::offset_of!(SwigluParams, f) - 36usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SwigluGradParams {
    pub gate_up: Matrix,
    pub d_out: Matrix,
    pub d_gate_up: MatrixMut,
    pub out: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub f: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SwigluGradParams"][::core::mem::size_of::<SwigluGradParams>() - 72usize];
    ["Alignment of SwigluGradParams"][::core::mem::align_of::<SwigluGradParams>() - 8usize];
    ["Offset of field: SwigluGradParams::gate_up"][::core::mem::offset_of!(SwigluGradParams, gate_up) - 0usize];
    ["Offset of field: SwigluGradParams::d_out"][::core::mem::offset_of!(SwigluGradParams, d_out) - 16usize];
    ["Offset of field: SwigluGradParams::d_gate_up"][::core::mem::offset_of!(SwigluGradParams, d_gate_up) - 32usize];
    ["Offset of field: SwigluGradParams::out"][::core::mem::offset_of!(SwigluGradParams, out) - 48usize];
    ["Offset of field: SwigluGradParams::n"][::core::mem::offset_of!(SwigluGradParams, n) - 64usize];
    ["Offset of field: SwigluGradParams::f"][::core::mem::offset_of!(SwigluGradParams, f) - 68usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraSwigluDownParams {
    pub swiglu: SwigluParams,
    pub down: LoraDownParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraSwigluDownParams"][::core::mem::size_of::<LoraSwigluDownParams>() - 136usize];
    ["Alignment of LoraSwigluDownParams"][::core::mem::align_of::<LoraSwigluDownParams>() - 8usize];
    ["Offset of field: LoraSwigluDownParams::swiglu"][::core::mem::offset_of!(LoraSwigluDownParams, swiglu) - 0usize];
    ["Offset of field: LoraSwigluDownParams::down"][::core::mem::offset_of!(LoraSwigluDownParams, down) - 40usize];
};
pub const LORA_SWIGLU_DOWN_WARPS: u32 = 24;
pub const LORA_SWIGLU_DOWN_TOKENS: u32 = 16;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LoraSwigluGradParams {
    pub swiglu: SwigluGradParams,
    pub factor: LoraWeightGradParams,
    pub a: *const ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LoraSwigluGradParams"][::core::mem::size_of::<LoraSwigluGradParams>() - 200usize];
    ["Alignment of LoraSwigluGradParams"][::core::mem::align_of::<LoraSwigluGradParams>() - 8usize];
    ["Offset of field: LoraSwigluGradParams::swiglu"][::core::mem::offset_of!(LoraSwigluGradParams, swiglu) - 0usize];
    ["Offset of field: LoraSwigluGradParams::factor"][::core::mem::offset_of!(LoraSwigluGradParams, factor) - 72usize];
    ["Offset of field: LoraSwigluGradParams::a"][::core::mem::offset_of!(LoraSwigluGradParams, a) - 192usize];
};
pub const LORA_SWIGLU_GRAD_ADDED_R: u32 = 64;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct NoiseParams {
    pub x: MatrixMut,
    pub seed: ::core::ffi::c_ulonglong,
    pub stream: ::core::ffi::c_ulonglong,
    pub n: ::core::ffi::c_uint,
    pub d: ::core::ffi::c_uint,
    pub bound: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NoiseParams"][::core::mem::size_of::<NoiseParams>() - 48usize];
    ["Alignment of NoiseParams"][::core::mem::align_of::<NoiseParams>() - 8usize];
    ["Offset of field: NoiseParams::x"][::core::mem::offset_of!(NoiseParams, x) - 0usize];
    ["Offset of field: NoiseParams::seed"][::core::mem::offset_of!(NoiseParams, seed) - 16usize];
    ["Offset of field: NoiseParams::stream"][::core::mem::offset_of!(NoiseParams, stream) - 24usize];
    ["Offset of field: NoiseParams::n"][::core::mem::offset_of!(NoiseParams, n) - 32usize];
    ["Offset of field: NoiseParams::d"][::core::mem::offset_of!(NoiseParams, d) - 36usize];
    ["Offset of field: NoiseParams::bound"][::core::mem::offset_of!(NoiseParams, bound) - 40usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RowSquaresParams {
    pub x: Matrix,
    pub out: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub d: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowSquaresParams"][::core::mem::size_of::<RowSquaresParams>() - 32usize];
    ["Alignment of RowSquaresParams"][::core::mem::align_of::<RowSquaresParams>() - 8usize];
    ["Offset of field: RowSquaresParams::x"][::core::mem::offset_of!(RowSquaresParams, x) - 0usize];
    ["Offset of field: RowSquaresParams::out"][::core::mem::offset_of!(RowSquaresParams, out) - 16usize];
    ["Offset of field: RowSquaresParams::n"][::core::mem::offset_of!(RowSquaresParams, n) - 24usize];
    ["Offset of field: RowSquaresParams::d"][::core::mem::offset_of!(RowSquaresParams, d) - 28usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DoraNormsParams {
    pub squares: *const f32,
    pub products: Matrix,
    pub gram: *const f32,
    pub b: *const ::core::ffi::c_void,
    pub norms: *mut f32,
    pub outputs: ::core::ffi::c_uint,
    pub rank: ::core::ffi::c_uint,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DoraNormsParams"][::core::mem::size_of::<DoraNormsParams>() - 64usize];
    ["Alignment of DoraNormsParams"][::core::mem::align_of::<DoraNormsParams>() - 8usize];
    ["Offset of field: DoraNormsParams::squares"][::core::mem::offset_of!(DoraNormsParams, squares) - 0usize];
    ["Offset of field: DoraNormsParams::products"][::core::mem::offset_of!(DoraNormsParams, products) - 8usize];
    ["Offset of field: DoraNormsParams::gram"][::core::mem::offset_of!(DoraNormsParams, gram) - 24usize];
    ["Offset of field: DoraNormsParams::b"][::core::mem::offset_of!(DoraNormsParams, b) - 32usize];
    ["Offset of field: DoraNormsParams::norms"][::core::mem::offset_of!(DoraNormsParams, norms) - 40usize];
    ["Offset of field: DoraNormsParams::outputs"][::core::mem::offset_of!(DoraNormsParams, outputs) - 48usize];
    ["Offset of field: DoraNormsParams::rank"][::core::mem::offset_of!(DoraNormsParams, rank) - 52usize];
    ["Offset of field: DoraNormsParams::scale"][::core::mem::offset_of!(DoraNormsParams, scale) - 56usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DoraParams {
    pub z: MatrixMut,
    pub magnitude: *const f32,
    pub norms: *const f32,
    pub sum: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub outputs: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DoraParams"][::core::mem::size_of::<DoraParams>() - 56usize];
    ["Alignment of DoraParams"][::core::mem::align_of::<DoraParams>() - 8usize];
    ["Offset of field: DoraParams::z"][::core::mem::offset_of!(DoraParams, z) - 0usize];
    ["Offset of field: DoraParams::magnitude"][::core::mem::offset_of!(DoraParams, magnitude) - 16usize];
    ["Offset of field: DoraParams::norms"][::core::mem::offset_of!(DoraParams, norms) - 24usize];
    ["Offset of field: DoraParams::sum"][::core::mem::offset_of!(DoraParams, sum) - 32usize];
    ["Offset of field: DoraParams::n"][::core::mem::offset_of!(DoraParams, n) - 48usize];
    ["Offset of field: DoraParams::outputs"][::core::mem::offset_of!(DoraParams, outputs) - 52usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DoraGradParams {
    pub z: Matrix,
    pub magnitude: *const f32,
    pub norms: *const f32,
    pub d_out: MatrixMut,
    pub d_magnitude: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub outputs: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DoraGradParams"][::core::mem::size_of::<DoraGradParams>() - 64usize];
    ["Alignment of DoraGradParams"][::core::mem::align_of::<DoraGradParams>() - 8usize];
    ["Offset of field: DoraGradParams::z"][::core::mem::offset_of!(DoraGradParams, z) - 0usize];
    ["Offset of field: DoraGradParams::magnitude"][::core::mem::offset_of!(DoraGradParams, magnitude) - 16usize];
    ["Offset of field: DoraGradParams::norms"][::core::mem::offset_of!(DoraGradParams, norms) - 24usize];
    ["Offset of field: DoraGradParams::d_out"][::core::mem::offset_of!(DoraGradParams, d_out) - 32usize];
    ["Offset of field: DoraGradParams::d_magnitude"][::core::mem::offset_of!(DoraGradParams, d_magnitude) - 48usize];
    ["Offset of field: DoraGradParams::n"][::core::mem::offset_of!(DoraGradParams, n) - 56usize];
    ["Offset of field: DoraGradParams::outputs"][::core::mem::offset_of!(DoraGradParams, outputs) - 60usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DroppedParams {
    pub x: Matrix,
    pub out: MatrixMut,
    pub dropout: DropoutParams,
    pub n: ::core::ffi::c_uint,
    pub d: ::core::ffi::c_uint,
    pub accumulate: ::core::ffi::c_uint,
    pub factors: [f32; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DroppedParams"][::core::mem::size_of::<DroppedParams>() - 80usize];
    ["Alignment of DroppedParams"][::core::mem::align_of::<DroppedParams>() - 8usize];
    ["Offset of field: DroppedParams::x"][::core::mem::offset_of!(DroppedParams, x) - 0usize];
    ["Offset of field: DroppedParams::out"][::core::mem::offset_of!(DroppedParams, out) - 16usize];
    ["Offset of field: DroppedParams::dropout"][::core::mem::offset_of!(DroppedParams, dropout) - 32usize];
    ["Offset of field: DroppedParams::n"][::core::mem::offset_of!(DroppedParams, n) - 56usize];
    ["Offset of field: DroppedParams::d"][::core::mem::offset_of!(DroppedParams, d) - 60usize];
    ["Offset of field: DroppedParams::accumulate"][::core::mem::offset_of!(DroppedParams, accumulate) - 64usize];
    ["Offset of field: DroppedParams::factors"][::core::mem::offset_of!(DroppedParams, factors) - 68usize];
};
pub const DORA_THREADS: u32 = 256;
pub const DORA_GRAD_COLUMNS: u32 = 32;
pub const DORA_GRAD_ROWS: u32 = 16;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RowsParams {
    pub x: Matrix,
    pub rows: *const ::core::ffi::c_uint,
    pub out: MatrixMut,
    pub n: ::core::ffi::c_uint,
    pub n_table: ::core::ffi::c_uint,
    pub d: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowsParams"][::core::mem::size_of::<RowsParams>() - 56usize];
    ["Alignment of RowsParams"][::core::mem::align_of::<RowsParams>() - 8usize];
    ["Offset of field: RowsParams::x"][::core::mem::offset_of!(RowsParams, x) - 0usize];
    ["Offset of field: RowsParams::rows"][::core::mem::offset_of!(RowsParams, rows) - 16usize];
    ["Offset of field: RowsParams::out"][::core::mem::offset_of!(RowsParams, out) - 24usize];
    ["Offset of field: RowsParams::n"][::core::mem::offset_of!(RowsParams, n) - 40usize];
    ["Offset of field: RowsParams::n_table"][::core::mem::offset_of!(RowsParams, n_table) - 44usize];
    ["Offset of field: RowsParams::d"][::core::mem::offset_of!(RowsParams, d) - 48usize];
};
pub const ROWS_THREADS: u32 = 256;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CrossEntropyParams {
    pub logits: MatrixMut,
    pub labels: *const ::core::ffi::c_uint,
    pub losses: *mut f32,
    pub n: ::core::ffi::c_uint,
    pub vocab: ::core::ffi::c_uint,
    pub with_grad: ::core::ffi::c_uint,
    pub cached: ::core::ffi::c_uint,
    pub grad_scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CrossEntropyParams"][::core::mem::size_of::<CrossEntropyParams>() - 56usize];
    ["Alignment of CrossEntropyParams"][::core::mem::align_of::<CrossEntropyParams>() - 8usize];
    ["Offset of field: CrossEntropyParams::logits"][::core::mem::offset_of!(CrossEntropyParams, logits) - 0usize];
    ["Offset of field: CrossEntropyParams::labels"][::core::mem::offset_of!(CrossEntropyParams, labels) - 16usize];
    ["Offset of field: CrossEntropyParams::losses"][::core::mem::offset_of!(CrossEntropyParams, losses) - 24usize];
    ["Offset of field: CrossEntropyParams::n"][::core::mem::offset_of!(CrossEntropyParams, n) - 32usize];
    ["Offset of field: CrossEntropyParams::vocab"][::core::mem::offset_of!(CrossEntropyParams, vocab) - 36usize];
    ["Offset of field: CrossEntropyParams::with_grad"]
        [::core::mem::offset_of!(CrossEntropyParams, with_grad) - 40usize];
    ["Offset of field: CrossEntropyParams::cached"][::core::mem::offset_of!(CrossEntropyParams, cached) - 44usize];
    ["Offset of field: CrossEntropyParams::grad_scale"]
        [::core::mem::offset_of!(CrossEntropyParams, grad_scale) - 48usize];
};
pub const CROSS_ENTROPY_THREADS: u32 = 1024;
pub const CROSS_ENTROPY_PACK_BYTES: u32 = 16;
pub const CROSS_ENTROPY_STATIC_BYTES: u32 = 1024;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SampleParams {
    pub logits: MatrixMut,
    pub history: *mut ::core::ffi::c_uint,
    pub positions: *mut ::core::ffi::c_uint,
    pub tokens: *mut ::core::ffi::c_uint,
    pub seen: *mut ::core::ffi::c_uint,
    pub n_seqs: ::core::ffi::c_uint,
    pub vocab: ::core::ffi::c_uint,
    pub capacity: ::core::ffi::c_uint,
    pub top_k: ::core::ffi::c_uint,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub seed: ::core::ffi::c_ulonglong,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SampleParams"][::core::mem::size_of::<SampleParams>() - 88usize];
    ["Alignment of SampleParams"][::core::mem::align_of::<SampleParams>() - 8usize];
    ["Offset of field: SampleParams::logits"][::core::mem::offset_of!(SampleParams, logits) - 0usize];
    ["Offset of field: SampleParams::history"][::core::mem::offset_of!(SampleParams, history) - 16usize];
    ["Offset of field: SampleParams::positions"][::core::mem::offset_of!(SampleParams, positions) - 24usize];
    ["Offset of field: SampleParams::tokens"][::core::mem::offset_of!(SampleParams, tokens) - 32usize];
    ["Offset of field: SampleParams::seen"][::core::mem::offset_of!(SampleParams, seen) - 40usize];
    ["Offset of field: SampleParams::n_seqs"][::core::mem::offset_of!(SampleParams, n_seqs) - 48usize];
    ["Offset of field: SampleParams::vocab"][::core::mem::offset_of!(SampleParams, vocab) - 52usize];
    ["Offset of field: SampleParams::capacity"][::core::mem::offset_of!(SampleParams, capacity) - 56usize];
    ["Offset of field: SampleParams::top_k"][::core::mem::offset_of!(SampleParams, top_k) - 60usize];
    ["Offset of field: SampleParams::temperature"][::core::mem::offset_of!(SampleParams, temperature) - 64usize];
    ["Offset of field: SampleParams::top_p"][::core::mem::offset_of!(SampleParams, top_p) - 68usize];
    ["Offset of field: SampleParams::min_p"][::core::mem::offset_of!(SampleParams, min_p) - 72usize];
    ["Offset of field: SampleParams::repetition_penalty"]
        [::core::mem::offset_of!(SampleParams, repetition_penalty) - 76usize];
    ["Offset of field: SampleParams::seed"][::core::mem::offset_of!(SampleParams, seed) - 80usize];
};
pub const SAMPLE_THREADS: u32 = 1024;
pub const SAMPLE_CTAS: u32 = 8;
pub const SAMPLE_SHARED_TOP_K: u32 = 64;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CastParams {
    pub x: *const ::core::ffi::c_void,
    pub out: *mut ::core::ffi::c_void,
    pub len: ::core::ffi::c_ulonglong,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CastParams"][::core::mem::size_of::<CastParams>() - 24usize];
    ["Alignment of CastParams"][::core::mem::align_of::<CastParams>() - 8usize];
    ["Offset of field: CastParams::x"][::core::mem::offset_of!(CastParams, x) - 0usize];
    ["Offset of field: CastParams::out"][::core::mem::offset_of!(CastParams, out) - 8usize];
    ["Offset of field: CastParams::len"][::core::mem::offset_of!(CastParams, len) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ReduceParams {
    pub x: *const f32,
    pub partial: *mut f64,
    pub out: *mut f32,
    pub len: ::core::ffi::c_ulonglong,
    pub blocks: ::core::ffi::c_uint,
    pub accumulate: ::core::ffi::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ReduceParams"][::core::mem::size_of::<ReduceParams>() - 40usize];
    ["Alignment of ReduceParams"][::core::mem::align_of::<ReduceParams>() - 8usize];
    ["Offset of field: ReduceParams::x"][::core::mem::offset_of!(ReduceParams, x) - 0usize];
    ["Offset of field: ReduceParams::partial"][::core::mem::offset_of!(ReduceParams, partial) - 8usize];
    ["Offset of field: ReduceParams::out"][::core::mem::offset_of!(ReduceParams, out) - 16usize];
    ["Offset of field: ReduceParams::len"][::core::mem::offset_of!(ReduceParams, len) - 24usize];
    ["Offset of field: ReduceParams::blocks"][::core::mem::offset_of!(ReduceParams, blocks) - 32usize];
    ["Offset of field: ReduceParams::accumulate"][::core::mem::offset_of!(ReduceParams, accumulate) - 36usize];
};
pub const REDUCE_THREADS: u32 = 256;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AdamWStepParams {
    pub weights: *mut f32,
    pub grads: *const f32,
    pub compute: *mut ::core::ffi::c_void,
    pub len: ::core::ffi::c_ulonglong,
    pub decay: f32,
    pub beta1: f32,
    pub one_minus_beta1: f32,
    pub beta2: f32,
    pub one_minus_beta2: f32,
    pub step_size: f32,
    pub bias2_sqrt: f32,
    pub eps: f32,
    pub norm: *const f32,
    pub loss: *const f32,
    pub halted: *mut ::core::ffi::c_uint,
    pub max_norm: f32,
    pub loss_scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamWStepParams"][::core::mem::size_of::<AdamWStepParams>() - 96usize];
    ["Alignment of AdamWStepParams"][::core::mem::align_of::<AdamWStepParams>() - 8usize];
    ["Offset of field: AdamWStepParams::weights"][::core::mem::offset_of!(AdamWStepParams, weights) - 0usize];
    ["Offset of field: AdamWStepParams::grads"][::core::mem::offset_of!(AdamWStepParams, grads) - 8usize];
    ["Offset of field: AdamWStepParams::compute"][::core::mem::offset_of!(AdamWStepParams, compute) - 16usize];
    ["Offset of field: AdamWStepParams::len"][::core::mem::offset_of!(AdamWStepParams, len) - 24usize];
    ["Offset of field: AdamWStepParams::decay"][::core::mem::offset_of!(AdamWStepParams, decay) - 32usize];
    ["Offset of field: AdamWStepParams::beta1"][::core::mem::offset_of!(AdamWStepParams, beta1) - 36usize];
    ["Offset of field: AdamWStepParams::one_minus_beta1"]
        [::core::mem::offset_of!(AdamWStepParams, one_minus_beta1) - 40usize];
    ["Offset of field: AdamWStepParams::beta2"][::core::mem::offset_of!(AdamWStepParams, beta2) - 44usize];
    ["Offset of field: AdamWStepParams::one_minus_beta2"]
        [::core::mem::offset_of!(AdamWStepParams, one_minus_beta2) - 48usize];
    ["Offset of field: AdamWStepParams::step_size"][::core::mem::offset_of!(AdamWStepParams, step_size) - 52usize];
    ["Offset of field: AdamWStepParams::bias2_sqrt"][::core::mem::offset_of!(AdamWStepParams, bias2_sqrt) - 56usize];
    ["Offset of field: AdamWStepParams::eps"][::core::mem::offset_of!(AdamWStepParams, eps) - 60usize];
    ["Offset of field: AdamWStepParams::norm"][::core::mem::offset_of!(AdamWStepParams, norm) - 64usize];
    ["Offset of field: AdamWStepParams::loss"][::core::mem::offset_of!(AdamWStepParams, loss) - 72usize];
    ["Offset of field: AdamWStepParams::halted"][::core::mem::offset_of!(AdamWStepParams, halted) - 80usize];
    ["Offset of field: AdamWStepParams::max_norm"][::core::mem::offset_of!(AdamWStepParams, max_norm) - 88usize];
    ["Offset of field: AdamWStepParams::loss_scale"][::core::mem::offset_of!(AdamWStepParams, loss_scale) - 92usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AdamWParams {
    pub step: AdamWStepParams,
    pub m: *mut f32,
    pub v: *mut f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamWParams"][::core::mem::size_of::<AdamWParams>() - 112usize];
    ["Alignment of AdamWParams"][::core::mem::align_of::<AdamWParams>() - 8usize];
    ["Offset of field: AdamWParams::step"][::core::mem::offset_of!(AdamWParams, step) - 0usize];
    ["Offset of field: AdamWParams::m"][::core::mem::offset_of!(AdamWParams, m) - 96usize];
    ["Offset of field: AdamWParams::v"][::core::mem::offset_of!(AdamWParams, v) - 104usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AdamW8bitParams {
    pub step: AdamWStepParams,
    pub m_codes: *mut ::core::ffi::c_uchar,
    pub v_codes: *mut ::core::ffi::c_uchar,
    pub m_absmax: *mut f32,
    pub v_absmax: *mut f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamW8bitParams"][::core::mem::size_of::<AdamW8bitParams>() - 128usize];
    ["Alignment of AdamW8bitParams"][::core::mem::align_of::<AdamW8bitParams>() - 8usize];
    ["Offset of field: AdamW8bitParams::step"][::core::mem::offset_of!(AdamW8bitParams, step) - 0usize];
    ["Offset of field: AdamW8bitParams::m_codes"][::core::mem::offset_of!(AdamW8bitParams, m_codes) - 96usize];
    ["Offset of field: AdamW8bitParams::v_codes"][::core::mem::offset_of!(AdamW8bitParams, v_codes) - 104usize];
    ["Offset of field: AdamW8bitParams::m_absmax"][::core::mem::offset_of!(AdamW8bitParams, m_absmax) - 112usize];
    ["Offset of field: AdamW8bitParams::v_absmax"][::core::mem::offset_of!(AdamW8bitParams, v_absmax) - 120usize];
};
pub const ADAMW8BIT_BLOCK: u32 = 256;
