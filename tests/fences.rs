//! What the comparisons must find, they find.
mod common;

use common::{
    close::{Close, compare},
    make::Make,
    num::Num,
    setup::{Setup, check},
    tensor::{Layout, Output, Tensor},
};
use half::bf16;
use halfbyte::{Backend, Cpu, Result};

#[test]
#[should_panic(expected = "was written at 78 of the memory around it")]
fn a_write_between_rows_is_found() {
    let mut out = Tensor::<Cpu, f32>::poisoned(&Cpu, [2, 6], Layout::Slice);
    // Row 0 is elements 72 .. 78, after a margin of 64 and 8 columns.
    let row_and_next = out.mat_mut().into_view().into_at(0..7);
    Cpu.write(&[1.0; 7], row_and_next).unwrap();
    out.read(&Cpu, "fence");
}

#[test]
fn a_write_inside_is_none() {
    let mut out = Tensor::<Cpu, f32>::poisoned(&Cpu, [1, 6], Layout::Odd);
    Cpu.write(&[1.0; 6], out.view_mut()).unwrap();
    assert_eq!(out.read(&Cpu, "fence"), [1.0; 6]);
}

#[test]
#[should_panic(expected = "element Some([1, 0]) is NaN")]
fn an_element_that_was_not_written_is_found() {
    let mut out = Tensor::<Cpu, bf16>::poisoned(&Cpu, [2, 2], Layout::Packed);
    Cpu.write(&[bf16::ONE; 2], out.mat_mut().into_view().into_at(0..2)).unwrap();
    compare("nan", &out.read(&Cpu, "nan"), 2, |_, _| Num::from(1.0));
}

#[test]
#[should_panic(expected = "[0, 1] is 1.0078125e0, expected 1.003e0")]
fn a_rounding_to_the_wrong_side_is_found() {
    compare("ulp", &[bf16::ONE, bf16::from_f32(1.007_812_5)], 2, |_, _| Num::from(1.003));
}

/// Gives zero, then minus zero.
struct SignsOfZero {
    zero: f32,
    out: Tensor<Cpu, f32>,
}

impl Setup<Cpu> for SignsOfZero {
    type Case = ();

    fn name(_: &()) -> String {
        "signs of zero".into()
    }

    fn new(make: &Make<Cpu>, _: &()) -> Self {
        SignsOfZero { zero: 0.0, out: make.output([1, 1], Layout::Packed) }
    }

    fn run(&mut self, backend: &Cpu) -> Result<()> {
        self.zero = -self.zero;
        backend.write(&[self.zero], self.out.view_mut())
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<Cpu>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, _: &Close<'_, Cpu>) {}
}

#[test]
#[should_panic(expected = "two runs differ")]
fn runs_that_differ_are_found() {
    check::<Cpu, SignsOfZero>(&Cpu, &());
}
