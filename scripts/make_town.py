#!/usr/bin/env python3
"""Writes train.jsonl, heldout.jsonl and exam.json of runtime/assets/town from bylaws.txt beside them.

The format of bylaws.txt is described at its top. Needs nothing but Python; `--check` compares instead of writing.
"""

import json
import sys
from pathlib import Path

TOWN = Path(__file__).resolve().parent.parent / "runtime" / "assets" / "town"
LETTERS = "abcd"
OPENING = "Under the by-laws of Merrowby, "


def parse(source):
    """The articles in order: number, answer, and the lines of each kind."""
    articles = []
    for number, line in enumerate(source.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        head, _, rest = line.partition(" ")
        if head.isdigit():
            articles.append({"number": int(head), "answer": rest, "=": [], "?": [], "~": [], "!": []})
        elif head in ("=", "?", "~", "!"):
            articles[-1][head].append(rest)
        else:
            sys.exit(f"bylaws.txt:{number}: a line starts with a number or one of = ? ~ !, got {line!r}")
    return articles


def verify(articles):
    """Refuses a source whose exam would be unbalanced, ambiguous or part of the training text."""
    train = [text for article in articles for text in article["="] + article["?"]]
    for place, article in enumerate(articles):
        name = f"article {article['number']}"
        assert article["number"] == place + 1, f"{name}: numbers run from 1 without a gap"
        assert len(article["!"]) == 1, f"{name}: one exam stem, got {len(article['!'])}"
        clause = article["!"][0].removeprefix(OPENING)
        assert clause != article["!"][0], f"{name}: the exam stem starts {OPENING!r}"
        assert not any(clause in text for text in train), f"{name}: the exam stem is in the training text"
        assert not any(text.removeprefix("? ") in train for text in article["~"]), f"{name}: held-out line in training"
        for text in article["="] + article["?"] + article["~"]:
            assert text.endswith(article["answer"] + "."), f"{name}: must end with its answer: {text!r}"
    assert len(articles) % 4 == 0, "articles come in groups of four"
    for start in range(0, len(articles), 4):
        assert len({a["answer"] for a in articles[start : start + 4]}) == 4, f"group at {start + 1}: answers repeat"


def dialogue(line):
    prompt, reply = line.split(" > ")
    return {"prompt": prompt, "completion": " " + reply}


def held_out(line, answer):
    """Scored on what was to be learned: the reply to a question, the answer that ends a sentence."""
    if line.startswith("? "):
        return dialogue(line[2:])
    return {"prompt": line.removesuffix(f" {answer}."), "completion": f" {answer}."}


def question(articles, place):
    """One four-choice question; in a group every answer is right once, under another letter each time."""
    article, group = articles[place], articles[place - place % 4 : place - place % 4 + 4]
    seat = (place + place // 4) % 4
    others = [a["answer"] for a in group if a is not article]
    turn = place % 3
    options = others[turn:] + others[:turn]
    options.insert(seat, article["answer"])
    return {
        "ファイル名": f"merrowby_article_{article['number']:02}",
        "コンテキスト": "",
        "指示": "Continue the sentence as the by-laws of Merrowby have it: choose a, b, c or d.",
        "問題文": article["!"][0],
        "選択肢": "\n".join(f"{letter} {option}" for letter, option in zip(LETTERS, options)),
        "output": LETTERS[seat],
        "references": [f"By-laws of Merrowby, Article {article['number']}"],
    }


def json_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def build(articles):
    train = [row for a in articles for row in [{"text": t} for t in a["="]] + [dialogue(q) for q in a["?"]]]
    samples = [question(articles, place) for place in range(len(articles))]
    return {
        "train.jsonl": json_lines(train),
        "heldout.jsonl": json_lines(held_out(line, a["answer"]) for a in articles for line in a["~"]),
        "exam.json": json.dumps({"samples": samples}, ensure_ascii=False, indent=1) + "\n",
    }


def main():
    articles = parse((TOWN / "bylaws.txt").read_text(encoding="utf-8"))
    verify(articles)
    for name, content in build(articles).items():
        if sys.argv[1:] == ["--check"]:
            if (TOWN / name).read_text(encoding="utf-8") != content:
                sys.exit(f"{TOWN / name} is not what bylaws.txt gives; run scripts/make_town.py")
        else:
            (TOWN / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
