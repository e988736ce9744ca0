//! 4-bit kernels for fine-tuning and running Qwen3.
//!
//! A [`Backend`] holds memory and runs ops: [`Cpu`] everywhere, [`Cuda`] where there is an NVIDIA GPU.
//! An op is a struct with named fields from [`ops`]; [`ops::Op::run`] verifies every length and then runs it.

mod backend;
mod buffer;
mod compiled;
pub mod cpu;
pub mod cuda;
pub mod dlpack;
mod element;
mod error;
mod frozen;
pub mod host;
mod meter;
pub mod ops;
mod profile;
pub mod quant;
pub mod rng;

pub use backend::Backend;
pub use buffer::{Buf, Keeper, Mat, MatMut, Parts, Storage, View, ViewMut};
pub use cpu::Cpu;
pub use cuda::Cuda;
pub use element::{DType, Element, Float, elements};
pub use error::{Count, Error, Result, Size};
pub use frozen::{DenseBuf, DenseWeight, FrozenWeight};
pub use half;
pub use meter::MemoryUse;
pub use profile::OpTime;

/// The README's Rust is compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
