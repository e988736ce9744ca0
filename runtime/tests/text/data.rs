use std::path::PathBuf;

use halfbyte_runtime::batch::{Batch, IGNORE, Sample};
use halfbyte_runtime::chat::ChatTemplate;
use halfbyte_runtime::tokenizer::Tokenizer;
use halfbyte_runtime::train::data::{DataOptions, Dataset, Overlong};
use serde_json::{Value, json};

use crate::{test_data, tiny_model};

pub const OPTIONS: DataOptions = {
    let mut options = DataOptions::DEFAULT;
    options.max_seq_length = 512;
    options
};

pub struct Bench {
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    pub folder: tempfile::TempDir,
}

impl Bench {
    fn new(model: PathBuf) -> Self {
        let tokenizer = Tokenizer::open(&model).unwrap();
        let template = ChatTemplate::open(&model, &tokenizer).unwrap();
        Self { tokenizer, template, folder: tempfile::tempdir().unwrap() }
    }

    pub fn read(&self, content: impl AsRef<[u8]>, options: &DataOptions) -> halfbyte_runtime::Result<Dataset> {
        self.read_as("data.jsonl", content, options)
    }

    /// Of a file of this name.
    pub fn read_as(
        &self,
        name: &str,
        content: impl AsRef<[u8]>,
        options: &DataOptions,
    ) -> halfbyte_runtime::Result<Dataset> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Dataset::read(&path, &self.tokenizer, Some(&self.template), options)
    }

    pub fn sample(&self, line: &Value) -> Sample {
        self.read(line.to_string(), &OPTIONS).unwrap().samples.remove(0)
    }

    pub fn refusal(&self, content: impl AsRef<[u8]>) -> String {
        self.read(content, &OPTIONS).unwrap_err().to_string()
    }

    pub fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text).unwrap()
    }

    /// The trained parts of a sample as text, one for each unbroken run.
    pub fn trained(&self, sample: &Sample) -> Vec<String> {
        let mut runs: Vec<Vec<u32>> = Vec::new();
        let mut previous = false;
        for (&id, &trained) in sample.ids.iter().zip(&sample.mask) {
            match (previous, trained) {
                (false, true) => runs.push(vec![id]),
                (true, true) => runs.last_mut().unwrap().push(id),
                _ => {}
            }
            previous = trained;
        }
        runs.iter().map(|run| self.tokenizer.decode(run, false)).collect()
    }
}

pub fn tiny() -> Bench {
    Bench::new(tiny_model())
}

pub fn qwen3() -> Option<Bench> {
    test_data("qwen3-tokenizer").map(Bench::new)
}

#[test]
fn text_is_trained_whole_and_ends() {
    let bench = tiny();
    let eos = bench.tokenizer.token_to_id("<|endoftext|>").unwrap();
    let sample = bench.sample(&json!({"text": "Once upon a time", "id": 7}));
    assert_eq!(sample.ids, [bench.ids("Once upon a time"), vec![eos]].concat());
    assert!(sample.mask.iter().all(|&trained| trained));
    let ended = bench.sample(&json!({"text": "Once upon a time<|endoftext|>"}));
    assert_eq!(ended, sample, "an end token is not doubled");
    let open = bench.read(json!({"text": "Once upon a time"}).to_string(), &OPTIONS.append_eos(false));
    assert_eq!(open.unwrap().samples[0].ids, bench.ids("Once upon a time"));
    let one = bench.tokenizer.decode(&[bench.ids("house")[0]], false);
    let idle = bench.read(json!({"text": one}).to_string(), &OPTIONS.append_eos(false));
    assert!(idle.unwrap_err().to_string().contains("line 1: the sample has no token to train on"));
}

#[test]
fn only_the_completion_is_trained_and_the_boundary_is_exact() {
    let bench = tiny();
    let (prompt, completion) = ("What is in the house? ", " A cat, and a do");
    let sample = bench.sample(&json!({"prompt": prompt, "completion": completion}));
    let prompt_ids = bench.ids(prompt);
    assert_eq!(sample.ids[..prompt_ids.len()], prompt_ids);
    assert_eq!(sample.mask.iter().position(|&trained| trained), Some(prompt_ids.len()));
    assert_eq!(bench.trained(&sample), [format!("{completion}<|endoftext|>")]);
}

