//! Quantisation and AdamW against bitsandbytes: `tests/data/golden/bitsandbytes`, made by `make_bitsandbytes.py`.
mod common;

use common::{
    close::compare,
    num::Num,
    oracle::AdamWStep,
    tensor::{Layout, Tensor},
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Element, Float,
    ops::{AdamW, Clip, Dequantize, NestAbsmax, Op, Quantize},
    quant::{DYNAMIC_MAP, Format, GROUP, Group, Scales, Weight4, n_blocks},
};
use safetensors::SafeTensors;
use serde_json::Value;

struct Golden {
    bytes: Vec<u8>,
    meta: Value,
}

impl Golden {
    fn open() -> Self {
        let folder = common::root().join("tests/data/golden/bitsandbytes");
        let meta = std::fs::read(folder.join("meta.json")).unwrap();
        Golden {
            bytes: std::fs::read(folder.join("golden.safetensors")).unwrap(),
            meta: serde_json::from_slice(&meta).unwrap(),
        }
    }

    fn get<T: Element>(&self, name: &str) -> Vec<T> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let got: Vec<T> = bytemuck::pod_collect_to_vec(tensor.data());
        assert_eq!(got.len(), tensor.shape().iter().product::<usize>(), "{name}: the type");
        got
    }
}

/// One tensor that bitsandbytes quantised.
struct Case<'a> {
    golden: &'a Golden,
    name: String,
    shape: [usize; 2],
    block_size: usize,
    format: Format,
    nested: bool,
}

impl Case<'_> {
    fn get<T: Element>(&self, part: &str) -> Vec<T> {
        self.golden.get(&format!("{}.{part}", self.name))
    }

    fn blocks(&self) -> usize {
        n_blocks(self.shape[0] * self.shape[1], self.block_size)
    }

    /// What bitsandbytes packs as JSON in a tensor of bytes.
    fn state(&self) -> Value {
        let bytes: Vec<u8> = self.get(&format!("weight.quant_state.bitsandbytes__{}", self.format));
        serde_json::from_slice(&bytes).unwrap()
    }

    fn groups(&self) -> Vec<Group> {
        let offset = self.state()["nested_offset"].as_f64().unwrap() as f32;
        self.get::<f32>("weight.nested_absmax").into_iter().map(|absmax| Group { absmax, offset }).collect()
    }
}

fn cases<'a>(golden: &'a Golden, dtype: &str) -> Vec<Case<'a>> {
    let all = golden.meta["cases"].as_array().unwrap().iter().filter(|c| c["dtype"] == dtype);
    let number = |v: &Value| v.as_u64().unwrap() as usize;
    let case = |c: &Value| Case {
        golden,
        name: c["name"].as_str().unwrap().into(),
        shape: [number(&c["shape"][0]), number(&c["shape"][1])],
        block_size: number(&c["blocksize"]),
        format: c["quant_type"].as_str().unwrap().parse().unwrap(),
        nested: c["double_quant"].as_bool().unwrap(),
    };
    let cases: Vec<Case> = all.map(case).collect();
    assert_eq!(cases.len(), 16, "{dtype}");
    cases
}

/// Two numbers are the same, -0 and 0 too.
fn assert_same<T: Float>(name: &str, got: &[T], want: &[T]) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(got == want, "{name}: element {i} is {got:?}, bitsandbytes has {want:?}");
    }
}

fn dequantized<B: Backend, T: Float>(backend: &B, case: &Case, codes: &Tensor<B, u8>, scales: Scales<'_, B>) -> Vec<T> {
    let [rows, cols] = case.shape;
    let (format, block_size) = (case.format, case.block_size);
    let weight = Weight4 { format, block_size, rows, cols, codes: codes.view(), scales };
    let mut out = Tensor::<B, T>::poisoned_flat(backend, rows * cols, Layout::Packed);
    Dequantize { weight, out: out.view_mut() }.run(backend).unwrap();
    out.read(backend, &case.name)
}

