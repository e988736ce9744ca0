//! Casts, sums, the optimiser.

use crate::common::{
    self,
    cases::LENGTHS,
    close::compare,
    num::Num,
    oracle::AdamWStep,
    random::Random,
    tensor::{Layout, Tensor, twice},
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float,
    ops::{AdamW, Cast, Norm, Op, Sum},
};

const ENDS: [Layout; 2] = [Layout::Packed, Layout::Odd];

fn cast_between<B: Backend, S: Float, T: Float>(backend: &B, len: usize, layout: Layout) {
    let name = format!("cast {} {} {len} {layout:?}", S::DTYPE.suffix(), T::DTYPE.suffix());
    let mut values = Random::new(&name).normal(len, 100.0);
    // Ties, the largest and smallest numbers, overflow of 16 bits.
    let special =
        [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 65504.0, 65520.0, 1e38, -1e38, 1e-7, -0.0, f32::INFINITY, 3e-39, 5.9e-8];
    values.iter_mut().zip(special).for_each(|(v, s)| *v = s);
    let x = Tensor::<B, S>::of(backend, [1, len], layout, &values);
    let got = twice(&name, || {
        let mut out = Tensor::<B, T>::poisoned_flat(backend, len, layout);
        Cast { x: x.view(), out: out.view_mut() }.run(backend).unwrap();
        out.read(backend, &name)
    });
    for (i, (got, x)) in got.iter().zip(x.values()).enumerate() {
        let want = T::from_f32(x.to_f32());
        let same = bytemuck::bytes_of(got) == bytemuck::bytes_of(&want);
        assert!(same, "{name}: element {i}, {x:?}, became {got:?}, expected {want:?}");
    }
}

fn cast<B: Backend>(backend: &B) {
    for len in LENGTHS {
        for layout in ENDS {
            each_float!(cast_to_all::<B>(backend, len, layout));
        }
    }
}

fn cast_to_all<B: Backend, S: Float>(backend: &B, len: usize, layout: Layout) {
    cast_between::<B, S, bf16>(backend, len, layout);
    cast_between::<B, S, f16>(backend, len, layout);
    cast_between::<B, S, f32>(backend, len, layout);
}

fn sum<B: Backend>(backend: &B) {
    for len in LENGTHS {
        for layout in ENDS {
            let name = format!("sum {len} {layout:?}");
            let x = Tensor::<B, f32>::of(backend, [1, len], layout, &Random::new(&name).normal(len, 1.0));
            for accumulate in [false, true] {
                let got = twice(&name, || {
                    let before = if accumulate { 0.75 } else { f32::NAN };
                    let mut out = Tensor::flat(backend, layout, vec![before]);
                    Sum { x: x.view(), out: out.view_mut(), accumulate }.run(backend).unwrap();
                    out.read(backend, &name)
                });
                let before = Num::from(if accumulate { 0.75 } else { 0.0 });
                compare(&name, &got, 1, |_, _| before + Num::dot(x.to_f64().into_iter().map(|v| (v, 1.0))));
            }
        }
    }
}

fn norm<B: Backend>(backend: &B) {
    for len in LENGTHS {
        for layout in ENDS {
            let name = format!("norm {len} {layout:?}");
            let x = Tensor::<B, f32>::of(backend, [1, len], layout, &Random::new(&name).normal(len, 0.01));
            let got = twice(&name, || {
                let mut out = Tensor::<B, f32>::poisoned_flat(backend, 1, layout);
                Norm { x: x.view(), out: out.view_mut() }.run(backend).unwrap();
                out.read(backend, &name)
            });
            compare(&name, &got, 1, |_, _| Num::dot(x.to_f64().into_iter().map(|v| (v, v))).sqrt());
        }
    }
}

fn adamw_of<B: Backend, T: Float>(backend: &B, len: usize, step: u32) {
    let name = format!("adamw {} {len} step {step}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let weights = random.normal(len, 0.1);
    let grads = Tensor::<B, f32>::of(backend, [1, len], Layout::Packed, &random.normal(len, 3.0));
    let (m, v) = match step {
        1 => (vec![0.0; len], vec![0.0; len]),
        _ => (random.normal(len, 0.1), random.uniform(len)),
    };
    let (lr, betas, eps, weight_decay, grad_scale) = (3e-3, [0.9, 0.999], 1e-8, 0.1, 0.25);
    let (w_got, m_got, v_got, compute) = twice(&name, || {
        let tensor = |values: &[f32]| Tensor::<B, f32>::of(backend, [1, len], Layout::Packed, values);
        let (mut weights, mut m, mut v) = (tensor(&weights), tensor(&m), tensor(&v));
        let mut compute = Tensor::<B, T>::poisoned_flat(backend, len, Layout::Odd);
        let op = AdamW {
            weights: weights.view_mut(),
            grads: grads.view(),
            m: m.view_mut(),
            v: v.view_mut(),
            compute: compute.view_mut(),
            lr,
            betas,
            eps,
            weight_decay,
            step,
            grad_scale,
        };
        op.run(backend).unwrap();
        let state = (weights.read(backend, &name), m.read(backend, &name), v.read(backend, &name));
        (state.0, state.1, state.2, compute.read(backend, &name))
    });
    let oracle = AdamWStep {
        lr: f64::from(lr),
        betas: betas.map(f64::from),
        eps: f64::from(eps),
        weight_decay: f64::from(weight_decay),
        step: step as i32,
    };
    let want: Vec<[Num; 3]> = (0..len)
        .map(|i| {
            let g = Num::from(grads.at(0, i)) * Num::from(grad_scale);
            oracle.apply([weights[i], m[i], v[i]].map(Num::from), g)
        })
        .collect();
    for (part, got) in [(0, &w_got), (1, &m_got), (2, &v_got)] {
        compare(&format!("{name}: {}", ["weights", "m", "v"][part]), got, len, |_, i| want[i][part]);
    }
    for (i, (compute, w)) in compute.iter().zip(&w_got).enumerate() {
        assert!(*compute == T::from_f32(*w), "{name}: compute[{i}] is {compute:?} for the weight {w}");
    }
}

fn adamw<B: Backend>(backend: &B) {
    for len in [0, 1, 7, 64, 1000, 65_537] {
        for step in [1, 2, 1000] {
            each_float!(adamw_of::<B>(backend, len, step));
        }
    }
}

backends!(cast, sum, norm, adamw);
