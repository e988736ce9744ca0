//! Signals that ask a program to end: Ctrl-C, and what a scheduler sends.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

#[cfg(unix)]
const ASKED: [i32; 3] = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const ASKED: [i32; 2] = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];

/// SIGINT, SIGTERM and SIGHUP. The first is noted, so that the program can end in order; a second one ends it at once.
#[derive(Clone)]
pub struct Signals {
    /// The last signal, or 0.
    last: Arc<AtomicUsize>,
    /// Whether there was one.
    armed: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> Self {
        let signals = Signals { last: Arc::default(), armed: Arc::default() };
        for signal in ASKED {
            // In this order: the first signal arms what the second runs into.
            let listening =
                signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, signals.armed.clone())
                    .and_then(|_| signal_hook::flag::register(signal, signals.armed.clone()))
                    .and_then(|_| signal_hook::flag::register_usize(signal, signals.last.clone(), signal as usize));
            if let Err(e) = listening {
                super::note!("signal {signal} will end the program at once: {e}");
            }
        }
        signals
    }

    /// The signal that came, if one did.
    pub fn caught(&self) -> Option<i32> {
        i32::try_from(self.last.load(SeqCst)).ok().filter(|&signal| signal != 0)
    }

    /// The signal that came since this was last called; another one ends nothing until then.
    pub fn take(&self) -> Option<i32> {
        let signal = self.caught();
        self.last.store(0, SeqCst);
        self.armed.store(false, SeqCst);
        signal
    }
}

/// What shells expect of a program that a signal ended.
pub fn exit_code(signal: Option<i32>) -> ExitCode {
    signal.map_or(ExitCode::SUCCESS, |signal| ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)))
}

/// Whether the signal asks to try again rather than to give up.
pub fn asks_to_retry(signal: i32) -> bool {
    #[cfg(unix)]
    return signal == signal_hook::consts::SIGHUP;
    #[cfg(not(unix))]
    return {
        let _ = signal;
        false
    };
}
