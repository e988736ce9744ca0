//! Compiles each `kernels/<op>.cu` into one fatbin and writes `$OUT_DIR/kernels.rs`, which embeds them all.
//!
//! nvcc is looked for in `$NVCC`, `$CUDA_HOME/bin`, `$CUDA_PATH/bin`, `PATH`, `/usr/local/cuda/bin` and `.toolchain/` (what
//! `scripts/install-cuda-toolchain.sh` installs). Without it the crate builds for the CPU only, and says so.
//!
//! - `HALFBYTE_NO_CUDA=1`, or an empty `NVCC=`: no kernels, no warning.
//! - `HALFBYTE_CUDA_ARCHS=90a,80`: compile for these only (default: `80,86,89,90a,100,120`).
//!
//! A kernel whose sources, flags and compiler are those of the last build is not compiled again. What ptxas said of
//! registers and spills stands in `$OUT_DIR/<op>.ptxas.log`.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;
use std::{env, fs};

/// Ampere (A100; GeForce 30), Ada, Hopper with wgmma and TMA, Blackwell (B200; GeForce 50).
const ARCHS: &str = "80,86,89,90a,100,120";
/// The first release that knows sm_100 and sm_120.
const OLDEST_NVCC: (u32, u32) = (12, 8);
// A fatbin compressed for size is a fifth as large; drivers from 550.54 on (CUDA 12.4) read it.
const FLAGS: [&str; 7] =
    ["-fatbin", "-O3", "--std=c++17", "--expt-relaxed-constexpr", "-Xptxas", "-v", "-compress-mode=size"];
/// Everything in the environment that changes what nvcc makes.
const INPUTS: [&str; 8] = [
    "NVCC",
    "CUDA_HOME",
    "CUDA_PATH",
    "HALFBYTE_NO_CUDA",
    "HALFBYTE_CUDA_ARCHS",
    "NVCC_CCBIN",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
];

type Result<T> = std::result::Result<T, String>;

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=build.rs");
    for name in INPUTS {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(message) = build() {
        message.lines().for_each(|line| println!("cargo::error={line}"));
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    let Some(nvcc) = find_nvcc()? else { return embed(&out, &[], "", "") };
    if nvcc.path.is_file() {
        println!("cargo::rerun-if-changed={}", nvcc.path.display());
    }
    let archs = env::var("HALFBYTE_CUDA_ARCHS").ok().filter(|v| !v.is_empty()).unwrap_or(ARCHS.into());
    let mut flags: Vec<String> = FLAGS.map(String::from).into();
    flags.extend(targets(&archs)?);
    let kernels = kernels()?;
    compile_all(&nvcc, &flags, &kernels, &out)?;
    embed(&out, &kernels, &archs, &nvcc.version)
}

// ---------------------------------------------------------------------------------------------- finding nvcc

struct Nvcc {
    path: PathBuf,
    version: String,
}

fn find_nvcc() -> Result<Option<Nvcc>> {
    let no_cuda = env::var("HALFBYTE_NO_CUDA").is_ok_and(|v| !matches!(v.as_str(), "" | "0"));
    let chosen = env::var_os("NVCC");
    if no_cuda || chosen.as_ref().is_some_and(|v| v.is_empty()) {
        return Ok(None);
    }
    if let Some(path) = chosen {
        return check_version(path.into()).map(Some);
    }
    for path in candidates().into_iter().filter(|p| p.is_file()) {
        match check_version(path) {
            Ok(nvcc) => return Ok(Some(nvcc)),
            Err(why) => println!("cargo::warning={why}"),
        }
    }
    println!("cargo::rerun-if-env-changed=PATH");
    println!(
        "cargo::warning=nvcc was not found, so this build runs on the CPU only; \
         for the GPU run scripts/install-cuda-toolchain.sh or set CUDA_HOME (HALFBYTE_NO_CUDA=1 silences this)"
    );
    Ok(None)
}

/// Where nvcc may be when `$NVCC` does not say.
fn candidates() -> Vec<PathBuf> {
    let exe = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).filter(|v| !v.is_empty());
    let mut paths: Vec<PathBuf> = homes.map(|home| Path::new(&home).join("bin").join(&exe)).collect();
    let search = env::var_os("PATH").unwrap_or_default();
    paths.extend(env::split_paths(&search).map(|folder| folder.join(&exe)));
    // Where NVIDIA's installers put it, and PATH often lacks: `cargo install` would not even show the warning.
    paths.push(Path::new("/usr/local/cuda/bin").join(&exe));
    let checkout = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    paths.push(Path::new(&checkout).join(".toolchain/nvidia/cu13/bin").join(&exe));
    paths
}

