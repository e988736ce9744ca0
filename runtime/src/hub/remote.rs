//! Requests to the hub.

use super::environment::Environment;
use super::name::{Name, is_word};
use crate::json;
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, header};
use ureq::{Agent, Body, SendBody};

/// For a connection, and between two pieces of what comes.
const SILENCE: Duration = Duration::from_secs(30);

/// A repository on the hub.
pub(super) struct Remote<'a> {
    agent: Agent,
    pub name: &'a Name,
    environment: &'a Environment,
}

/// Why a request came to nothing.
pub(super) struct Failed {
    pub reason: String,
    /// Whether the next one may do better.
    pub passing: bool,
    /// Whether what was asked for is not there.
    missing: bool,
}

impl Failed {
    /// The next one will do no better.
    pub fn lasting(reason: String) -> Self {
        Failed { reason, passing: false, missing: false }
    }

    /// It may.
    pub fn passing(reason: String) -> Self {
        Failed { reason, passing: true, missing: false }
    }
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
            .timeout_per_write(Some(SILENCE))
            .accept_encoding("identity")
            .user_agent(concat!("halfbyte/", env!("CARGO_PKG_VERSION")));
        Remote { agent: config.build().new_agent(), name, environment }
    }

    /// The files of a revision, with their hashes.
    pub fn listing(&self) -> Result<Listing, String> {
        self.try_listing().map_err(|failed| failed.reason)
    }

    /// The same, or none where there is no such repository.
    pub fn listing_if_any(&self) -> Result<Option<Listing>, String> {
        match self.try_listing() {
            Err(failed) if failed.missing => Ok(None),
            listing => listing.map(Some).map_err(|failed| failed.reason),
        }
    }

    fn try_listing(&self) -> Result<Listing, Failed> {
        let Environment { endpoint, .. } = self.environment;
        let revision = self.name.revision.replace('/', "%2F");
        let url = format!("{endpoint}/api/models/{}/revision/{revision}?blobs=true", self.name.repo());
        let text = self.get(&url, 0)?.body_mut().read_to_string().map_err(passing(&url))?;
        let listing: Listing =
            serde_json::from_str(&text).map_err(|e| Failed::lasting(format!("{url} answers what is no list: {e}")))?;
        if is_word(&listing.sha) {
            Ok(listing)
        } else {
            Err(Failed::lasting(format!("{url} says that the commit is {:?}", listing.sha)))
        }
    }

    /// A path of the hub.
    pub fn address(&self, path: &str) -> String {
        format!("{}{path}", self.environment.endpoint)
    }

    /// Sends a text, and reads the JSON that is answered.
    pub fn ask(&self, url: &str, content_type: &str, body: &str) -> Result<Value, String> {
        let request = self.agent.post(url).header(header::CONTENT_TYPE, content_type);
        let request = request.header(header::ACCEPT, content_type).header(header::AUTHORIZATION, self.bearer());
        let mut response = request.send(body).map_err(|e| format!("{url}: {e}"))?;
        if !response.status().is_success() {
            return Err(self.refused(url, &response).reason);
        }
        let text = response.body_mut().read_to_string().map_err(|e| format!("{url}: {e}"))?;
        if text.is_empty() { Ok(Value::Null) } else { json::parse(text.as_bytes()).map_err(|e| format!("{url}: {e}")) }
    }

    /// Sends a file to where the hub said, which gets no token.
    pub fn put(&self, url: &str, file: &mut dyn Read, bytes: u64) -> Result<(), Failed> {
        let request = self.agent.put(url).header(header::CONTENT_LENGTH, bytes);
        let response = request.send(SendBody::from_reader(file)).map_err(passing(url))?;
        if response.status().is_success() { Ok(()) } else { Err(self.refused(url, &response)) }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.environment.token.as_deref().unwrap_or_default())
    }

    /// A file from a byte on.
    pub fn file(&self, commit: &str, file: &File, from: u64) -> Result<Response<Body>, Failed> {
        let Environment { endpoint, .. } = self.environment;
        self.get(&format!("{endpoint}/{}/resolve/{commit}/{}", self.name.repo(), file.name), from)
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, Failed> {
        let mut request = self.agent.get(url);
        if self.environment.has_token() {
            request = request.header(header::AUTHORIZATION, self.bearer());
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
        Failed { reason: format!("{url} answers {status}{said}{advice}"), passing, missing: status == 404 }
    }
}

fn passing(url: &str) -> impl Fn(ureq::Error) -> Failed {
    move |e| Failed::passing(format!("{url}: {e}"))
}

impl Listing {
    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.siblings.iter().any(|listed| listed.rfilename == name)
    }

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
