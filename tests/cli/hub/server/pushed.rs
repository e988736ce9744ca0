//! The repository that can be written.

use super::{COMMIT, NEW, Request, hash, head, is_large, whole};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What was sent.
#[derive(Default)]
pub struct Pushed {
    /// None before the repository is made.
    pub files: Option<BTreeMap<String, Vec<u8>>>,
    /// Large files by their hashes.
    store: BTreeMap<String, Vec<u8>>,
}

fn answered(value: Value) -> Option<Vec<u8>> {
    Some(whole(value.to_string().as_bytes()))
}

impl Pushed {
    /// Of requests that are for this repository.
    pub fn answer(&mut self, request: &Request, port: u16) -> Option<Vec<u8>> {
        let path = request.path.as_str();
        if let ("PUT", Some(oid)) = (request.method.as_str(), path.strip_prefix("/store/")) {
            assert_eq!((hash(".bin", &request.body), request.token.as_deref()), (oid.to_owned(), None));
            self.store.insert(oid.into(), request.body.clone());
            return Some(whole(b""));
        }
        let body = || serde_json::from_slice::<Value>(&request.body).unwrap();
        let api = path.strip_prefix(&format!("/api/models/{NEW}/"));
        match (path, api) {
            ("/api/repos/create", _) => {
                let wanted = json!({"name": "New", "organization": "Town", "type": "model", "visibility": "private"});
                assert!(self.files.is_none() && body() == wanted);
                self.files = Some(BTreeMap::new());
                answered(json!({"url": path}))
            }
            (_, Some("revision/main?blobs=true")) => {
                let names = self.files.as_ref()?.keys();
                let siblings: Vec<_> = names.map(|name| json!({"rfilename": name})).collect();
                answered(json!({"sha": COMMIT, "siblings": siblings}))
            }
            (_, Some("preupload/main")) => {
                let mode = |file: &Value| {
                    let name = file["path"].as_str().unwrap();
                    json!({"path": name, "uploadMode": if is_large(name) { "lfs" } else { "regular" }, "shouldIgnore": false})
                };
                answered(json!({"files": body()["files"].as_array().unwrap().iter().map(mode).collect::<Vec<_>>()}))
            }
            (_, Some("commit/main")) => Some(self.commit(&request.body)),
            _ if path == format!("/{NEW}.git/info/lfs/objects/batch") => {
                let object = |object: &Value| {
                    let oid = object["oid"].as_str().unwrap();
                    let href = format!("http://localhost:{port}/store/{oid}");
                    let there = self.store.contains_key(oid);
                    let actions = if there { Value::Null } else { json!({"upload": {"href": href}}) };
                    json!({"oid": oid, "size": object["size"], "actions": actions})
                };
                answered(
                    json!({"objects": body()["objects"].as_array().unwrap().iter().map(object).collect::<Vec<_>>()}),
                )
            }
            _ => None,
        }
    }

    fn commit(&mut self, body: &[u8]) -> Vec<u8> {
        let lines = std::str::from_utf8(body).unwrap().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let files = self.files.as_mut().unwrap();
        for line in lines {
            let (value, name) = (&line["value"], line["value"]["path"].as_str().unwrap_or_default().to_owned());
            match line["key"].as_str().unwrap() {
                "header" if value["parentCommit"].as_str().is_some_and(|parent| parent != COMMIT) => {
                    return head("412 Precondition Failed", &["X-Error-Message: A commit has happened since"], 0);
                }
                "header" => {}
                "lfsFile" => drop(files.insert(name, self.store[value["oid"].as_str().unwrap()].clone())),
                _ => drop(files.insert(name, decoded(value["content"].as_str().unwrap()))),
            }
        }
        whole(json!({"commitOid": COMMIT, "commitUrl": ""}).to_string().as_bytes())
    }
}

/// Base64.
fn decoded(text: &str) -> Vec<u8> {
    let six = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let word = four.iter().fold(0_u32, |word, &c| word << 6 | u32::from(six(c))) << (6 * (4 - four.len()));
        bytes.extend(&word.to_be_bytes()[1..four.len()]);
    }
    bytes
}
