//! What a program is.

use super::logs::option;
use super::output::{start_with_options, start_with_settings};
use crate::error::Result;
use crate::settings::{Asked, Program};
use clap::{ArgMatches, Command};
use halfbyte::cuda;
use std::ffi::OsString;
use std::process::ExitCode;

/// A program, which may be a subcommand of `halfbyte` and an example, too.
pub struct Tool {
    /// The subcommand.
    pub name: &'static str,
    /// What it is for.
    pub(super) about: &'static str,
    /// Adds its options, but for settings.
    pub(super) options: fn(Command) -> Command,
    pub(super) run: Run,
}

/// What a program does with its command line.
pub(super) enum Run {
    /// Its options are settings of these sections, too.
    Settings(&'static [&'static str], fn(Asked) -> Result<ExitCode>),
    /// All its options are its own.
    Options(fn(&ArgMatches) -> Result<ExitCode>),
}

impl Tool {
    /// Does what the arguments ask for, the first of which is not looked at. Help and version say that the program is
    /// `called` so.
    pub fn main(&self, called: impl Into<String>, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
        let called = called.into();
        let command = self.bare().name(called.clone()).bin_name(called).version(version());
        match self.run {
            Run::Settings(sections, run) => start_with_settings(Program::new(command, sections), arguments, run),
            Run::Options(run) => start_with_options(command, arguments, run),
        }
    }

    /// It without its settings.
    fn bare(&self) -> Command {
        // Options say of themselves what they are, where they are a type; what the program is for comes last.
        (self.options)(Command::new(self.name)).about(self.about).arg(option())
    }

    /// It as a subcommand, with all its options.
    pub(super) fn command(&self) -> Command {
        match self.run {
            Run::Settings(sections, _) => Program::new(self.bare(), sections).into_command(),
            Run::Options(_) => self.bare(),
        }
    }
}

/// The version, and what the build can run on: `0.1.0 (kernels for 80,90a)`.
pub fn version() -> String {
    let kernels = match cuda::architectures() {
        "" => "no kernels: CPU only".into(),
        archs => format!("kernels for {archs}"),
    };
    format!("{} ({kernels})", env!("CARGO_PKG_VERSION"))
}
