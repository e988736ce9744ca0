//! The gradient ops against central differences of the oracle's forward formulas, in f64, at tiny shapes.
//!
//! The loss is `sum(d_out · out)`, so that its gradient with respect to an input is what the gradient op gives.
#[macro_use]
mod common;

use common::{
    harness::{on_cpu, on_cuda, run},
    ops,
};

fn main() {
    let on_cpu = ops::gradients().into_iter().flat_map(|(_, checks)| on_cpu("", checks));
    let on_cuda = ops::gradients().into_iter().flat_map(|(_, checks)| on_cuda("", checks));
    run(on_cpu.chain(on_cuda).collect());
}
