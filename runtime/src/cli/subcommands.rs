//! The program with all others as its subcommands.

use super::output::{print, start_with_options};
use super::tool::{Tool, version};
use super::{
    decode_speed::DECODE_SPEED,
    doctor::DOCTOR,
    evaluate::EVALUATE,
    export::{EXPORT, MERGE},
    infer::INFER,
    logits::LOGITS,
    quantize::QUANTIZE,
    rag::RAG,
    report::REPORT,
    train::TRAIN,
    train_speed::TRAIN_SPEED,
};
use crate::error::Result;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use std::ffi::OsString;
use std::process::ExitCode;

/// The subcommands, in the order of their use.
const TOOLS: [Tool; 12] =
    [TRAIN, REPORT, INFER, EVALUATE, RAG, QUANTIZE, MERGE, EXPORT, LOGITS, DECODE_SPEED, TRAIN_SPEED, DOCTOR];

const NAME: &str = "halfbyte";
const COMPLETIONS: &str = "completions";

/// The program `halfbyte`: the arguments, the first of which is not looked at, name a subcommand and its options.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let asked = arguments.get(1).and_then(|name| TOOLS.into_iter().find(|tool| name == tool.name));
    match asked {
        Some(tool) => tool.main(format!("{NAME} {}", tool.name), arguments.into_iter().skip(1)),
        None => start_with_options(command(), arguments, complete),
    }
}

/// All that it takes.
fn command() -> Command {
    let shell =
        Arg::new("shell").required(true).value_parser(value_parser!(Shell)).help("The shell that is to read it");
    let completions = Command::new(COMPLETIONS).about("Print what lets a shell complete these commands and options");
    Command::new(NAME)
        .version(version())
        .about("Fine-tune and run Qwen3 with 4-bit weights")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(TOOLS.map(|tool| tool.command()))
        .subcommand(completions.arg(shell))
}

/// The only subcommand that is no tool.
fn complete(matches: &ArgMatches) -> Result<ExitCode> {
    let shell = matches.subcommand_matches(COMPLETIONS).and_then(|matches| matches.get_one::<Shell>("shell"));
    let mut script = Vec::new();
    if let Some(&shell) = shell {
        clap_complete::generate(shell, &mut command(), NAME, &mut script);
    }
    print(format_args!("{}", String::from_utf8_lossy(&script)));
    Ok(ExitCode::SUCCESS)
}
