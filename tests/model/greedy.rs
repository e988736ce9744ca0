//! What a decoder writes, token after token over its cache, are the largest logits of the whole text in one pass.
//! `HALFBYTE_GREEDY_TOKENS=100000` says how many tokens of each model are looked at.
use half::bf16;
use halfbyte::{Backend, Float, quant::Format, rng::philox};
use halfbyte_runtime::{
    batch::Batch,
    config::Qwen3Config,
    model::{Activations, Base, CacheType, Decoder, ForwardContext, Keep, Qwen3, SampleOptions},
    speed::{SHAPES, random_adapter},
};

const NESTED: Base = Base::Quantized { format: Format::Nf4, block_size: 64, double_quant: true };
/// Prompts of a round have other lengths, up to this one.
const PROMPT: usize = 150;
const NEW: usize = 100;

/// How many tokens were the largest logit, and how many were not, but as close to it as rounding explains.
#[derive(Default)]
struct Seen {
    equal: usize,
    close: usize,
}

/// By how much two logits of a row may differ for rounding to exchange them. Each layer rounds the residual stream and
/// what is added to it some four times, by up to half an ulp: `ulp / sqrt(12)` each, root mean square, of both logits, in
/// both passes; five times that is not exceeded in 10^5 rows.
fn may_exchange<T: Float>(config: &Qwen3Config, row: &[f32]) -> f64 {
    let ulp = if T::DTYPE == halfbyte::DType::F32 { f64::from(f32::EPSILON) } else { 1.0 / 128.0 };
    let mean_square = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / row.len() as f64;
    // f32 products sum thousands of terms, each sum rounded.
    let sums = if T::DTYPE == halfbyte::DType::F32 { (config.intermediate_size as f64).sqrt() } else { 1.0 };
    5.0 * 2.0 * ulp / 12f64.sqrt() * (4.0 * config.n_layers as f64 + 2.0).sqrt() * sums * mean_square.sqrt()
}

fn prompts(config: &Qwen3Config, sequences: usize, round: usize) -> Vec<Vec<u32>> {
    let number = |i: usize, j: usize| philox([i as u32, j as u32, 0, 0], round as u64)[0] as usize;
    let prompt = |i: usize| {
        let len = 1 + number(i, 0) % PROMPT;
        (0..len).map(|j| (number(i, j + 1) % config.vocab_size) as u32).collect()
    };
    (0..sequences).map(prompt).collect()
}

fn write<B: Backend, T: Float>(
    model: &Qwen3<B, T>,
    ctx: ForwardContext<'_, B, T>,
    prompts: &[Vec<u32>],
    options: SampleOptions,
) -> Vec<Vec<u32>> {
    let mut decoder = Decoder::new(model, ctx, prompts.len(), PROMPT + NEW, 4096, options, CacheType::Plain).unwrap();
    let mut texts = prompts.to_vec();
    let mut tokens = decoder.prefill(prompts).unwrap();
    for step in 0..NEW {
        if step > 0 {
            tokens = decoder.step().unwrap();
        }
        texts.iter_mut().zip(&tokens).for_each(|(text, &token)| text.push(token));
    }
    texts
}

fn compare<B: Backend, T: Float>(
    model: &Qwen3<B, T>,
    ctx: ForwardContext<'_, B, T>,
    [prompt, text]: [&[u32]; 2],
    seen: &mut Seen,
) {
    let (config, batch) = (&model.config, Batch::of_prompts(&[text.to_vec()]));
    let mut acts = Activations::new(ctx, model, batch.n_tokens(), Keep::Nothing).unwrap();
    let logits = model.logits(ctx, &mut acts, &batch).unwrap();
    let rows = logits.chunks_exact(config.vocab_size);
    for (i, (row, &token)) in rows.zip(&text[1..]).enumerate().skip(prompt.len() - 1) {
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let behind = f64::from(best) - f64::from(row[token as usize]);
        let may = may_exchange::<T>(config, row);
        assert!(behind <= may, "{}: token {i} is {behind} behind the largest logit, may be {may}", T::DTYPE.suffix());
        if behind == 0.0 { seen.equal += 1 } else { seen.close += 1 }
    }
}

fn check<B: Backend, T: Float>(backend: &B, config: &Qwen3Config, tokens: usize, adapted: bool) {
    let model = Qwen3::<B, T>::random(backend, config, NESTED, 7).unwrap();
    let adapter = adapted.then(|| model.adapt(backend, &random_adapter(config, 16, 0.0, 3).unwrap()).unwrap());
    let ctx = ForwardContext::new(backend, adapter.as_ref());
    let few = [2, 7].map(|sequences| prompts(config, sequences, 0));
    let drawn = SampleOptions { temperature: 0.7, top_k: 20, top_p: 0.8, ..SampleOptions::GREEDY };
    let texts =
        || [SampleOptions::GREEDY, drawn].map(|options| few.each_ref().map(|few| write(&model, ctx, few, options)));
    let whole = texts();
    model.screen_head(ctx).unwrap();
    let screened = texts();
    assert!(screened == whole, "{}: the head in 8 bits chose another token", T::DTYPE.suffix());
    let mut seen = Seen::default();
    // As many sequences as each way to multiply takes.
    for (round, &sequences) in [1, 2, 5, 20, 40, 100].iter().cycle().enumerate() {
        let prompts = prompts(config, sequences, round);
        let texts = write(&model, ctx, &prompts, SampleOptions::GREEDY);
        prompts.iter().zip(&texts).for_each(|(prompt, text)| compare(&model, ctx, [prompt, text], &mut seen));
        if seen.equal + seen.close >= tokens {
            break;
        }
    }
    println!("{}: {} tokens equal, {} within rounding", T::DTYPE.suffix(), seen.equal, seen.close);
    // Two of 1,024 logits are hardly ever as close as f32 rounds.
    assert!(
        T::DTYPE != halfbyte::DType::F32 || seen.close * 10_000 <= seen.equal,
        "{} of f32 are not equal",
        seen.close
    );
}

fn tokens_are_the_largest_logits_of_the_whole_text<B: Backend>(backend: &B) {
    let asked = std::env::var("HALFBYTE_GREEDY_TOKENS").ok().map(|n| n.parse().unwrap());
    let tokens = asked.unwrap_or(2000);
    let shapes = if backend.name().starts_with("cpu") { &SHAPES[..1] } else { &SHAPES[..5] };
    // Two layers of the smallest shape and of the largest, and few tokens to choose from.
    for shape in [shapes[0], shapes[shapes.len() - 1]] {
        let config = Qwen3Config { n_layers: 2, vocab_size: 1024, ..shape.config() };
        for adapted in [false, true] {
            check::<B, f32>(backend, &config, tokens, adapted);
            check::<B, bf16>(backend, &config, tokens, adapted);
        }
    }
}

crate::backends!(tokens_are_the_largest_logits_of_the_whole_text);
