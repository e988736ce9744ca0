//! Several threads on one backend.

use super::memory::Chain;
use crate::common::{
    cases::{LoraCase, Product, Quantization},
    make::{Make, Purpose},
    ops::{decode_attention, linear, linear4, lora, reduce, sample},
    setup::{Check, Setup, bits_again},
    tensor::Layout,
};
use half::bf16;
use halfbyte::{Backend, Cpu, cpu, ops::Heads};
use std::thread;

/// One op on memory of its own: runs it again and gives the bits of all outputs.
type Job<B> = Box<dyn FnMut(&B) -> Vec<u8>>;

fn job<B: Backend, S: Setup<B>>(backend: &B, seed: &str, case: S::Case) -> Job<B> {
    let name = format!("{} {seed}", S::name(&case));
    let mut setup = S::new(&Make::new(backend, Purpose::Suite, &name), &case);
    Box::new(move |backend| bits_again(&mut setup, backend, &name))
}

/// Ops whose kernels hand each other scratch memory: sums of parts, small matrices, counters, seen tokens.
fn jobs<B: Backend>(backend: &B, seed: &str) -> Vec<Job<B>> {
    let product = |n| (Product::new(n, 96, 4096), Quantization::DEFAULT);
    let adapter = LoraCase { product: Product::new(300, 256, 512), rank: 16, dropout: Some(0.1) };
    let heads = Heads { q: 8, kv: 2, dim: 128 };
    let decode = decode_attention::Case {
        heads,
        capacity: 600,
        positions: vec![599, 40],
        layout: Layout::Packed,
        settled: true,
    };
    vec![
        job::<B, linear4::Forward<B, bf16, bf16>>(backend, seed, product(8)),
        job::<B, linear4::Forward<B, bf16, bf16>>(backend, seed, product(70)),
        job::<B, lora::Gradient<B, bf16>>(backend, seed, adapter),
        job::<B, decode_attention::Decode<B, bf16>>(backend, seed, decode),
        job::<B, sample::Draw<B>>(backend, seed, sample::Batch::PENALIZED),
        job::<B, linear4::Gradient<B, bf16>>(backend, seed, product(70)),
        job::<B, reduce::Total<B>>(backend, seed, reduce::Case::LONG),
    ]
}

const ROUNDS: usize = 10;

/// The bits of each job, alone.
fn alone<B: Backend>(backend: &B, seed: &str) -> Vec<Vec<u8>> {
    jobs(backend, seed).iter_mut().map(|job| job(backend)).collect()
}

/// Runs the jobs again and again; each must give the bits that it gave alone.
fn rounds<B: Backend>(backend: &B, seed: &str, want: &[Vec<u8>]) {
    let mut jobs = jobs(backend, seed);
    for round in 0..ROUNDS {
        for (i, (job, want)) in jobs.iter_mut().zip(want).enumerate() {
            assert!(job(backend) == *want, "{seed}: job {i} gave other bits in round {round} than alone");
        }
    }
}

fn two_threads_get_the_bits_of_one<B: Backend>(backend: &B) {
    let seeds = ["first", "second"];
    let want = seeds.map(|seed| alone(backend, seed));
    thread::scope(|scope| {
        for (seed, want) in seeds.into_iter().zip(&want) {
            scope.spawn(move || rounds(backend, seed, want));
        }
    });
}

/// What another thread queues does not get into a graph that is being recorded, nor between its ops.
fn one_thread_records_while_another_runs<B: Backend>(backend: &B) {
    let steps = 12;
    let mut plain = Chain::new(backend);
    (0..steps).for_each(|_| plain.step(backend).unwrap());
    let (want, jobs) = (plain.read(backend), alone(backend, "first"));
    thread::scope(|scope| {
        let want = &want;
        scope.spawn(move || {
            for _ in 0..ROUNDS {
                let (mut chain, mut graph) = (Chain::new(backend), B::Graph::default());
                (0..steps).for_each(|_| backend.replay(&mut graph, || chain.step(backend)).unwrap());
                assert!(chain.read(backend) == *want, "replaying beside another thread is not running alone");
            }
        });
        rounds(backend, "first", &jobs);
    });
}

/// Products of few rows and of many, of shapes that are cut into many parts.
fn products(backend: &Cpu) -> Vec<Job<Cpu>> {
    let mut jobs = Vec::new();
    for n in [1, 3, 4, 5, 130] {
        let product = Product::new(n, 700, 1024);
        jobs.push(job::<Cpu, linear4::Forward<Cpu, bf16, bf16>>(backend, "threads", (product, Quantization::DEFAULT)));
        jobs.push(job::<Cpu, linear4::Gradient<Cpu, bf16>>(backend, "threads", (product, Quantization::DEFAULT)));
        jobs.push(job::<Cpu, linear::Forward<Cpu, bf16, f32>>(backend, "threads", product));
        jobs.push(job::<Cpu, linear::Forward<Cpu, f32, f32>>(backend, "threads", product));
    }
    jobs
}

fn any_number_of_threads_gives_the_same_bits(backend: &Cpu) {
    let before = cpu::threads();
    let mut jobs: Vec<_> = jobs(backend, "threads").into_iter().chain(products(backend)).collect();
    let mut bits = |n| {
        cpu::set_threads(n);
        jobs.iter_mut().map(|job| job(backend)).collect::<Vec<_>>()
    };
    let want = bits(1);
    for n in [2, 3, 8] {
        for (i, (got, want)) in bits(n).iter().zip(&want).enumerate() {
            assert!(got == want, "job {i} gave other bits with {n} threads than with one");
        }
    }
    cpu::set_threads(before);
}

pub fn cpu_checks() -> Vec<Check<Cpu>> {
    vec![("any_number_of_threads_gives_the_same_bits", any_number_of_threads_gives_the_same_bits)]
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![
        ("two_threads_get_the_bits_of_one", two_threads_get_the_bits_of_one),
        ("one_thread_records_while_another_runs", one_thread_records_while_another_runs),
    ]
}
