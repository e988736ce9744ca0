//! Changes to a file, by its structure or by bytes, as a function of a seed.

use halfbyte::rng::philox;
use serde_json::{Map, Value, json};

/// A changed file.
pub struct Mutant {
    pub bytes: Vec<u8>,
    /// Which of the seeds it was.
    pub origin: usize,
    /// The key at the top whose value was replaced by another, if that is all that was done.
    pub replaced: Option<String>,
    /// What was done, for people.
    pub what: String,
}

/// Random numbers of one mutant.
struct Random {
    seed: u64,
    count: u32,
}

impl Random {
    fn next(&mut self) -> usize {
        self.count += 1;
        philox([self.count, 0, 0, 0], self.seed)[0] as usize
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() % n.max(1)
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// The mutant of a seed. Of JSON, two of three are changed by structure.
pub fn mutant(seeds: &[Vec<u8>], seed: u64, json: bool) -> Mutant {
    let mut random = Random { seed, count: 0 };
    let origin = random.below(seeds.len());
    let original = &seeds[origin];
    if json
        && random.below(3) > 0
        && let Ok(value) = serde_json::from_slice::<Value>(original)
    {
        return structural(&mut random, origin, value);
    }
    let mut bytes = original.clone();
    let n = 1 + random.below(4);
    let what: Vec<_> = (0..n).map(|_| change_bytes(&mut random, &mut bytes, seeds)).collect();
    Mutant { bytes, origin, replaced: None, what: what.join(", ") }
}

fn change_bytes(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) -> String {
    let at = random.below(bytes.len() + 1);
    match random.below(7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = *random.of(&[0, b'"', b'{', b'}', b'[', b',', b'9', b'\\', 0x7F, 0xFF]),
        2 => bytes.insert(at, random.next() as u8),
        3 => drop(bytes.drain(at..bytes.len().min(at + 1 + random.below(16)))),
        4 => bytes.truncate(at),
        5 => {
            let from = random.of(seeds);
            let start = random.below(from.len());
            let piece: Vec<u8> = from[start..from.len().min(start + 1 + random.below(64))].to_vec();
            drop(bytes.splice(at..at, piece));
        }
        // Numbers of headers: eight bytes at once.
        _ => {
            let number = *random.of(&[0, 1, 7, 8, 1 << 31, 1 << 32, 1 << 62, u64::MAX, u64::MAX - 7]);
            let at = if random.below(2) == 0 { 0 } else { at };
            bytes.iter_mut().skip(at).zip(number.to_le_bytes()).for_each(|(byte, new)| *byte = new);
        }
    }
    format!("bytes at {at}")
}

/// Every container in a value, by its path.
fn paths(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut inside = |key: String, value: &Value| {
        path.push(key);
        found.push(path.clone());
        paths(value, path, found);
        path.pop();
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| inside(key.clone(), value)),
        Value::Array(items) => items.iter().take(8).enumerate().for_each(|(i, value)| inside(i.to_string(), value)),
        _ => {}
    }
}

fn structural(random: &mut Random, origin: usize, mut value: Value) -> Mutant {
    let mut found = Vec::new();
    paths(&value, &mut Vec::new(), &mut found);
    let path = if found.is_empty() { Vec::new() } else { random.of(&found).clone() };
    let (kind, new) = (random.below(5), edge(random));
    let pointer: String = path.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect();
    let what = format!("{pointer} ({})", ["replaced", "replaced", "removed", "renamed", "wrapped"][kind]);
    let mut replaced = None;
    match (kind, path.split_last()) {
        (2 | 3, Some((key, _))) => {
            let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
            match value.pointer_mut(parent) {
                Some(Value::Object(map)) => {
                    let old = map.shift_remove(key);
                    if let (3, Some(old)) = (kind, old) {
                        map.insert(format!("{key}x"), old);
                    }
                }
                Some(Value::Array(items)) => drop(items.pop()),
                _ => {}
            }
        }
        (4, _) => {
            if let Some(inner) = value.pointer_mut(&pointer) {
                *inner = json!([inner.take()]);
            }
        }
        _ => {
            if let Some(inner) = value.pointer_mut(&pointer)
                && !is_same(inner, &new)
                // Null is the default, which may be the value that was there.
                && !new.is_null()
                && !(is_unset(inner) && is_unset(&new))
            {
                *inner = new;
                replaced = path.first().cloned();
            }
        }
    }
    Mutant { bytes: value.to_string().into_bytes(), origin, replaced, what }
}

/// Whether two values mean the same: 0 is 0.0.
fn is_same(a: &Value, b: &Value) -> bool {
    a == b || a.is_number() && a.as_f64() == b.as_f64()
}

/// What means the same as null.
fn is_unset(value: &Value) -> bool {
    let empty = |n: usize| n == 0;
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => empty(text.len()),
        Value::Array(items) => empty(items.len()),
        Value::Object(map) => empty(map.len()),
        _ => false,
    }
}

/// Values at the edges of what is expected.
fn edge(random: &mut Random) -> Value {
    match random.below(16) {
        0 => json!(0),
        1 => json!(1),
        2 => json!(-1),
        3 => json!(3),
        4 => json!(u64::MAX),
        5 => json!(1_u64 << 40),
        6 => json!(1e308),
        7 => json!(0.5),
        8 => json!(-0.0),
        9 => json!(true),
        10 => json!(false),
        11 => json!(""),
        12 => json!("x".repeat(random.below(3000))),
        13 => json!([]),
        14 => Value::Object(Map::new()),
        _ => deep(random.below(200)),
    }
}

fn deep(levels: usize) -> Value {
    (0..levels).fold(Value::Null, |inner, _| json!([inner]))
}
