//! Damaged inputs of every format: none may panic, abort, hang, take the machine's memory, or be read as if what was
//! changed did not matter.
//!
//! Without arguments: a short campaign of each format. `cargo test --release --test fuzz -- FORMAT --mutants N`, or
//! `--seconds N`, for a long one; `-- FORMAT --seed S` shows one mutant and what is made of it. A mutant is a function of
//! its seed alone.

mod formats;
mod mutate;
mod seeds;

use formats::{FORMATS, Format, Outcome, Reader};
use mutate::{Mutant, mutant};
use serde_json::Value;
use std::{
    env, fs,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Mutants of each format in a short campaign.
const SHORT: u64 = 1500;
/// A mutant that computes for longer hangs, and so does one that does nothing for much longer.
const HANG: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(60);
/// KiB of address space of a child.
const MEMORY: &str = "6291456";

/// What came of the mutants.
#[derive(Default)]
struct Tally {
    mutants: u64,
    refused: u64,
    accepted: u64,
    /// Refusals that do not name their file, and the first of them.
    nameless: u64,
    findings: Vec<String>,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let number = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        Some(args.get(at + 1)?.parse::<u64>().unwrap_or_else(|_| panic!("{name} takes a number")))
    };
    let named = FORMATS.iter().filter(|format| args.iter().any(|arg| arg == format.name));
    let chosen: Vec<_> = if named.clone().count() > 0 { named.collect() } else { FORMATS.iter().collect() };
    if let Some(first) = number("--child") {
        return child(chosen[0], first, number("--mutants").unwrap_or(0));
    }
    if let Some(seed) = number("--seed") {
        return show(chosen[0], seed);
    }
    let mut failed = !replay(&chosen);
    for format in chosen {
        let began = Instant::now();
        let limit = number("--seconds").map(Duration::from_secs);
        let mutants = number("--mutants").unwrap_or(if limit.is_some() { u64::MAX } else { SHORT });
        let tally = campaign(format, mutants, limit);
        let Tally { mutants, refused, accepted, nameless, findings } = &tally;
        println!(
            "{:<18} {mutants} mutants in {:.1} s: {refused} refused ({nameless} without the name of the file), {accepted} \
             accepted, {} findings",
            format.name,
            began.elapsed().as_secs_f64(),
            findings.len()
        );
        findings.iter().take(10).for_each(|finding| println!("  {finding}"));
        failed |= !findings.is_empty();
    }
    println!("test result: {}. 1 passed; {} failed", if failed { "FAILED" } else { "ok" }, u8::from(failed));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether these formats read corpus.json as it says: inputs that once did harm, or are refused for a reason of their own,
/// with what becomes of them and what must be said.
fn replay(formats: &[&Format]) -> bool {
    let corpus: Vec<Value> = serde_json::from_str(include_str!("corpus.json")).unwrap();
    let reader = Reader::new();
    let (mut n, mut wrong) = (0, 0);
    for case in &corpus {
        let [name, input, wanted, says] = ["format", "input", "outcome", "says"].map(|key| case[key].as_str().unwrap());
        let Some(format) = formats.iter().find(|format| format.name == name) else { continue };
        let began = Instant::now();
        let (outcome, said) = match (format.read)(&reader, input.as_bytes()) {
            Outcome::Refused(message) => ("refused", message),
            Outcome::Accepted(meaning) => ("accepted", meaning),
        };
        n += 1;
        if outcome != wanted || !said.contains(says) || began.elapsed() > HANG {
            wrong += 1;
            let shown: String = input.chars().take(200).collect();
            println!("{}: {shown}\n  expected {} with `{}`, but it is {outcome}: {said}", name, wanted, says);
        }
    }
    println!("corpus: {n} inputs, {wrong} of them not as they must be");
    wrong == 0
}

/// Runs mutants in children, so that one that ends its process ends nothing else.
fn campaign(format: &Format, mutants: u64, limit: Option<Duration>) -> Tally {
    /// Of one child.
    const BATCH: u64 = 100_000;
    let (began, folder) = (Instant::now(), tempfile::tempdir().unwrap());
    let mut tally = Tally::default();
    let mut next = 0;
    while next < mutants && limit.is_none_or(|limit| began.elapsed() < limit) {
        let count = BATCH.min(mutants - next);
        let progress = folder.path().join("progress");
        fs::write(&progress, next.to_le_bytes()).unwrap();
        let mut child = spawn(format, next, count, &progress);
        let ended = watch(&mut child, &progress, limit.map(|limit| limit.saturating_sub(began.elapsed())));
        let at = seed_in(&progress);
        let mut output = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut output).unwrap();
        read_report(&output, &mut tally);
        match ended {
            Ended::Done => next += count,
            Ended::TimeUp => break,
            Ended::Badly(how) => {
                tally.findings.push(format!("--seed {at}: {how}"));
                // What was seen up to there is in no report.
                tally.mutants += at - next + 1;
                next = at + 1;
            }
        }
    }
    tally
}

