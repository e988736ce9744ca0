//! Waiting until what a run has learnt can be saved, for as long as it takes.

use crate::{
    cli::{
        output::complain,
        signals::{Signals, asks_to_retry},
    },
    train::run::Wish,
};
use std::{
    io::{IsTerminal, stdin},
    process,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// Between tries.
const PAUSE: Duration = Duration::from_secs(10);
/// Between looks at signals and the keyboard.
const LOOK: Duration = Duration::from_millis(100);

/// Hours of work are not dropped because a save failed: somebody can make room, name another folder, or say by a signal
/// that it is to give up.
pub struct Patience {
    /// Lines from the terminal, if there is one.
    typed: Option<Receiver<String>>,
}

impl Patience {
    /// Says what can be done.
    pub fn begin(signals: &Signals) -> Self {
        // Before anybody can read of it: a signal that answers must not end the program.
        signals.be_patient();
        let (seconds, id) = (PAUSE.as_secs(), process::id());
        complain(&format!("the adapter is kept in memory, and saving is tried again every {seconds} s: make room, or"));
        complain(&format!("  `kill -USR1 {id}` to try at once; Ctrl-C or SIGTERM tries once more and then drops it"));
        Patience { typed: keyboard() }
    }

    /// Until somebody says something, or it is time to try again.
    pub fn wait(&self, signals: &Signals) -> Wish {
        let began = Instant::now();
        while began.elapsed() < PAUSE {
            match signals.take() {
                Some(signal) if asks_to_retry(signal) => return Wish::TryAgain,
                Some(_) => return Wish::GiveUp,
                None => {}
            }
            match self.typed.as_ref().and_then(|lines| lines.try_recv().ok()) {
                Some(line) if line.trim().is_empty() => return Wish::TryAgain,
                Some(line) => return Wish::Folder(line.trim().into()),
                None => thread::sleep(LOOK),
            }
        }
        Wish::TryAgain
    }
}

fn keyboard() -> Option<Receiver<String>> {
    if !stdin().is_terminal() {
        return None;
    }
    complain("  press Enter to try at once, or type another folder");
    let (send, lines) = channel();
    thread::spawn(move || stdin().lines().map_while(|line| line.ok()).try_for_each(|line| send.send(line)));
    Some(lines)
}
