//! What the examples share.

pub mod speed;
