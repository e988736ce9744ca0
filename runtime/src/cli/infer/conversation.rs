//! A conversation at a terminal.

use super::speed;
use crate::{
    cli::{
        output::{complain, print},
        signals::{Signals, exit_code},
    },
    error::{Error, Result},
    llm::{Conversation, Llm},
    note, say,
    screen::{Flow, Stream},
};
use rustyline::{DefaultEditor, error::ReadlineError};
use std::{ops::ControlFlow, process::ExitCode};

const HELP: &str = "\
/reset        forget what was said
/system TEXT  forget it, and follow these instructions
/system       forget it, and follow none
/exit         end, as Ctrl-D does
Ctrl-C        stops an answer";

const SIGINT: i32 = 2;

/// Asks for questions and answers them, until the person has no more.
pub fn hold(llm: &Llm, signals: &Signals) -> Result<ExitCode> {
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    let mut conversation = Conversation::default();
    note!("/help tells what there is beside questions");
    loop {
        signals.end_at_once("the conversation is over");
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(ExitCode::SUCCESS),
            Err(e) => return Err(terminal(e)),
        };
        let line = line.trim();
        let _ = editor.add_history_entry(line);
        match line.split_once(char::is_whitespace).unwrap_or((line, "")) {
            ("", _) => {}
            ("/exit" | "/quit", _) => return Ok(ExitCode::SUCCESS),
            ("/help", _) => say!("{HELP}"),
            ("/reset", _) => conversation.reset(None),
            ("/system", _) if !llm.prepared().chats() => note!("without a chat template there is no system prompt"),
            ("/system", text) => conversation.reset(Some(text.trim()).filter(|text| !text.is_empty())),
            (command, _) if command.starts_with('/') => note!("there is no {command}; /help tells what there is"),
            _ => {
                if let Some(signal) = answer(llm, &mut conversation, line, signals) {
                    return Ok(exit_code(Some(signal)));
                }
            }
        }
    }
}

/// Gives the signal that ends the program, if one came.
fn answer(llm: &Llm, conversation: &mut Conversation, question: &str, signals: &Signals) -> Option<i32> {
    if !llm.prepared().chats() {
        conversation.reset(None);
    }
    signals.hand_over();
    let (mut caught, mut begun, mut flow) = (None, false, Flow::new(Stream::Out));
    let made = conversation.ask(llm, question, |piece| {
        caught = signals.take();
        // A text that goes on after a question begins with a space.
        let piece = if begun { piece } else { piece.trim_start() };
        begun |= !piece.is_empty();
        if print(format_args!("{}", flow.push(piece))) && caught.is_none() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    print(format_args!("{}\n", flow.finish()));
    match made {
        Ok(made) => note!("{}", speed(&made)),
        Err(e) => complain(&format!("error: {e}")),
    }
    caught.filter(|&signal| signal != SIGINT)
}

fn terminal(error: ReadlineError) -> Error {
    let source = match error {
        ReadlineError::Io(source) => source,
        other => std::io::Error::other(other),
    };
    Error::Io { path: "the terminal".into(), action: "read", source }
}
