//! Adapters that are sent to the hub.

use super::server::{COMMIT, Fault, Hub, NEW};
use crate::{small_model, text};
use std::{fs, path::Path};
use tempfile::{TempDir, tempdir};

const FILES: [&str; 4] = ["README.md", "adapter_config.json", "adapter_model.safetensors", "loss.svg"];

fn hub() -> Hub {
    Hub::of(tempdir().unwrap().path(), Some("hf_secret"))
}

/// Trains into a folder and sends what comes of it; gives whether all was well, and what was said.
fn send(hub: &Hub, output: &Path, more: &[&str], variables: &[(&str, &str)]) -> (bool, String) {
    let home: TempDir = tempdir().unwrap();
    let model = small_model();
    let mut command = model.train(&["--max-steps", "2", "--push-to-hub", NEW, "--output", text(output)]);
    for name in ["HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home.path()).env("HF_ENDPOINT", &hub.url).env("HF_TOKEN", "hf_secret");
    let done = command.args(more).envs(variables.iter().copied()).output().unwrap();
    (done.status.success(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
}

fn expect_sent(hub: &Hub, output: &Path) {
    let pushed = hub.pushed().unwrap();
    assert!(pushed.keys().eq(FILES), "{:?}", pushed.keys());
    pushed.iter().for_each(|(name, bytes)| assert!(fs::read(output.join(name)).unwrap() == *bytes, "{name}"));
}

#[test]
fn an_adapter_is_sent_when_the_run_has_ended() {
    let (hub, folder) = (hub(), tempdir().unwrap());
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    // Once it breaks off.
    hub.fail(&[Fault::BreakOff(1000)]);
    let (done, said) = send(&hub, &first, &[], &[]);
    assert!(done && said.contains(&format!("sent to {}/{NEW}/tree/{COMMIT}", hub.url)), "{said}");
    expect_sent(&hub, &first);
    for request in hub.seen() {
        let token = (!request.path.starts_with("/store/")).then_some("Bearer hf_secret");
        assert_eq!(request.token.as_deref(), token, "{}", request.path);
    }

    // What is there stays, and nobody trains for nothing.
    let (done, said) = send(&hub, &second, &["--seed", "1"], &[]);
    assert!(!done && said.contains("has adapter_config.json, adapter_model.safetensors"), "{said}");
    assert!(said.contains("--overwrite") && !second.exists(), "{said}");
    let (done, said) = send(&hub, &second, &["--seed", "1", "--overwrite"], &[]);
    assert!(done, "{said}");
    expect_sent(&hub, &second);
    assert_ne!(fs::read(first.join(FILES[2])).unwrap(), fs::read(second.join(FILES[2])).unwrap());
}

#[test]
fn an_adapter_that_cannot_be_sent_is_saved() {
    let (hub, folder) = (hub(), tempdir().unwrap());
    let output = folder.path().join("adapter");
    hub.fail(&[Fault::BreakOff(1000); 5]);
    let (done, said) = send(&hub, &output, &[], &[]);
    assert!(!done && !said.contains("panicked"), "{said}");
    assert!(said.contains("adapter saved in") && said.contains("the adapter is in `"), "{said}");
    assert!(FILES.iter().all(|name| output.join(name).exists()));
    // Of what was begun there is nothing to be seen.
    assert!(hub.pushed().unwrap().is_empty());
}

#[test]
fn what_cannot_be_sent_is_told_before_the_first_step() {
    let (hub, folder) = (hub(), tempdir().unwrap());
    let output = folder.path().join("adapter");
    let refused = |more: &[&str], variables: &[(&str, &str)], wanted: &str| {
        let (done, said) = send(&hub, &output, more, variables);
        assert!(!done && said.contains(wanted) && !output.exists(), "{said}");
    };
    refused(&[], &[("HF_TOKEN", "")], "set HF_TOKEN");
    refused(&[], &[("HF_TOKEN", "hf_other")], "the token does not open it");
    refused(&[], &[("HF_HUB_OFFLINE", "1")], "HF_HUB_OFFLINE is set");
    refused(&["--push-to-hub", "Town/New@v1"], &[], "a name there is OWNER/NAME");
}
