//! What the ops refuse, of a weight in 4 bits and of a dense one.

use super::unkept;
use crate::common::zeros::Zeros;
use halfbyte::{
    Backend, FrozenWeight,
    ops::{LoraFactors, LoraInput, LoraLinear, LoraLinearGrad, LoraPart},
};

pub fn lora_linear<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let dense = || FrozenWeight::Dense(z.mat(6, 128).into());
    refuses(&z, &|| FrozenWeight::Quantized(z.weight()));
    refuses(&z, &dense);
}

/// With a weight `[6, 128]`.
fn refuses<B: Backend>(z: &Zeros<'_, B>, weight: &dyn Fn() -> FrozenWeight<'static, B, f32>) {
    let part = || LoraPart { a: z.view(256), b: z.view(6), scale: 1.0, dropout: None, xa: 0..2, out: 3..6 };
    let parts = [part()];
    let good = || LoraLinear::<B, f32> {
        x: z.mat_mut(4, 136),
        gate_up: None,
        weight: weight(),
        parts: &parts,
        xa: z.mat_mut(4, 8),
        out: z.mat_mut(4, 6),
        accumulate: false,
    };
    z.fits(good());
    let gate_up = Some(z.mat(4, 255));
    z.refuses(LoraLinear { gate_up, ..good() }, "lora_linear: `gate_up` is [4, 255], expected [4, 256]");
    let narrow = LoraLinear { x: z.mat_mut(4, 127), ..good() };
    z.refuses(narrow, "lora_linear: the columns of x is 127, but they must be the weight's and more");
    z.refuses(LoraLinear { out: z.mat_mut(4, 5), ..good() }, "lora_linear: `out` is [4, 5], expected [4, 6]");
    let outside = [LoraPart { out: 3..7, ..part() }];
    let message = "lora_linear: outputs is 3..7, but they must be the weight's";
    z.refuses(LoraLinear { parts: &outside, ..good() }, message);
    let outside = [LoraPart { xa: 7..9, ..part() }];
    let message = "lora_linear: columns of xa is 7..9, but they must be some of it";
    z.refuses(LoraLinear { parts: &outside, ..good() }, message);
    let two = [part(), LoraPart { xa: 2..4, out: 5..6, b: z.view(2), ..part() }];
    let message = "lora_linear: outputs is 3..6 and 5..6, but adapters must not share any";
    z.refuses(LoraLinear { parts: &two, ..good() }, message);
    let two = [part(), LoraPart { xa: 1..3, out: 0..3, ..part() }];
    let message = "lora_linear: columns of xa is 0..2 and 1..3, but adapters must not share any";
    z.refuses(LoraLinear { parts: &two, ..good() }, message);
    let short = [LoraPart { a: z.view(255), ..part() }];
    z.refuses(LoraLinear { parts: &short, ..good() }, "lora_linear: `a` has 255 elements, expected 256");

    let good = || LoraLinearGrad::<B, f32> {
        input: LoraInput::Kept(z.mat(4, 128)),
        xa: z.mat(4, 8),
        weight: weight(),
        parts: &parts,
        factors: vec![LoraFactors { d_a: z.out(256), d_b: z.out(6) }],
        d_out: z.mat_mut(4, 14),
        d_xa: z.mat_mut(4, 8),
        d_x: Some(z.mat_mut(4, 128)),
    };
    z.fits(good());
    let none = LoraLinearGrad { factors: Vec::new(), ..good() };
    z.refuses(none, "lora_linear_grad: the number of factors is 0, but it must be that of the adapters");
    let d_xa = z.mat_mut(4, 7);
    z.refuses(LoraLinearGrad { d_xa, ..good() }, "lora_linear_grad: `d_xa` is [4, 7], expected [4, 8]");
    let factors = vec![LoraFactors { d_a: z.out(256), d_b: z.out(5) }];
    z.refuses(LoraLinearGrad { factors, ..good() }, "lora_linear_grad: `d_b` has 5 elements, expected 6");
    let d_x = Some(z.mat_mut(4, 127));
    z.refuses(LoraLinearGrad { d_x, ..good() }, "lora_linear_grad: `d_x` is [4, 127], expected [4, 128]");
    unkept::refuses(z, good);
}
