//! What each format of training data says, and what is refused of it.

use halfbyte_runtime::train::data::{DataFormat, Dataset};
use serde_json::{Value, json};

use crate::data::{OPTIONS, qwen3, tiny};
use crate::test_data;

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

/// Conversations of every format are those of `messages`.
#[test]
fn formats_of_conversations_are_messages_in_other_words() {
    let bench = tiny();
    let system = json!({"role": "system", "content": "Be brief."});
    let pair = json!({"messages": [user("Add.\n1 and 2"), assistant("3")]});
    let whole = json!({"messages": [system, user("Hi"), assistant("Hello"), user("Bye"), assistant("So long")]});
    let turn = |from: &str, value: &str| json!({"from": from, "value": value});
    let talk = [turn("human", "Hi"), turn("gpt", "Hello"), turn("user", "Bye"), turn("assistant", "So long")];
    let with_system: Vec<_> = [vec![turn("system", "Be brief.")], talk.to_vec()].concat();
    let as_messages = &whole["messages"];
    for (record, want) in [
        (json!({"instruction": "Add.", "input": "1 and 2", "output": "3"}), &pair),
        (json!({"instruction": "Add.\n1 and 2", "input": "", "output": "3"}), &pair),
        (json!({"instruction": "Add.\n1 and 2", "output": "3", "id": 7}), &pair),
        (json!({"prompt": [user("Add.\n1 and 2")], "completion": [assistant("3")]}), &pair),
        (json!({"conversations": with_system}), &whole),
        (json!({"conversations": talk, "system": "Be brief."}), &whole),
        (json!({"conversations": as_messages}), &whole),
    ] {
        assert_eq!(bench.sample(&record), bench.sample(want), "{record}");
    }
    let system = json!({"instruction": "Hi", "output": "Hello", "system": "Be brief."});
    let same = json!({"messages": [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello")]});
    assert_eq!(bench.sample(&system), bench.sample(&same));
}

/// As TRL has it: what comes before the completion is never trained, also where the assistant said it.
#[test]
fn of_a_prompt_in_messages_nothing_is_trained() {
    let bench = tiny();
    let before = [user("Hi"), assistant("Hello"), user("Bye")];
    let sample = bench.sample(&json!({"prompt": before, "completion": [assistant("So long")]}));
    assert_eq!(bench.trained(&sample), ["So long<|im_end|>"]);
    let whole: Vec<_> = before.into_iter().chain([assistant("So long")]).collect();
    assert_eq!(sample.ids, bench.sample(&json!({"messages": whole})).ids);
}

#[test]
fn calls_of_tools_are_found_in_every_format() {
    let Some(bench) = qwen3() else { return };
    let tools = json!([{"type": "function", "function": {"name": "w", "description": "d"}}]);
    let call = json!({"name": "w", "arguments": {"city": "東京"}});
    let messages = json!({"tools": tools, "messages": [
        user("Weather?"),
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "sunny"},
        assistant("Sunny."),
    ]});
    let sharegpt = json!({"tools": tools.to_string(), "conversations": [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": call.to_string()},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "Sunny."},
    ]});
    let sample = bench.sample(&messages);
    assert_eq!(bench.sample(&sharegpt), sample);
    let trained = bench.trained(&sample);
    assert!(
        trained.len() == 2 && trained[0].starts_with("<tool_call>") && trained[1].contains("Sunny."),
        "{trained:?}"
    );
}

/// As an exam puts them: the text of the option after context and question.
#[test]
fn of_a_question_the_right_option_is_trained() {
    let bench = tiny();
    let eos = "<|endoftext|>";
    let question =
        json!({"question": "Who rings the bell?", "options": ["a cat", "a dog"], "answer": "b", "instruction": "Say"});
    let sample = bench.sample(&question);
    assert_eq!(bench.trained(&sample), [format!(" a dog{eos}")]);
    assert!(bench.tokenizer.decode(&sample.ids, false).starts_with("Who rings the bell? a dog"));
    let law = json!({"コンテキスト": "A town.", "指示": "Say", "問題文": "Who?", "選択肢": "a I\nb he", "output": "a"});
    let sample = bench.sample(&law);
    assert_eq!(bench.tokenizer.decode(&sample.ids, true), "A town.\nWho? I");
    assert_eq!(bench.trained(&sample), [format!(" I{eos}")]);
    let refusal = bench.refusal(json!({"question": "Who?", "options": ["I", "he"], "answer": null}).to_string());
    assert!(refusal.contains("line 1: `answer` is null"), "{refusal}");
}

#[test]
fn the_questions_of_lawqa_jp_can_be_trained_on() {
    let (Some(bench), Some(folder)) = (qwen3(), test_data("lawqa_jp")) else { return };
    let options = OPTIONS.max_seq_length(4096);
    let data = Dataset::read(folder.join("selection.json"), &bench.tokenizer, None, &options).unwrap();
    assert_eq!((data.samples.len(), data.parts[0].formats[&DataFormat::MultipleChoice]), (140, 140));
    assert!(data.samples.iter().all(|sample| sample.n_targets() > 0 && !sample.mask[0]));
}

#[test]
fn a_format_that_is_said_counts() {
    let bench = tiny();
    let record = json!({"text": "Below is an instruction", "instruction": "Hi", "input": "", "output": "Hello"});
    let refusal = bench.refusal(record.to_string());
    assert!(
        refusal
            .contains(r#"["text", "instruction"] exclude each other; keep one, or say --data-format text or alpaca"#),
        "{refusal}"
    );
    let options = OPTIONS.format(Some(DataFormat::Alpaca));
    let sample = bench.read(record.to_string(), &options).unwrap().samples.remove(0);
    assert_eq!(bench.trained(&sample), ["Hello<|im_end|>"]);
    let ultrachat = json!({"prompt": "Hi", "messages": [user("Hi"), assistant("Hello")]});
    let refusal = bench.refusal(ultrachat.to_string());
    assert!(refusal.contains("say --data-format messages"), "{refusal}");
    let options = OPTIONS.format(Some(DataFormat::Messages));
    assert_eq!(bench.read(ultrachat.to_string(), &options).unwrap().samples[0], sample);
    let other = bench.read(json!({"text": "a b"}).to_string(), &options).unwrap_err().to_string();
    assert!(other.contains("line 1: the key `messages` is missing"), "{other}");
}

/// A text is a completion of nothing; all else stands apart.
#[test]
fn a_mixture_is_refused_where_it_begins() {
    let bench = tiny();
    let records = [
        json!({"text": "a b"}),
        json!({"prompt": "a", "completion": "b"}),
        json!({"messages": [user("a"), assistant("b")]}),
        json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
        json!({"instruction": "a", "output": "b"}),
        json!({"question": "a", "options": ["b", "c"], "answer": 0}),
    ];
    let names = ["text", "prompt-completion", "messages", "sharegpt", "alpaca", "multiple-choice"];
    for (i, first) in records.iter().enumerate() {
        for (j, second) in records.iter().enumerate() {
            let read = bench.read(format!("{first}\n{first}\n\n{second}\n"), &OPTIONS);
            if i == j || i.max(j) == 1 {
                let of_both = read.unwrap().parts[0].formats.values().sum::<usize>();
                assert_eq!(of_both, 3);
            } else {
                let said = read.unwrap_err().to_string();
                let want = format!("line 4: it is {}, but line 1 is {}; put each", names[j], names[i]);
                assert!(said.contains(&want), "{said}");
            }
        }
    }
}

#[test]
fn bad_records_of_every_format_are_named() {
    let bench = tiny();
    let turns = |turns: Value| json!({ "conversations": turns }).to_string();
    let cases = [
        (json!({"instruction": "a"}).to_string(), "the key `output` is missing"),
        (json!({"instruction": 1, "output": "b"}).to_string(), "`instruction` is 1, but must be a string"),
        (json!({"instruction": "a", "input": [], "output": "b"}).to_string(), "`input` is [], but must be a string"),
        (json!({"instruction": "a", "output": "b", "history": [["c", "d"]]}).to_string(), "`history` means nothing"),
        (
            json!({"instruction": "a", "output": "b", "prompt": "c"}).to_string(),
            "`prompt` means nothing beside `instruction`",
        ),
        (json!({"prompt": "a", "completion": [assistant("b")]}).to_string(), "`prompt` is \"a\", but must be a list"),
        (json!({"prompt": [user("a")], "completion": "b"}).to_string(), "but must be a string"),
        (json!({"prompt": [user("a")], "completion": []}).to_string(), "no assistant message"),
        (turns(json!("a")), "`conversations` is \"a\", but must be a list"),
        (turns(json!([])), "there are no messages"),
        (turns(json!([{"from": "human", "value": "a"}, 5])), "turn 1: `value` is null, but must be a string"),
        (turns(json!([{"from": "robot", "value": "a"}])), "turn 0: `from` is \"robot\", but must be human, gpt"),
        (turns(json!([{"from": "human", "value": 3}])), "turn 0: `value` is 3, but must be a string"),
        (turns(json!([{"from": "function_call", "value": "a"}])), "turn 0: a function_call is \"a\", but must be"),
        (json!({"conversations": [], "system": 4}).to_string(), "`system` is 4, but must be a string"),
        (json!({"conversations": [], "tools": "x"}).to_string(), "`tools` is \"x\", but must be a list"),
        (json!({"question": "a", "options": ["b"], "answer": 0}).to_string(), "the number of options is 1"),
        (
            json!({"question": "a", "options": ["b", "c"], "answer": "d"}).to_string(),
            "`answer` is \"d\", expected one of",
        ),
        (
            json!({"question": "a", "answer": "b"}).to_string(),
            "found the keys [\"question\", \"answer\"], expected `text`, or",
        ),
    ];
    for (record, want) in cases {
        let said = bench.refusal(&record);
        assert!(
            said.contains(&format!("data.jsonl`, line 1: {want}")) || said.contains(want),
            "{said}\nwanted: {want}"
        );
    }
}
