//! Says what halfbyte sees on this machine, and what to do about what is missing.

use halfbyte_runtime::cli::DOCTOR;

fn main() -> std::process::ExitCode {
    DOCTOR.main("device_info", std::env::args_os())
}