/// The mutant that a child is at: eight bytes that it overwrites.
fn seed_in(progress: &Path) -> u64 {
    u64::from_le_bytes(fs::read(progress).unwrap().try_into().unwrap())
}

/// Seconds that a process has computed.
fn cpu_time(child: &Child) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn spawn(format: &Format, first: u64, count: u64, progress: &Path) -> Child {
    let this = env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -v "$1"; shift; exec "$@""#, "sh", MEMORY]).arg(this).arg(format.name);
    command
        .args(["--child", &first.to_string(), "--mutants", &count.to_string()])
        .env("HALFBYTE_FUZZ_PROGRESS", progress);
    command.env("RAYON_NUM_THREADS", "1").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

enum Ended {
    Done,
    TimeUp,
    Badly(String),
}

fn watch(child: &mut Child, progress: &Path, limit: Option<Duration>) -> Ended {
    let began = Instant::now();
    let (mut last, mut moved, mut computed) = (u64::MAX, Instant::now(), Duration::ZERO);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return if status.success() { Ended::Done } else { Ended::Badly(format!("the process ended: {status}")) };
        }
        let now = seed_in(progress);
        if now != last {
            (last, moved, computed) = (now, Instant::now(), cpu_time(child));
        }
        let hangs = cpu_time(child).saturating_sub(computed) > HANG || moved.elapsed() > IDLE;
        if hangs || limit.is_some_and(|limit| began.elapsed() > limit) {
            child.kill().unwrap();
            child.wait().unwrap();
            return if hangs { Ended::Badly("it hangs".into()) } else { Ended::TimeUp };
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn read_report(output: &str, tally: &mut Tally) {
    for line in output.lines() {
        match line.split_once(' ') {
            Some(("finding", text)) => tally.findings.push(text.to_owned()),
            Some(("counts", numbers)) => {
                let n: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
                tally.mutants += n[0];
                tally.refused += n[1];
                tally.accepted += n[2];
                tally.nameless += n[3];
            }
            _ => {}
        }
    }
}

/// Reads mutants, and tells its parent about each hundred of them, and about each finding at once.
fn child(format: &Format, first: u64, count: u64) -> ExitCode {
    let progress = fs::OpenOptions::new().write(true).open(env::var_os("HALFBYTE_FUZZ_PROGRESS").unwrap()).unwrap();
    let reader = Reader::new();
    let seeds = (format.seeds)();
    let originals: Vec<_> = seeds.iter().map(|seed| (format.read)(&reader, seed)).collect();
    let (mut refused, mut accepted, mut nameless) = (0, 0, 0);
    for seed in first..first + count {
        if progress.write_all_at(&seed.to_le_bytes(), 0).is_err() {
            return ExitCode::FAILURE;
        }
        let mutant = mutant(&seeds, seed, format.json);
        match catch_unwind(AssertUnwindSafe(|| (format.read)(&reader, &mutant.bytes))) {
            Err(_) => println!("finding --seed {seed}: it panics"),
            Ok(Outcome::Refused(message)) => {
                refused += 1;
                nameless += u64::from(!message.contains(format.file));
            }
            Ok(Outcome::Accepted(meaning)) => {
                accepted += 1;
                if is_ignored(format, &mutant, &originals, &meaning) {
                    println!("finding --seed {seed}: {} is read as if it had not been changed", mutant.what);
                }
            }
        }
        if (seed + 1 - first).is_multiple_of(100) || seed + 1 == first + count {
            println!("counts {} {refused} {accepted} {nameless}", refused + accepted);
            (refused, accepted, nameless) = (0, 0, 0);
        }
    }
    ExitCode::SUCCESS
}

/// Whether a value that matters was changed, and what was read is the same.
fn is_ignored(format: &Format, mutant: &Mutant, originals: &[Outcome], meaning: &str) -> bool {
    let Some(key) = &mutant.replaced else { return false };
    let same = matches!(&originals[mutant.origin], Outcome::Accepted(before) if before == meaning);
    same && !format.harmless.contains(&key.as_str())
}

fn show(format: &Format, seed: u64) -> ExitCode {
    let mutant = mutant(&(format.seeds)(), seed, format.json);
    println!("{}\n{}", mutant.what, String::from_utf8_lossy(&mutant.bytes));
    println!("{:?}", (format.read)(&Reader::new(), &mutant.bytes));
    ExitCode::SUCCESS
}
