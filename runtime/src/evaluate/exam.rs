//! A model that sits an exam.

use super::output::ScoringOutput;
use super::prompt::{Continuations, asks_for_letter, hash};
use super::questions::{Accuracy, Question, read_questions};
use super::report::Report;
use super::row::Row;
use super::score::Scores;
use super::shuffle::{Item, as_given, shuffled};
use crate::batch::Branches;
use crate::chat::message;
use crate::embedded;
use crate::error::{Error, Result};
use crate::generate::generator::Generated;
use crate::llm::{Llm, Need, Prepared, Work, sampling};
use crate::settings::{EvaluationSettings, LlmSettings, Loaded, Mode, RagConfig, Section};
use halfbyte::Count;
use serde_json::{Value, json};
use std::fmt;
use std::ops::ControlFlow;
use std::time::Instant;

/// Orders of the options of a question.
const ORDERS: usize = 4;

/// The passages for a question.
pub type Retrieve<'a> = &'a dyn Fn(&str) -> Result<Vec<String>>;

/// How far an exam has come.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// Questions that have a row.
    pub done: usize,
    /// All.
    pub total: usize,
    /// Right answers so far.
    pub accuracy: Option<Accuracy>,
}

/// The questions that the settings ask for, in their orders.
///
/// # Errors
/// The file cannot be read, or has no questions that could be shuffled.
pub fn items(settings: &EvaluationSettings, seed: u64) -> Result<Vec<Item>> {
    let path = settings.questions.clone().map_or_else(|| embedded::town("exam.json"), Ok)?;
    let mut questions = read_questions(path)?;
    questions.truncate(settings.limit.unwrap_or(usize::MAX));
    if settings.shuffle_options { shuffled(&questions, ORDERS, seed) } else { Ok(as_given(&questions)) }
}

/// What makes two runs the same: all settings but where results go.
pub fn run_settings(config: &RagConfig) -> Value {
    let mut evaluation = config.evaluation.json();
    for place in ["output", "overwrite"] {
        evaluation.as_object_mut().and_then(|settings| settings.shift_remove(place));
    }
    json!({"llm": config.llm.json(), "evaluation": evaluation, "retrieval": config.retrieval.json()})
}

/// Opens and checks the model of an exam. For likelihoods, questions are read as they are, without a chat template.
///
/// # Errors
/// Those of [`Prepared::new`].
pub fn prepare(config: &RagConfig) -> Result<Prepared> {
    match config.evaluation.mode {
        Mode::Generate => Prepared::new(&config.llm),
        Mode::Likelihood => {
            let llm = config.llm.clone();
            Prepared::new(&LlmSettings { raw: true, system: None, enable_thinking: None, ..llm })
        }
    }
}

/// How answers are found, in a line.
pub fn in_force(config: &RagConfig) -> String {
    let answers = match config.evaluation.mode {
        Mode::Generate => sampling(&config.llm),
        Mode::Likelihood => "answers: the option that is likeliest after context and question".into(),
    };
    format!("{answers}; {} at once", config.evaluation.batch_size)
}

/// What is known of an exam without a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// How often a question is asked.
    pub n_questions: usize,
    /// How many of these do not fit the model.
    pub n_too_long: usize,
    /// The most that it takes on the device.
    pub need: Need,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checked { n_questions, n_too_long, need } = self;
        let questions = Count(*n_questions, "question");
        write!(f, "checked: {questions}; too long for the model: {n_too_long}\nmemory: {need}")
    }
}

/// What the model is given for a question.
struct Asked {
    item: Item,
    sha256: String,
    /// Tokens of the prompt, and of all that it is given or may write.
    n_prompt: usize,
    needed: usize,
    paper: Paper,
}

enum Paper {
    Options(Branches),
    Prompt(String),
}

/// How questions are put.
pub struct Exam<'a> {
    prepared: &'a Prepared,
    settings: &'a EvaluationSettings,
    retrieve: Option<Retrieve<'a>>,
}

