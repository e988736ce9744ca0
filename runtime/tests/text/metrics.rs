use std::io::Write;
use std::sync::{Arc, Mutex};

use halfbyte_runtime::train::metrics::{MetricsLog, Progress, Record};
use serde_json::{Value, json};

#[test]
fn each_record_is_a_line_on_the_disk_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let mut log = MetricsLog::create(&path).unwrap();
    log.write(&Record { step: 1, loss: Some(2.5), tokens: Some(64), ..Record::default() }).unwrap();
    assert_eq!(lines(), [json!({"step": 1, "loss": 2.5, "tokens": 64})]);
    log.write(&Record { step: 2, loss: Some(f64::NAN), ..Record::default() }).unwrap();
    assert_eq!(lines()[1], json!({"step": 2, "loss": null}));
    drop(log);
    MetricsLog::append(&path).unwrap().write(&Record { step: 3, eval_loss: Some(0.5), ..Record::default() }).unwrap();
    assert_eq!((lines().len(), &lines()[2]), (3, &json!({"step": 3, "eval_loss": 0.5})));
    MetricsLog::create(&path).unwrap().write(&Record::default()).unwrap();
    assert_eq!(lines().len(), 1);
    let refusal = MetricsLog::create(folder.path().join("no/such/folder.jsonl")).unwrap_err().to_string();
    assert!(refusal.contains("no/such/folder.jsonl"), "{refusal}");
}

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn without_a_terminal_a_line_comes_at_first_every_few_steps_with_evaluations_and_at_the_end() {
    let screen = Screen::default();
    let mut progress = Progress::lines(0, 7, 3, Box::new(screen.clone()));
    for step in 1..=7 {
        let eval_loss = (step == 4).then_some(0.5);
        progress.step(&Record { step, loss: Some(step as f64), eval_loss, ..Record::default() });
    }
    progress.note("saved");
    progress.finish();
    let text = String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
    assert_eq!(
        text,
        "step 1/7  loss 1.0000\nstep 3/7  loss 3.0000\nstep 4/7  loss 4.0000  held-out loss 0.5000\nstep 6/7  loss 6.0000\nstep 7/7  loss 7.0000\nsaved\n"
    );
}
