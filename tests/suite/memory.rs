//! Buffers, copies, recorded queues.

use crate::common::{
    self,
    cases::Quantization,
    quantized::Quantized,
    random::Random,
    tensor::{Layout, Tensor},
};
use half::bf16;
use halfbyte::{
    Backend, Element,
    ops::{Cast, Linear4, Op, Sample, Sum},
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
struct Chain<B: Backend> {
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
    fn new(backend: &B) -> Self {
        let random = Random::new("replay");
        let flat = |n: usize| Tensor::flat(backend, Layout::Packed, vec![0u32; n]);
        Chain {
            weight: Quantized::random(backend, &random, [WIDTH; 2], Quantization::DEFAULT, Layout::Packed),
            state: Tensor::of(backend, [1, WIDTH], Layout::Packed, &random.normal(WIDTH, 4.0)),
            logits: Tensor::of(backend, [1, WIDTH], Layout::Packed, &[0.0; WIDTH]),
            total: Tensor::of(backend, [1, 1], Layout::Packed, &[0.0]),
            history: flat(10),
            positions: flat(1),
            tokens: flat(1),
        }
    }

    fn step(&mut self, backend: &B) -> halfbyte::Result<()> {
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

    fn read(&self, backend: &B) -> (Vec<bf16>, Vec<f32>, Vec<u32>, Vec<u32>) {
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

fn memory_is_counted<B: Backend>(backend: &B) {
    let (before, _) = backend.memory();
    let buf = backend.zeros::<f32>(1000).unwrap();
    let (now, peak) = backend.memory();
    assert!(peak >= now, "{peak} at most, {now} now");
    // The CPU backend asks the system, which counts the whole process.
    if !backend.name().starts_with("cpu") {
        assert_eq!(now, before + 4000, "bytes with the buffer");
        drop(buf);
        assert_eq!(backend.memory(), (before, peak), "bytes without it");
    }
}

backends!(copies, copies_of_other_lengths_are_refused, replaying_is_running_again, memory_is_counted);
