//! Buffers, copies, recorded queues, what ops leave in scratch memory.

use crate::common::{
    cases::{LoraCase, Product, Quantization},
    make::{Make, Purpose},
    ops::{decode_attention, lora},
    own_cuda,
    quantized::Quantized,
    random::Random,
    setup::{Check, Setup},
    tensor::{Layout, Tensor},
};
use half::bf16;
use halfbyte::{
    Backend, Cuda, Element, MemoryUse,
    ops::{Cast, Heads, Linear4, Op, Sample, Sum},
    quant::Group,
};

fn copies_of<B: Backend, T: Element + PartialEq>(backend: &B, values: &[T]) {
    let n = values.len();
    let mut buf = backend.zeros::<T>(n + 4).unwrap();
    assert!(buf.to_vec(backend).unwrap() == vec![T::zeroed(); n + 4], "zeros");
    backend.write(values, buf.at_mut(2..n + 2)).unwrap();
    let got = buf.to_vec(backend).unwrap();
    assert!(got[2..n + 2] == *values, "write");
    assert!(got[..2] == [T::zeroed(); 2] && got[n + 2..] == [T::zeroed(); 2], "write: what lies around");
    let uploaded = backend.upload(values).unwrap();
    assert!(backend.download(uploaded.at(n / 3..n)).unwrap() == values[n / 3..], "upload and download");
    let mut copy = Tensor::<B, T>::poisoned_flat(backend, n, Layout::Odd);
    backend.copy(buf.at(2..n + 2), copy.view_mut()).unwrap();
    assert!(copy.read(backend, "copy") == *values, "copy");
    backend.clear(copy.view_mut()).unwrap();
    assert!(copy.read(backend, "clear") == vec![T::zeroed(); n], "clear");
}

fn copies<B: Backend>(backend: &B) {
    for n in [0, 1, 3, 1000, 100_000] {
        let random = Random::new("copies");
        copies_of(backend, &random.bytes(n));
        copies_of(backend, &random.words(n));
        copies_of(backend, &random.normal(n, 1.0));
        copies_of(backend, &random.normal(n, 1.0).into_iter().map(bf16::from_f32).collect::<Vec<_>>());
    }
}

fn copies_of_other_lengths_are_refused<B: Backend>(backend: &B) {
    let (x, mut out) = (backend.zeros::<f32>(3).unwrap(), backend.zeros::<f32>(4).unwrap());
    let error = backend.copy(x.view(), out.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "copy: `out` has 4 elements, expected 3");
    let error = backend.write(&[1.0; 5], out.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "write: `out` has 4 elements, expected 5");
}

/// One step of a chain: a projection of a state that the last step left, its sum, a token.
pub struct Chain<B: Backend> {
    weight: Quantized<B>,
    state: Tensor<B, bf16>,
    logits: Tensor<B, f32>,
    total: Tensor<B, f32>,
    history: Tensor<B, u32>,
    positions: Tensor<B, u32>,
    tokens: Tensor<B, u32>,
}

const WIDTH: usize = 128;

impl<B: Backend> Chain<B> {
    pub fn new(backend: &B) -> Self {
        let make = Make::new(backend, Purpose::Suite, "replay");
        let flat = |n: usize| Tensor::flat(backend, Layout::Packed, vec![0u32; n]);
        Chain {
            weight: Quantized::random(&make, [WIDTH; 2], Quantization::DEFAULT, Layout::Packed),
            state: make.normal([1, WIDTH], Layout::Packed, 4.0),
            logits: Tensor::of(backend, [1, WIDTH], Layout::Packed, &[0.0; WIDTH]),
            total: Tensor::of(backend, [1, 1], Layout::Packed, &[0.0]),
            history: flat(10),
            positions: flat(1),
            tokens: flat(1),
        }
    }

    pub fn step(&mut self, backend: &B) -> halfbyte::Result<()> {
        let op =
            Linear4 { x: self.state.mat(), weight: self.weight.weight(), out: self.logits.mat_mut(), accumulate: true };
        op.run(backend)?;
        Cast { x: self.logits.view(), out: self.state.view_mut() }.run(backend)?;
        Sum { x: self.logits.view(), out: self.total.view_mut(), accumulate: true }.run(backend)?;
        let op = Sample {
            logits: self.logits.mat_mut(),
            n_vocab: WIDTH,
            temperature: 1.0,
            top_k: 20,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 3,
            history: self.history.view_mut(),
            positions: self.positions.view_mut(),
            tokens: self.tokens.view_mut(),
        };
        op.run(backend)
    }

    pub fn read(&self, backend: &B) -> (Vec<bf16>, Vec<f32>, Vec<u32>, Vec<u32>) {
        let floats = (self.state.read(backend, "state"), self.total.read(backend, "total"));
        (floats.0, floats.1, self.history.read(backend, "history"), self.positions.read(backend, "positions"))
    }
}

