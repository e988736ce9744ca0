//! Names on the hub.

/// `OWNER/NAME`, and which of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub owner: String,
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Name {
    /// None for what no repository can be called.
    pub fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = repo.split_once('/')?;
        let whole = is_word(owner) && is_word(name) && revision.split('/').all(is_word);
        whole.then(|| Name { owner: owner.into(), name: name.into(), revision: revision.into() })
    }

    pub fn repo(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

/// Nothing in it leads out of a folder, or means something in an address.
pub(super) fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let inside = text.chars().all(plain) && !text.contains("..") && !text.contains("--");
    inside && edge(text.chars().next()) && edge(text.chars().next_back()) && text.len() <= 96
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        let parsed = |text| Name::parse(text).map(|name| (name.repo(), name.revision));
        assert_eq!(parsed("Qwen/Qwen3-0.6B"), Some(("Qwen/Qwen3-0.6B".into(), "main".into())));
        assert_eq!(parsed("a_b/c.d@v1.0"), Some(("a_b/c.d".into(), "v1.0".into())));
        assert_eq!(parsed("a/b@refs/pr/1"), Some(("a/b".into(), "refs/pr/1".into())));
        let none = [
            "Qwen3", "/a/b", "./a", "a/", "../a", "a/..", "a/b/c", "~/a", "a/b@", "a/b@/x", "a/b@../x", "a/b@x/",
            "a b/c", "a/b?c", "a--b/c", "a\\b/c", "", "@", "a/b@c@d",
        ];
        none.iter().for_each(|text| assert_eq!(parsed(text), None, "{text}"));
        assert_eq!(parsed(&format!("a/{}", "x".repeat(97))), None);
    }
}
