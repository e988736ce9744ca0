//! What the copy engine of Hopper has to know of a matrix.

use crate::{
    cuda::{
        driver::refused,
        launch::dim,
        params::{Matrix, TensorMap},
    },
    element::DType,
    error::Result,
};
use core::ffi::c_void;
use cudarc::driver::sys;

/// A matrix that the copy engine reads: 16 bytes or a multiple from row to row.
pub(super) struct Copied {
    of: sys::CUtensorMapDataType,
    /// Bytes of an element.
    element: usize,
    ptr: *const c_void,
    row_bytes: usize,
    shape: [usize; 2],
}

impl Copied {
    /// A matrix of 16-bit elements.
    pub(super) fn of(matrix: Matrix, dtype: DType, shape: [usize; 2]) -> Self {
        let of = match dtype {
            DType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        };
        Copied { of, element: 2, ptr: matrix.ptr, row_bytes: 2 * matrix.stride as usize, shape }
    }

    /// A matrix of bytes without gaps.
    pub(super) fn bytes(ptr: *const u8, shape: [usize; 2]) -> Self {
        let of = sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8;
        Copied { of, element: 1, ptr: ptr.cast(), row_bytes: shape[1], shape }
    }

    /// Tiles that are 128 or 64 bytes wide and swizzled over them, with zeros for what lies outside the matrix.
    pub(super) fn in_tiles(&self, [tile_rows, tile_cols]: [usize; 2]) -> Result<TensorMap> {
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // The inner dimension comes first.
        let [rows, cols] = self.shape.map(|d| d as u64);
        let (shape, strides, tile) = ([cols, rows], [self.row_bytes as u64], [dim(tile_cols), dim(tile_rows)]);
        let swizzle = match tile_cols * self.element {
            64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            _ => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        // SAFETY: the driver reads the arrays, as long as the rank of 2 says, and writes the map, all of which live
        // here; it notes the address of the matrix without reading from it.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                self.of,
                2,
                self.ptr.cast_mut(),
                shape.as_ptr(),
                strides.as_ptr(),
                tile.as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        result.result().map_err(refused("describing a matrix to the copy engine"))?;
        Ok(TensorMap { words: map.opaque })
    }
}