fn replaying_is_running_again<B: Backend>(backend: &B) {
    let mut plain = Chain::new(backend);
    for _ in 0..4 {
        plain.step(backend).unwrap();
    }
    let mut replayed = Chain::new(backend);
    let mut graph = B::Graph::default();
    for _ in 0..4 {
        backend.replay(&mut graph, || replayed.step(backend)).unwrap();
    }
    let want = plain.read(backend);
    assert_eq!(want.3, [4], "positions move on");
    assert!(want.0.iter().any(|v| v.to_f32() != 0.0));
    assert!(replayed.read(backend) == want, "replaying four times is not running four times");
}

/// What was recorded goes on with memory that nobody else holds any more, and does not touch what was made since.
fn a_recorded_graph_keeps_its_memory(backend: &Cuda) {
    let mut graph = Default::default();
    let mut chain = Some(Chain::new(backend));
    for _ in 0..3 {
        backend.replay(&mut graph, || chain.as_mut().unwrap().step(backend)).unwrap();
    }
    drop(chain.take());
    let others: Vec<Tensor<Cuda, u32>> =
        (0..200).map(|i| Tensor::flat(backend, Layout::Packed, vec![1_000_000 + i as u32; 1 << (i % 13)])).collect();
    for _ in 0..3 {
        backend.replay(&mut graph, || unreachable!("it was recorded")).unwrap();
    }
    for (i, other) in others.iter().enumerate() {
        assert!(other.read(backend, "replay") == other.values(), "the graph wrote to buffer {i}, which is not its own");
    }
}

/// Training, then generating: adapters leave matrices in scratch memory, attention counts in it. 33 keys are one more
/// than a batch of them.
fn lora_grad_then_decode_attention<B: Backend>(backend: &B) {
    let case = LoraCase { product: Product::new(300, 256, 512), rank: 16, dropout: None };
    let make = Make::new(backend, Purpose::Suite, "lora_grad_then_decode_attention");
    lora::Gradient::<B, bf16>::new(&make, &case).run(backend).unwrap();
    let heads = Heads { q: 32, kv: 8, dim: 128 };
    let case =
        decode_attention::Case { heads, capacity: 64, positions: vec![32], layout: Layout::Packed, settled: false };
    check_each!(Decode, backend, &case);
}

type Decode<B, T> = decode_attention::Decode<B, T>;

/// Sizes that overflow, or that no machine has, are errors.
fn sizes_beyond_memory_are_refused<B: Backend>(backend: &B) {
    assert!(backend.zeros::<f32>(1 << 62).is_err(), "2^64 bytes");
    assert!(backend.zeros::<Group>(usize::MAX / 4).is_err(), "more than 2^64 bytes");
    assert!(backend.zeros::<u8>(isize::MAX as usize).is_err(), "2^63 - 1 bytes");
    let error = backend.zeros::<f32>(1 << 46).expect_err("256 TiB").to_string();
    assert!(error.contains("262144.0 GiB more were asked for") && error.contains("are free"), "{error}");
    let buf = backend.zeros::<f32>(3).expect("what there is memory for, is given");
    assert_eq!(buf.len(), 3);
}

fn memory_is_counted(_: &Cuda) {
    let Some(backend) = own_cuda() else { return };
    let before = backend.memory().allocated;
    let buf = backend.zeros::<f32>(1000).unwrap();
    let with = backend.memory();
    assert_eq!(with.allocated, before + 4000, "bytes with the buffer");
    drop(buf);
    assert_eq!(backend.memory(), MemoryUse { allocated: before, ..with }, "bytes without it");
}

/// Some of it is the context's.
fn all_memory_of_a_gpu_is_refused(backend: &Cuda) {
    let (_, total) = backend.free_and_total_memory().unwrap();
    let error = backend.zeros::<u8>(total).expect_err("more than is free").to_string();
    assert!(error.contains("GiB more were asked for") && error.contains("iB are free"), "{error}");
    let buf = backend.upload(&[1.5_f32; 3]).expect("what there is memory for, is given");
    assert_eq!(buf.to_vec(backend).unwrap(), [1.5; 3]);
}

/// Other checks come and go at the same time.
fn the_peak_is_the_most<B: Backend>(backend: &B) {
    let buf = backend.zeros::<f32>(1000).unwrap();
    let used = backend.memory();
    assert!(used.allocated >= 4000 && used.peak >= used.allocated, "{used:?}");
    drop(buf);
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("copies", copies),
        ("copies_of_other_lengths_are_refused", copies_of_other_lengths_are_refused),
        ("sizes_beyond_memory_are_refused", sizes_beyond_memory_are_refused),
        ("replaying_is_running_again", replaying_is_running_again),
        ("lora_grad_then_decode_attention", lora_grad_then_decode_attention),
        ("the_peak_is_the_most", the_peak_is_the_most),
    ]
}

pub fn cuda_checks() -> Vec<Check<Cuda>> {
    vec![
        ("a_recorded_graph_keeps_its_memory", a_recorded_graph_keeps_its_memory),
        ("memory_is_counted", memory_is_counted),
        ("all_memory_of_a_gpu_is_refused", all_memory_of_a_gpu_is_refused),
    ]
}
