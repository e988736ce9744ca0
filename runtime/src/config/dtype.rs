//! Types by their PyTorch names.

use halfbyte::DType;

/// The type of a PyTorch name such as "bfloat16".
pub(crate) fn dtype_by_name(name: &str) -> Option<DType> {
    match name.strip_prefix("torch.").unwrap_or(name) {
        "bfloat16" => Some(DType::Bf16),
        "float16" => Some(DType::F16),
        "float32" => Some(DType::F32),
        _ => None,
    }
}

/// PyTorch's name of a type.
pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
        DType::F32 => "float32",
    }
}
