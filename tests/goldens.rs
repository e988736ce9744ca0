//! Quantisation and AdamW against bitsandbytes: `tests/data/golden/bitsandbytes`, made by `make_bitsandbytes.py`.
mod common;

use common::{
    close::compare,
    num::Num,
    oracle,
    tensor::{Layout, Tensor},
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Element, Float,
    ops::{AdamW, AdamW8bit, AdamWStep, Clip, Dequantize, Moment8, NestAbsmax, Op, Quantize},
    quant::{BLOCK8, DYNAMIC_MAP, Format, GROUP, Group, Scales, UNSIGNED_DYNAMIC_MAP, Weight4, n_blocks},
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

/// What an optimiser did in three steps.
struct Steps<'a> {
    golden: &'a Golden,
    optimizer: &'static str,
}

impl Steps<'_> {
    fn get<T: Element>(&self, part: &str) -> Vec<T> {
        self.golden.get(&format!("optim.{}.{part}", self.optimizer))
    }

    fn step(&self, count: u32) -> AdamWStep {
        let options = &self.golden.meta["optim"][self.optimizer];
        let number = |v: &Value| v.as_f64().unwrap();
        AdamWStep {
            lr: number(&options["lr"]),
            betas: [number(&options["betas"][0]), number(&options["betas"][1])],
            eps: number(&options["eps"]),
            weight_decay: number(&options["weight_decay"]),
            count,
        }
    }
}

/// Three steps from the same start; each step from the weights that bitsandbytes had.
fn adamw_steps_as_bitsandbytes<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let steps = Steps { golden: &golden, optimizer: "AdamW" };
    let get = |part: &str| steps.get::<f32>(part);
    let tensor = |values: Vec<f32>| Tensor::<B, f32>::flat(backend, Layout::Packed, values);
    let mut weights = tensor(get("p0"));
    let len = weights.values().len();
    let [mut m, mut v] = [(); 2].map(|()| tensor(vec![0.0; len]));
    let mut state: Vec<[Num; 3]> = get("p0").into_iter().map(|w| [w.into(), Num::ZERO, Num::ZERO]).collect();
    let (one, mut halted) = (tensor(vec![1.0]), Tensor::flat(backend, Layout::Packed, vec![0]));
    for count in 1..=3 {
        let grads = tensor(get(&format!("g{}", count - 1)));
        let mut compute = Tensor::<B, f32>::poisoned_flat(backend, len, Layout::Packed);
        let step = steps.step(count);
        let op = AdamW {
            weights: weights.view_mut(),
            grads: grads.view(),
            m: m.view_mut(),
            v: v.view_mut(),
            compute: compute.view_mut(),
            step,
            clip: unclipped(&one, &mut halted),
        };
        op.run(backend).unwrap();
        // Both are f32 computations of the same numbers: twice the bound of one, which the oracle carries along.
        for (state, g) in state.iter_mut().zip(grads.values()) {
            *state = oracle::adamw(&step, *state, Num::from(*g));
        }
        let near = |part: usize, want: &[f32], i: usize| Num { v: f64::from(want[i]), err: 2.0 * state[i][part].err };
        let want = get(&format!("p{count}"));
        compare(&format!("weights after step {count}"), &weights.read(backend, "weights"), len, |_, i| {
            near(0, &want, i)
        });
        if count == 3 {
            let [first, second] = ["state.state1", "state.state2"].map(get);
            compare("m", &m.read(backend, "m"), len, |_, i| near(1, &first, i));
            compare("v", &v.read(backend, "v"), len, |_, i| near(2, &second, i));
        }
    }
}

/// The same with moments in 8 bits, whose bits must be those of bitsandbytes.
fn adamw8bit_steps_as_bitsandbytes<B: Backend>(backend: &B) {
    let golden = Golden::open();
    let steps = Steps { golden: &golden, optimizer: "AdamW8bit" };
    let mut weights = Tensor::<B, f32>::flat(backend, Layout::Packed, steps.get("p0"));
    let len = weights.values().len();
    let zeros = || (vec![0_u8; len], vec![0_f32; n_blocks(len, BLOCK8)]);
    let [mut m, mut v] = [zeros(), zeros()].map(|(codes, absmax)| {
        (Tensor::flat(backend, Layout::Packed, codes), Tensor::flat(backend, Layout::Packed, absmax))
    });
    let one = Tensor::flat(backend, Layout::Packed, vec![1.0]);
    let mut halted = Tensor::flat(backend, Layout::Packed, vec![0]);
    for count in 1..=3 {
        let grads = Tensor::flat(backend, Layout::Packed, steps.get(&format!("g{}", count - 1)));
        let mut compute = Tensor::<B, f32>::poisoned_flat(backend, len, Layout::Packed);
        let op = AdamW8bit {
            weights: weights.view_mut(),
            grads: grads.view(),
            m: Moment8 { codes: m.0.view_mut(), absmax: m.1.view_mut() },
            v: Moment8 { codes: v.0.view_mut(), absmax: v.1.view_mut() },
            compute: compute.view_mut(),
            step: steps.step(count),
            clip: unclipped(&one, &mut halted),
        };
        op.run(backend).unwrap();
        // PyTorch's square roots are some of them wrong in the last bit, and with them a step of about the learning rate.
        let want: Vec<f32> = steps.get(&format!("p{count}"));
        let off = 2.0 * f64::from(f32::EPSILON) * steps.step(count).lr * f64::from(count);
        compare(&format!("weights after step {count}"), &weights.read(backend, "weights"), len, |_, i| Num {
            v: f64::from(want[i]),
            err: off + f64::from(f32::EPSILON * want[i].abs()) * f64::from(count),
        });
    }
    for (name, (codes, absmax)) in [("1", &m), ("2", &v)] {
        assert_eq!(codes.read(backend, "codes"), steps.get::<u8>(&format!("state.state{name}")), "moment {name}");
        assert_eq!(absmax.read(backend, "absmax"), steps.get::<f32>(&format!("state.absmax{name}")), "moment {name}");
    }
}

backends!(
    stored_tensors_give_the_values_of_bitsandbytes,
    quantizing_gives_the_tensors_of_bitsandbytes,
    adamw_steps_as_bitsandbytes,
    adamw8bit_steps_as_bitsandbytes,
);

#[test]
fn dynamic_maps_are_those_of_bitsandbytes() {
    for (name, map) in [("signed", &DYNAMIC_MAP), ("unsigned", &UNSIGNED_DYNAMIC_MAP)] {
        let file = common::root().join(format!("tests/data/golden/bitsandbytes/dynamic_map_{name}.npy"));
        let file = std::fs::read(file).unwrap();
        // The header of a .npy file ends with a newline; 256 f32 follow.
        let want: Vec<f32> = bytemuck::pod_collect_to_vec(&file[file.len() - 1024..]);
        assert_eq!(file[file.len() - 1025], b'\n');
        assert_eq!(*want, **map, "{name}");
    }
}
