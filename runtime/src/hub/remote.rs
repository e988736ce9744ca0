//! Requests to the hub.

use super::environment::Environment;
use super::name::{Name, is_word};
use serde::Deserialize;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, header};
use ureq::{Agent, Body};

/// For a connection, and between two pieces of what comes.
const SILENCE: Duration = Duration::from_secs(30);

/// A repository on the hub.
pub(super) struct Remote<'a> {
    agent: Agent,
    name: &'a Name,
    environment: &'a Environment,
}

/// Why a request came to nothing.
pub(super) struct Failed {
    pub reason: String,
    /// Whether the next one may do better.
    pub passing: bool,
}

/// What a revision is.
#[derive(Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub sha: String,
    siblings: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// A file of a revision.
#[derive(Clone)]
pub(super) struct File {
    pub name: String,
    pub bytes: u64,
    pub hash: Hash,
}

/// What its bytes must hash to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Hash {
    /// Of a large file.
    Sha256(String),
    /// Of others: what git calls a blob.
    Git(String),
}

impl<'a> Remote<'a> {
    pub fn new(name: &'a Name, environment: &'a Environment) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .accept_encoding("identity")
            .user_agent(concat!("halfbyte/", env!("CARGO_PKG_VERSION")));
        Remote { agent: config.build().new_agent(), name, environment }
    }

    /// The files of a revision, with their hashes.
    pub fn listing(&self) -> Result<Listing, String> {
        let Environment { endpoint, .. } = self.environment;
        let revision = self.name.revision.replace('/', "%2F");
        let url = format!("{endpoint}/api/models/{}/revision/{revision}?blobs=true", self.name.repo());
        let text = self.get(&url, 0).and_then(|mut found| found.body_mut().read_to_string().map_err(passing(&url)));
        let text = text.map_err(|failed| failed.reason)?;
        let listing: Listing =
            serde_json::from_str(&text).map_err(|e| format!("{url} answers what is no list: {e}"))?;
        if is_word(&listing.sha) {
            Ok(listing)
        } else {
            Err(format!("{url} says that the commit is {:?}", listing.sha))
        }
    }

    /// A file from a byte on.
    pub fn file(&self, commit: &str, file: &File, from: u64) -> Result<Response<Body>, Failed> {
        let Environment { endpoint, .. } = self.environment;
        self.get(&format!("{endpoint}/{}/resolve/{commit}/{}", self.name.repo(), file.name), from)
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, Failed> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.environment.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = request.call().map_err(passing(url))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(url, &response)) }
    }

    fn refused(&self, url: &str, response: &Response<Body>) -> Failed {
        let status = response.status();
        let said = response.headers().get("x-error-message").and_then(|text| text.to_str().ok());
        let said = said.map_or_else(String::new, |text| format!(" ({text})"));
        let Environment { endpoint, token, .. } = self.environment;
        let token = if token.is_some() { "the token does not open it" } else { "HF_TOKEN is not set" };
        let advice = match status.as_u16() {
            401 | 403 => format!(
                "; there is none of this name, or {token}, or its terms at {endpoint}/{} are not accepted",
                self.name.repo()
            ),
            404 => format!("; there is none of this name with a revision {}", self.name.revision),
            _ => String::new(),
        };
        let passing = status.is_server_error() || [408, 416, 429].contains(&status.as_u16());
        Failed { reason: format!("{url} answers {status}{said}{advice}"), passing }
    }
}

fn passing(url: &str) -> impl Fn(ureq::Error) -> Failed {
    move |e| Failed { reason: format!("{url}: {e}"), passing: true }
}

impl Listing {
    /// The file of this name.
    ///
    /// # Errors
    /// It can not be known whether it comes whole.
    pub fn file(&self, name: &str) -> Result<Option<File>, String> {
        let Some(listed) = self.siblings.iter().find(|listed| listed.rfilename == name) else { return Ok(None) };
        let found = match listed {
            Listed { lfs: Some(Lfs { sha256, size }), .. } => Some((Hash::Sha256(sha256.clone()), *size)),
            Listed { blob_id: Some(id), size: Some(size), .. } => Some((Hash::Git(id.clone()), *size)),
            _ => None,
        };
        let found = found.filter(|(hash, _)| is_word(hash.text()));
        let (hash, bytes) = found.ok_or_else(|| format!("the hub does not say the size and the hash of {name}"))?;
        Ok(Some(File { name: name.to_owned(), bytes, hash }))
    }
}

impl Hash {
    pub fn text(&self) -> &str {
        let (Hash::Sha256(text) | Hash::Git(text)) = self;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_hash_that_can_be_trusted_is_refused() {
        let listing = r#"{"sha": "c", "siblings": [{"rfilename": "a", "size": 1, "blobId": "../a"}, {"rfilename": "b"},
            {"rfilename": "c", "size": 1, "blobId": "0f"}, {"rfilename": "d", "lfs": {"sha256": "/d", "size": 1}}]}"#;
        let listing: Listing = serde_json::from_str(listing).unwrap();
        let hash = |name| listing.file(name).map(|file| file.map(|file| file.hash));
        assert_eq!(hash("c"), Ok(Some(Hash::Git("0f".into()))));
        assert_eq!(hash("e"), Ok(None));
        for name in ["a", "b", "d"] {
            assert!(hash(name).unwrap_err().contains(name));
        }
    }
}
