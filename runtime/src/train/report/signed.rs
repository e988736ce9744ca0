//! Texts that are written anew until somebody makes them his own.

use sha2::{Digest, Sha256};

/// A comment of HTML, SVG and Markdown.
const BEGIN: &str = "<!-- halfbyte ";
const END: &str = " -->\n";

/// `text` with a last line by which [`is_own`] knows it.
pub fn sign(text: &str) -> String {
    let text = text.trim_end().to_owned() + "\n";
    let line = format!("{BEGIN}{}{END}", digest(&text));
    text + &line
}

/// Whether a text is as it was signed, byte by byte.
pub fn is_own(text: &str) -> bool {
    let Some((text, signature)) = text.rsplit_once(BEGIN) else { return false };
    signature.strip_suffix(END) == Some(digest(text).as_str())
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_makes_a_text_somebody_elses() {
        let signed = sign("# A model\n\nof mine\n\n\n");
        assert!(is_own(&signed) && signed.starts_with("# A model\n\nof mine\n<!-- halfbyte "), "{signed}");
        for edited in [signed.replace("mine", "ours"), signed.clone() + "x", signed[1..].into(), "# A model".into()] {
            assert!(!is_own(&edited), "{edited}");
        }
        assert!(is_own(&sign(&signed)), "one that has a signature inside");
    }
}
