//! Replaced by the build helper.
fn main() {
    let out = std::env::var("OUT_DIR").unwrap();
    std::fs::write(format!("{out}/kernels.rs"), "pub(super) const FATBINS: &[(&str, &[u8])] = &[];\n").unwrap();
}
