//! What llama.cpp calls a Qwen3's tensors, and how Q4_K_M stores each.

use super::types::TensorType;
use crate::config::{Projection, Qwen3Config};

/// llama.cpp's name of a tensor, for the names that a model is made of.
pub(super) fn name_of(tensor: &str) -> Option<String> {
    let path = tensor.strip_suffix(".weight")?;
    let name = match path {
        "model.embed_tokens" => "token_embd".to_owned(),
        "model.norm" => "output_norm".to_owned(),
        "lm_head" => "output".to_owned(),
        _ => {
            let (layer, part) = path.strip_prefix("model.layers.")?.split_once('.')?;
            format!("blk.{layer}.{}", in_layer(part)?)
        }
    };
    Some(name + ".weight")
}

fn in_layer(part: &str) -> Option<&'static str> {
    Some(match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        _ => projection(Projection::ALL.into_iter().find(|p| p.path() == part)?),
    })
}

fn projection(projection: Projection) -> &'static str {
    match projection {
        Projection::Q => "attn_q",
        Projection::K => "attn_k",
        Projection::V => "attn_v",
        Projection::O => "attn_output",
        Projection::Gate => "ffn_gate",
        Projection::Up => "ffn_up",
        Projection::Down => "ffn_down",
    }
}

/// Q4_K_M's type of a matrix: Q6_K for the table that makes logits, and in some layers for what errors of others hide
/// behind: values and the way down. So llama.cpp's `llama-quantize` mixes them.
pub(super) fn q4_k_m(name: &str, config: &Qwen3Config, tied: bool) -> TensorType {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
    let better = match (name, layer) {
        ("output.weight", _) => true,
        ("token_embd.weight", _) => tied,
        (_, Some(layer)) if name.ends_with("attn_v.weight") || name.ends_with("ffn_down.weight") => {
            gets_more_bits(layer, config.n_layers)
        }
        _ => false,
    };
    if better { TensorType::Q6K } else { TensorType::Q4K }
}

/// The first and the last eighth, and every third layer between.
fn gets_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_of_a_model_has_a_name_of_its_own() {
        let text = r#"{"architectures": ["Qwen3ForCausalLM"], "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 8}"#;
        let config = Qwen3Config::parse(std::path::Path::new("config.json"), text).unwrap();
        let names: Vec<_> = config.tensor_names().map(|name| name_of(&name).unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!((names.len(), distinct.len()), (3 + 2 * 11, 3 + 2 * 11));
        assert!(names.contains(&"blk.1.attn_k_norm.weight".to_owned()));
        assert_eq!(name_of("model.layers.0.self_attn.rotary.weight"), None);
    }

    /// What `llama-quantize` gives 28 and 36 layers, as it prints.
    #[test]
    fn the_mix_of_q4_k_m() {
        let more = |layers| (0..layers).filter(|&layer| gets_more_bits(layer, layers)).collect::<Vec<_>>();
        assert_eq!(more(28), [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
        assert_eq!(more(36), [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35]);
    }
}
