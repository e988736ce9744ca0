//! A lean Qwen3 runtime on [`halfbyte`]'s 4-bit kernels.
