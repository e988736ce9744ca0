//! Answers questions from a person's own texts: indexes them, finds passages, has a model answer from these.

use super::{
    signals::Signals,
    tool::{Run, Tool},
};
use crate::{
    error::{Error, Result},
    llm::{Prepared, expect_effect, in_force, sampling},
    note,
    rag::{Index, Info, Passage, RagPipeline, read_documents},
    say,
    settings::{Asked, Loaded, RagConfig},
};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use halfbyte::Count;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// Answers from texts.
pub const RAG: Tool = Tool {
    name: "rag",
    about: "Answer questions from one's own texts",
    options,
    run: Run::Settings(&["retrieval", "llm"], run),
};

fn options(command: Command) -> Command {
    let path = value_parser!(PathBuf);
    let documents = "Make the index of these: folders of .txt and .md, JSONL with {\"text\"}, lawqa_jp's JSON";
    command.args([
        Arg::new("documents").long("documents").num_args(1..).value_parser(path).help(documents),
        Arg::new("question").long("question").help("What to answer from the index"),
        Arg::new("passages").long("passages").action(ArgAction::SetTrue).help("Show what is found, and end"),
    ])
}

fn run(asked: Asked) -> Result<ExitCode> {
    let _signals = Signals::listen("interrupted: unfinished files are removed");
    let (config, matches) = (&asked.loaded.config, &asked.matches);
    let want = "it must name a folder: --index FOLDER";
    let folder = config.retrieval.index.as_deref();
    let folder = folder.ok_or_else(|| Error::Given { place: "--index".into(), reason: want.into() })?;
    let documents = documents(matches);
    let question = matches.get_one::<String>("question");
    if documents.is_empty() && question.is_none() && !asked.check {
        let reason = "give --documents to make an index, --question to ask it, or both".into();
        return Err(Error::Given { place: "rag".into(), reason });
    }
    expect_used(&asked, &documents, question)?;
    if asked.check {
        return check(&asked.loaded, folder, &documents);
    }
    if !documents.is_empty() {
        build(config, folder, &documents)?;
    }
    match question {
        Some(question) if matches.get_flag("passages") => find(config, folder, question)?,
        Some(question) => answer(&asked.loaded, folder, question)?,
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn documents(matches: &ArgMatches) -> Vec<PathBuf> {
    matches.get_many::<PathBuf>("documents").into_iter().flatten().cloned().collect()
}

/// Refuses what would have no effect.
fn expect_used(asked: &Asked, documents: &[PathBuf], question: Option<&String>) -> Result<()> {
    let (loaded, passages) = (&asked.loaded, asked.matches.get_flag("passages"));
    if documents.is_empty() {
        loaded.refuse_options("retrieval", &["chunk_size", "chunk_overlap"], "the index is made already")?;
    }
    let names = |section: &str| loaded.config.section(section).map(|s| s.fields()).unwrap_or_default();
    let llm: Vec<_> = names("llm").iter().map(|field| field.name).collect();
    if question.is_none() && !asked.check {
        let nothing = "nothing is asked; give --question";
        loaded.refuse_options("retrieval", &["top_k", "context_tokens"], nothing)?;
        loaded.refuse_options("llm", &llm, nothing)?;
        if passages {
            return Err(Error::Given { place: "--passages".into(), reason: nothing.into() });
        }
    }
    if passages {
        loaded.refuse_options("retrieval", &["context_tokens"], "no prompt is made")?;
        loaded.refuse_options("llm", &llm, "no answer is written")?;
    }
    Ok(())
}

fn check(loaded: &Loaded, folder: &Path, documents: &[PathBuf]) -> Result<ExitCode> {
    let prepared = prepare(loaded)?;
    if documents.is_empty() {
        let Info { n_documents, n_passages, .. } = Index::open(folder)?.info().clone();
        say!("the index is whole: {} of {}", Count(n_passages, "passage"), Count(n_documents, "text"));
    } else {
        say!("{} can be indexed", Count(read_documents(documents)?.len(), "text"));
    }
    say!("{}", prepared.check(None)?);
    note!("{}", prepared.expect_room(prepared.need(0)?.least())?);
    Ok(ExitCode::SUCCESS)
}

/// Opens the model, and says what is in force.
fn prepare(loaded: &Loaded) -> Result<Prepared> {
    let prepared = Prepared::new(&loaded.config.llm)?;
    expect_effect(loaded, &prepared.files, false)?;
    prepared.notes.iter().chain(&in_force(&prepared)).for_each(|line| note!("{line}"));
    note!("{}", sampling(&prepared.settings));
    Ok(prepared)
}

fn build(config: &RagConfig, folder: &Path, documents: &[PathBuf]) -> Result<()> {
    let began = Instant::now();
    let index = Index::build(folder, documents, &config.retrieval)?;
    let info = index.info();
    let seconds = began.elapsed().as_secs_f64();
    let (passages, texts) = (Count(info.n_passages, "passage"), Count(info.n_documents, "text"));
    say!("{passages} of {texts} indexed in {seconds:.1} s: {}", folder.display());
    Ok(())
}

fn find(config: &RagConfig, folder: &Path, question: &str) -> Result<()> {
    let found = Index::open(folder)?.search(question, config.retrieval.top_k)?;
    found.iter().enumerate().for_each(|(i, passage)| say!("[{}] {}\n{}\n", i + 1, source(passage), passage.text));
    Ok(())
}

fn answer(loaded: &Loaded, folder: &Path, question: &str) -> Result<()> {
    let (index, llm) = (Index::open(folder)?, prepare(loaded)?.load()?);
    note!("device: {}", llm.device());
    let answer = RagPipeline::of(index, loaded.config.retrieval.clone(), llm)?.answer(question)?;
    say!("{}\n", answer.text.trim());
    answer.sources.iter().enumerate().for_each(|(i, passage)| say!("[{}] {}", i + 1, source(passage)));
    Ok(())
}

fn source(passage: &Passage) -> String {
    let title = passage.title.as_ref().map(|title| format!(" ({title})")).unwrap_or_default();
    format!("{}{title}, part {}, score {:.2}", passage.source, passage.part + 1, passage.score)
}
