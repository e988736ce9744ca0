//! Fine-tuning: data, batches, schedules, and the run that puts them together.
mod checkpoint;
pub mod data;
mod evaluations;
mod loss_scale;
pub mod metrics;
mod optimizer;
pub mod output;
pub mod packing;
pub mod run;
pub mod sample_losses;
pub mod schedule;
pub mod trainer;
mod watchdog;
