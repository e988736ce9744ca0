//! Models and adapters by their names on the hub, which is one on this machine.
mod push;
mod server;

use crate::{halfbyte, model, root, text};
use halfbyte_runtime::checkpoint::{Checkpoint, CheckpointWriter, Tensor};
use server::{COMMIT, Fault, Hub, REPO, Request, hash};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

/// A folder that programs run in, with the hub's cache in it.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Home(tempfile::tempdir().unwrap())
    }

    fn repo(&self) -> PathBuf {
        self.0.path().join("hf/hub/models--Town--Tiny-1.0")
    }

    fn blob(&self, hub: &Hub, name: &str) -> PathBuf {
        self.repo().join("blobs").join(hash(name, hub.file(name)))
    }

    /// Looks at a model without loading it, with these variables; gives what was said, and whether all was well.
    fn look(&self, arguments: &str, variables: &[(&str, &str)]) -> (bool, String) {
        let mut command = Command::new(halfbyte());
        command.args(["infer", "--check", "--raw"]).args(arguments.split_whitespace()).current_dir(self.0.path());
        for name in
            ["HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY"]
        {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.0.path().join("hf")).envs(variables.iter().copied());
        let done = command.output().unwrap();
        (done.status.success(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
    }

    fn sees(&self, arguments: &str, hub: &Hub) -> String {
        let (done, said) = self.look(arguments, &[("HF_ENDPOINT", &hub.url)]);
        assert!(done, "{said}");
        said
    }

    fn refuses(&self, arguments: &str, variables: &[(&str, &str)], wanted: &[&str]) {
        let (done, said) = self.look(arguments, variables);
        assert!(!done && !said.contains("panicked"), "{said}");
        wanted.iter().for_each(|wanted| assert!(said.contains(wanted), "it lacks {wanted:?}: {said}"));
    }
}

/// The embedded model as a repository, with what is not needed of one.
fn repository() -> TempDir {
    let folder = model();
    fs::write(folder.path().join("pytorch_model.bin"), "pickled").unwrap();
    folder
}

fn hub() -> Hub {
    Hub::of(repository().path(), None)
}

/// The ranges that were asked for of the weights.
fn ranges(seen: &[Request]) -> Vec<Option<&str>> {
    seen.iter().filter(|request| request.path.starts_with("/cdn/")).map(|request| request.range.as_deref()).collect()
}

#[test]
fn a_name_is_fetched_once_into_the_cache_that_python_has() {
    let (home, hub) = (Home::new(), hub());
    let said = home.sees(&format!("--model-name {REPO}"), &hub);
    assert!(said.contains(&hub.url) && said.contains("model.safetensors: 11.0 MiB"), "{said}");
    let seen = hub.seen();
    let unneeded = |request: &Request| request.path.contains("README") || request.path.contains(".bin");
    assert!(!seen.iter().any(unneeded), "{seen:?}");
    assert_eq!(ranges(&seen), [None]);
    assert_eq!(fs::read_to_string(home.repo().join("refs/main")).unwrap(), COMMIT);
    for name in ["config.json", "tokenizer.json", "generation_config.json", WEIGHTS] {
        let link = home.repo().join("snapshots").join(COMMIT).join(name);
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("../../blobs").join(hash(name, hub.file(name))));
        assert!(fs::read(&link).unwrap() == hub.file(name), "{name}");
    }
    home.sees(&format!("--model-name {REPO}"), &hub);
    assert_eq!(hub.seen(), [], "the cache has it all");
    let cache = home.0.path().join("hf/hub");
    let offline = [("HF_HUB_OFFLINE", "1"), ("HF_HOME", "/nowhere"), ("HF_HUB_CACHE", text(&cache))];
    let (done, said) = home.look(&format!("--model-name {REPO}@{COMMIT}"), &offline);
    assert!(done, "{said}");
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let (home, hub) = (Home::new(), hub());
    let incomplete = home.repo().join("blobs").join(format!("{}.incomplete", hash(WEIGHTS, hub.file(WEIGHTS))));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, &hub.file(WEIGHTS)[..1_000_000]).unwrap();
    hub.fail(&[Fault::BreakOff(2_000_000), Fault::BreakOff(1_000_000)]);
    home.sees(&format!("--model-name {REPO}"), &hub);
    let parts = [Some("bytes=1000000-"), Some("bytes=2000000-"), Some("bytes=4000000-")];
    assert_eq!(ranges(&hub.seen()), parts);
    assert!(fs::read(home.blob(&hub, WEIGHTS)).unwrap() == hub.file(WEIGHTS) && !incomplete.exists());
}

#[test]
fn a_server_that_knows_no_ranges_begins_again() {
    let (home, hub) = (Home::new(), hub());
    hub.fail(&[Fault::Whole, Fault::BreakOff(5_000_000)]);
    home.sees(&format!("--model-name {REPO}"), &hub);
    assert_eq!(ranges(&hub.seen()), [None, Some("bytes=5000000-")]);
    assert!(fs::read(home.blob(&hub, WEIGHTS)).unwrap() == hub.file(WEIGHTS));
}

#[test]
fn a_body_that_comes_damaged_is_fetched_again_and_never_used() {
    let (home, hub) = (Home::new(), hub());
    hub.fail(&[Fault::Corrupt, Fault::Corrupt]);
    home.refuses(
        &format!("--model-name {REPO}"),
        &[("HF_ENDPOINT", &hub.url)],
        &["model.safetensors comes damaged", "hash"],
    );
    assert_eq!(ranges(&hub.seen()), [None, None]);
    assert!(!home.blob(&hub, WEIGHTS).exists() && !home.repo().join("refs/main").exists());
    hub.fail(&[Fault::Corrupt]);
    home.sees(&format!("--model-name {REPO}"), &hub);
    assert_eq!(ranges(&hub.seen()), [None, None]);
    assert!(fs::read(home.blob(&hub, WEIGHTS)).unwrap() == hub.file(WEIGHTS));
}

