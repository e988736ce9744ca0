//! A file imports a name from the file that defines it, or through the door of another folder, and not through a module
//! above it that merely hands it on. So `lib.rs` and each `mod.rs` stand on top of what they hand out.

use super::{File, assert_none, checkout};

/// What follows `path` in each place where it stands: a name, or those of a list in braces, without what follows them.
fn names_after<'a>(text: &'a str, path: &str) -> Vec<&'a str> {
    let after = text.match_indices(path).map(|(at, _)| &text[at + path.len()..]);
    after.flat_map(|rest| rest.strip_prefix('{').map_or(vec![first_name(rest)], list)).collect()
}

fn first_name(text: &str) -> &str {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The first name of each entry of a list, up to the brace that closes it.
fn list(text: &str) -> Vec<&str> {
    let (mut names, mut depth) = (vec![first_name(text)], 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(first_name(&text[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The file of the module above; none for what lies outside of a library.
fn parent<'a>(files: &'a [File], path: &str) -> Option<&'a File> {
    let (folder, name) = path.rsplit_once('/')?;
    let folder = if name == "mod.rs" { folder.rsplit_once('/')?.0 } else { folder };
    let homes = [format!("{folder}/lib.rs"), format!("{folder}/mod.rs"), format!("{folder}.rs")];
    files.iter().find(|f| homes.contains(&f.path))
}

/// All names in the `use` lines of a file that hand on what is defined elsewhere.
fn handed_on(text: &str) -> Vec<&str> {
    let starts = ["\nuse ", "\npub use ", "\npub(crate) use ", "\npub(super) use "];
    let statements =
        starts.iter().flat_map(|start| text.match_indices(start).map(|(at, start)| &text[at + start.len()..]));
    let statements =
        statements.map(|rest| rest.split(';').next().unwrap_or_default()).filter(|path| path.contains("::"));
    statements.flat_map(|list| list.split(|c: char| !c.is_alphanumeric() && c != '_')).collect()
}

/// Names that a file of a library takes from a module above it that does not define them.
fn through_a_parent(files: &[File]) -> Vec<String> {
    let inside = |f: &&File| ["src/", "runtime/src/"].iter().any(|l| f.path.starts_with(l)) && f.path.ends_with(".rs");
    let mut problems = Vec::new();
    for file in files.iter().filter(inside) {
        let from_root =
            names_after(&file.text, "crate::").into_iter().filter(|name| name.starts_with(char::is_uppercase));
        problems.extend(from_root.map(|name| format!("{}: crate::{name}; name the file that defines it", file.path)));
        let Some(above) = parent(files, &file.path) else { continue };
        let declared = |name: &str| above.text.contains(&format!("mod {name};"));
        let taken = names_after(&file.text, "\nuse super::").into_iter().filter(|name| !declared(name));
        let given = handed_on(&above.text);
        let taken = taken.filter(|name| given.contains(name));
        problems.extend(taken.map(|name| format!("{}: super::{name}, which {} hands on", file.path, above.path)));
    }
    problems
}

#[test]
fn names_come_from_where_they_are_defined() {
    assert_none(&through_a_parent(&checkout()));
}

#[test]
fn a_name_that_is_handed_on_is_found() {
    let mut files = vec![
        File::new("src/lib.rs", "mod a;\npub use a::A;\n"),
        File::new("src/a/mod.rs", "//! A.\nmod b;\nmod c;\npub use b::{A, b};\nuse c::c;\npub fn own() {}\n"),
        File::new(
            "src/a/b.rs",
            "\nuse super::{\n    c::{Has, c},\n    own,\n};\nuse crate::{\n    a::{A, b},\n    d,\n};\n",
        ),
        File::new("src/main.rs", "use halfbyte::A;\nmod tests {\n    use super::A;\n}"),
    ];
    assert_none(&through_a_parent(&files));
    files[2].text = "\nuse super::{A, c};\nuse crate::{\n    A,\n    a::b,\n};\n/// [`crate::A`]\n".into();
    let problem = "src/a/b.rs: crate::A; name the file that defines it";
    assert_eq!(through_a_parent(&files), [problem, problem, "src/a/b.rs: super::A, which src/a/mod.rs hands on"]);
}
