//! Numbers on the command line, each with its range.

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, TypedValueParser},
};
use halfbyte_runtime::options::{Number, Range};
use std::{ffi::OsStr, iter, marker::PhantomData};

/// Reads a number within `range`, which `--help` tells.
pub fn within<N: Number + Send + Sync + 'static>(range: Range) -> impl TypedValueParser<Value = N> {
    Within { range, number: PhantomData }
}

#[derive(Clone)]
struct Within<N> {
    range: Range,
    number: PhantomData<N>,
}

impl<N: Number + Send + Sync + 'static> TypedValueParser for Within<N> {
    type Value = N;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<N, Error> {
        self.range.parser::<N>().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        // `--help` asks for it once, and clap takes no text that is made as it runs.
        let text: &'static str = format!("{}, {}", N::KIND, self.range).leak();
        Some(Box::new(iter::once(PossibleValue::new(text))))
    }
}
