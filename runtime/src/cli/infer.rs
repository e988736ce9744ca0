//! Answers a prompt, or a person at a terminal, with a Qwen3 checkpoint and, if given, a LoRA adapter.
mod conversation;

use super::{
    output::print,
    signals::{Signals, exit_code},
    tool::{Run, Tool},
};
use crate::{
    chat::message,
    error::{Error, Result},
    generate::generator::Generated,
    llm::{Llm, Prepared, expect_effect, in_force, sampling},
    note, say,
    screen::{Flow, Stream},
    settings::Asked,
};
use clap::{Arg, Command};
use halfbyte::Count;
use std::{
    io::{IsTerminal, Read},
    ops::ControlFlow,
    process::ExitCode,
};

/// Answers.
pub const INFER: Tool = Tool {
    name: "infer",
    about: "Answer with a Qwen3 checkpoint and a LoRA adapter",
    options,
    run: Run::Settings(&["llm"], run),
};

fn options(command: Command) -> Command {
    let prompt = "What to answer or continue [default: standard input; at a terminal a conversation]";
    let prompt = Arg::new("prompt").long("prompt").value_name("TEXT").allow_hyphen_values(true).help(prompt);
    command.arg(prompt)
}

fn run(asked: Asked) -> Result<ExitCode> {
    let signals = Signals::listen("interrupted: nothing was written");
    let prompt = asked.matches.get_one::<String>("prompt").cloned();
    let terminal = prompt.is_none() && std::io::stdin().is_terminal() && !asked.check;
    let prompt = if asked.check || terminal { prompt } else { Some(prompt.map_or_else(standard_input, Ok)?) };
    let llm = &asked.loaded.config.llm;
    let prepared = Prepared::new(llm)?;
    expect_effect(&asked.loaded, &prepared.files, false)?;
    prepared.notes.iter().chain(&in_force(&prepared)).for_each(|line| note!("{line}"));
    note!("{}", sampling(&prepared.settings));
    if asked.check {
        say!("{}", prepared.check(prompt.as_deref())?);
        note!("{}", prepared.expect_room(prepared.need_for(prompt.as_deref())?.least())?);
        return Ok(ExitCode::SUCCESS);
    }
    let llm = prepared.load()?;
    note!("device: {}", llm.device());
    match prompt {
        Some(prompt) => answer(&llm, &prompt, &signals),
        None => conversation::hold(&llm, &signals),
    }
}

/// Prints the answer to one prompt as it is written.
fn answer(llm: &Llm, prompt: &str, signals: &Signals) -> Result<ExitCode> {
    let mut flow = Flow::new(Stream::Out);
    let made = llm.stream(&[message("user", prompt)], |piece| {
        // From here on there is something to end in order.
        signals.note();
        // A reader that is gone, as `head` is, wants no more.
        let read = print(format_args!("{}", flow.push(piece)));
        if read && signals.caught().is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    print(format_args!("{}\n", flow.finish()));
    note!("{}", speed(&made));
    Ok(exit_code(signals.caught()))
}

fn speed(made: &Generated) -> String {
    let Generated { n_prompt, prompt_seconds, decode_seconds, ids, .. } = made;
    let decoded = ids.len().saturating_sub(1) as f64;
    let written = ids.len();
    format!(
        "{} read in {prompt_seconds:.2} s, {written} written at {:.1} tokens/s",
        Count(*n_prompt, "token"),
        decoded / decode_seconds
    )
}

fn standard_input() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|source| Error::Io { path: "standard input".into(), action: "read", source })?;
    Ok(text.trim_end_matches('\n').to_owned())
}
