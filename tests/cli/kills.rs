//! A run that is killed at any moment leaves the old adapter or the new one, and nothing that disturbs the next run.

use crate::{SmallModel, small_model, text};
use halfbyte::rng::philox;
use halfbyte_runtime::{config::Qwen3Config, lora::Adapter};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How many kills; `HALFBYTE_KILLS` for more.
const KILLS: u32 = 24;

/// An adapter with the metrics of its run, or none.
type State = Option<(Adapter, String)>;

fn state(dir: &Path, model: &Qwen3Config) -> State {
    let names: Vec<_> = fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().file_name()).collect();
    if !names.iter().any(|name| name.to_string_lossy().starts_with("adapter_") || name == ".halfbyte-commit") {
        return None;
    }
    let (adapter, _) = Adapter::open(dir, model).unwrap_or_else(|e| panic!("neither old nor new: {e}: {names:?}"));
    Some((adapter, fs::read_to_string(dir.join("metrics.jsonl")).unwrap()))
}

fn run(model: &SmallModel, output: &Path, seed: u32) -> Command {
    let seed = seed.to_string();
    let mut command = model.train(&["--max-steps", "2", "--overwrite", "--output", text(output), "--seed", &seed]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Metrics without what differs from run to run.
fn steps(state: &State) -> Option<(&Adapter, usize)> {
    state.as_ref().map(|(adapter, metrics)| (adapter, metrics.lines().count()))
}

#[test]
fn kills_at_random_moments_leave_old_or_new() {
    let kills = std::env::var("HALFBYTE_KILLS").map_or(KILLS, |n| n.parse().expect("HALFBYTE_KILLS is a number"));
    let (model, parent) = (small_model(), tempfile::tempdir().unwrap());
    let config = Qwen3Config::open(model.path()).unwrap();
    let whole = |seed| {
        let dir = parent.path().join(format!("whole-{seed}"));
        let began = Instant::now();
        assert!(run(&model, &dir, seed).status().unwrap().success());
        (state(&dir, &config), began.elapsed())
    };
    let ((first, _), (second, took)) = (whole(1), whole(2));
    let mut seen = [0; 3];
    for kill in 0..kills {
        let [moment, signal, over, _] = philox([kill, 0, 0, 0], 7);
        let dir = parent.path().join(format!("killed-{kill}"));
        let before = if over % 2 == 0 {
            fs::create_dir(&dir).unwrap();
            for file in fs::read_dir(parent.path().join("whole-1")).unwrap().map(Result::unwrap) {
                fs::copy(file.path(), dir.join(file.file_name())).unwrap();
            }
            &first
        } else {
            &None
        };
        let mut child = run(&model, &dir, 2).spawn().unwrap();
        // Half of them near the end, where the saving is.
        let share = f64::from(moment % 1000) / 1000.0;
        let share = if kill % 2 == 0 { share } else { 0.75 + 0.35 * share };
        thread::sleep(took.mul_f64(share).max(Duration::from_millis(1)));
        let name = ["-KILL", "-TERM", "-INT", "-HUP"][signal as usize % 4];
        let _ = Command::new("kill").args([name, &child.id().to_string()]).stderr(Stdio::null()).status();
        child.wait().unwrap();
        let after = state(&dir, &config);
        // A signal that can be caught may save after one of two steps.
        let partial = name != "-KILL" && matches!(steps(&after), Some((_, 1)));
        let old_or_new = [before, &second].iter().any(|want| steps(want) == steps(&after));
        assert!(old_or_new || partial, "kill {kill} by {name} at {share:.3} left something else");
        seen[if after.is_none() { 0 } else { usize::from(steps(&after) == steps(&second)) + 1 }] += 1;
        assert!(run(&model, &dir, 2).status().unwrap().success(), "kill {kill} by {name}: the next run fails");
        assert!(steps(&state(&dir, &config)) == steps(&second), "kill {kill}: the next run gives another adapter");
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"], "kill {kill}");
        fs::remove_dir_all(&dir).unwrap();
    }
    println!(
        "{kills} kills: {} left nothing, {} the old adapter (or part of the new), {} the new",
        seen[0], seen[1], seen[2]
    );
}
