//! Memory of another `Cuda` is refused, by the name of the argument.

use crate::common::{own_cuda, setup::Check};
use halfbyte::{
    Backend, Cuda, Error,
    ops::{Op, RmsNorm, Sum},
};

#[track_caller]
fn assert_refused(result: Result<(), Error>, op: &str, argument: &str) {
    let message = result.expect_err("memory of another device").to_string();
    let says = |word: &str| message.contains(word);
    assert!(says(op) && says(&format!("`{argument}`")) && says("another"), "{message}");
}

fn ops_refuse_memory_of_another_device(backend: &Cuda) {
    let Some(other) = own_cuda() else { return };
    let (mine, theirs) = (backend.zeros::<f32>(8).unwrap(), other.zeros::<f32>(8).unwrap());
    let (mut out, mut their_out) = (backend.zeros::<f32>(8).unwrap(), other.zeros::<f32>(8).unwrap());
    let op = Sum { x: theirs.view(), out: out.at_mut(0..1), accumulate: false };
    assert_refused(op.run(backend), "sum", "x");
    let op = Sum { x: mine.view(), out: their_out.at_mut(0..1), accumulate: false };
    assert_refused(op.run(backend), "sum", "out");
    let (x, add, out) = (mine.mat(1, 8), Some((theirs.mat(1, 8), their_out.mat_mut(1, 8))), out.mat_mut(1, 8));
    let op = RmsNorm { x, add, weight: mine.view(), eps: 1e-6, out };
    assert_refused(op.run(backend), "rms_norm", "add.0");
}

fn copies_refuse_memory_of_another_device(backend: &Cuda) {
    let Some(other) = own_cuda() else { return };
    let (mine, theirs) = (backend.zeros::<u32>(3).unwrap(), other.zeros::<u32>(3).unwrap());
    let (mut out, mut their_out) = (backend.zeros::<u32>(3).unwrap(), other.zeros::<u32>(3).unwrap());
    assert_refused(backend.copy(theirs.view(), out.view_mut()), "copy", "x");
    assert_refused(backend.copy(mine.view(), their_out.view_mut()), "copy", "out");
    assert_refused(backend.write(&[1, 2, 3], their_out.view_mut()), "write", "out");
    assert_refused(backend.clear(their_out.view_mut()), "clear", "out");
    assert_refused(backend.download(theirs.view()).map(drop), "download", "x");
    assert_eq!(their_out.to_vec(&other).unwrap(), [0; 3], "nothing was written");
}

pub fn checks() -> Vec<Check<Cuda>> {
    vec![
        ("ops_refuse_memory_of_another_device", ops_refuse_memory_of_another_device),
        ("copies_refuse_memory_of_another_device", copies_refuse_memory_of_another_device),
    ]
}
