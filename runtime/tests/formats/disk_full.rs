use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use halfbyte_runtime::checkpoint::{CheckpointWriter, DEFAULT_SHARD_BYTES, Dtype, Tensor};
use halfbyte_runtime::config::Qwen3Config;
use halfbyte_runtime::lora::Adapter;

use super::{golden, names};

/// Names the small disk to the test that runs on it.
const DISK: &str = "HALFBYTE_TEST_SMALL_DISK";

/// Runs itself again where a file system of 128 KiB is mounted.
#[test]
fn a_full_disk_leaves_what_was_there() {
    if let Some(disk) = env::var_os(DISK) {
        return fill(&PathBuf::from(disk));
    }
    let dir = tempfile::tempdir().unwrap();
    let script =
        r#"mount -t tmpfs -o size=128k tmpfs "$1" || exit 99; HALFBYTE_TEST_SMALL_DISK="$1" exec "$2" "$3" --exact"#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    let test = "disk_full::a_full_disk_leaves_what_was_there";
    match unshare.arg(dir.path()).arg(env::current_exe().unwrap()).arg(test).output() {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        }
        Ok(output) if output.status.code() == Some(101) => panic!("{}", String::from_utf8_lossy(&output.stdout)),
        other => eprintln!("SKIPPED: this machine lets no user mount a small file system ({other:?})"),
    }
}

fn fill(disk: &Path) {
    let model = Qwen3Config::open(&golden("qwen3-tiny/untied")).unwrap();
    let open = |name: &str| Adapter::open(&golden(&format!("qwen3-tiny/{name}")), &model).unwrap().0;
    let adapter = disk.join("adapter");
    open("adapter-rslora").save(&adapter).unwrap();
    let before = [fs::read(adapter.join("adapter_config.json")), fs::read(adapter.join("adapter_model.safetensors"))];

    // 21 KB are in use; 87 KB fit beside them, and then another checkpoint of 64 KB does not.
    let error = {
        let mut to = CheckpointWriter::create(&disk.join("model"), DEFAULT_SHARD_BYTES).unwrap();
        to.put(Tensor { name: "a", dtype: Dtype::U8, shape: &[64 << 10], data: &[7; 64 << 10] }).unwrap();
        to.finish().unwrap_err().to_string()
    };
    assert!(error.contains("No space left") && error.contains("model.safetensors"), "{error}");
    assert!(!disk.join("model").exists());

    fs::write(disk.join("ballast"), vec![1; 64 << 10]).unwrap();
    let error = open("adapter-plain").save(&adapter).unwrap_err().to_string();
    assert!(error.contains("No space left") && error.contains("adapter_model.safetensors"), "{error}");
    let after = [fs::read(adapter.join("adapter_config.json")), fs::read(adapter.join("adapter_model.safetensors"))];
    assert_eq!(before.map(Result::unwrap), after.map(Result::unwrap));
    assert_eq!(names(&adapter), ["adapter_config.json", "adapter_model.safetensors"]);
}
