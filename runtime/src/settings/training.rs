//! How an adapter is trained.

use super::{
    choices::{
        ActivationMemory, DataFormat, Optim, Overlong, PackingStrategy, Resume, ScheduleKind, TensorBoard, TrainOnEos,
        Whole,
    },
    section::section,
};
use crate::{
    config::Projection,
    device::Device,
    embedded::{self, EMBEDDED},
    error::Result,
    hub,
    lora::{Init, LoraConfig, Targets, TrainableTokens},
    model::Base,
    options::*,
    train::data::DataFiles,
};
use halfbyte::{DType, quant::Format};
use std::path::PathBuf;

section! {
    /// A training run.
    TrainSettings {
        /// Folder of a Qwen3 checkpoint, its name on the Hugging Face hub, or `embedded`
        model_name: String = EMBEDDED.into(), also ["model", "model_name_or_path"];
        /// Go on training this PEFT adapter, a folder or a name on the hub; its rank, alpha, dropout and modules count
        lora_path: Option<PathBuf> = None, also ["adapter"];
        /// Training data: JSON lines or arrays, or texts, packed by gzip or zstd or not [default: the embedded by-laws]
        data: Option<DataFiles> = None, also ["train_file", "dataset"];
        /// What all records of the data are [default: what the keys of each file say]
        data_format: Option<DataFormat> = None, also ["dataset_type"];
        /// Which ends of turns are trained: those of trained turns, the last one, all, or none
        train_on_eos: TrainOnEos = TrainOnEos::Turn;
        /// Tokenise large files again, and keep nothing of it
        no_cache: bool = false;
        /// Held-out data, in the same formats
        eval_data: Option<DataFiles> = None, also ["validation_file"];
        /// Multiple-choice questions, asked before and after
        exam: Option<PathBuf> = None;
        /// Folder for the adapter and metrics.jsonl
        output: PathBuf = "adapter".into(), also ["output_dir"];
        /// Send the adapter to this repository on the Hugging Face hub when the run has ended: OWNER/NAME; a new one is private
        push_to_hub: Option<String> = None, also ["hub_model_id"];
        /// Replace an adapter that is in the folder or on the hub, once the new one is trained
        overwrite: bool = false, also ["overwrite_output_dir"];
        /// Hold the base in 4 bits (QLoRA); without it the base stays unquantised, in the compute type
        use_4bit: bool = false, also ["load_in_4bit"];
        /// How 4 bits mean a weight
        bnb_4bit_quant_type: Format = Format::Nf4;
        /// Type of activations and adapters in computations
        bnb_4bit_compute_dtype: DType = DType::Bf16, also ["dtype", "torch_dtype"];
        /// Quantise the scales too
        bnb_4bit_use_double_quant: bool = true;
        /// Rank
        lora_r: usize = 16, within LORA_R, also ["r", "lora_rank"];
        /// Scaling times rank
        lora_alpha: f64 = 32.0, within LORA_ALPHA;
        /// Share of adapter inputs dropped in training
        lora_dropout: f32 = 0.0, within LORA_DROPOUT;
        /// Which linear layers, and, where they are named, embed_tokens and lm_head
        target_modules: Targets = Targets::AllLinear, also ["lora_target_modules"];
        /// Which of these to leave as they are
        exclude_modules: Option<Targets> = None;
        /// The layers whose modules are adapted, numbered from 0 [default: all]
        layers_to_transform: Vec<usize> = Vec::new();
        /// What the parent of a layer's number is called, for layers_to_transform: a regular expression [default: anything]
        layers_pattern: Vec<String> = Vec::new();
        /// Scale by alpha / sqrt(r)
        use_rslora: bool = false;
        /// Train a magnitude for each output beside the direction of its weight (DoRA)
        use_dora: bool = false;
        /// What A and B begin with: true, gaussian, the base's principal part (pissa, or sooner found pissa_niter_N), or that
        /// of what quantising took from it (loftq)
        init_lora_weights: Init = Init::Kaiming;
        /// Train a module whole
        modules_to_save: Option<Whole> = None;
        /// Train the embedding's rows of these tokens, and so a tied head's
        trainable_token_indices: TrainableTokens = TrainableTokens::None;
        /// Peak learning rate [default: 2e-4; 5e-3 for the embedded model]
        learning_rate: Option<f64> = None, within LEARNING_RATE, also ["lr"];
        /// How the learning rate falls
        lr_scheduler_type: ScheduleKind = ScheduleKind::Cosine;
        /// Share of the steps in which the learning rate rises
        warmup_ratio: f64 = 0.05, within WARMUP_RATIO;
        /// Where cosine_with_min_lr, warmup_stable_decay and polynomial end [default: 0; 1e-7 for polynomial]
        min_lr: Option<f64> = None, within LEARNING_RATE, also ["lr_end"];
        /// Share of the steps in which warmup_stable_decay falls, at the end
        decay_ratio: f64 = 0.1, within DECAY_RATIO;
        /// Power of polynomial
        lr_power: f64 = 1.0, within LR_POWER;
        /// AdamW with moments in 32 or 8 bits, as bitsandbytes keeps them; paged: in the host's memory
        optim: Optim = Optim::AdamW, also ["optimizer"];
        /// LoRA+: the learning rate of B is the learning rate times this
        loraplus_lr_ratio: f64 = 1.0, within LORAPLUS_LR_RATIO, also ["lora_plus_ratio"];
        /// Decoupled weight decay
        weight_decay: f32 = 0.0, within WEIGHT_DECAY;
        /// Gradients are scaled down to this norm; 0 turns it off
        max_grad_norm: f32 = 1.0, within MAX_GRAD_NORM;
        /// Uniform noise up to this, over the root of a sequence's numbers, is added to embeddings (NEFTune); 0 adds none
        neftune_alpha: f32 = 0.0, within NEFTUNE_ALPHA, also ["neftune_noise_alpha"];
        /// Passes over the data [default: 3; 8 for the embedded model]
        epochs: Option<f64> = None, within EPOCHS, also ["num_train_epochs", "num_epochs"];
        /// Train for so many steps instead of epochs
        max_steps: Option<u64> = None, within MAX_STEPS;
        /// Samples of a micro-batch (with packing: sequences of the full length) [default: 4; 16 for the embedded model]
        batch_size: Option<usize> = None, within BATCH_SIZE, also ["per_device_train_batch_size", "micro_batch_size"];
        /// Micro-batches of an optimiser step
        gradient_accumulation_steps: usize = 1, within ACCUMULATION;
        /// Take the largest micro-batches that memory has room for, and as many of them as make the same step
        auto_batch_size: bool = false, also ["auto_find_batch_size"];
        /// Longest sample, in tokens
        max_seq_length: usize = 2048, within MAX_SEQ_LENGTH, also ["max_length"];
        /// What becomes of longer samples
        overlong: Overlong = Overlong::Error;
        /// Fill every micro-batch up to batch-size times max-seq-length tokens
        packing: bool = false;
        /// Which micro-batch a sample is packed into: the first or the fullest that has room
        packing_strategy: PackingStrategy = PackingStrategy::FirstFit;
        /// What is kept of the forward pass for the backward pass: the less, the slower; the adapter is the same
        activation_memory: ActivationMemory = ActivationMemory::Auto;
        /// Keep the least: as activation-memory offload on a GPU, and checkpoint on the CPU
        gradient_checkpointing: bool = false, also ["activation_checkpointing"];
        /// Where to compute
        device: Device = Device::Auto;
        /// Threads that compute on the CPU [default: one for each core]
        threads: Option<usize> = None, within THREADS;
        /// Same seed, same device, same data: the same adapter, to the bit
        seed: u64 = 0;
        /// Steps between lines of progress where there is no terminal
        logging_steps: u64 = 20, within LOGGING_STEPS;
        /// Note the loss of each sample of a step in metrics.jsonl, and show the ten worst at the end
        log_sample_losses: bool = false;
        /// Write events for TensorBoard into this folder, or into `tensorboard` of the output folder
        tensorboard: TensorBoard = TensorBoard::Off, also ["logging_dir"];
        /// Show how the model goes on from this prompt, or from each line of this file, before, after and at evaluations
        sample_prompts: Option<String> = None;
        /// Steps between evaluations; 0 evaluates only before and after
        eval_steps: u64 = 0, within EVAL_STEPS;
        /// Save the adapter of the evaluation with the lowest held-out loss, not the last one
        load_best_at_end: bool = false, also ["load_best_model_at_end"];
        /// End after so many evaluations in a row without a lower held-out loss
        early_stopping_patience: Option<u64> = None, within EARLY_STOPPING_PATIENCE;
        /// Steps between checkpoints, from which a run can be resumed; 0 makes none
        save_steps: u64 = 500, within SAVE_STEPS;
        /// Minutes between checkpoints; 0 looks at steps only
        save_minutes: f64 = 0.0, within SAVE_MINUTES;
        /// Checkpoints to keep, the newest; none keeps all
        save_total_limit: Option<usize> = Some(2), within SAVE_TOTAL_LIMIT;
        /// Go on with a run from its newest checkpoint in the output folder, or from this one
        resume: Option<Resume> = None, also ["resume_from_checkpoint"];
    }
}