#[test]
fn the_end_token_is_trained_even_where_it_is_the_padding_token() {
    let bench = tiny();
    let eos = bench.tokenizer.eos_id().unwrap();
    let batch = Batch::new([&bench.sample(&json!({"prompt": "Q", "completion": "A"}))]);
    let labels: Vec<u32> = batch.labels.iter().copied().filter(|&label| label != IGNORE).collect();
    assert_eq!(labels.last(), Some(&eos));
    let inner = bench.sample(&json!({"text": "a<|endoftext|>b<|im_end|>c"}));
    assert!(inner.mask.iter().all(|&trained| trained), "masked by position, never by id");
}

#[test]
fn a_template_whose_turns_cannot_be_told_apart_is_refused() {
    let bench = tiny();
    let path = bench.folder.path().join("data.jsonl");
    std::fs::write(&path, json!({"messages": [{"role": "assistant", "content": "x"}]}).to_string()).unwrap();
    let read = |source: &str| {
        let template = ChatTemplate::from_source("other.jinja", source).unwrap();
        Dataset::read(&path, &bench.tokenizer, Some(&template), &OPTIONS).unwrap_err().to_string()
    };
    let twice = "{% for m in [1, 2] %}<|im_start|>assistant\nx<|im_end|>{% endfor %}";
    assert!(read(twice).contains("line 1: the chat template wrote 2 assistant turns for 1 assistant messages"));
    assert!(read("<|im_start|>assistant\nx").contains("without an end"));
    assert!(read("[INST]x[/INST]").contains("no assistant message to train on"));
    let none = Dataset::read(&path, &bench.tokenizer, None, &OPTIONS).unwrap_err().to_string();
    assert!(none.contains("line 1: a conversation needs a chat template"), "{none}");
}

#[test]
fn long_samples_are_refused_cut_or_left_out_as_asked() {
    let bench = tiny();
    let words = "word ".repeat(40);
    let lines = format!(
        "{}\n{}\n{}\n",
        json!({"text": "short"}),
        json!({"text": words}),
        json!({"prompt": words, "completion": "x"})
    );
    let n_tokens = bench.ids(&words).len() + 1;
    let limit = |overlong| bench.read(&lines, &OPTIONS.max_seq_length(10).overlong(overlong));
    let message = limit(Overlong::Error).unwrap_err().to_string();
    assert!(message.contains(&format!("line 2: the sample has {n_tokens} tokens, but the limit is 10")), "{message}");
    let cut = limit(Overlong::Truncate).unwrap();
    assert_eq!((cut.samples.len(), cut.n_truncated, cut.n_skipped), (2, 1, 1));
    assert_eq!(cut.samples[1].ids, bench.ids(&words)[..10]);
    assert!(cut.note().unwrap().contains("of 3 samples, cut to the length limit: 1; left out: 1"));
    let skipped = limit(Overlong::Skip).unwrap();
    assert_eq!((skipped.samples.len(), skipped.n_truncated, skipped.n_skipped), (1, 0, 2));
    assert_eq!(bench.read(json!({"text": "a b"}).to_string(), &OPTIONS).unwrap().note(), None);
    let all = OPTIONS.max_seq_length(1).overlong(Overlong::Skip);
    assert!(bench.read(&lines, &all).unwrap_err().to_string().contains("3 samples and none within the limit"));
}

#[test]
fn order_blank_lines_windows_line_ends_and_byte_order_marks() {
    let bench = tiny();
    let mut content = String::from("\u{FEFF}");
    for number in 0..200 {
        content += &format!("{}\r\n\n", json!({"text": format!("number {number}")}));
    }
    let dataset = bench.read(content, &OPTIONS).unwrap();
    let texts: Vec<_> = dataset.samples.iter().map(|sample| bench.tokenizer.decode(&sample.ids, true)).collect();
    assert_eq!(texts, (0..200).map(|number| format!("number {number}")).collect::<Vec<_>>());
    assert_eq!(dataset.n_tokens(), dataset.samples.iter().map(|sample| sample.ids.len()).sum::<usize>());
    assert_eq!(dataset.n_targets(), dataset.n_tokens() - 200);
}

