//! Several adapters made one, as PEFT's add_weighted_adapter does it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use halfbyte_runtime::Result;
use halfbyte_runtime::checkpoint::Checkpoint;
use halfbyte_runtime::config::Qwen3Config;
use halfbyte_runtime::export::{Combination, MajoritySign, Ties, Weighted, combine};
use halfbyte_runtime::lora::{Adapter, Table, TokenRows, TrainableTokens};

use super::golden;
use super::merge::{merge, settings, tiny_adapter, untied, weighted};

const COMBINED: [(&str, Combination, Ties); 4] = [
    ("cat", Combination::Cat, Ties { density: 1.0, sign: MajoritySign::Total }),
    ("linear", Combination::Linear, Ties { density: 1.0, sign: MajoritySign::Total }),
    ("ties-total", Combination::Ties, Ties { density: 0.3, sign: MajoritySign::Total }),
    ("ties-frequency", Combination::Ties, Ties { density: 0.6, sign: MajoritySign::Frequency }),
];

fn combined(how: Combination, ties: Ties) -> Result<Adapter> {
    let model = Qwen3Config::open(&untied()).unwrap();
    let [first, second] =
        ["first", "second"].map(|name| Adapter::open(&golden(&format!("combined/{name}")), &model).unwrap().0);
    let all = [Weighted { adapter: &first, weight: 0.7 }, Weighted { adapter: &second, weight: -0.45 }];
    combine(&all, how, ties)
}

/// `golden/combined` is what add_weighted_adapter made; it fills up ranks with zeros.
#[test]
fn adapters_combine_as_in_peft() {
    let want = Checkpoint::open_file(&golden("combined/golden.safetensors")).unwrap();
    for (case, how, ties) in COMBINED {
        let adapter = combined(how, ties).unwrap();
        let modules: BTreeSet<_> = adapter.layers.iter().map(|layer| layer.target.module.to_string()).collect();
        assert_eq!(modules.len(), 4);
        for layer in &adapter.layers {
            let (module, [rows, cols], r) = (layer.target.module, layer.target.shape, layer.target.r);
            assert_eq!(layer.target.scaling, 1.0);
            let tensor = |part| want.tensor(&format!("{case}.{module}.lora_{part}.weight")).unwrap();
            let (a, b) = (tensor("A").to_f32().unwrap(), tensor("B").to_f32().unwrap());
            let rank = tensor("A").shape[0];
            let in_a = (0..r * cols).map(|i| (layer.a[i], a[i]));
            let in_b = (0..rows * r).map(|i| (layer.b[i], b[i / r * rank + i % r]));
            for (got, want) in in_a.chain(in_b) {
                // A factor is rounded three times, a product, a sum and a mean once; no element is larger than 1.
                assert!((got - want).abs() <= 6.0 * 2f32.powi(-24), "{case}: {module}: {got}, expected {want}");
            }
            assert!(a[r * cols..].iter().all(|&v| v == 0.0));
        }
    }
}

/// What was combined can be saved, and read again as it was: ranks differ by module.
#[test]
fn a_combined_adapter_is_an_adapter() {
    let model = Qwen3Config::open(&untied()).unwrap();
    let adapter = combined(Combination::Cat, COMBINED[0].2).unwrap();
    let dir = tempfile::tempdir().unwrap();
    adapter.save(dir.path()).unwrap();
    let (read, note) = Adapter::open(dir.path(), &model).unwrap();
    assert_eq!((read.layers, note), (adapter.layers, None));
}

/// `cat` is the exact sum: merging two one after the other gives the same weights.
#[test]
fn merging_several_by_cat_is_merging_one_after_the_other() {
    let parent = tempfile::tempdir().unwrap();
    let [together, first, both] = ["together", "first", "both"].map(|name| parent.path().join(name));
    let [a, b] = ["first", "second"].map(|name| golden(&format!("combined/{name}")));
    merge(&weighted(&[0.5, 2.0], settings(&untied(), &[a.clone(), b.clone()], &together)));
    merge(&weighted(&[0.5], settings(&untied(), &[a], &first)));
    merge(&weighted(&[2.0], settings(&first, &[b], &both)));
    let (together, both) = (Checkpoint::open(&together).unwrap(), Checkpoint::open(&both).unwrap());
    for name in together.names() {
        let [got, want] = [&together, &both].map(|files| files.tensor(name).unwrap().to_f32().unwrap());
        // Each of up to eleven terms is at most 4 and is rounded once.
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 11.0 * 4.0 * 2f32.powi(-24)), "{name}");
    }
}

#[test]
fn what_has_no_sum_is_refused() {
    let model = Qwen3Config::open(&untied()).unwrap();
    let open = |path: PathBuf| Adapter::open(&path, &model).unwrap().0;
    let (plain, head) = (open(tiny_adapter("plain")), open(tiny_adapter("save_head")));
    let dora = open(tiny_adapter("dora"));
    let small = open(golden("combined/first"));
    let mut tokens = plain.clone();
    tokens.config.trainable_tokens = TrainableTokens::Ids(vec![1]);
    tokens.tokens = vec![TokenRows { table: Table::Embedding, ids: vec![1], weight: vec![0.0; model.hidden_size] }];
    let refused = |a: &Adapter, b: &Adapter, weight: f64, how, density| {
        let all = [Weighted { adapter: a, weight }, Weighted { adapter: b, weight: 1.0 }];
        combine(&all, how, Ties { density, sign: MajoritySign::Total }).unwrap_err().to_string()
    };
    for (said, wanted) in [
        (refused(&plain, &head, 1.0, Combination::Cat, 1.0), "an output head or rows of tokens"),
        (refused(&plain, &dora, 1.0, Combination::Cat, 1.0), "DoRA's magnitudes"),
        (refused(&tokens, &plain, 1.0, Combination::Cat, 1.0), "an output head or rows of tokens"),
        (refused(&plain, &small, 1.0, Combination::Linear, 1.0), "combine them by cat"),
        (refused(&plain, &small, 1.0, Combination::Ties, 0.5), "layers.0.self_attn.v_proj has rank"),
        (refused(&plain, &plain, f64::INFINITY, Combination::Cat, 1.0), "the weight of an adapter is inf"),
        (refused(&plain, &plain, 1.0, Combination::Ties, 0.0), "the density is 0"),
    ] {
        assert!(said.contains(wanted), "wanted {wanted}: {said}");
    }
}
