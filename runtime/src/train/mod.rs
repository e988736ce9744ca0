//! Fine-tuning: data, batches, schedules.
pub mod data;
pub mod metrics;
pub mod output;
pub mod packing;
pub mod schedule;
pub mod trainer;
