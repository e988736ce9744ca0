//! Fine-tuning: data, batches, schedules.
pub mod data;
pub mod metrics;
pub mod packing;
pub mod schedule;
