//! A hub on this machine: one repository, another that can be written, and what may go wrong on the way.

use sha1::Sha1;
use sha2::{Digest, Sha256};
mod pushed;

use pushed::Pushed;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

pub const REPO: &str = "Town/Tiny-1.0";
/// The one that can be written.
pub const NEW: &str = "Town/New";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What becomes of the next answer that has a large file.
#[derive(Clone, Copy)]
pub enum Fault {
    /// The connection ends after so many bytes.
    BreakOff(usize),
    /// A byte is another one.
    Corrupt,
    /// The whole file comes, whatever part was asked for.
    Whole,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
    pub body: Vec<u8>,
}

pub struct Hub {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    port: u16,
    files: BTreeMap<String, Vec<u8>>,
    /// What a request must have.
    token: Option<String>,
    seen: Mutex<Vec<Request>>,
    faults: Mutex<Vec<Fault>>,
    pushed: Mutex<Pushed>,
}

impl Hub {
    /// With the files of a folder, whom a token opens if there is one.
    pub fn of(folder: &Path, token: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        let files = fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap())).collect();
        let token = token.map(|token| format!("Bearer {token}"));
        let shared = Arc::new(Shared {
            port,
            files,
            token,
            seen: Mutex::default(),
            faults: Mutex::default(),
            pushed: Mutex::default(),
        });
        let served = shared.clone();
        thread::spawn(move || listener.incoming().for_each(|stream| served.answer(stream.unwrap())));
        Hub { url: format!("http://127.0.0.1:{port}"), shared }
    }

    /// The last first.
    pub fn fail(&self, faults: &[Fault]) {
        *self.shared.faults.lock().unwrap() = faults.to_vec();
    }

    /// The requests since this was last asked.
    pub fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }

    pub fn file(&self, name: &str) -> &[u8] {
        &self.shared.files[name]
    }

    /// What the repository that can be written has.
    pub fn pushed(&self) -> Option<BTreeMap<String, Vec<u8>>> {
        self.shared.pushed.lock().unwrap().files.clone()
    }
}

/// As git and the hub name a file.
pub fn hash(name: &str, bytes: &[u8]) -> String {
    let hex = |hash: &[u8]| hash.iter().map(|byte| format!("{byte:02x}")).collect();
    if is_large(name) {
        return hex(&Sha256::digest(bytes));
    }
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let lines: Vec<String> =
            reader.by_ref().lines().map(|line| line.unwrap()).take_while(|line| !line.is_empty()).collect();
        let value = |name: &str| {
            let named = |line: &&String| line.to_lowercase().starts_with(&format!("{name}:"));
            lines.iter().find(named).map(|line| line[name.len() + 1..].trim().to_owned())
        };
        let (method, path) = lines[0].rsplit_once(' ').unwrap().0.split_once(' ').unwrap();
        let mut body = vec![0; value("content-length").map_or(0, |length| length.parse().unwrap())];
        let fault = if method == "PUT" { self.faults.lock().unwrap().pop() } else { None };
        if let Some(Fault::BreakOff(after)) = fault {
            let _ = reader.read_exact(&mut body[..after]);
            return;
        }
        reader.read_exact(&mut body).unwrap();
        let (range, token) = (value("range"), value("authorization"));
        let request = Request { method: method.into(), path: path.into(), range, token, body };
        self.seen.lock().unwrap().push(request.clone());
        // Whoever asked may be gone.
        let _ = stream.write_all(&self.bytes(&request));
    }

    fn bytes(&self, request: &Request) -> Vec<u8> {
        let of_cdn = request.path.strip_prefix("/cdn/");
        let resolved = request.path.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/"));
        let of_store = request.path.starts_with("/store/");
        if of_cdn.is_none() && !of_store && self.token.is_some() && self.token != request.token {
            return head("401 Unauthorized", &["X-Error-Message: Invalid username or password."], 0);
        }
        if let Some(answer) = self.pushed.lock().unwrap().answer(request, self.port) {
            return answer;
        }
        let listing =
            ["main", "v1", "refs%2Fpr%2F1"].map(|name| format!("/api/models/{REPO}/revision/{name}?blobs=true"));
        match (of_cdn, resolved) {
            _ if listing.contains(&request.path) => whole(self.listing().as_bytes()),
            (Some(name), _) => self.large(&self.files[name], request),
            (_, Some(name)) if is_large(name) => {
                let to = format!("Location: http://localhost:{}/cdn/{name}", self.port);
                head("302 Found", &[&to], 0)
            }
            (_, Some(name)) if self.files.contains_key(name) => whole(&self.files[name]),
            _ => head("404 Not Found", &["X-Error-Message: Repository not found"], 0),
        }
    }

    fn listing(&self) -> String {
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            let mut file = serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": hash("", bytes)});
            if is_large(name) {
                file["lfs"] = serde_json::json!({"sha256": hash(name, bytes), "size": bytes.len(), "pointerSize": 135});
            }
            file
        };
        let siblings: Vec<_> = self.files.iter().map(sibling).collect();
        serde_json::json!({"id": REPO, "sha": COMMIT, "siblings": siblings, "tags": []}).to_string()
    }

    fn large(&self, bytes: &[u8], request: &Request) -> Vec<u8> {
        let from = request.range.as_ref().map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap());
        let from: usize = from.map_or(0, |from| from.parse().unwrap());
        let range = format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        let part = || [head("206 Partial Content", &[&range], bytes.len() - from), bytes[from..].to_vec()].concat();
        let mut answer = if from > 0 { part() } else { whole(bytes) };
        match self.faults.lock().unwrap().pop() {
            None => {}
            Some(Fault::BreakOff(after)) => answer.truncate(answer.len() - (bytes.len() - from) + after),
            Some(Fault::Corrupt) => *answer.last_mut().unwrap() ^= 1,
            Some(Fault::Whole) => answer = whole(bytes),
        }
        answer
    }
}

fn whole(bytes: &[u8]) -> Vec<u8> {
    [&head("200 OK", &[], bytes.len()), bytes].concat()
}

fn head(status: &str, headers: &[&str], length: usize) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n").into_bytes()
}
