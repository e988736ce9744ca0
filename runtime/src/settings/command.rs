//! Settings on a command line.

use super::config::RagConfig;
use super::section::Field;
use super::sources::{Given, Loaded, Source, Sources};
use super::values::Value;
use crate::error::Result;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::OsString;

/// A program that takes settings.
pub struct Program {
    command: Command,
    /// The sections whose settings are options of it.
    sections: &'static [&'static str],
    options: Vec<Offered>,
}

/// A setting as an option.
struct Offered {
    section: &'static str,
    field: Field,
    /// Its name on the command line.
    long: String,
    aliases: Vec<String>,
}

/// The settings of all sections. A name that an earlier one has needs its section before it: `--llm-top-k`.
fn offered(sections: &'static [&'static str]) -> Vec<Offered> {
    let defaults = RagConfig::default();
    let mut all: Vec<Offered> = Vec::new();
    for &section in sections {
        for field in defaults.section(section).map(|section| section.fields()).unwrap_or_default() {
            let free = |name: &String| !all.iter().any(|other| other.long == *name || other.aliases.contains(name));
            let plain = dashes(field.name);
            let aliases = field.aliases.iter().map(|name| dashes(name)).filter(free).collect();
            let long = if free(&plain) { plain } else { format!("{section}-{plain}") };
            all.push(Offered { section, field, long, aliases });
        }
    }
    all
}

/// What a command line asks for.
#[derive(Debug)]
pub struct Asked {
    /// All settings, from all sources.
    pub loaded: Loaded,
    /// The program's own options.
    pub matches: ArgMatches,
    /// Whether to print the settings and end.
    pub print_config: bool,
    /// Whether to check what can be checked without weights, and end.
    pub check: bool,
}

impl Program {
    /// `command` with an option for each setting of `sections`.
    pub fn new(command: Command, sections: &'static [&'static str]) -> Self {
        let options = offered(sections);
        let command = command.args_override_self(true).next_help_heading("Settings");
        let mut command =
            command.args(options.iter().map(Offered::arg)).next_help_heading("Where settings come from").args([
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .help("TOML file of settings [default: halfbyte.toml, if there is one]"),
                flag("print-config", "Print every setting and where it comes from, and end"),
                flag("check", "Check settings, files, data and memory without loading weights, and end")
                    .visible_alias("dry-run"),
            ]);
        if sections.contains(&"llm") {
            command = command.arg(flag(
                "use-generation-config",
                "Take what the model's generation_config.json says of sampling, where nothing else is said",
            ));
        }
        Program { command, sections, options }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.command.get_name()
    }

    /// Its command line.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Reads a command line and, below it, all other sources.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::error::Error::Usage) where clap refuses or has been asked for help; a setting is unknown or bad.
    pub fn read(&self, arguments: impl IntoIterator<Item = OsString>, sources: Sources) -> Result<Asked> {
        let arguments = arguments.into_iter().map(|argument| with_dashes(&self.command, argument));
        let matches = self.command.clone().try_get_matches_from(arguments)?;
        let options: Vec<_> = self.options.iter().filter_map(|option| option.given(&matches)).collect();
        let file = matches.get_one::<String>("config").map(Into::into).or(sources.file);
        let on = |name: &str| matches.try_get_one(name).ok().flatten() == Some(&true);
        let use_generation_config = on("use-generation-config");
        let loaded = Sources { file, use_generation_config, ..sources }.load_below(&options)?;
        Ok(Asked { loaded, print_config: on("print-config"), check: on("check"), matches })
    }

    /// The settings that the program takes, for its `--print-config`, on a terminal of so many columns.
    pub fn print(&self, loaded: &Loaded, columns: Option<usize>) -> String {
        loaded.print(self.sections, columns)
    }
}

/// `--lora_r` is `--lora-r`, where `command` has that.
pub fn with_dashes(command: &Command, argument: OsString) -> OsString {
    let Some(option) = argument.to_str().and_then(|text| text.strip_prefix("--")) else { return argument };
    let (name, value) = option.split_at(option.find('=').unwrap_or(option.len()));
    let name = dashes(name);
    let ours =
        |arg: &Arg| arg.get_long() == Some(&name) || arg.get_all_aliases().is_some_and(|all| all.contains(&&*name));
    if command.get_arguments().any(ours) { format!("--{name}{value}").into() } else { argument }
}

fn dashes(name: &str) -> String {
    name.replace('_', "-")
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

impl Offered {
    fn arg(&self) -> Arg {
        let field = &self.field;
        let default = match field.default.as_str() {
            "none" => String::new(),
            default => format!(" [default: {default}]"),
        };
        let option = Arg::new(self.long.clone())
            .long(self.long.clone())
            .aliases(self.aliases.clone())
            .allow_negative_numbers(true)
            .value_name(if field.wanted == bool::wanted(None) { "BOOL" } else { "VALUE" })
            .help(format!("{}: {}{default}", field.help, field.wanted));
        let option = if field.list { option.action(ArgAction::Append) } else { option };
        if field.flag { option.num_args(0..=1).default_missing_value("true") } else { option }
    }

    /// Its text, if it was given; the last one counts, but of a list all do that follow a `none`.
    fn given(&self, matches: &ArgMatches) -> Option<Given> {
        let texts: Vec<_> = matches.get_many::<String>(&self.long)?.map(String::as_str).collect();
        let none = texts.iter().rposition(|text| text.is_empty() || text.eq_ignore_ascii_case("none"));
        let first = none.map_or(0, |at| (at + 1).min(texts.len() - 1));
        let text = texts[first..].join(",");
        let source = Source::Option(format!("--{}", self.long));
        Some(Given { section: self.section.into(), name: self.field.name.into(), text, source })
    }
}
