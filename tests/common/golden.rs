use safetensors::{Dtype, SafeTensors};
use std::path::PathBuf;

/// The tensors that the real libraries made of the tiny random Qwen3.
pub struct Golden {
    folder: PathBuf,
    bytes: Vec<u8>,
}

impl Golden {
    pub fn open() -> Self {
        Self::of("qwen3-tiny")
    }

    /// Those that PEFT made with `trainable_token_indices`.
    pub fn of_trainable_tokens() -> Self {
        Self::of("trainable-tokens")
    }

    /// Those that PEFT made with the embedding and the head adapted.
    pub fn of_ends() -> Self {
        Self::of("ends")
    }

    /// Those that PEFT made with dropout, of which halfbyte's masks were taken.
    pub fn of_dropout() -> Self {
        Self::of("dropout")
    }

    fn of(name: &str) -> Self {
        let folder = super::root().join("tests/data/golden").join(name);
        Golden { bytes: std::fs::read(folder.join("golden.safetensors")).unwrap(), folder }
    }

    /// A checkpoint or adapter beside them.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn data(&self, name: &str, dtype: Dtype) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        tensor.data().to_vec()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let data = self.data(name, Dtype::F32);
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn ints(&self, name: &str) -> Vec<i64> {
        let data = self.data(name, Dtype::I64);
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }
}
