use safetensors::{Dtype, SafeTensors};
use std::path::PathBuf;

/// The tensors that the real libraries made of the tiny random Qwen3.
pub struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    pub fn open() -> Self {
        Golden { bytes: std::fs::read(folder().join("golden.safetensors")).unwrap() }
    }

    /// A checkpoint or adapter beside them.
    pub fn dir(&self, name: &str) -> PathBuf {
        folder().join(name)
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

fn folder() -> PathBuf {
    super::root().join("tests/data/golden/qwen3-tiny")
}