/// The stored tensors of bitsandbytes give the values that it gives, to the bit.
fn check_stored<B: Backend, T: Float>(backend: &B, case: &Case) {
    let codes = Tensor::flat(backend, Layout::Packed, case.get("weight"));
    let want: Vec<T> = case.get("dequant");
    if case.nested {
        let absmax = Tensor::flat(backend, Layout::Packed, case.get::<u8>("weight.absmax"));
        let groups = Tensor::flat(backend, Layout::Packed, case.groups());
        let scales = Scales::Nested { codes: absmax.view(), groups: groups.view() };
        assert_same(&format!("{}: values", case.name), &dequantized::<B, T>(backend, case, &codes, scales), &want);
    } else {
        let absmax = Tensor::flat(backend, Layout::Packed, case.get::<f32>("weight.absmax"));
        let got = dequantized::<B, T>(backend, case, &codes, Scales::Plain(absmax.view()));
        assert_same(&format!("{}: values", case.name), &got, &want);
    }
}

/// Codes and absmax of the input, as tensors.
fn quantized<B: Backend, T: Float>(backend: &B, case: &Case) -> (Tensor<B, u8>, Tensor<B, f32>) {
    let x = Tensor::flat(backend, Layout::Packed, case.get::<T>("input"));
    let len = x.values().len();
    let mut codes = Tensor::<B, u8>::poisoned_flat(backend, len.div_ceil(2), Layout::Packed);
    let mut absmax = Tensor::<B, f32>::poisoned_flat(backend, case.blocks(), Layout::Packed);
    let (format, block_size) = (case.format, case.block_size);
    Quantize { x: x.view(), format, block_size, codes: codes.view_mut(), absmax: absmax.view_mut() }
        .run(backend)
        .unwrap();
    (codes, absmax)
}

/// The codes are those of bitsandbytes; FP4 values that lie on a threshold may have the neighbour.
fn check_codes<T: Float>(case: &Case, got: &[u8], absmax: &[f32]) {
    let (want, input): (Vec<u8>, Vec<T>) = (case.get("weight"), case.get("input"));
    let code =
        |codes: &[u8], i: usize| usize::from(if i.is_multiple_of(2) { codes[i / 2] >> 4 } else { codes[i / 2] & 15 });
    let table = case.format.codes();
    assert_eq!(got.len(), want.len(), "{}", case.name);
    for (i, x) in input.iter().enumerate() {
        let (got, want) = (code(got, i), code(&want, i));
        // FP4 has two zeros.
        let same = got == want || (case.format == Format::Fp4 && table[got] == table[want]);
        let share = f64::from(x.to_f32()) / f64::from(absmax[i / case.block_size]);
        let middle = f64::midpoint(f64::from(table[got]), f64::from(table[want]));
        let tie = case.format == Format::Fp4 && (share - middle).abs() <= f64::from(f32::EPSILON);
        assert!(same || tie, "{}: {x:?} at {i} has code {got}, bitsandbytes gives {want}", case.name);
    }
}

fn check_quantized<B: Backend, T: Float>(backend: &B, case: &Case) {
    let (codes, absmax) = quantized::<B, T>(backend, case);
    let host = absmax.read(backend, &case.name);
    check_codes::<T>(case, &codes.read(backend, &case.name), &host);
    if !case.nested {
        return assert_same(&format!("{}: absmax", case.name), &host, &case.get("weight.absmax"));
    }
    let mut nested = Tensor::<B, u8>::poisoned_flat(backend, host.len(), Layout::Packed);
    let mut groups = Tensor::<B, Group>::poisoned_flat(backend, host.len().div_ceil(GROUP), Layout::Packed);
    NestAbsmax { absmax: absmax.view(), codes: nested.view_mut(), groups: groups.view_mut() }.run(backend).unwrap();
    assert_eq!(nested.read(backend, &case.name), case.get::<u8>("weight.absmax"), "{}: nested codes", case.name);
    assert_eq!(groups.read(backend, &case.name), case.groups(), "{}: nested absmax and offset", case.name);
}

fn stored_tensors_give_the_values_of_bitsandbytes<B: Backend>(backend: &B) {
    let golden = Golden::open();
    cases(&golden, "float32").iter().for_each(|case| check_stored::<B, f32>(backend, case));
    cases(&golden, "bfloat16").iter().for_each(|case| check_stored::<B, bf16>(backend, case));
    cases(&golden, "float16").iter().for_each(|case| check_stored::<B, f16>(backend, case));
}

fn quantizing_gives_the_tensors_of_bitsandbytes<B: Backend>(backend: &B) {
    let golden = Golden::open();
    cases(&golden, "float32").iter().for_each(|case| check_quantized::<B, f32>(backend, case));
    cases(&golden, "bfloat16").iter().for_each(|case| check_quantized::<B, bf16>(backend, case));
    cases(&golden, "float16").iter().for_each(|case| check_quantized::<B, f16>(backend, case));
}

