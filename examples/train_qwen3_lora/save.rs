//! Saving what a run has learnt, for as long as it takes.

use crate::common::{Signals, asks_to_retry, note};
use halfbyte_runtime::{Result, lora::Adapter, train::output::RunOutput};
use std::{
    io::{IsTerminal, stdin},
    path::Path,
    process,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// Between tries.
const PAUSE: Duration = Duration::from_secs(10);
/// Between looks at signals and the keyboard.
const LOOK: Duration = Duration::from_millis(100);

/// Saves the adapter. Where that fails, hours of work are not dropped: it waits until it can be done, or somebody names
/// another folder, or says by a signal that it is to give up.
pub fn save(output: &mut RunOutput, adapter: &Adapter, signals: &Signals) -> Result<()> {
    let Err(first) = output.save(adapter) else { return Ok(()) };
    // Before anybody can read of it: a signal that answers must not end the program.
    signals.be_patient();
    note!("error: {first}");
    note!("the adapter is kept in memory, and saving is tried again every {} s: make room, or", PAUSE.as_secs());
    note!("  `kill -USR1 {}` to try at once; Ctrl-C or SIGTERM tries once more and then drops it", process::id());
    let typed = keyboard();
    loop {
        let wish = wait(signals, typed.as_ref());
        if let Wish::Folder(dir) = &wish
            && let Err(e) = output.move_to(Path::new(dir))
        {
            note!("error: {e}");
            continue;
        }
        match output.save(adapter) {
            Ok(()) => return Ok(()),
            Err(e) if matches!(wish, Wish::GiveUp) => {
                note!("what was trained is lost");
                return Err(e);
            }
            Err(e) => note!("error: {e}"),
        }
    }
}

enum Wish {
    TryAgain,
    Folder(String),
    GiveUp,
}

fn wait(signals: &Signals, typed: Option<&Receiver<String>>) -> Wish {
    let began = Instant::now();
    while began.elapsed() < PAUSE {
        match signals.take() {
            Some(signal) if asks_to_retry(signal) => return Wish::TryAgain,
            Some(_) => return Wish::GiveUp,
            None => {}
        }
        match typed.and_then(|lines| lines.try_recv().ok()) {
            Some(line) if line.trim().is_empty() => return Wish::TryAgain,
            Some(line) => return Wish::Folder(line.trim().to_owned()),
            None => thread::sleep(LOOK),
        }
    }
    Wish::TryAgain
}

/// Lines from the terminal, if there is one.
fn keyboard() -> Option<Receiver<String>> {
    if !stdin().is_terminal() {
        return None;
    }
    note!("  press Enter to try at once, or type another folder");
    let (send, lines) = channel();
    thread::spawn(move || stdin().lines().map_while(|line| line.ok()).try_for_each(|line| send.send(line)));
    Some(lines)
}
