//! Lines for a person at a terminal.

use console::Term;
use indicatif::{ProgressDrawTarget, TermLike};
use std::io;
use std::mem::take;
use textwrap::{Options, WordSplitter, core::display_width, fill};

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

/// A text that comes in pieces, which a terminal breaks between words only; whoever else reads gets it as it is.
#[derive(Debug)]
pub struct Flow {
    columns: Option<usize>,
    /// Where the next character of the line goes.
    at: usize,
    /// Spaces that are not shown yet, and then the letters of a word that may go on.
    gap: String,
    word: String,
    /// Whether the word's beginning, longer than a line, is shown.
    begun: bool,
}

impl Flow {
    /// For what a stream prints to.
    pub fn new(stream: Stream) -> Self {
        Self::within(stream.columns())
    }

    pub(crate) fn within(columns: Option<usize>) -> Self {
        Flow { columns, at: 0, gap: String::new(), word: String::new(), begun: false }
    }

    /// What can be shown once this piece has come.
    pub fn push(&mut self, piece: &str) -> String {
        let Some(columns) = self.columns else { return piece.into() };
        piece.chars().map(|c| self.add(c, columns)).collect()
    }

    /// What was held back.
    pub fn finish(mut self) -> String {
        self.end_word() + &self.gap
    }

    fn add(&mut self, c: char, columns: usize) -> String {
        let mut shown = String::new();
        // A wide character is a word of its own, as none has spaces around it.
        let ends = c.is_whitespace() || is_wide(c);
        if ends || display_width(&self.word) >= columns {
            shown += &self.end_word();
            self.begun = !ends;
        }
        match c {
            '\n' => {
                shown += &take(&mut self.gap);
                shown.push(c);
                self.at = 0;
            }
            _ if c.is_whitespace() => self.gap.push(c),
            _ => self.word.push(c),
        }
        if is_wide(c) { shown + &self.end_word() } else { shown }
    }

    /// The word and the spaces before it, or a new line where it has no room.
    fn end_word(&mut self) -> String {
        let (Some(columns), false) = (self.columns, self.word.is_empty()) else { return String::new() };
        let (gap, word) = (take(&mut self.gap), take(&mut self.word));
        let (start, width) = (self.at + display_width(&gap), display_width(&word));
        let breaks = !self.begun && self.at > 0 && start + width > columns;
        let end = if breaks { width } else { start + width };
        self.at = end.checked_sub(1).map_or(0, |last| last % columns + 1);
        if breaks { format!("\n{word}") } else { gap + &word }
    }
}

fn is_wide(c: char) -> bool {
    display_width(c.encode_utf8(&mut [0; 4])) > 1
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

    fn flow(pieces: &[&str], columns: Option<usize>) -> String {
        let mut flow = Flow::within(columns);
        let shown: String = pieces.iter().map(|piece| flow.push(piece)).collect();
        shown + &flow.finish()
    }

    #[test]
    fn a_text_in_pieces_breaks_between_words() {
        let pieces = ["The", " bel", "l is", " rung", " by the", " school", "mistress", ".\n", "  Yes", ". "];
        assert_eq!(flow(&pieces, None), "The bell is rung by the schoolmistress.\n  Yes. ");
        assert_eq!(flow(&pieces, Some(24)), "The bell is rung by the\nschoolmistress.\n  Yes. ");
        assert_eq!(flow(&pieces, Some(16)), "The bell is rung\nby the\nschoolmistress.\n  Yes. ");
        assert_eq!(flow(&["日本", "語の文", "、と。"], Some(7)), "日本語\nの文、\nと。");
        assert_eq!(flow(&["a ", "longer-than-the-line b"], Some(8)), "a\nlonger-than-the-line b");
    }

    #[test]
    fn a_word_is_shown_as_soon_as_it_has_ended() {
        let mut flow = Flow::within(Some(20));
        let shown = ["The", " be", "ll", " rings", ".\n"].map(|piece| flow.push(piece));
        assert_eq!(shown, ["", "The", "", " bell", " rings.\n"]);
    }
}
