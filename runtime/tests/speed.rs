//! Random models: they compute, and what is measured of them is plausible.

use halfbyte::{Backend, Cpu, DType, Float, quant::Format};
use halfbyte_runtime::{
    batch::Batch,
    config::Qwen3Config,
    llm,
    model::{Activations, Base, CacheType, ForwardContext, Keep, Qwen3, SampleOptions},
    speed::{Decoding, RowsFile, SHAPES, TrainRow, Training, decode, random_adapter, train},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Who counts bytes: the buffers of a process are counted together.
static COUNTING: Mutex<()> = Mutex::new(());

fn counting() -> MutexGuard<'static, ()> {
    COUNTING.lock().unwrap_or_else(PoisonError::into_inner)
}

const NESTED: Base = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
const PLAIN: Base = Base::Quantized { format: Format::Fp4, block_size: 128, double_quant: false };

fn tiny() -> Qwen3Config {
    SHAPES[0].config()
}

fn logits<T: Float>(base: Base, seed: u64) -> Vec<f32> {
    let cpu = Cpu::new();
    let model = Qwen3::<Cpu, T>::random(&cpu, &tiny(), base, seed).unwrap();
    let batch = Batch::of_prompts(&[(0..40).collect(), (7..19).collect()]);
    let ctx = ForwardContext::new(&cpu, None);
    let mut acts = Activations::new(ctx, &model, batch.n_tokens(), Keep::Nothing).unwrap();
    model.logits(ctx, &mut acts, &batch).unwrap()
}

/// The head has `hidden` normal numbers of deviation 0.02 for each logit, and its input numbers of mean square 1.
#[test]
fn logits_are_of_the_size_that_random_weights_give() {
    for base in [NESTED, PLAIN, Base::Unquantized] {
        let made = logits::<half::bf16>(base, 1);
        assert_eq!(made.len(), 52 * tiny().vocab_size);
        let mean_square = made.iter().map(|v| f64::from(v * v)).sum::<f64>() / made.len() as f64;
        let want = 0.02 * (tiny().hidden_size as f64).sqrt();
        // Rows of the head and of its input are correlated by chance: hundreds of them give the size to a few per cent.
        let off = mean_square.sqrt() / want - 1.0;
        assert!(off.abs() <= 0.2, "{base:?}: {} of {want}", mean_square.sqrt());
    }
}

#[test]
fn the_seed_gives_the_weights() {
    assert!(logits::<f32>(NESTED, 1) == logits::<f32>(NESTED, 1));
    assert!(logits::<f32>(NESTED, 1) != logits::<f32>(NESTED, 2));
    assert!(logits::<f32>(NESTED, 1) != logits::<f32>(Base::Unquantized, 1));
}

/// What the largest shapes weigh was counted where they were published.
#[test]
fn shapes_have_as_many_weights_as_their_names_say() {
    let published = [0.596, 1.72, 4.02, 8.19, 14.77, 32.76];
    for (shape, billions) in SHAPES[1..].iter().zip(published) {
        let config = shape.config();
        let modules: usize = config.modules().map(|module| config.shape(module).iter().product::<usize>()).sum();
        let tables = if config.tie_word_embeddings { 0 } else { config.vocab_size * config.hidden_size };
        let off = (modules + tables) as f64 / (billions * 1e9) - 1.0;
        assert!(off.abs() <= 0.005, "{}: {}", shape.name, modules + tables);
    }
}

/// Bytes of the weights.
fn weights(base: Base, dtype: DType) -> usize {
    let config = tiny();
    let work = llm::Work::answer(1, 1);
    let (cache, sample) = (CacheType::Plain, SampleOptions::GREEDY);
    let extent = llm::Extent { config: &config, base, head_4bit: false, cache, sample, dtype, lora: None, work };
    extent.need().unwrap().base
}

#[test]
fn decoding_is_measured() {
    let (cpu, _alone) = (Cpu::new(), counting());
    let greedy = (NESTED, Some(4), CacheType::Plain, None);
    for (base, lora_r, cache, top_k) in [greedy, (Base::Unquantized, None, CacheType::Int8, Some(20))] {
        let model = Qwen3::<Cpu, half::bf16>::random(&cpu, &tiny(), base, 0).unwrap();
        let adapter = lora_r.map(|r| model.adapt(&cpu, &random_adapter(&tiny(), r, 0.0, 0).unwrap()).unwrap());
        let decoding = Decoding { sequences: 3, context: 20, new_tokens: 5, top_k, cache, profile: true };
        let speed = decode(&cpu, &model, adapter.as_ref(), decoding).unwrap();
        assert_eq!(speed.n_tokens, 15);
        for figure in [speed.first_s, speed.first_warm_s, speed.tokens_per_s] {
            assert!(figure > 0.0 && figure.is_finite(), "{speed:?}");
        }
        assert!(speed.peak_bytes >= weights(base, DType::Bf16), "{speed:?}");
        let long = Decoding { context: 4088, ..decoding };
        let refused = decode(&cpu, &model, None, long).unwrap_err().to_string();
        assert!(refused.contains("4093") && refused.contains("4096 positions"), "{refused}");
        // Two layers, then norm, head and choice.
        let calls = |name| speed.ops.iter().find(|op| op.op == name).map_or(0, |op| op.calls);
        assert_eq!((calls("decode_attention"), calls("sample")), (2, 1), "{:?}", speed.ops);
        assert!(speed.ops.iter().all(|op| op.seconds > 0.0), "{:?}", speed.ops);
        let plain = decode(&cpu, &model, None, Decoding { profile: false, ..decoding }).unwrap();
        assert_eq!(plain.ops, []);
    }
}

