use std::path::{Path, PathBuf};

/// What can go wrong in the runtime. Every message names the file or op, what was got, what was wanted and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A kernel refused, or the device did.
    #[error(transparent)]
    Kernel(#[from] halfbyte::Error),
    /// There is too little memory for what was asked for.
    #[error("{what}: {source}; {advice}")]
    OutOfMemory {
        /// What it was to hold.
        what: String,
        /// How to do with less.
        advice: &'static str,
        /// How much was asked for.
        source: halfbyte::Error,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb: "read", "write".
        action: &'static str,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// An adapter cannot be sent to the Hugging Face hub.
    #[error("`{name}` on the Hugging Face hub: {reason}")]
    Push {
        /// Where it was to go.
        name: String,
        /// Why it does not.
        reason: String,
    },
    /// A model or an adapter is neither a path nor a name that the Hugging Face hub gives.
    #[error("`{name}` is not here, and the Hugging Face hub does not give it: {reason}")]
    Nowhere {
        /// What was asked for.
        name: String,
        /// Why the hub does not.
        reason: String,
    },
    /// A folder lacks a file that it must have.
    #[error("`{}` has no {wanted}; {hint}", dir.display())]
    MissingFile {
        /// The folder.
        dir: PathBuf,
        /// The file or files that were looked for.
        wanted: String,
        /// What to do.
        hint: &'static str,
    },
    /// A file is not what its name says: truncated, damaged or of another format.
    #[error("`{}` is damaged or not a {format} file: {reason}; download or write it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The format that it should have: "safetensors", "JSON".
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration has a value that would change the result and that this runtime cannot honour.
    #[error("`{}`: `{key}` is {got}, but only {supported} is supported", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        got: String,
        /// The values that would do.
        supported: &'static str,
    },
    /// A configuration lacks a key, or its value makes no sense.
    #[error("`{}`: `{key}` is {got}, but {want}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, or "missing".
        got: String,
        /// What it must be.
        want: String,
    },
    /// A tensor that the model needs is in no file.
    #[error("`{}` has no tensor `{name}`; {hint}", path.display())]
    MissingTensor {
        /// The checkpoint's folder or file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What to do.
        hint: String,
    },
    /// A tensor has another shape or element type than the model calls for.
    #[error("`{}`: tensor `{name}` is {got}, expected {want}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What it is.
        got: String,
        /// What it must be.
        want: String,
    },
    /// A tensor's 4-bit state is missing or contradicts its data.
    #[error("`{}`: 4-bit weight `{name}`: {reason}", path.display())]
    Quantized {
        /// The file.
        path: PathBuf,
        /// The weight.
        name: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An adapter does not fit the model, or asks for what cannot be done.
    #[error("adapter `{}`: {reason}", path.display())]
    Adapter {
        /// The adapter's folder or file; empty for one that is not on the disk yet.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The target modules of an adapter do not make sense for the model.
    #[error("target module {target}: {reason}")]
    Target {
        /// The entry, quoted, with the key it comes from.
        target: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A setting makes no sense.
    #[error("{name} is {got}, but {want}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value.
        got: String,
        /// What it must be.
        want: String,
    },
    /// A setting that came from outside is unknown, has a bad value, or would have no effect.
    #[error("{place}: {reason}")]
    Given {
        /// The file and line, variable or option.
        place: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A command line is wrong, or asks for help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A checkpoint's chat template cannot be read, or refuses a conversation.
    #[error("chat template `{}`: {reason}", path.display())]
    Template {
        /// The file that it comes from.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A data file cannot be used.
    #[error("`{}`: {reason}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Training has diverged.
    #[error(
        "the loss of step {step} is {loss} and its gradient is not finite: training has diverged; \
         lower the learning rate, or raise the warm-up"
    )]
    Diverged {
        /// The step, counted from 0.
        step: u64,
        /// Its loss.
        loss: f64,
    },
    /// Training has come apart, though its numbers are finite.
    #[error("the loss of step {step} is {loss:.3}, {reason}; lower the learning rate, or raise the warm-up; {kept}")]
    CameApart {
        /// The step, counted from 1.
        step: u64,
        /// Its loss.
        loss: f64,
        /// What shows it.
        reason: &'static str,
        /// What is left of the run.
        kept: String,
    },
    /// A run cannot go on from a checkpoint.
    #[error("cannot resume from `{}`: {reason}", path.display())]
    Resume {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What differs and what to do.
        reason: String,
    },
    /// A line of a data file cannot be used.
    #[error("`{}`, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A row of a data file cannot be used.
    #[error("`{}`, row {row}: {reason}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, counted from 1.
        row: usize,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the device or the machine says, where there was too little memory for what was asked for.
    pub fn memory(&self) -> Option<&halfbyte::Error> {
        match self {
            Error::Kernel(source) | Error::OutOfMemory { source, .. } => Some(source).filter(|e| e.is_memory()),
            _ => None,
        }
    }

    /// Makes an [`Error::Io`] of what the operating system says.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { path: path.to_owned(), action, source }
    }

    /// Says what memory was to hold, and how to do with less, where there was too little; other errors stay as they are.
    pub(crate) fn memory_for(what: impl FnOnce() -> String, advice: &'static str) -> impl FnOnce(Error) -> Error {
        move |error| match error {
            Error::Kernel(source) if source.is_memory() => Error::OutOfMemory { what: what(), advice, source },
            other => other,
        }
    }

    /// An [`Error::Corrupt`] JSON file.
    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Error {
        move |e| Error::Corrupt { path: path.to_owned(), format: "JSON", reason: e.to_string() }
    }

    /// The error of a setting or a target that came from a file, which such an error does not know.
    pub(crate) fn in_file(self, path: &Path) -> Error {
        match self {
            Error::Setting { .. } | Error::Target { .. } => {
                Error::Data { path: path.to_owned(), reason: self.to_string() }
            }
            other => other,
        }
    }

    /// An [`Error::Setting`].
    pub(crate) fn setting(name: &'static str, got: impl ToString, want: impl Into<String>) -> Error {
        Error::Setting { name, got: got.to_string(), want: want.into() }
    }
}
