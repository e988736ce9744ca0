//! What the examples share.
#![allow(dead_code, reason = "each example uses its part")]

use halfbyte_runtime::Result;
use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The embedded model and data.
pub struct Assets(PathBuf);

impl Assets {
    /// In the checkout, or under `HALFBYTE_ROOT` on machines that only have the binaries.
    pub fn find() -> Self {
        let root = std::env::var_os("HALFBYTE_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Assets(PathBuf::from(root).join("examples/assets"))
    }

    /// The small Qwen3.
    pub fn model(&self) -> PathBuf {
        self.0.join("tiny-qwen3")
    }

    /// A file about the invented town.
    pub fn town(&self, file: &str) -> PathBuf {
        self.0.join("town").join(file)
    }
}

/// Whether Ctrl-C was pressed. A second Ctrl-C ends the program at once.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on.
    pub fn listen() -> Self {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = flag.clone();
        let listening = ctrlc::set_handler(move || {
            if seen.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("interrupted: ending after this step (again to end at once)");
        });
        if let Err(e) = listening {
            eprintln!("Ctrl-C will end the program at once: {e}");
        }
        Interrupt(flag)
    }

    /// Was it?
    pub fn happened(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Python users write True and False.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("it must be true or false".into()),
    }
}

/// The exit code of `main`; an error goes to stderr.
pub fn exit(main: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    main().unwrap_or_else(|e| {
        eprintln!("error: {e}");
        ExitCode::FAILURE
    })
}