#[test]
fn training_is_measured() {
    let (cpu, _alone) = (Cpu::new(), counting());
    let model = Qwen3::<Cpu, half::bf16>::random(&cpu, &tiny(), NESTED, 0).unwrap();
    let adapter = random_adapter(&tiny(), 4, 0.1, 0).unwrap();
    let kept = Training { batch: 2, length: 64, kept: Keep::Everything.into(), steps: 4, profile: true };
    let again = Training { kept: Keep::Host.into(), ..kept };
    let mut forward = Vec::new();
    for training in [kept, again] {
        let speed = train(&cpu, &model, &adapter, training).unwrap();
        assert_eq!(speed.n_tokens, 128);
        let error = (speed.tokens_per_s * speed.step_s / 128.0 - 1.0).abs();
        assert!(speed.step_s > 0.0 && error <= 1e-9, "{speed:?}");
        // Of 512 tokens that are all as likely.
        assert!((speed.loss - 512.0f64.ln()).abs() <= 0.5, "{speed:?}");
        assert!(speed.peak_bytes >= weights(NESTED, DType::Bf16), "{speed:?}");
        let of =
            |name: &str| speed.ops.iter().find(|op| op.op == name).unwrap_or_else(|| panic!("{name}: {:?}", speed.ops));
        assert_eq!((of("attention_grad").calls, of("adamw").calls), (2, 1));
        forward.push(of("lora_linear").flops);
        assert!(of("lora_linear_grad").flops > 0.0, "{:?}", speed.ops);
    }
    assert!(forward[1] > forward[0], "computed again: {forward:?}");
    for bad in [Training { batch: 0, ..kept }, Training { length: 1, ..kept }, Training { length: 4097, ..kept }] {
        assert!(train(&cpu, &model, &adapter, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_peak_begins_anew() {
    let (cpu, _alone) = (Cpu::new(), counting());
    drop(cpu.zeros::<u8>(1 << 28).unwrap());
    assert!(cpu.memory().peak >= 1 << 28);
    cpu.restart_peak();
    assert!(cpu.memory().peak < 1 << 28);
}

#[test]
fn rows_are_in_the_file_as_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.csv");
    let row = |tokens_per_s: Option<f64>| TrainRow {
        shape: "tiny",
        base: "nf4/bfloat16".into(),
        lora_r: 16,
        dropout: 0.05,
        activation_memory: "offload".into(),
        batch: 4,
        length: 2048,
        tokens_per_s,
        step_ms: tokens_per_s.map(|_| 2.5),
        peak_bytes: tokens_per_s.map(|_| 7),
    };
    let read = || std::fs::read_to_string(&path).unwrap();
    let head = "shape,base,lora_r,dropout,activation_memory,batch,length,tokens_per_s,step_ms,peak_bytes\n";
    let (first, second) =
        ("tiny,nf4/bfloat16,16,0.05,offload,4,2048,1.5,2.5,7\n", "tiny,nf4/bfloat16,16,0.05,offload,4,2048,,,\n");
    let mut file = RowsFile::new(&path, false).unwrap();
    assert!(!path.exists(), "there is no row yet");
    file.push(&row(Some(1.5))).unwrap();
    assert_eq!(read(), format!("{head}{first}"));
    file.push(&row(None)).unwrap();
    assert_eq!(read(), format!("{head}{first}{second}"));

    let refused = RowsFile::new(&path, false).err().unwrap().to_string();
    assert!(refused.contains("--overwrite") && refused.contains("train.csv"), "{refused}");
    let mut other = RowsFile::new(&path, true).unwrap();
    assert_eq!(read(), format!("{head}{first}{second}"), "what was there stays until there is a row");
    other.push(&row(None)).unwrap();
    assert_eq!(read(), format!("{head}{second}"));
    assert!(RowsFile::new(folder.path(), true).err().unwrap().to_string().contains("it is a folder"));
    assert!(RowsFile::new(&folder.path().join("none/x.csv"), false).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "temporary files were left");
}