impl TrainSettings {
    pub(crate) fn embedded(&self) -> bool {
        self.model_name == EMBEDDED
    }

    /// The folder of the model, which is downloaded where it is not at hand.
    ///
    /// # Errors
    /// It is neither here nor on the hub.
    pub fn model_dir(&self) -> Result<PathBuf> {
        hub::model(&self.model_name)
    }

    /// The folder of the adapter, if there is to be one, likewise.
    ///
    /// # Errors
    /// As for the model.
    pub fn adapter_dir(&self) -> Result<Option<PathBuf>> {
        self.lora_path.as_deref().map(hub::adapter).transpose()
    }

    /// The files to train on.
    pub(crate) fn data_files(&self) -> Result<DataFiles> {
        self.data.clone().map_or_else(|| embedded::town("train.jsonl").map(Into::into), Ok)
    }

    /// The files to evaluate on, if there are any.
    pub(crate) fn heldout_files(&self) -> Result<Option<DataFiles>> {
        self.or_embedded(&self.eval_data, "heldout.jsonl")
    }

    /// The file of the exam, if there is one.
    pub(crate) fn exam_file(&self) -> Result<Option<PathBuf>> {
        self.or_embedded(&self.exam, "exam.json")
    }

    /// What was named, or without own data the embedded file.
    fn or_embedded<F: Clone + From<PathBuf>>(&self, named: &Option<F>, embedded: &str) -> Result<Option<F>> {
        match named {
            None if self.data.is_none() => embedded::town(embedded).map(|path| Some(path.into())),
            named => Ok(named.clone()),
        }
    }

