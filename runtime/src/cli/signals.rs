//! Signals that ask a program to end: Ctrl-C, and what a scheduler or a closing terminal sends.

use crate::{files, note, screen::Stream};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag, low_level,
};
use std::{
    fs,
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

#[cfg(unix)]
const ASKED: [i32; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const ASKED: [i32; 2] = [SIGINT, SIGTERM];

/// Also wakes a program that waits: under `nohup` SIGHUP cannot.
#[cfg(unix)]
const WAKES: &[i32] = &[signal_hook::consts::SIGUSR1];
#[cfg(not(unix))]
const WAKES: &[i32] = &[];

/// Between looks at what came.
const LOOK: Duration = Duration::from_millis(20);
/// Signals this close together are one event: `timeout` sends its own to a process and again to its group.
const TOGETHER: Duration = Duration::from_millis(200);

/// What a signal does.
enum Mode {
    /// Ends the program at once, which then says this.
    End(&'static str),
    /// Is noted, so that the program can end in order. A second one ends it at once, unless it is SIGHUP: a terminal
    /// that closes sends several.
    Note,
    /// Is handed to who waits.
    Wake,
}

struct State {
    mode: Mode,
    /// The one to end with, and when it came.
    first: Option<(i32, Instant)>,
    /// The last one that was not taken.
    woken: Option<i32>,
}

/// SIGINT, SIGTERM and SIGHUP, but for those that were ignored when the program began, as `nohup` does.
#[derive(Clone)]
pub struct Signals {
    /// The last one that was not looked at, or 0.
    unseen: Arc<AtomicUsize>,
    state: Arc<Mutex<State>>,
}

impl Signals {
    /// Listens from now on. A signal ends the program at once, which then says `last`; temporary files go with it.
    pub fn listen(last: &'static str) -> Self {
        let state = State { mode: Mode::End(last), first: None, woken: None };
        let signals = Signals { unseen: Arc::default(), state: Arc::new(Mutex::new(state)) };
        let ignored = ignored();
        signals.register(ASKED.iter().filter(|&signal| ignored & (1 << (signal - 1)) == 0));
        let listener = signals.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(LOOK);
                drop(listener.look());
            }
        });
        signals
    }

    fn register<'a>(&self, signals: impl IntoIterator<Item = &'a i32>) {
        for &signal in signals {
            if let Err(e) = flag::register_usize(signal, self.unseen.clone(), signal as usize) {
                note!("signal {signal} will end the program at once: {e}");
            }
        }
    }

    /// From now on a signal is noted, for [`Self::caught`] to tell.
    pub fn note(&self) {
        self.look().mode = Mode::Note;
    }

    /// From now on a signal ends the program at once, as it did in the beginning.
    pub fn end_at_once(&self, last: &'static str) {
        self.look().mode = Mode::End(last);
    }

    /// From now on no signal ends the program: [`Self::take`] tells of each. SIGUSR1 is one, too.
    pub fn be_patient(&self) {
        self.register(WAKES);
        self.hand_over();
    }

    /// From now on [`Self::take`] tells of each signal that would have ended the program.
    pub fn hand_over(&self) {
        self.look().mode = Mode::Wake;
    }

    /// The signal to end with, if one came.
    pub fn caught(&self) -> Option<i32> {
        self.look().first.map(|(signal, _)| signal)
    }

    /// The signal that came since this was last called.
    pub fn take(&self) -> Option<i32> {
        self.look().woken.take()
    }

    /// Lets what came have its effect. Nothing that a signal would prevent begins while it has.
    fn look(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signal) = i32::try_from(self.unseen.swap(0, SeqCst)).ok().filter(|&signal| signal != 0) {
            state.came(signal);
        }
        state
    }
}

impl State {
    fn came(&mut self, signal: i32) {
        let again = asks_to_retry(signal);
        match (&self.mode, self.first) {
            (Mode::Wake, _) => self.woken = Some(signal),
            _ if WAKES.contains(&signal) => return,
            (Mode::End(last), _) => end(signal, Some(last)),
            (Mode::Note, Some((_, at))) if !again && at.elapsed() >= TOGETHER => end(signal, None),
            (Mode::Note, _) => {}
        }
        if self.first.is_none() && !(again && matches!(self.mode, Mode::Wake)) {
            self.first = Some((signal, Instant::now()));
        }
    }
}

/// Ends the program, whatever its other threads do.
fn end(signal: i32, last: Option<&'static str>) -> ! {
    files::abandon();
    let (said, wait) = mpsc::channel();
    thread::spawn(move || {
        Stream::Err.clear_line();
        last.iter().for_each(|last| note!("{last}"));
        said.send(())
    });
    // Nobody may be reading it.
    let _ = wait.recv_timeout(TOGETHER);
    low_level::exit(128 + signal)
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

/// Whether the signal asks to try again rather than to give up: SIGHUP or SIGUSR1.
pub fn asks_to_retry(signal: i32) -> bool {
    ![SIGINT, SIGTERM].contains(&signal)
}
