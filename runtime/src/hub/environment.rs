//! What the environment says of the hub.

use std::env;
use std::fs;
use std::path::PathBuf;

const ENDPOINT: &str = "https://huggingface.co";

/// Where the hub and its cache are, by the variables that `huggingface_hub` reads. `Debug` leaves out the token.
#[derive(Clone)]
pub struct Environment {
    /// The cache: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, which is `~/.cache/huggingface` where nothing is said.
    pub cache: PathBuf,
    /// The hub, or a mirror: `HF_ENDPOINT`.
    pub endpoint: String,
    /// Whether the network is left alone: `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// What lets one see what not everybody may: `HF_TOKEN`, or what `hf auth login` wrote.
    pub(crate) token: Option<String>,
}

impl Environment {
    /// That of this process.
    pub fn read() -> Self {
        let home = home();
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').to_owned();
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(on);
        let written = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            fs::read_to_string(file).ok()
        };
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(written);
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Environment { cache, endpoint, offline, token }
    }

    /// Whether there is a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }
}

fn home() -> PathBuf {
    let caches = || path("XDG_CACHE_HOME").unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cache"));
    path("HF_HOME").unwrap_or_else(|| caches().join("huggingface"))
}

/// Variables that are empty say nothing.
fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn on(name: &str) -> bool {
    text(name).is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()))
}
