"""Training data in Parquet as `datasets`, pandas' pyarrow and others write it, and the same records as JSON lines.

Usage: python make_parquet.py   (datasets 5.2.0, pyarrow 26.0.1)
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

OUT = Path(__file__).parent / "parquet"


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str, **more) -> dict:
    return {"role": "assistant", "content": text, **more}


def call(name: str, **arguments) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [{"type": "function", "function": {"name": "clock", "description": "The time"}}]
MESSAGES = [
    {"messages": [user("When does the ferry leave?"), assistant("At noon."), user("And 渡し船?"), assistant("正午 🚢")]},
    {"messages": [{"role": "system", "content": "Be brief."}, user("When?"), assistant("Noon.", weight=0), user("So?"), assistant("")]},
    {"messages": [user("Say nothing."), assistant("…")], "enable_thinking": False},
    # Arguments of one call are no arguments of another.
    {
        "messages": [user("What time is it in the town?"), assistant("", tool_calls=[call("clock", town="Ferry"), call("bell", hour=12)])],
        "tools": TOOLS,
    },
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"Question {i}?"}, {"from": "gpt", "value": "word " * (i % 7) + f"answer {i}"}]}
    | ({"system": "Be brief."} if i % 3 == 0 else {})
    for i in range(40)
]
ALPACA = [
    {"instruction": f"Add {i} and 1.", "input": "" if i % 2 else "Show how.", "output": str(i + 1), "id": i, "score": i / 7, "seen": i % 5 == 0}
    for i in range(50)
]
TEXTS = [{"text": f"The ferry has the number {i}.\n" + "Row " * (i % 11)} for i in range(70)]
PLAIN = [{"prompt": f"{i} and 1 are", "completion": f" {i + 1}"} for i in range(30)] + [{"text": "The end."}]
TURNS = [{"prompt": [user("When?")], "completion": [assistant("Noon.")]}, {"prompt": [user("Why?")], "completion": [assistant("So.")]}]
CHOICES = [
    {"id": "a1", "question": "When?", "options": ["At noon.", "Never.", "At one."], "answer": "a", "context": "The ferry leaves at noon."},
    {"id": "a2", "question": "Who?", "options": ["The smith.", "The baker."], "answer": "b"},
]
LETTERS = [
    {"question": "When?", "options": {"a": "At noon.", "b": "Never."}, "answer": 0},
    {"question": "Who?", "options": {"a": "The smith.", "b": "The baker.", "c": "Nobody."}, "answer": 2},
]


def lines(name: str, records: list) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (OUT / f"{name}.jsonl").write_text(text)


def by_datasets(name: str, records: list, **options) -> None:
    """Keys of one record are columns of all."""
    lines(name, records)
    keys = {key: None for record in records for key in record}
    Dataset.from_list([{**keys, **record} for record in records]).to_parquet(OUT / f"{name}.parquet", **options)


def by_pyarrow(name: str, records: list, schema=None, **options) -> None:
    pq.write_table(pa.Table.from_pylist(records, schema=schema), OUT / f"{name}.parquet", **options)


OUT.mkdir(exist_ok=True)
by_datasets("messages", MESSAGES)
by_datasets("turns", TURNS)
by_datasets("choices", CHOICES)
by_datasets("plain", PLAIN)
by_datasets("sharegpt", SHAREGPT, batch_size=16)

lines("alpaca", ALPACA)
by_pyarrow("alpaca", ALPACA, compression="gzip", data_page_version="2.0", row_group_size=20, data_page_size=64)
lines("letters", LETTERS)
letters = pa.schema([("question", pa.string()), ("options", pa.map_(pa.string(), pa.string())), ("answer", pa.uint8())])
by_pyarrow("letters", LETTERS, schema=letters, compression="none")

# A file for each way of writing texts: pages of several versions and encodings, in several packings.
lines("text", TEXTS)
small = dict(data_page_size=256, write_batch_size=8)
plain = dict(use_dictionary=False)
by_pyarrow("text-prefixes", TEXTS, **plain, column_encoding="DELTA_BYTE_ARRAY", data_page_version="2.0", **small)
by_pyarrow("text-lengths", TEXTS, **plain, column_encoding="DELTA_LENGTH_BYTE_ARRAY", compression="zstd", **small)
by_pyarrow("text-plain", TEXTS, **plain, compression="none", row_group_size=30)

# What is refused.
by_pyarrow("bad-lz4", TEXTS[:3], compression="lz4")
by_pyarrow("bad-mixed", [{"text": "One.", "messages": None}, {"text": None, "messages": MESSAGES[2]["messages"]}])
by_pyarrow("bad-bytes", [{"text": b"A text."}, {"text": b"\xff\x00\xfe"}])