/// The hub goes away for good in the middle.
#[test]
fn what_has_come_is_kept_when_there_is_no_hope() {
    let (home, hub) = (Home::new(), hub());
    hub.fail(&[[Fault::BreakOff(0); 5].as_slice(), &[Fault::BreakOff(3_000_000)]].concat());
    let wanted = ["3000000 of", "goes on from there"];
    home.refuses(&format!("--model-name {REPO}"), &[("HF_ENDPOINT", &hub.url)], &wanted);
    hub.seen();
    home.sees(&format!("--model-name {REPO}"), &hub);
    assert_eq!(ranges(&hub.seen()), [Some("bytes=3000000-")]);
}

#[test]
fn a_token_goes_to_the_hub_and_to_nobody_else() {
    let (home, hub) = (Home::new(), Hub::of(repository().path(), Some("hf_secret")));
    let line = format!("--model-name {REPO}");
    home.refuses(&line, &[("HF_ENDPOINT", &hub.url)], &["401", "Invalid username", "HF_TOKEN is not set"]);
    let wrong = [("HF_ENDPOINT", hub.url.as_str()), ("HF_TOKEN", "hf_other")];
    home.refuses(&line, &wrong, &["401", "the token does not open it"]);
    hub.seen();
    fs::create_dir(home.0.path().join("hf")).unwrap();
    fs::write(home.0.path().join("hf/token"), "hf_secret\n").unwrap();
    home.sees(&line, &hub);
    for request in hub.seen() {
        let token = (!request.path.starts_with("/cdn/")).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(request.token, token, "{}", request.path);
    }
}

#[test]
fn a_name_that_is_nowhere_says_where_it_was_looked_for() {
    let (home, hub) = (Home::new(), hub());
    let here = [("HF_ENDPOINT", hub.url.as_str())];
    let none = ["`Town/None` is not here", "404", "Repository not found", &hub.url];
    home.refuses("--model-name Town/None", &here, &none);
    home.refuses(&format!("--model-name {REPO}@v2"), &here, &["404", "v2"]);
    home.refuses(&format!("--lora-path {REPO}"), &here, &["adapter_config.json"]);
    hub.seen();
    home.refuses("--model-name Tiny-1.0", &here, &["`Tiny-1.0` is not here", "OWNER/NAME"]);
    home.refuses("--model-name /Town/Tiny", &here, &["`/Town/Tiny` is not here"]);
    let offline = [("HF_ENDPOINT", hub.url.as_str()), ("HF_HUB_OFFLINE", "1")];
    home.refuses(&format!("--model-name {REPO}"), &offline, &["HF_HUB_OFFLINE", text(&home.0.path().join("hf/hub"))]);
    assert_eq!(hub.seen(), []);
    let nobody = [("HF_ENDPOINT", "http://127.0.0.1:9")];
    home.refuses(&format!("--model-name {REPO}"), &nobody, &["is not here", "http://127.0.0.1:9/api/models"]);
}

#[test]
fn a_folder_of_that_name_counts_first() {
    let (home, hub) = (Home::new(), hub());
    let folder = home.0.path().join(REPO);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    fs::rename(repository().keep(), &folder).unwrap();
    home.sees(&format!("--model-name {REPO}"), &hub);
    assert_eq!(hub.seen(), []);
}

/// Shards that an index names, of another revision than the usual one.
#[test]
fn a_revision_in_shards_is_fetched_by_its_index() {
    let (home, folder) = (Home::new(), repository());
    let files = Checkpoint::open(folder.path()).unwrap();
    fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
    let mut writer = CheckpointWriter::create(folder.path(), 4 << 20).unwrap();
    for tensor in files.names().map(|name| files.tensor(name).unwrap()) {
        writer.put(Tensor { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, data: tensor.data }).unwrap();
    }
    writer.finish().unwrap();
    let hub = Hub::of(folder.path(), None);
    home.sees(&format!("--model-name {REPO}@refs/pr/1"), &hub);
    assert_eq!(ranges(&hub.seen()), [None, None, None]);
    assert_eq!(fs::read_to_string(home.repo().join("refs/refs/pr/1")).unwrap(), COMMIT);
    home.sees(&format!("--model-name {REPO}@refs/pr/1"), &hub);
    assert_eq!(hub.seen(), []);
}

#[test]
fn an_adapter_has_a_name_too() {
    let (home, folder) = (Home::new(), tempfile::tempdir().unwrap());
    let made = Command::new(halfbyte())
        .args(["train", "--device", "cpu", "--max-steps", "1", "--batch-size", "2", "--lora-r", "2", "--output"])
        .args([text(folder.path()), "--data", text(&root().join("runtime/assets/town/heldout.jsonl"))])
        .status();
    assert!(made.unwrap().success());
    let hub = Hub::of(folder.path(), None);
    let said = home.sees(&format!("--model-name embedded --lora-path {REPO}"), &hub);
    assert!(said.contains("r 2"), "{said}");
    let paths: Vec<_> = hub.seen().into_iter().map(|request| request.path).collect();
    assert!(paths.len() == 4 && !paths.iter().any(|path| path.contains("metrics")), "{paths:?}");
}