    /// How to hold the base.
    pub fn base(&self) -> Base {
        let (format, double_quant) = (self.bnb_4bit_quant_type, self.bnb_4bit_use_double_quant);
        if self.use_4bit { Base::Quantized { format, block_size: 64, double_quant } } else { Base::Unquantized }
    }

    /// The adapter to make.
    pub fn lora(&self) -> Result<LoraConfig> {
        let mut targets = self.target_modules.clone();
        if targets == Targets::AllLinear && !self.layers_to_transform.is_empty() {
            // PEFT looks at layers only where modules are named.
            targets = Targets::Names(Projection::ALL.map(|projection| projection.name().to_owned()).to_vec());
        }
        let mut lora = LoraConfig::new(self.lora_r, self.lora_alpha, targets);
        lora.exclude_modules = self.exclude_modules.clone();
        lora.layers_to_transform = self.layers_to_transform.clone();
        lora.layers_pattern = self.layers_pattern.clone();
        lora.dropout = self.lora_dropout;
        lora.use_rslora = self.use_rslora;
        lora.use_dora = self.use_dora;
        lora.init = self.init_lora_weights.clone();
        lora.save_lm_head = self.modules_to_save == Some(Whole::LmHead);
        lora.trainable_tokens = self.trainable_token_indices.clone();
        let (name, revision) = hub::as_peft(&self.model_name);
        lora.set_base(name, revision);
        Ok(lora)
    }
}
