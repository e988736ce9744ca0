use crate::error::Result;
use halfbyte::{Backend, OpTime};

/// What the ops of `work` take, the longest first: one after the other, so that together they take longer than they do
/// where they overlap.
///
/// # Errors
/// Those of `work`; the device refuses.
pub(super) fn profile<B: Backend>(backend: &B, work: impl FnOnce() -> Result<()>) -> Result<Vec<OpTime>> {
    backend.begin_profile()?;
    let outcome = work();
    let ops = backend.end_profile();
    outcome?;
    Ok(ops?)
}
