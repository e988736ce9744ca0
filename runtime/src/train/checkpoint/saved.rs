//! A checkpoint in its folder: the adapter as PEFT reads it, the optimiser's moments, the metrics so far, and the state of
//! everything else.

use super::identity::Identity;
use crate::{
    checkpoint::{Checkpoint, Dtype, Tensor, write_tensors},
    config::Qwen3Config,
    error::{Error, Result},
    files::{self, StagedFolder},
    json,
    lora::{Adapter, WEIGHTS},
    train::{
        evaluations::Evaluations,
        output::METRICS,
        trainer::{Counters, HostMoments, TrainerState},
        watchdog::Watchdog,
    },
};
use halfbyte::host;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What there is beside numbers of the adapter. A folder that has it is a checkpoint.
const STATE: &str = "training_state.json";
const MOMENTS: &str = "training_state.safetensors";
/// Tensors of this file, by PyTorch's names; those in 8 bits by bitsandbytes'. What is empty is left out.
const WIDE: [&str; 2] = ["exp_avg", "exp_avg_sq"];
const CODES: [&str; 2] = ["state1", "state2"];
const ABSMAX: [&str; 2] = ["absmax1", "absmax2"];
/// What folders are called, as transformers does.
const NAME: &str = "checkpoint-";
/// Where a run stands after a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Which fields there are: [`State::VERSION`].
    pub version: u32,
    /// Steps that are done: also the place in the data, of whose order the seed decides.
    pub step: u64,
    /// Of the whole run.
    pub total_steps: u64,
    /// Tokens that it trained on.
    pub tokens: u64,
    /// How long that took.
    pub elapsed_s: f64,
    /// What it was computed on.
    pub device: String,
    pub counters: Counters,
    pub evaluations: Evaluations,
    pub watchdog: Watchdog,
    /// What must be the same to go on.
    pub run: Identity,
}

/// A checkpoint that was found.
#[derive(Debug)]
pub(crate) struct Saved {
    dir: PathBuf,
    pub state: State,
}

/// The checkpoints in an output folder, with their steps, the oldest first.
pub(crate) fn whole(output: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(output).into_iter().flatten().flatten();
    let checkpoint = |entry: fs::DirEntry| {
        let step = entry.file_name().to_str()?.strip_prefix(NAME)?.parse().ok()?;
        entry.path().join(STATE).exists().then(|| (step, entry.path()))
    };
    let mut found: Vec<_> = entries.filter_map(checkpoint).collect();
    found.sort();
    found
}

/// What the folder of the checkpoint after `step` is called.
pub(crate) fn name(step: u64) -> String {
    format!("{NAME}{step}")
}

