//! What a run was, for people: `report.html` and `loss.svg`, made of its metrics alone, and a model card for its adapter.
//! Each is replaced as long as nobody has changed it.

mod card;
mod chart;
mod history;
mod page;
mod signed;

use crate::{
    error::{Error, Result},
    files::{self, Staged},
    lora::LoraConfig,
};
use chart::STYLE;
use history::{History, find};
use minijinja::{Environment, value::Serde};
use page::{Page, loss_chart};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The page, which needs no network and no scripts.
pub const REPORT: &str = "report.html";
/// The loss over the steps, for a README.
pub const CURVE: &str = "loss.svg";
/// The model card.
pub const CARD: &str = "README.md";

/// Makes the report and the curve of a training run in its folder: of one that is under way or was killed, too.
///
/// # Errors
/// The folder has no metrics, somebody changed a file that would be replaced, or it cannot be written.
pub fn write(dir: &Path) -> Result<[PathBuf; 2]> {
    let metrics = files::read_to_string(&find(dir)?)?;
    let texts = page_and_curve(dir, &metrics)?;
    let names = texts.each_ref().map(|(name, _)| *name);
    if let Some(path) = not_ours(dir).into_iter().find(|path| names.iter().any(|name| path.ends_with(name))) {
        let hint = "it was not made by halfbyte, or was changed since; give it another name";
        return Err(Error::io("replace", &path)(std::io::Error::new(std::io::ErrorKind::AlreadyExists, hint)));
    }
    for (name, text) in &texts {
        files::write_bytes(&dir.join(name), text.as_bytes())?;
    }
    Ok(names.map(|name| dir.join(name)))
}

/// Report, curve and card of a run with an adapter of this configuration, but for those that are somebody's own.
pub(crate) fn stage(dir: &Path, metrics: &str, lora: &LoraConfig) -> Result<Vec<Staged>> {
    let own = not_ours(dir);
    let [page, curve] = page_and_curve(dir, metrics)?;
    let card = (CARD, card::card(&folder_name(dir), &History::parse(metrics), lora, !own.contains(&dir.join(CURVE)))?);
    let texts = [page, curve, card].map(|(name, text)| (dir.join(name), text)).into_iter();
    let stage = |(path, text): (PathBuf, String)| {
        files::stage(&path, |w| w.write_all(text.as_bytes()).map_err(Error::io("write", &path)))
    };
    texts.filter(|(path, _)| !own.contains(path)).map(stage).collect()
}

/// Those of the files that are there and that nobody may replace.
pub(crate) fn not_ours(dir: &Path) -> Vec<PathBuf> {
    let all = [REPORT, CURVE, CARD].map(|name| dir.join(name)).into_iter();
    // What cannot be read is not known to be ours.
    let own = |path: &Path| fs::read_to_string(path).is_ok_and(|text| signed::is_own(&text));
    all.filter(|path| path.symlink_metadata().is_ok() && !own(path)).collect()
}

fn page_and_curve(dir: &Path, metrics: &str) -> Result<[(&'static str, String); 2]> {
    let history = History::parse(metrics);
    let page = render("report.html", include_str!("page.html"), &Page::of(folder_name(dir), &history))?;
    let curve = loss_chart(&history).svg(800.0, 320.0, &format!("<style>{STYLE}</style>"));
    Ok([(REPORT, signed::sign(&page)), (CURVE, signed::sign(&curve))])
}

/// A template with its values; what goes into HTML is escaped.
fn render(name: &str, template: &str, values: &impl serde::Serialize) -> Result<String> {
    let environment = Environment::new();
    let rendered = environment.render_named_str(name, template, minijinja::Value::from(Serde(values)));
    rendered.map_err(|e| Error::Template { path: name.into(), reason: format!("{e:#}") })
}

/// What the folder is called.
fn folder_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    whole.file_name().map_or_else(|| whole.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"{"step":0,"run":{"version":"1","model":"m","total_steps":2,"settings":{"lora_r":8}},"eval_loss":4.0,"replies":[{"prompt":"<b>&","text":"a < b","stopped":true}]}
{"step":1,"loss":3.5,"lr":0.1}
{"step":2,"loss":2.5,"lr":0.1}
{"step":2,"eval_loss":2.0,"replies":[{"prompt":"<b>&","text":"</td><script>","stopped":false}]}
"#;

    #[test]
    fn a_page_escapes_what_models_write_and_needs_nothing_else() {
        let [(_, page), (_, curve)] = page_and_curve(Path::new("/tmp/<run>"), METRICS).unwrap();
        for wanted in [
            "&lt;run&gt;",
            "&lt;b&gt;&amp;",
            "a &lt; b",
            "finished: 2 steps",
            "4.000 → 2.000",
            "<code>lora_r</code> = 8",
        ] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
        for text in [&page, &curve] {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for bad in ["<script", "http:", "https:", "url(", "@import", "<link", "src="] {
                assert!(!text.contains(bad), "{bad}: {text}");
            }
        }
        assert!(curve.starts_with("<svg xmlns") && signed::is_own(&curve) && signed::is_own(&page));
    }

    #[test]
    fn a_report_is_made_anew_until_somebody_changes_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(dir.path()).unwrap_err().to_string();
        assert!(error.contains("has no metrics.jsonl"), "{error}");
        fs::write(dir.path().join("metrics.partial.jsonl"), METRICS).unwrap();
        for _ in 0..2 {
            write(dir.path()).unwrap();
        }
        fs::write(dir.path().join(CURVE), "<svg/>").unwrap();
        let error = write(dir.path()).unwrap_err().to_string();
        assert!(error.contains("loss.svg") && error.contains("another name"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join(CURVE)).unwrap(), "<svg/>");
    }
}