fn unclipped<'a, B: Backend>(one: &'a Tensor<B, f32>, halted: &'a mut Tensor<B, u32>) -> Clip<'a, B> {
    Clip { norm: one.view(), loss: one.view(), max_norm: 0.0, loss_scale: 1.0, halted: halted.view_mut() }
}

/// Three steps from the same start; each step from the weights that bitsandbytes had.
fn adamw_steps_as_bitsandbytes<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let get = |part: &str| golden.get::<f32>(&format!("optim.AdamW.{part}"));
    let options = &golden.meta["optim"]["AdamW"];
    let number = |v: &Value| v.as_f64().unwrap();
    let oracle = |step: i32| AdamWStep {
        lr: number(&options["lr"]),
        betas: [number(&options["betas"][0]), number(&options["betas"][1])],
        eps: number(&options["eps"]),
        weight_decay: number(&options["weight_decay"]),
        step,
    };
    let tensor = |values: Vec<f32>| Tensor::<B, f32>::flat(backend, Layout::Packed, values);
    let mut weights = tensor(get("p0"));
    let len = weights.values().len();
    let [mut m, mut v] = [(); 2].map(|()| tensor(vec![0.0; len]));
    let mut state: Vec<[Num; 3]> = get("p0").into_iter().map(|w| [w.into(), Num::ZERO, Num::ZERO]).collect();
    let (one, mut halted) = (tensor(vec![1.0]), Tensor::flat(backend, Layout::Packed, vec![0]));
    for step in 1..=3 {
        let grads = tensor(get(&format!("g{}", step - 1)));
        let mut compute = Tensor::<B, f32>::poisoned_flat(backend, len, Layout::Packed);
        let AdamWStep { lr, betas, eps, weight_decay, .. } = oracle(step);
        let op = AdamW {
            weights: weights.view_mut(),
            grads: grads.view(),
            m: m.view_mut(),
            v: v.view_mut(),
            compute: compute.view_mut(),
            lr: lr as f32,
            betas: betas.map(|b| b as f32),
            eps: eps as f32,
            weight_decay: weight_decay as f32,
            step: step as u32,
            clip: unclipped(&one, &mut halted),
        };
        op.run(backend).unwrap();
        // Both are f32 computations of the same numbers: twice the bound of one, which the oracle carries along.
        for (state, g) in state.iter_mut().zip(grads.values()) {
            *state = oracle(step).apply(*state, Num::from(*g));
        }
        let near = |part: usize, want: &[f32], i: usize| Num { v: f64::from(want[i]), err: 2.0 * state[i][part].err };
        // bitsandbytes takes 1 - beta from betas in f64, the op from betas in f32; the corrections undo this for weights.
        let near_moment = |part: usize, want: &[f32], i: usize| {
            let beta = oracle(step).betas[part - 1];
            let difference = (beta - f64::from(beta as f32)).abs() / (1.0 - beta);
            let Num { v, err } = near(part, want, i);
            Num { v, err: err + difference * v.abs() }
        };
        let want = get(&format!("p{step}"));
        compare(&format!("weights after step {step}"), &weights.read(backend, "weights"), len, |_, i| {
            near(0, &want, i)
        });
        if step == 3 {
            let [first, second] = ["state.state1", "state.state2"].map(get);
            compare("m", &m.read(backend, "m"), len, |_, i| near_moment(1, &first, i));
            compare("v", &v.read(backend, "v"), len, |_, i| near_moment(2, &second, i));
        }
    }
}

backends!(
    stored_tensors_give_the_values_of_bitsandbytes,
    quantizing_gives_the_tensors_of_bitsandbytes,
    adamw_steps_as_bitsandbytes,
);

#[test]
fn the_dynamic_map_is_that_of_bitsandbytes() {
    let file = std::fs::read(common::root().join("tests/data/golden/bitsandbytes/dynamic_map_signed.npy")).unwrap();
    // The header of a .npy file ends with a newline; 256 f32 follow.
    let want: Vec<f32> = bytemuck::pod_collect_to_vec(&file[file.len() - 1024..]);
    assert_eq!(file[file.len() - 1025], b'\n');
    assert_eq!(*want, *DYNAMIC_MAP);
}