impl Saved {
    /// Reads the state of the checkpoint in a folder.
    ///
    /// # Errors
    /// It is none, or damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(STATE);
        if !path.exists() {
            let hint = "give --resume the folder of a checkpoint of a training run, or auto";
            return Err(Error::MissingFile { dir: dir.to_owned(), wanted: STATE.into(), hint });
        }
        let json = json::parse(&files::read(&path)?).map_err(Error::json(&path))?;
        let version = json.get("version").cloned().unwrap_or_default();
        if version != State::VERSION {
            let reason = format!(
                "its version is {version}, and {} is wanted; resume it with the halfbyte that made it",
                State::VERSION
            );
            return Err(Error::Resume { path: dir.to_owned(), reason });
        }
        let state = serde_json::from_value(json).map_err(Error::json(&path))?;
        Ok(Saved { dir: dir.to_owned(), state })
    }

    /// The newest checkpoint in an output folder, if there is one.
    ///
    /// # Errors
    /// It is damaged.
    pub fn newest(output: &Path) -> Result<Option<Self>> {
        whole(output).pop().map(|(_, dir)| Self::open(&dir)).transpose()
    }

    /// The text of a setting that the run began with.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.state.run.setting(name)
    }

    /// Refuses a setting of it.
    pub fn damaged(&self, name: &str, want: String) -> Error {
        Error::Resume { path: self.dir.clone(), reason: format!("its {name} is of no use: {want}") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Whether it lies in this output folder.
    pub fn is_in(&self, output: &Path) -> bool {
        let parent = self.dir.canonicalize().ok().and_then(|dir| dir.parent().map(Path::to_owned));
        parent.is_some() && parent == output.canonicalize().ok()
    }

    /// Refuses to go on with a run that is made of something else.
    ///
    /// # Errors
    /// [`Error::Resume`], which names what differs.
    pub fn expect_same(&self, now: &Identity) -> Result<()> {
        let differences = self.state.run.differences(now);
        if differences.is_empty() {
            return Ok(());
        }
        let reason =
            format!("{}; give what the run began with, or begin another one without --resume", differences.join(", "));
        Err(Error::Resume { path: self.dir.clone(), reason })
    }

    /// The adapter.
    ///
    /// # Errors
    /// Those of [`Adapter::open`].
    pub fn adapter(&self, model: &Qwen3Config) -> Result<Adapter> {
        Ok(Adapter::open(&self.dir, model)?.0)
    }

    /// What the trainer goes on from.
    ///
    /// # Errors
    /// The moments are missing or damaged.
    pub fn trainer(&self) -> Result<TrainerState> {
        let file = Checkpoint::open_file(&self.dir.join(MOMENTS))?;
        let f32s = |name| file.get(name).map_or(Ok(Vec::new()), |tensor| tensor.expect_finite()?.to_f32());
        let bytes = |name| {
            let data =
                file.get(name).map(|tensor| tensor.expect_dtype(Dtype::U8)).transpose()?.map_or(&[][..], |t| t.data);
            Ok(host::collect(data.len(), data.iter().copied())?)
        };
        let moments = HostMoments {
            codes: both(CODES.map(bytes))?,
            absmax: both(ABSMAX.map(f32s))?,
            wide: both(WIDE.map(f32s))?,
        };
        Ok(TrainerState { counters: self.state.counters, moments })
    }

    /// Lines of metrics up to then.
    ///
    /// # Errors
    /// They are missing or damaged.
    pub fn metrics(&self) -> Result<String> {
        files::read_to_string(&self.dir.join(METRICS))
    }
}

impl State {
    /// What is written; another one is refused.
    pub const VERSION: u32 = 2;

    /// Saves a checkpoint in the folder of its run, whole or not at all; gives its place.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, output: &Path, moments: &HostMoments, adapter: &Adapter, metrics: &str) -> Result<PathBuf> {
        let path = output.join(name(self.step));
        let folder = StagedFolder::create(&path)?;
        let place = |name: &str| folder.inside().join(name);
        let text = |name: &str, text: &str| {
            files::stage(&place(name), |w| w.write_all(text.as_bytes()).map_err(Error::io("write", &place(name))))
        };
        let weights = files::Staged::create(&place(WEIGHTS))?;
        let config = adapter.stage(folder.inside(), &weights)?;
        let tensors = files::Staged::create(&place(MOMENTS))?;
        write_moments(&tensors, moments)?;
        let state = serde_json::to_string_pretty(self).map_err(Error::json(&path))? + "\n";
        let files = [weights, config, tensors, text(METRICS, metrics)?, text(STATE, &state)?];
        files.into_iter().try_for_each(|file| folder.add(file))?;
        folder.commit()?;
        Ok(path)
    }
}

/// Both, or what was wrong with one.
fn both<T>([first, second]: [Result<Vec<T>>; 2]) -> Result<[Vec<T>; 2]> {
    Ok([first?, second?])
}

fn write_moments(file: &files::Staged, moments: &HostMoments) -> Result<()> {
    fn bytes<'a, T: bytemuck::NoUninit>(
        names: [&'static str; 2],
        dtype: Dtype,
        [first, second]: &'a [Vec<T>; 2],
    ) -> [(&'static str, Dtype, [usize; 1], &'a [u8]); 2] {
        let of = |name, moment: &'a [T]| (name, dtype, [moment.len()], bytemuck::cast_slice(moment));
        [of(names[0], first), of(names[1], second)]
    }
    let HostMoments { codes, absmax, wide } = moments;
    let [wide, absmax] = [(WIDE, wide), (ABSMAX, absmax)].map(|(names, both)| bytes(names, Dtype::F32, both));
    let all = [wide, bytes(CODES, Dtype::U8, codes), absmax].concat();
    let tensors = all.iter().filter(|(_, _, shape, _)| shape[0] > 0);
    let tensors = tensors.map(|(name, dtype, shape, data)| Tensor { name, dtype: *dtype, shape, data });
    write_tensors(file, &tensors.collect::<Vec<_>>())
}