/// A line with all private characters, each of which would be looked for in the whole line.
#[test]
fn a_line_full_of_private_characters_is_refused_at_once() {
    let all: String = ('\u{F0000}'..='\u{FFFFD}').collect();
    let content = format!("{}{all}", "a".repeat(2 << 20));
    let began = std::time::Instant::now();
    let error = tiny().refusal(json!({"messages": [{"role": "assistant", "content": content}]}).to_string());
    assert!(error.contains("use all private characters"), "{error}");
    assert!(began.elapsed() < std::time::Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn bad_lines_are_named() {
    let bench = tiny();
    let cases: [(&[u8], &str); 24] = [
        (b"{\"text\": \"a b\", \"text\": \"c d\"}", "line 1: not valid JSON: the key `text` is given twice; keep one"),
        (b"{\"text\": \"a\", \"prompt\": \"b\"}", "line 1: `prompt` means nothing beside `text`"),
        (b"{\"messages\": [], \"prompt\": \"b\"}", "line 1: `prompt` means nothing beside `messages`"),
        (
            b"{\"prompt\": \"a\", \"completion\": \"b\", \"tools\": []}",
            "line 1: `tools` means nothing beside `completion`",
        ),
        (
            b"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"enable_thinking\": true}",
            "line 1: the chat template does not read `enable_thinking`, so it would be ignored",
        ),
        (b"{\0\"\0t\0\"\0:\0\"\0a\0\"\0}\0", "line 1: not valid JSON: it has NUL bytes, as UTF-16 text has"),
        (b"{\"text\": \"a \\ud800\"}", "line 1: not valid JSON: "),
        (b"", "the file is empty"),
        (b"\n  \n", "the file is empty"),
        (b"{\"text\": \"a b\"}\n{\"text\": \"a", "line 2: not valid JSON: EOF while parsing a string, at column"),
        (b"{\"text\": \"a b\"}\n\n{text}\n", "line 3: not valid JSON: key must be a string, at column 2"),
        (b"{\"text\": \"a b\"}\n{\"text\": \"\xFF\"}", "line 2: byte 11 is not valid UTF-8"),
        (b"[{\"text\": \"a\"}]", "line 1: expected a JSON object, found [{\"text\":\"a\"}]"),
        (b"{\"txt\": \"a\"}", "line 1: found the keys [\"txt\"], expected `text`, or"),
        (b"{\"text\": 5}", "line 1: `text` is 5, but must be a string"),
        (b"{\"text\": null}", "line 1: `text` is null, but must be a string"),
        (b"{\"prompt\": \"a\"}", "line 1: `prompt` needs a `completion`"),
        (b"{\"completion\": \"a\"}", "line 1: the key `prompt` is missing"),
        (b"{\"text\": \"a\", \"messages\": []}", "line 1: the keys [\"text\", \"messages\"] exclude each other"),
        (b"{\"messages\": \"hi\"}", "line 1: `messages` is \"hi\", but must be a list"),
        (b"{\"messages\": []}", "there are no messages"),
        (b"{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}", "line 1: there is no assistant message"),
        (b"{\"messages\": [{\"role\": \"robot\", \"content\": \"hi\"}]}", "message 0: `role` is \"robot\""),
        (
            b"{\"messages\": [{\"role\": \"user\", \"content\": [1]}]}",
            "message 0: `content` is [1], but must be a string",
        ),
    ];
    for (content, want) in cases {
        let message = bench.refusal(content);
        assert!(message.contains(want) && message.contains("data.jsonl"), "{message}\nwanted: {want}");
    }
    let first = bench.refusal("{\"text\": \"ok ok\"}\n{bad}\n".repeat(50));
    assert!(first.contains("line 2:"), "the first bad line is named: {first}");
    let thinking = bench.refusal("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"enable_thinking\": 1}");
    assert!(thinking.contains("`enable_thinking` is 1, but must be true or false"), "{thinking}");
    let missing = Dataset::read("no/such.jsonl", &bench.tokenizer, None, &OPTIONS).unwrap_err().to_string();
    assert!(missing.contains("no/such.jsonl"), "{missing}");
}
