//! Fine-tuning: data, batches, schedules, and the run that puts them together.
pub mod about;
mod checkpoint;
pub mod data;
mod evaluations;
mod loss_scale;
pub mod metrics;
mod optimizer;
pub mod output;
pub mod packing;
pub mod report;
pub mod run;
pub mod sample_losses;
pub mod schedule;
mod tensorboard;
pub mod trainer;
mod watchdog;
