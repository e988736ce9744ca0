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

/// Metrics without what differs from run to run, and without what is found out after the adapter is saved.
fn steps(state: &State) -> Option<(&Adapter, usize)> {
    state.as_ref().map(|(adapter, metrics)| (adapter, metrics.lines().filter(|line| line.contains("\"loss\"")).count()))
}

/// What a run leaves.
const FILES: [&str; 6] =
    ["README.md", "adapter_config.json", "adapter_model.safetensors", "loss.svg", "metrics.jsonl", "report.html"];

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
        assert_eq!(names, FILES, "kill {kill}");
        fs::remove_dir_all(&dir).unwrap();
    }
    println!(
        "{kills} kills: {} left nothing, {} the old adapter (or part of the new), {} the new",
        seen[0], seen[1], seen[2]
    );
}

/// What a run is asked for beside a seed, and how many kills of them all.
const RESUMED: [&str; 6] = [
    "--gradient-accumulation-steps 2 --lora-dropout 0.1",
    "--bnb-4bit-compute-dtype float16 --packing --batch-size 1 --max-seq-length 96 --lora-dropout 0.2",
    "--bnb-4bit-compute-dtype float32 --packing --batch-size 1 --max-seq-length 128 --gradient-accumulation-steps 2",
    "--use-dora --neftune-alpha 5 --lora-dropout 0.1",
    // Of a rank that gives tensors of both kinds.
    "--optim adamw_8bit --loraplus-lr-ratio 8 --lora-r 256 --lora-dropout 0.1",
    "--use-4bit false --init-lora-weights pissa_niter_2 --optim paged_adamw_32bit --lora-dropout 0.1",
];
const RESUMED_KILLS: u32 = 6;

/// A run of which nearly every moment is one of a save.
fn saving(model: &SmallModel, output: &Path, options: &str) -> Command {
    let mut command = model.train(&["--max-steps", "16", "--resume", "auto", "--output", text(output)]);
    command.args(["--save-total-limit", "1", "--weight-decay", "0.1", "--learning-rate", "1e-3"]);
    // Where another is asked for: the last of two counts.
    command.args(std::env::var("HALFBYTE_KILLS_DEVICE").iter().flat_map(|device| ["--device", device]));
    command.args(options.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The adapter's files, and metrics without what time decides.
fn ended(dir: &Path) -> ([Vec<u8>; 2], Vec<serde_json::Value>) {
    let files = ["adapter_model.safetensors", "adapter_config.json"].map(|name| fs::read(dir.join(name)).unwrap());
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["tokens_per_s", "elapsed_s", "peak_bytes"] {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    };
    // The first line has settings, which may differ in where checkpoints are made.
    (files, fs::read_to_string(dir.join("metrics.jsonl")).unwrap().lines().skip(1).map(line).collect())
}

/// Killed at any moment, a run that is resumed ends in the same bytes as one that was let alone.
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let kills = std::env::var("HALFBYTE_KILLS").map_or(RESUMED_KILLS, |n| n.parse().expect("a number"));
    let (model, parent) = (small_model(), tempfile::tempdir().unwrap());
    let whole = RESUMED.map(|options| {
        let dir = parent.path().join("whole");
        let began = Instant::now();
        assert!(saving(&model, &dir, &format!("{options} --save-steps 1")).status().unwrap().success());
        let took = began.elapsed();
        let with_checkpoints = ended(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert!(saving(&model, &dir, &format!("{options} --save-steps 0")).status().unwrap().success());
        assert!(ended(&dir) == with_checkpoints, "{options}: checkpoints change the adapter");
        fs::remove_dir_all(&dir).unwrap();
        (with_checkpoints, took)
    });
    let (mut killed, mut went_on) = (0, 0);
    for kill in 0..kills {
        let (options, (whole, took)) = (RESUMED[kill as usize % RESUMED.len()], &whole[kill as usize % RESUMED.len()]);
        let options = format!("{options} --save-steps 1");
        let dir = parent.path().join(format!("killed-{kill}"));
        // The second of them while it is going on.
        for again in 0..2 {
            let [moment, ..] = philox([kill, again, 1, 0], 7);
            let mut child = saving(&model, &dir, &options).spawn().unwrap();
            thread::sleep(took.mul_f64(f64::from(moment % 1000) / 1000.0).max(Duration::from_millis(1)));
            child.kill().unwrap();
            killed += u32::from(!child.wait().unwrap().success());
        }
        went_on += u32::from(fs::read_dir(&dir).into_iter().flatten().any(|e| is_checkpoint(&e.unwrap().path())));
        let done = saving(&model, &dir, &options).stderr(Stdio::piped()).output().unwrap();
        assert!(done.status.success(), "kill {kill}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(ended(&dir) == *whole, "kill {kill}, {options}: it ends in something else");
        let names = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let (checkpoints, mut files): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with("checkpoint-"));
        files.sort();
        assert_eq!(files, FILES, "kill {kill}");
        assert_eq!(checkpoints, ["checkpoint-15"], "kill {kill}");
        fs::remove_dir_all(&dir).unwrap();
    }
    println!("{killed} of {} kills before the end, {went_on} of {kills} runs went on from a checkpoint", 2 * kills);
    assert!(2 * killed > kills && went_on > 0, "{killed} of {} kills, {went_on} went on", 2 * kills);
}

/// It is read as a whole one is, at once after a kill.
fn is_checkpoint(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    let whole = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.jsonl",
        "training_state.json",
        "training_state.safetensors",
    ];
    name.starts_with("checkpoint-") && {
        whole.iter().for_each(|file| assert!(path.join(file).exists(), "{} lacks {file}", path.display()));
        true
    }
}
