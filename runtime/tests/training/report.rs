//! What a run leaves for people: replies to prompts, a report, a model card, events for TensorBoard.

use super::{files, resume::until, samples, settings, trained};
use halfbyte_runtime::settings::{TensorBoard, TrainSettings};
use serde_json::Value;
use std::{fs, path::Path};

fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn replies(folder: &Path, output: &str) -> TrainSettings {
    TrainSettings {
        sample_prompts: Some("Article 1. The ferry".into()),
        tensorboard: TensorBoard::InOutput,
        eval_steps: 2,
        ..plain(folder, output)
    }
}

fn plain(folder: &Path, output: &str) -> TrainSettings {
    TrainSettings { lora_dropout: 0.1, learning_rate: Some(5e-3), ..settings(folder, output) }
}

#[test]
fn replies_and_events_change_nothing_of_the_run() {
    let folder = samples();
    let (without, losses) = trained(&plain(folder.path(), "without"));
    let (with, other_losses) = trained(&replies(folder.path(), "with"));
    assert!(files(&with.output) == files(&without.output) && losses == other_losses, "to look changes the adapter");
    let all = lines(&with.output);
    let told: Vec<_> = all.iter().filter(|line| !line["replies"].is_null()).collect();
    assert_eq!(told.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2, 4, 4]);
    let text = |line: &Value| line["replies"][0]["text"].as_str().unwrap().to_owned();
    assert!(!text(told[0]).is_empty() && text(told[0]) != text(told[3]), "nothing was learnt: {told:?}");
    assert_eq!(text(told[2]), text(told[3]), "nothing was done between them");
    assert_eq!(all[0]["run"]["settings"]["lora_r"], 4);
    assert!(all[0]["run"]["changed"].as_array().unwrap().contains(&"lora_dropout".into()));
    assert_eq!(with.before.replies[0].text, text(told[0]));
}

#[test]
fn a_run_leaves_a_report_and_a_card() {
    let folder = samples();
    let (run, _) = trained(&TrainSettings { log_sample_losses: true, ..replies(folder.path(), "run") });
    let read = |name: &str| fs::read_to_string(run.output.join(name)).unwrap();
    let (page, card) = (read("report.html"), read("README.md"));
    let wanted = ["finished: 4 steps", "Article 1. The ferry", "<th>before</th>", "<th>step 2</th>", "<th>after</th>"];
    wanted.iter().for_each(|wanted| assert!(page.contains(wanted), "{wanted}: {page}"));
    for wanted in
        ["Samples of the highest loss", "Held-out loss", "Gradient norm", "moments of the optimiser", "12 samples"]
    {
        assert!(page.contains(wanted), "{wanted}: {page}");
    }
    assert!(
        card.starts_with("---\nbase_model: embedded\nlibrary_name: peft\n") && card.contains("(loss.svg)"),
        "{card}"
    );
    assert!(read("loss.svg").contains("class=\"line eval\""));
}

/// A card that somebody wrote, or changed, is his.
#[test]
fn a_card_of_ones_own_stays() {
    let folder = samples();
    let (run, said) = until(u64::MAX, &plain(folder.path(), "run"));
    assert!(!said.contains("stays as it is"), "{said}");
    let card = run.output.join("README.md");
    let again = || until(u64::MAX, &TrainSettings { overwrite: true, seed: 1, ..plain(folder.path(), "run") }).1;
    let first = fs::read_to_string(&card).unwrap();
    assert!(!again().contains("stays as it is"));
    fs::write(&card, first + "Mine.\n").unwrap();
    let mine = fs::read(&card).unwrap();
    let said = again();
    assert!(said.contains("README.md` was changed") && fs::read(&card).unwrap() == mine, "{said}");
}

/// The bytes of each record, whose lengths and checksums `tests/interop/events.py` looks at with TensorBoard itself.
fn records(dir: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut all = Vec::new();
    for name in names {
        let file = fs::read(name).unwrap();
        let mut rest = &file[..];
        while let Some((length, more)) = rest.split_first_chunk() {
            let n = u64::from_le_bytes(*length) as usize;
            all.push(more[4..4 + n].to_vec());
            rest = &more[4 + n + 4..];
        }
    }
    all
}

#[test]
fn tensorboard_gets_every_step_of_a_run_that_goes_on() {
    let folder = samples();
    let wanted = TrainSettings { save_steps: 1, ..replies(folder.path(), "run") };
    let (cut, _) = until(2, &wanted);
    let dir = cut.output.join("tensorboard");
    let has = |record: &[u8], text: &str| record.windows(text.len()).any(|part| part == text.as_bytes());
    let count = |text: &str| records(&dir).iter().filter(|record| has(record, text)).count();
    let done = count("train/loss");
    assert_eq!((count("brain.Event:2"), count("settings"), count("replies/1")), (1, 1, 2));
    trained(&super::resume::resumed(wanted));
    assert_eq!((count("brain.Event:2"), count("train/loss"), count("replies/1")), (2, 4, 4), "{done} before");
}