impl<'a> Exam<'a> {
    /// With `retrieve`, passages take the place of each question's own context.
    pub fn new(prepared: &'a Prepared, settings: &'a EvaluationSettings, retrieve: Option<Retrieve<'a>>) -> Self {
        Self { prepared, settings, retrieve }
    }

    /// Puts the questions without a model.
    ///
    /// # Errors
    /// A question cannot be put to the model, or no memory could hold what it takes.
    pub fn check(&self, items: &[Item]) -> Result<Checked> {
        let need = self.prepared.need_of(self.work(&[]))?;
        let mut checked = Checked { n_questions: items.len(), n_too_long: 0, need };
        for few in items.chunks(self.settings.batch_size) {
            let (fit, too_long) = self.put(few)?;
            checked.n_too_long += too_long.len();
            let need = self.prepared.need_of(self.work(&fit))?;
            checked.need = if need.total() > checked.need.total() { need } else { checked.need };
        }
        Ok(checked)
    }

    /// Compares what the exam takes with what is free on the device, as far as that is known before a GPU is opened, and
    /// says how it stands.
    ///
    /// # Errors
    /// So much is not free.
    pub fn expect_room(&self, need: Need) -> Result<String> {
        let advice = match self.settings.mode {
            Mode::Likelihood => "take --load-in-4bit or a smaller model",
            Mode::Generate => {
                "take --load-in-4bit, a smaller model, fewer questions at once (--batch-size), or fewer tokens \
                 (--max-new-tokens)"
            }
        };
        self.prepared.settings.device.expect_room(need.least(), advice)
    }

    /// What the model does with questions that it is given together.
    fn work(&self, asked: &[Asked]) -> Work {
        let tokens = |asked: &Asked| asked.branches().map_or(0, Branches::n_tokens);
        match self.settings.mode {
            Mode::Likelihood if !asked.is_empty() => {
                Work::Score { n_tokens: asked.iter().map(tokens).max().unwrap_or_default() }
            }
            _ => Work::Write {
                n_texts: asked.len(),
                n_read: asked.iter().map(|asked| asked.n_prompt).sum(),
                longest: asked.iter().map(|asked| asked.needed).max().unwrap_or_default(),
            },
        }
    }

    /// The questions that fit the model, and those that do not.
    fn put(&self, few: &[Item]) -> Result<(Vec<Asked>, Vec<Asked>)> {
        let asked = few.iter().map(|item| self.ask(item)).collect::<Result<Vec<_>>>()?;
        let limit = self.prepared.config.positions();
        Ok(asked.into_iter().partition(|asked| asked.needed <= limit))
    }

    fn ask(&self, item: &Item) -> Result<Asked> {
        let passages = self.retrieve.map(|retrieve| retrieve(&item.question.question)).transpose()?;
        let mut question = item.question.clone();
        if passages.is_some() {
            question.context.clear();
        }
        let passages = passages.unwrap_or_default();
        match self.settings.mode {
            Mode::Likelihood => self.options(item, &question, &passages),
            Mode::Generate => self.prompt(item, &question, &passages),
        }
    }

    fn options(&self, item: &Item, question: &Question, passages: &[String]) -> Result<Asked> {
        let texts = Continuations::of_texts(question, passages);
        let encoded = texts.encode(&self.prepared.tokenizer)?;
        let (n_prompt, needed) = (encoded.prompt.len(), encoded.longest());
        Ok(Asked { item: item.clone(), sha256: texts.hash(), n_prompt, needed, paper: Paper::Options(encoded) })
    }

    fn prompt(&self, item: &Item, question: &Question, passages: &[String]) -> Result<Asked> {
        let text = self.prepared.text(&[message("user", &asks_for_letter(question, passages))])?;
        let n_prompt = self.prepared.tokenizer.encode(&text)?.len();
        let needed = n_prompt.saturating_add(self.prepared.settings.max_new_tokens);
        Ok(Asked { item: item.clone(), sha256: hash(&text), n_prompt, needed, paper: Paper::Prompt(text) })
    }

