//! The report of a training run, also of one that was killed.

use super::tool::{Run, Tool};
use crate::{error::Result, say, train::report};
use clap::{Arg, ArgMatches, Command, value_parser};
use std::{path::PathBuf, process::ExitCode};

/// Makes `report.html` and `loss.svg` of a training run's folder.
pub const REPORT: Tool =
    Tool { name: "report", about: "Make report.html and loss.svg of a training run", options, run: Run::Options(run) };

fn options(command: Command) -> Command {
    let folder = Arg::new("folder").value_name("FOLDER").required(true).value_parser(value_parser!(PathBuf));
    let folder = folder.help("The --output folder of a training run, finished or not");
    command.arg(folder)
}

fn run(matches: &ArgMatches) -> Result<ExitCode> {
    let folder = matches.get_one::<PathBuf>("folder");
    for path in folder.map(|folder| report::write(folder)).transpose()?.into_iter().flatten() {
        say!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
