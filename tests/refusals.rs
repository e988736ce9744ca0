//! Arguments that do not fit are refused before anything runs, in words that name the op and the argument.
#[macro_use]
mod common;

use common::{
    harness::{on_cpu, on_cuda, run},
    ops,
};

fn main() {
    let on_cpu = ops::refusals().into_iter().flat_map(|(_, checks)| on_cpu("", checks));
    let on_cuda = ops::refusals().into_iter().flat_map(|(_, checks)| on_cuda("", checks));
    run(on_cpu.chain(on_cuda).collect());
}
