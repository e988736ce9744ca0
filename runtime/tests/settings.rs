//! Every source of settings, their priority, and what is refused.

use clap::Command;
use halfbyte_runtime::{
    Error,
    settings::{Asked, Loaded, Program, RagConfig, Source, Sources},
};
use std::{fs, path::PathBuf};
use tempfile::TempDir;

/// A folder with files, named by their paths.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
    folder
}

fn of_file(text: &str) -> Result<Loaded, String> {
    let folder = folder(&[("halfbyte.toml", text)]);
    let sources = Sources { file: Some(folder.path().join("halfbyte.toml")), ..Sources::default() };
    sources.load().map_err(|e| e.to_string())
}

fn of_dotenv(text: &str) -> Result<Loaded, String> {
    let folder = folder(&[(".env", text)]);
    let sources = Sources { dotenv: Some(folder.path().join(".env")), ..Sources::default() };
    sources.load().map_err(|e| e.to_string())
}

fn of_variables(variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let variables = variables.iter().map(|&(name, value)| (name.into(), value.into())).collect();
    Sources { variables, ..Sources::default() }.load().map_err(|e| e.to_string())
}

fn read(sections: &'static [&'static str], line: &str, sources: Sources) -> Result<Asked, Error> {
    let words = std::iter::once("program").chain(line.split_whitespace());
    Program::new(Command::new("program"), sections).read(words.map(Into::into), sources)
}

fn of_options(line: &str) -> Result<Loaded, String> {
    read(&["llm"], line, Sources::default()).map(|asked| asked.loaded).map_err(|e| e.to_string())
}

fn training(line: &str) -> Result<Loaded, String> {
    read(&["train"], line, Sources::default()).map(|asked| asked.loaded).map_err(|e| e.to_string())
}

/// The message has all of these.
fn says<T>(outcome: Result<T, String>, words: &[&str]) {
    let message = outcome.err().expect("it is refused");
    words.iter().for_each(|word| assert!(message.contains(word), "{message} lacks {word}"));
}

#[test]
fn every_source_is_read() {
    let file =
        of_file("[llm]\ntemperature = 0.5\nLORA-PATH = 'a'\n[train]\ntarget_modules = ['q_proj', 'v_proj']").unwrap();
    assert_eq!(file.config.llm.temperature, 0.5);
    assert_eq!(file.config.llm.lora_path, Some(PathBuf::from("a")));
    assert_eq!(file.config.train.target_modules.to_string(), "q_proj,v_proj");
    assert!(matches!(file.source("llm", "temperature"), Source::Line(_, 2)));

    let dotenv = of_dotenv("# ours\nOTHER=1\nexport HALFBYTE_LLM__LOAD_IN_4BIT='False'\n").unwrap();
    assert!(!dotenv.config.llm.load_in_4bit);
    assert!(matches!(dotenv.source("llm", "load_in_4bit"), Source::Line(_, 3)));

    let variables = of_variables(&[("HALFBYTE_RETRIEVAL__TOP_K", "3"), ("HALFBYTE_ROOT", "x"), ("PATH", "y")]).unwrap();
    assert_eq!(variables.config.retrieval.top_k, 3);
    assert_eq!(variables.source("retrieval", "top_k"), Source::Variable("HALFBYTE_RETRIEVAL__TOP_K".into()));

    let options = of_options("--max-new-tokens 7").unwrap();
    assert_eq!(options.config.llm.max_new_tokens, 7);
    assert_eq!(options.source("llm", "max_new_tokens"), Source::Option("--max-new-tokens".into()));
    assert_eq!(options.source("llm", "seed"), Source::Default);
}

#[test]
fn a_name_from_python_is_taken_in_every_source() {
    let taken = [
        of_file("[train]\nactivation_checkpointing = true"),
        of_dotenv("HALFBYTE_TRAIN__ACTIVATION_CHECKPOINTING=True"),
        of_variables(&[("HALFBYTE_TRAIN__ACTIVATION_CHECKPOINTING", "1")]),
        training("--activation_checkpointing"),
        training("--activation_checkpointing True"),
        training("--activation-checkpointing=true"),
    ];
    taken.into_iter().for_each(|loaded| assert!(loaded.unwrap().config.train.gradient_checkpointing));
}