    /// Puts all questions that `output` has no row of; `each` is told of each few, and may end it. The report is there
    /// once all are done.
    ///
    /// # Errors
    /// The device refuses, a result is not finite, or it cannot be written.
    pub fn sit(
        &self,
        llm: &Llm,
        output: &mut ScoringOutput,
        mut each: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Option<Report>> {
        let left = output.left();
        let total = output.n_items();
        let mut done = total - left.len();
        for few in left.chunks(self.settings.batch_size) {
            let began = Instant::now();
            let (fit, too_long) = self.put(few)?;
            let limit = self.prepared.config.positions();
            for Asked { item, sha256, needed, .. } in too_long {
                output.record(Row::too_long(&item, sha256, needed, limit))?;
            }
            for row in self.answer(llm, &fit, began)? {
                output.record(row)?;
            }
            done += few.len();
            if each(Progress { done, total, accuracy: output.accuracy() }).is_break() && done < total {
                return Ok(None);
            }
        }
        output.finish().map(Some)
    }

    fn answer(&self, llm: &Llm, asked: &[Asked], began: Instant) -> Result<Vec<Row>> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let share = |began: Instant| began.elapsed().as_secs_f64() / asked.len() as f64;
        match self.settings.mode {
            Mode::Likelihood => {
                let branches: Vec<_> = asked.iter().filter_map(Asked::branches).cloned().collect();
                let losses = llm.losses(&branches)?;
                let seconds = share(began);
                asked.iter().zip(&losses).map(|(asked, losses)| asked.scored(losses, seconds)).collect()
            }
            Mode::Generate => {
                let texts: Vec<_> = asked.iter().map(|asked| asked.text().to_owned()).collect();
                let made = llm.continue_all(&texts, &mut |_, _| ControlFlow::Continue(()))?;
                let seconds = share(began);
                let row = |(asked, made): (&Asked, Generated)| {
                    let tokens = (asked.n_prompt + made.ids.len()) as u64;
                    Row::generated(&asked.item, asked.sha256.clone(), made.text, tokens, seconds)
                };
                Ok(asked.iter().zip(made).map(row).collect())
            }
        }
    }
}

impl Asked {
    fn branches(&self) -> Option<&Branches> {
        if let Paper::Options(branches) = &self.paper { Some(branches) } else { None }
    }

    fn text(&self) -> &str {
        if let Paper::Prompt(text) = &self.paper { text } else { "" }
    }

    fn scored(&self, losses: &[Vec<f32>], seconds: f64) -> Result<Row> {
        let losses: Vec<_> = losses.iter().map(Vec::as_slice).collect();
        let scores = Scores::new(&self.item.question.options, &losses)?;
        let tokens = self.branches().map_or(0, Branches::n_tokens) as u64;
        Ok(Row::scored(&self.item, self.sha256.clone(), scores, tokens, seconds))
    }
}

/// Refuses settings of an exam that would have no effect.
///
/// # Errors
/// Names the setting and where it was asked for.
pub fn expect_effect(loaded: &Loaded) -> Result<()> {
    if loaded.config.evaluation.mode == Mode::Likelihood {
        let unused = [
            "kv_cache_8bit",
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "system",
            "enable_thinking",
            "raw",
        ];
        loaded.refuse_options("llm", &unused, "nothing is written in likelihood mode")?;
        if loaded.use_generation_config {
            let reason = "it has no effect here: nothing is written in likelihood mode".into();
            return Err(Error::Given { place: "--use-generation-config".into(), reason });
        }
        if !loaded.config.evaluation.shuffle_options {
            loaded.refuse_options("llm", &["seed"], "nothing is shuffled or written")?;
        }
    }
    if loaded.config.retrieval.index.is_none() {
        let why = "no passages are retrieved; give --retrieve";
        loaded.refuse_options("retrieval", &["top_k", "context_tokens"], why)?;
    }
    loaded.refuse_options("retrieval", &["chunk_size", "chunk_overlap"], "no index is made here")
}
