//! Signals that ask a program to end: Ctrl-C, and what a scheduler or a closing terminal sends.

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag, low_level,
};
use std::{
    fs,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

#[cfg(unix)]
const ASKED: [i32; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const ASKED: [i32; 2] = [SIGINT, SIGTERM];

/// Between looks at what came.
const LOOK: Duration = Duration::from_millis(20);
/// Signals this close together are one event: `timeout` sends its own to a process and again to its group.
const TOGETHER: Duration = Duration::from_millis(200);

/// SIGINT, SIGTERM and SIGHUP, but for those that were ignored when the program began, as `nohup` does. The first is
/// noted, so that the program can end in order; a second one of the first two kinds ends it at once.
#[derive(Clone)]
pub struct Signals {
    /// The one to end with, or 0.
    first: Arc<AtomicUsize>,
    /// The last one that was not taken, or 0.
    last: Arc<AtomicUsize>,
    /// Whether none ends the program at once.
    patient: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> Self {
        let signals = Signals { first: Arc::default(), last: Arc::default(), patient: Arc::default() };
        let (unseen, ignored) = (Arc::new(AtomicUsize::new(0)), ignored());
        for signal in ASKED.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0) {
            for noted in [&signals.last, &unseen] {
                if let Err(e) = flag::register_usize(signal, noted.clone(), signal as usize) {
                    super::note!("signal {signal} will end the program at once: {e}");
                }
            }
        }
        let patient = signals.patient.clone();
        thread::spawn(move || end_at_the_second(&unseen, &patient));
        signals
    }

    /// The signal to end with, if one came.
    pub fn caught(&self) -> Option<i32> {
        let _ = self.first.compare_exchange(0, self.last.load(SeqCst), SeqCst, SeqCst);
        number(self.first.load(SeqCst))
    }

    /// From now on no signal ends the program at once: [`Self::take`] tells of each.
    pub fn be_patient(&self) {
        self.caught();
        self.patient.store(true, SeqCst);
        self.take();
    }

    /// The signal that came since this was last called.
    pub fn take(&self) -> Option<i32> {
        number(self.last.swap(0, SeqCst))
    }
}

fn number(signal: usize) -> Option<i32> {
    i32::try_from(signal).ok().filter(|&signal| signal != 0)
}

/// A terminal that closes sends several SIGHUP: they are never the second signal.
fn end_at_the_second(unseen: &AtomicUsize, patient: &AtomicBool) {
    let mut first: Option<Instant> = None;
    loop {
        thread::sleep(LOOK);
        match (number(unseen.swap(0, SeqCst)), first) {
            (None, _) => {}
            _ if patient.load(SeqCst) => {}
            (Some(_), None) => first = Some(Instant::now()),
            (Some(signal), Some(at)) if !asks_to_retry(signal) && at.elapsed() >= TOGETHER => {
                low_level::exit(128 + signal)
            }
            (Some(_), Some(_)) => {}
        }
    }
}

/// The signals that are ignored, one bit each. Only Linux tells.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// What shells expect of a program that a signal ended.
pub fn exit_code(signal: Option<i32>) -> ExitCode {
    signal.map_or(ExitCode::SUCCESS, |signal| ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)))
}

/// Whether the signal asks to try again rather than to give up: SIGHUP.
pub fn asks_to_retry(signal: i32) -> bool {
    ![SIGINT, SIGTERM].contains(&signal)
}
