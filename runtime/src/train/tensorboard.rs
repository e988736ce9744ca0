//! A run's metrics as TensorBoard reads them: protobuf messages `Event` in TFRecords, written by hand.
//!
//! A record is its length (u64), the checksum of that, its bytes, and their checksum; checksums are CRC-32C, rotated and
//! moved by a constant (tensorflow/core/lib/io/record_writer.h). Field numbers are those of `event.proto`, `summary.proto`
//! and `tensor.proto`.

use super::{about::Reply, metrics::Record};
use crate::{error::Result, files::Log};
use std::{
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

/// The events of a run, which wait until they are written.
#[derive(Debug)]
pub(crate) struct Events {
    dir: PathBuf,
    file: Option<Log>,
    waiting: Vec<u8>,
}

impl Events {
    /// In a folder that need not be there, for the steps behind the first `done`: what earlier files of the folder say of
    /// these is no longer shown.
    pub fn new(dir: PathBuf, done: u64) -> Self {
        let mut events = Events { dir, file: None, waiting: Vec::new() };
        let from = if done == 0 { 0 } else { done + 1 };
        // A session that starts.
        let start = Message::default().number(1, 1);
        events.push(event(now(), from).message(7, &start));
        events
    }

    /// Notes a line of metrics.
    pub fn note(&mut self, record: &Record) {
        let values = values(record);
        if !values.0.is_empty() {
            self.push(event(now(), record.step).message(5, &values));
        }
    }

    fn push(&mut self, event: Message) {
        self.waiting.extend(framed(&event.0));
    }

    /// Writes what waits. What could not be written goes on waiting.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io).
    pub fn flush(&mut self) -> Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.begin()?,
        };
        file.write(&self.waiting)?;
        self.waiting.clear();
        self.file = Some(file);
        Ok(())
    }

    fn begin(&self) -> Result<Log> {
        let seconds = now();
        let name = format!("events.out.tfevents.{seconds:.6}.halfbyte.{}", process::id());
        let file = Log::create_within(&self.dir, Path::new(&name))?;
        file.write(&framed(&event(seconds, 0).text(3, "brain.Event:2").0))?;
        Ok(file)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn event(seconds: f64, step: u64) -> Message {
    Message::default().double(1, seconds).number(2, step)
}

/// What a line has, as a message `Summary`.
fn values(record: &Record) -> Message {
    let scalars = [
        ("train/loss", record.loss),
        ("train/learning_rate", record.lr),
        ("train/grad_norm", record.grad_norm),
        ("train/loss_scale", record.loss_scale),
        ("train/epoch", record.epoch),
        ("train/tokens_per_s", record.tokens_per_s),
        ("eval/loss", record.eval_loss),
        ("eval/accuracy", record.eval_accuracy),
    ];
    let mut summary = Message::default();
    for (tag, value) in scalars {
        if let Some(value) = value {
            summary = summary.message(1, &Message::default().text(1, tag).float(2, value as f32));
        }
    }
    for (i, reply) in record.replies.iter().flatten().enumerate() {
        summary = summary.message(1, &text(&format!("replies/{}", i + 1), &markdown(reply)));
    }
    if let Some(run) = &record.run {
        let settings = serde_json::to_string_pretty(&run.settings).unwrap_or_default();
        summary = summary.message(1, &text("settings", &format!("```\n{settings}\n```")));
    }
    summary
}

fn markdown(reply: &Reply) -> String {
    let indented = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!("{}\n\n---\n\n{}", indented(&reply.prompt), indented(&reply.text))
}

/// A text of one line, for the plugin of that name.
fn text(tag: &str, text: &str) -> Message {
    const STRING: u64 = 7;
    const TENSORS: u64 = 2;
    let plugin = Message::default().text(1, "text");
    let metadata = Message::default().message(1, &plugin).number(4, TENSORS);
    let shape = Message::default().message(2, &Message::default().number(1, 1));
    let tensor = Message::default().number(1, STRING).message(2, &shape).text(8, text);
    Message::default().text(1, tag).message(8, &tensor).message(9, &metadata)
}

/// A message of protobuf: fields, each with its number and its kind.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(mut self, field: u8, value: u64) -> Self {
        self.0.push(field << 3);
        self.varint(value);
        self
    }

    fn double(mut self, field: u8, value: f64) -> Self {
        self.0.push(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u8, value: f32) -> Self {
        self.0.push(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u8, bytes: &[u8]) -> Self {
        self.0.push(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn text(self, field: u8, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u8, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }

    /// Seven bits for each byte, the lowest first; the highest bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A TFRecord.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), bytes, &masked(bytes)].concat()
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Castagnoli's checksum (RFC 3720, B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| bit(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tensorboard.summary.writer.record_writer.RecordWriter` writes for the same event (tensorboard 2.21.0).
    const WRITTEN: &str = "\
        59000000000000008a1d65b609000000000000f83f10ac022a4b0a110a0a747261696e2f6c6f737315000020400a360a0972\
        65706c6965732f31421d0807120412020801421320202020700a0a0a2d2d2d0a0a20202020740a4a0a0a060a047465787420\
        02b8718ad6";

    #[test]
    fn a_record_has_tensorboards_bytes() {
        let reply = Reply { prompt: "p".into(), text: "t".into(), stopped: true };
        let record = Record { loss: Some(2.5), replies: Some(vec![reply]), ..Record::default() };
        let made = framed(&event(1.5, 300).message(5, &values(&record)).0);
        assert_eq!(made.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), WRITTEN);
    }

    #[test]
    fn checksums_are_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa, "RFC 3720, B.4");
    }
}
