//! What the tests share.
#![allow(dead_code, reason = "each test file uses its part")]

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
                if let Some(cuda) = $crate::common::cuda() {
                    super::$check(cuda);
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

/// `check` of a setup `Setup<B, T>` for each compute type `T`; with a number of elements, `check_some`.
#[macro_export]
macro_rules! check_each {
    ($setup:ident, $backend:expr, $case:expr) => {{
        $crate::common::setup::check::<_, $setup<_, half::bf16>>($backend, $case);
        $crate::common::setup::check::<_, $setup<_, half::f16>>($backend, $case);
        $crate::common::setup::check::<_, $setup<_, f32>>($backend, $case);
    }};
    ($setup:ident, $backend:expr, $case:expr, $most:expr) => {{
        $crate::common::setup::check_some::<_, $setup<_, half::bf16>>($backend, $case, $most);
        $crate::common::setup::check_some::<_, $setup<_, half::f16>>($backend, $case, $most);
        $crate::common::setup::check_some::<_, $setup<_, f32>>($backend, $case, $most);
    }};
}

pub mod cases;
pub mod close;
pub mod exactness;
pub mod frozen;
pub mod golden;
pub mod harness;
pub mod make;
pub mod num;
pub mod ops;
pub mod oracle;
pub mod quantized;
pub mod random;
pub mod setup;
pub mod tensor;
pub mod tiny;
pub mod work;
pub mod zeros;

use halfbyte::{Cuda, Error};
use std::{path::PathBuf, sync::LazyLock};

/// Where the checkout is: `HALFBYTE_ROOT` on machines that only have the binaries.
pub fn root() -> PathBuf {
    std::env::var_os("HALFBYTE_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The GPU of this process, opened once: all checks share it, as the ops of a program do.
static CUDA: LazyLock<Result<Cuda, Error>> =
    LazyLock::new(|| Cuda::new(0).inspect_err(|e| eprintln!("skipped on the GPU: {e}")));

/// The GPU; without one, none and a word about it, or a failure under `HALFBYTE_REQUIRE_CUDA=1`.
pub fn cuda() -> Option<&'static Cuda> {
    let required = std::env::var_os("HALFBYTE_REQUIRE_CUDA").is_some_and(|v| v == "1");
    match &*CUDA {
        Ok(cuda) => Some(cuda),
        Err(e) if required => panic!("HALFBYTE_REQUIRE_CUDA=1, but: {e}"),
        Err(_) => None,
    }
}

/// The same GPU, opened again: for checks that count its memory, which others would change.
pub fn own_cuda() -> Option<Cuda> {
    cuda().map(|_| Cuda::new(0).expect("a GPU that was opened before"))
}