fn check_version(path: PathBuf) -> Result<Nvcc> {
    let shown = path.display();
    let output =
        Command::new(&path).arg("--version").output().map_err(|e| format!("cannot run nvcc at {shown}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let version = text.split_once(", V").and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_default();
    let mut numbers = version.split('.').map_while(|n| n.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST_NVCC => Ok(Nvcc { version: version.to_string(), path }),
        (Some(major), Some(minor)) => Err(format!("nvcc at {shown} is {major}.{minor}; 12.8 or newer is needed")),
        _ => Err(format!("{shown} --version does not answer like nvcc does")),
    }
}

// ------------------------------------------------------------------------------------------------- compiling

/// `-gencode` for each architecture: a cubin each, and the PTX that those of the first and of the last come from, which
/// the driver compiles for GPUs that are not in the list. (PTX of an `a` architecture runs on no other, so it is left out.)
///
/// The cubins of a generation come from one PTX, that of its first in the list: the kernels do not ask for more, and
/// three cubins of linear4.cu take half of the time so.
fn targets(archs: &str) -> Result<Vec<String>> {
    let list: Vec<&str> = archs.split(',').map(str::trim).collect();
    let (mut flags, mut source) = (Vec::new(), None);
    for (i, arch) in list.iter().enumerate() {
        let name = arch.trim_end_matches(['a', 'f']);
        let Ok(number) = name.parse::<u32>() else {
            return Err(format!("HALFBYTE_CUDA_ARCHS has `{arch}`; expected a list such as `{ARCHS}`"));
        };
        let plain = name == *arch;
        source = source.filter(|&first| plain && first <= number && generation(first) == generation(number));
        let first = source.map_or(arch.to_string(), |first| first.to_string());
        let ptx = (i == 0 || i + 1 == list.len()) && plain;
        let code = if ptx { format!("[sm_{arch},compute_{first}]") } else { format!("sm_{arch}") };
        flags.push(format!("-gencode=arch=compute_{first},code={code}"));
        source = source.or(plain.then_some(number));
    }
    Ok(flags)
}

/// What has the same instructions, as far as kernels look: 8 for Ampere and Ada, 9 for Hopper, 10 for Blackwell.
fn generation(arch: u32) -> u32 {
    (arch / 10).min(10)
}

/// The names of `kernels/*.cu`, sorted.
fn kernels() -> Result<Vec<String>> {
    let entries = fs::read_dir("kernels").map_err(|e| format!("kernels/: {e}"))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut names: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_string()))
        .collect();
    names.sort();
    Ok(names)
}

