//! Lines for a person at a terminal.

use console::Term;
use indicatif::{ProgressDrawTarget, TermLike};
use std::io;
use textwrap::{Options, WordSplitter, fill};

/// What a program prints to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Results.
    Out,
    /// All else.
    Err,
}

impl Stream {
    fn term(self) -> Term {
        match self {
            Stream::Out => Term::stdout(),
            Stream::Err => Term::stderr(),
        }
    }

    /// The columns of the terminal, if it is one.
    pub fn columns(self) -> Option<usize> {
        self.term().size_checked().map(|(_, columns)| columns.into()).filter(|&columns| columns > 0)
    }

    /// `text` so that a terminal breaks it between words only; whoever else reads gets it as it is.
    pub fn fit(self, text: &str) -> String {
        self.columns().map_or_else(|| text.into(), |columns| broken(text, columns))
    }

    /// Removes what stands in a terminal's last line, such as a progress bar.
    pub fn clear_line(self) {
        if self.columns().is_some() {
            // What cannot be cleared can be read.
            let _ = self.term().clear_line();
        }
    }
}

/// Columns that a progress bar leaves free: a terminal shows `^C` behind it, which must not begin a new line.
const CTRL_C: u16 = 4;

/// Columns of a progress bar with what stands beside it.
pub fn bar_room() -> usize {
    Narrow(Term::stderr()).width().into()
}

/// Draws progress bars on standard error, if that is a terminal.
pub fn bars() -> ProgressDrawTarget {
    match Stream::Err.columns() {
        Some(_) => ProgressDrawTarget::term_like_with_hz(Box::new(Narrow(Term::buffered_stderr())), 20),
        None => ProgressDrawTarget::hidden(),
    }
}

/// A terminal without its last columns.
#[derive(Debug)]
struct Narrow(Term);

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        TermLike::width(&self.0).saturating_sub(CTRL_C).max(1)
    }

    fn height(&self) -> u16 {
        TermLike::height(&self.0)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.0.write_line(s)
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.0.write_str(s)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Lines of at most so many columns, but for words that are longer: a path can be copied when it is in one piece.
fn broken(text: &str, columns: usize) -> String {
    let options = Options::new(columns).subsequent_indent("  ").break_words(false);
    let options = options.word_splitter(WordSplitter::NoHyphenation);
    text.split('\n').map(|line| fill(line, &options)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        let line = "base: nf4 in 4 bits, double-quantised (quantised while loading)";
        assert_eq!(broken(line, 40), "base: nf4 in 4 bits, double-quantised\n  (quantised while loading)");
        assert_eq!(broken("short lines\n\nof a text", 8), "short\n  lines\n\nof a\n  text");
        assert_eq!(broken("in /a/path/that/is/longer", 12), "in\n  /a/path/that/is/longer");
        let wide = "日本語 日本語 日本語";
        assert_eq!(broken(wide, 14), "日本語 日本語\n  日本語");
    }
}
