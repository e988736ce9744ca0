//! What the tests share.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod cases;
pub mod close;
pub mod golden;
pub mod num;
pub mod oracle;
pub mod quantized;
pub mod random;
pub mod tensor;

use halfbyte::Cuda;
use std::path::PathBuf;

/// Where the checkout is: `HALFBYTE_ROOT` on machines that only have the binaries.
pub fn root() -> PathBuf {
    std::env::var_os("HALFBYTE_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The GPU; without one, none and a word about it, or a failure under `HALFBYTE_REQUIRE_CUDA=1`.
pub fn cuda() -> Option<Cuda> {
    match Cuda::new(0) {
        Ok(cuda) => Some(cuda),
        Err(e) if std::env::var_os("HALFBYTE_REQUIRE_CUDA").is_some_and(|v| v == "1") => {
            panic!("HALFBYTE_REQUIRE_CUDA=1, but: {e}")
        }
        Err(e) => {
            eprintln!("skipped on the GPU: {e}");
            None
        }
    }
}

/// Each `fn check<B: Backend>(backend: &B)` as a test on the CPU and as one on the GPU.
#[macro_export]
macro_rules! backends {
    ($($check:ident),* $(,)?) => {
        mod cpu {
            $(#[test]
            fn $check() {
                super::$check(&halfbyte::Cpu::new());
            })*
        }
        mod cuda {
            $(#[test]
            fn $check() {
                if let Some(cuda) = super::common::cuda() {
                    super::$check(&cuda);
                }
            })*
        }
    };
}

/// `check::<B, T>(…)` for each compute type `T`.
#[macro_export]
macro_rules! each_float {
    ($check:ident::<$backend:ident>($($argument:expr),*)) => {{
        $check::<$backend, half::bf16>($($argument),*);
        $check::<$backend, half::f16>($($argument),*);
        $check::<$backend, f32>($($argument),*);
    }};
}