/// Compiles what has changed, `NUM_JOBS` files at a time.
fn compile_all(nvcc: &Nvcc, flags: &[String], kernels: &[String], out: &Path) -> Result<()> {
    let mut todo = Vec::new();
    let more =
        INPUTS.iter().filter(|input| input.starts_with("NVCC_")).map(|input| env::var(input).unwrap_or_default());
    let flags_of_all = format!("{} {}", flags.join(" "), more.collect::<Vec<_>>().join(" "));
    for name in kernels {
        let key = format!("{} {flags_of_all}\n{}", nvcc.version, sources(name)?);
        if fs::read_to_string(out.join(format!("{name}.key"))).ok().as_ref() != Some(&key) {
            todo.push((name, key));
        }
    }
    // Long sources first, so that none is left to one core at the end.
    todo.sort_by_key(|(_, key)| Reverse(key.len()));
    let jobs: usize = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    // Few files for many cores (one kernel was edited): let nvcc take the architectures in parallel.
    let threads = format!("--threads={}", (jobs / todo.len().max(1)).max(1));
    let (queue, failures) = (Mutex::new(todo.into_iter()), Mutex::new(Vec::new()));
    let work = || {
        while let Some((name, key)) = queue.lock().ok().and_then(|mut q| q.next()) {
            let done = compile(nvcc, flags, &threads, name, out)
                .and_then(|()| write(&out.join(format!("{name}.key")), key.as_bytes()));
            if let (Err(message), Ok(mut list)) = (done, failures.lock()) {
                list.push(message);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().map_err(|e| e.to_string())?;
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// The text of `kernels/<name>.cu` and of every local header that it includes.
fn sources(name: &str) -> Result<String> {
    let (mut todo, mut seen, mut text) = (vec![format!("{name}.cu")], BTreeSet::new(), String::new());
    while let Some(file) = todo.pop() {
        if !seen.insert(file.clone()) {
            continue;
        }
        let path = Path::new("kernels").join(&file);
        let source = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let includes = source.lines().filter_map(|l| l.trim().strip_prefix("#include \"")?.strip_suffix('"'));
        todo.extend(includes.map(String::from));
        text += &source;
    }
    Ok(text)
}

fn compile(nvcc: &Nvcc, flags: &[String], threads: &str, name: &str, out: &Path) -> Result<()> {
    let (source, start) = (format!("kernels/{name}.cu"), Instant::now());
    let output = Command::new(&nvcc.path)
        .args(flags)
        .args([threads, &source, "-o"])
        .arg(out.join(format!("{name}.fatbin")))
        .output()
        .map_err(|e| format!("cannot run nvcc at {}: {e}", nvcc.path.display()))?;
    let log = [output.stdout, output.stderr].concat();
    if !output.status.success() {
        let log = String::from_utf8_lossy(&log);
        let noise = |line: &&str| line.contains("ptxas info") || line.contains("bytes stack frame");
        let errors: Vec<&str> = log.lines().filter(|line| !noise(line)).collect();
        eprintln!("{}", errors.join("\n"));
        return Err(format!("{source}: {}", advice(&log)));
    }
    println!("{source}: compiled in {:.1} s", start.elapsed().as_secs_f32());
    write(&out.join(format!("{name}.ptxas.log")), &log)
}

/// What to do about an nvcc that failed.
fn advice(log: &str) -> &'static str {
    if log.contains("unsupported GNU version") || log.contains("unsupported clang version") {
        "nvcc does not support this C++ compiler; name an older one in NVCC_CCBIN, such as NVCC_CCBIN=g++-13"
    } else if log.contains("Failed to preprocess host compiler properties") {
        "nvcc found no C++ compiler; install g++, or name one in NVCC_CCBIN (HALFBYTE_NO_CUDA=1 builds without kernels)"
    } else if log.contains("Unsupported gpu architecture") {
        "this nvcc does not know one of the architectures; choose others with HALFBYTE_CUDA_ARCHS"
    } else {
        "nvcc failed; its messages stand in the build script's stderr"
    }
}

// ------------------------------------------------------------------------------------------------- embedding

fn embed(out: &Path, kernels: &[String], archs: &str, version: &str) -> Result<()> {
    let mut code = String::from("/// The compiled `kernels/<op>.cu`, by op; empty in a build without nvcc.\n");
    code += "pub(super) const FATBINS: &[(&str, &[u8])] = &[\n";
    for name in kernels {
        let path = out.join(format!("{name}.fatbin"));
        let _ = writeln!(code, "    ({name:?}, include_bytes!({path:?})),");
    }
    code += "];\n/// The architectures in them, such as `80,90a`.\n";
    let _ = writeln!(code, "pub(super) const ARCHS: &str = {archs:?};");
    let _ = writeln!(code, "/// The nvcc that compiled them.\npub(super) const NVCC_VERSION: &str = {version:?};");
    write(&out.join("kernels.rs"), code.as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}
