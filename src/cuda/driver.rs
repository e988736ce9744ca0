//! What the driver says.

use crate::error::Error;
use cudarc::driver::DriverError;

/// What the driver says, in words.
pub(crate) fn describe(error: &DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("{error:?}"),
    }
}

/// The driver refused `what`.
pub(super) fn refused(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |source| Error::Driver { what, source }
}