#[test]
fn the_nearer_source_counts() {
    let names = ["temperature", "top_p", "top_k", "seed"];
    let lines = |n: usize, value: &str| names[..n].iter().map(|name| format!("{name} = {value}\n")).collect::<String>();
    let variables = |n: usize, value: &str| -> Vec<_> {
        names[..n].iter().map(|name| (format!("HALFBYTE_LLM__{}", name.to_uppercase()), value.to_owned())).collect()
    };
    let dotenv: String =
        variables(3, "0").iter().map(|(name, _)| format!("{name}=0.25\n").replace("K=0.25", "K=2")).collect();
    let toml = format!("[llm]\n{}", lines(4, "1"));
    let folder = folder(&[("halfbyte.toml", &toml), (".env", &dotenv)]);
    let sources = Sources {
        file: Some(folder.path().join("halfbyte.toml")),
        dotenv: Some(folder.path().join(".env")),
        variables: variables(2, "0.5"),
        ..Sources::default()
    };
    let llm = read(&["llm"], "--temperature 0.75", sources).unwrap().loaded.config.llm;
    assert_eq!((llm.temperature, llm.top_p, llm.top_k, llm.seed), (0.75, 0.5, 2, 1));
}

#[test]
fn a_checkpoint_recommends_only_when_asked() {
    let model = folder(&[("generation_config.json", r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.95}"#)]);
    let line = format!("--model {}", model.path().display());
    let plain = of_options(&line).unwrap();
    assert_eq!((plain.config.llm.temperature, plain.config.llm.top_k), (0.0, 0));
    let asked = of_options(&format!("{line} --use-generation-config --top-p 0.5")).unwrap();
    let llm = &asked.config.llm;
    assert_eq!((llm.temperature, llm.top_k, llm.top_p), (0.6, 50, 0.5));
    assert!(matches!(asked.source("llm", "temperature"), Source::Checkpoint(_)));
    assert!(matches!(asked.source("llm", "top_p"), Source::Option(_)));
}

#[test]
fn a_typo_is_named_with_its_place_and_what_there_is() {
    says(of_file("[llm]\n\ntemprature = 1"), &["halfbyte.toml, line 3", "temprature", "mean temperature", "top_k"]);
    says(of_file("[llms]\ntemperature = 1"), &["line 2", "llms", "llm, train, retrieval, evaluation"]);
    says(of_file("temperature = 1"), &["line 1", "outside of a section"]);
    says(of_file("[llm]\ntemperature = 1\ntemperature ="), &["line 3"]);
    says(of_dotenv("A=1\nHALFBYTE_LLM__TOPK=1"), &[".env, line 2", "topk", "mean top_k"]);
    says(of_variables(&[("HALFBYTE_LLM__TOPK", "1")]), &["HALFBYTE_LLM__TOPK", "mean top_k"]);
    says(of_variables(&[("HALFBYTE_LLM_TOP_K", "1")]), &["HALFBYTE_LLM__TOP_K", "two underscores"]);
    says(of_variables(&[("HALFBYTE_LM__TOP_K", "1")]), &["no section lm"]);
    says(of_options("--temprature 1"), &["--temprature", "--temperature"]);
}

#[test]
fn a_bad_value_is_named_with_its_place_and_what_it_must_be() {
    let want = ["temperature", "-1", "it must be a number, 0, or from 0.000001 to 1000"];
    says(of_file("[llm]\ntemperature = -1"), &[&want[..], &["line 2"]].concat());
    says(of_dotenv("HALFBYTE_LLM__TEMPERATURE=-1"), &[&want[..], &[".env, line 1"]].concat());
    says(of_variables(&[("HALFBYTE_LLM__TEMPERATURE", "-1")]), &[&want[..], &["HALFBYTE_LLM__"]].concat());
    says(of_options("--temperature -1"), &[&want[..], &["--temperature"]].concat());
    says(of_file("[llm]\ntemperature = { a = 1 }"), &["line 2", "temperature must be"]);
    says(of_file("[llm]\nbnb_4bit_compute_dtype = 'int8'"), &["line 2", "bfloat16, float16 or float32"]);
    says(of_file("[llm]\nmodel = 'a'\nmodel_name = 'b'"), &["line 3", "line 2", "given here and in"]);
    says(of_dotenv("A='open"), &[".env"]);
}

#[test]
fn what_python_users_type_is_understood() {
    let config = training(
        "--num-train-epochs 2 --per_device_train_batch_size=8 --model_name m --max-length 64 --bnb-4bit-compute-dtype bf16 \
         --bnb-4bit-quant-type NF4 --load-in-4bit True --packing --learning-rate 2e-4 --learning_rate 1e-4",
    );
    let train = config.unwrap().config.train;
    assert_eq!((train.epochs, train.batch_size, train.max_seq_length), (Some(2.0), Some(8), 64));
    assert!(train.use_4bit && train.packing && train.model_name == "m");
    assert_eq!(train.learning_rate, Some(1e-4), "the last counts");
    assert!(!training("--packing=false").unwrap().config.train.packing);
    assert!(!training("--packing false --seed 1").unwrap().config.train.packing);
}

#[test]
fn an_adapter_names_its_base_as_peft_does() {
    let names = |model: &str| {
        let lora = training(&format!("--model-name {model}")).unwrap().config.train.lora().unwrap();
        let json: serde_json::Value = serde_json::from_str(&lora.to_json()).unwrap();
        (json["base_model_name_or_path"].as_str().unwrap().to_owned(), json["revision"].as_str().map(str::to_owned))
    };
    assert_eq!(names("Qwen/Qwen3-8B"), ("Qwen/Qwen3-8B".into(), None));
    assert_eq!(names("Qwen/Qwen3-8B@v1"), ("Qwen/Qwen3-8B".into(), Some("v1".into())));
    assert_eq!(names("embedded"), ("embedded".into(), None));
    assert_eq!(names("./Qwen@v1"), ("./Qwen@v1".into(), None));
}

#[test]
fn print_config_shows_every_value_and_its_source() {
    let sources = Sources { variables: vec![("HALFBYTE_LLM__TOP_K".into(), "5".into())], ..Sources::default() };
    let line = "--system 「簡潔に」 --lora-path 007";
    let loaded = read(&["llm", "retrieval"], line, sources).unwrap().loaded;
    let printed = loaded.print(&["llm", "retrieval"], None);
    let golden = include_str!("data/print_config.toml");
    if std::env::var_os("HALFBYTE_BLESS").is_some() {
        fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/print_config.toml"), &printed).unwrap();
    } else {
        assert_eq!(printed, golden);
    }
    let narrow = [60, 32].map(|columns| loaded.print(&["llm", "retrieval"], Some(columns)));
    assert!(narrow[0].lines().all(|line| line.chars().count() <= 60), "{}", narrow[0]);
    assert!(narrow[1].contains("\n# default\nbnb_4bit_compute_dtype = \"bfloat16\"\n"), "{}", narrow[1]);
    for printed in narrow.iter().chain([&printed]) {
        assert_eq!(of_file(printed).unwrap().config, loaded.config, "what was printed can be read");
    }
}

#[test]
fn a_setting_without_effect_is_refused_where_it_was_asked_for() {
    let loaded = of_options("--bnb-4bit-quant-type nf4").unwrap();
    let refused = loaded.refuse("llm", "bnb_4bit_quant_type", "the base is not held in 4 bits");
    says(refused.map_err(|e| e.to_string()), &["--bnb-4bit-quant-type", "no effect"]);
    loaded.refuse("llm", "temperature", "x").unwrap();
    let names = ["temperature", "bnb_4bit_quant_type"];
    says(loaded.refuse_options("llm", &names, "x").map_err(|e| e.to_string()), &["--bnb-4bit-quant-type", "no effect"]);
    let of_a_file = of_file("[llm]\ntemperature = 1").unwrap();
    of_a_file.refuse_options("llm", &names, "x").unwrap();
    says(of_a_file.refuse("llm", "temperature", "x").map_err(|e| e.to_string()), &["line 2", "no effect"]);
}

#[test]
fn names_are_given_once() {
    let config = RagConfig::default();
    for section in RagConfig::SECTIONS {
        let fields = config.section(section).unwrap().fields();
        let mut names: Vec<&str> = fields.iter().flat_map(|f| f.aliases.iter().chain([&f.name])).copied().collect();
        names.sort_unstable();
        let n = names.len();
        names.dedup();
        assert_eq!(names.len(), n, "{section}: {names:?}");
    }
}

#[test]
fn texts_are_read_as_they_are_shown() {
    let mut config = RagConfig::default();
    for name in RagConfig::SECTIONS {
        let section = config.section_mut(name).unwrap();
        for field in section.fields() {
            let shown = section.show(field.name).unwrap();
            section.set(field.name, &shown).unwrap_or_else(|e| panic!("{name}.{} = {shown}: {e}", field.name));
        }
    }
    assert_eq!(config, RagConfig::default());
}
