//! The best passages for terms with weights, by BM25.
//!
//! Scores are summed term by term, the heaviest term first, until what is left to add cannot lift a passage that has
//! nothing much yet among the best; the other terms are looked up for those that can still be (Turtle and Flood, "Query
//! evaluation: strategies and optimizations", 1995: MaxScore). Questions have many terms, of which the most frequent,
//! whose lists are long, weigh least.

use std::cmp::Ordering;

use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::BlockSegmentPostings;
use tantivy::query::{Bm25StatisticsProvider, Bm25Weight};
use tantivy::schema::IndexRecordOption;
use tantivy::{DocAddress, DocId, Score, Searcher, SegmentReader, TERMINATED, Term};

/// Sums of scores are rounded: what could be missed by so little is looked up.
const ROUNDING: Score = 1.0 + 1e-4;

/// The `k` passages with the highest scores, the best first, of equals the one that was added first.
pub(super) fn best(searcher: &Searcher, terms: &[(Term, f32)], k: usize) -> tantivy::Result<Vec<(Score, DocAddress)>> {
    let weighted: tantivy::Result<Vec<_>> =
        terms.iter().map(|(term, boost)| Ok((term, bm25(searcher, term)?.boost_by(*boost)))).collect();
    let (weighted, mut found) = (weighted?, Vec::new());
    for (segment, reader) in (0..).zip(searcher.segment_readers()) {
        let mut lists = Vec::new();
        for (term, weight) in &weighted {
            lists.extend(List::open(reader, term, weight)?);
        }
        let best = Scores::of(lists, reader.max_doc(), k);
        found.extend(best.into_iter().map(|(score, doc)| (score, DocAddress::new(segment, doc))));
    }
    found.sort_by(better);
    found.truncate(k);
    Ok(found)
}

fn better<At: Ord>(a: &(Score, At), b: &(Score, At)) -> Ordering {
    b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1))
}

fn bm25(searcher: &Searcher, term: &Term) -> tantivy::Result<Bm25Weight> {
    let n_docs = searcher.total_num_docs()?;
    let mean_length = searcher.total_num_tokens(term.field())? as Score / n_docs as Score;
    Ok(Bm25Weight::for_one_term_without_explain(searcher.doc_freq(term)?, n_docs, mean_length))
}

/// The passages of a segment that have a term.
struct List {
    blocks: BlockSegmentPostings,
    lengths: FieldNormReader,
    weight: Bm25Weight,
}

impl List {
    fn open(reader: &SegmentReader, term: &Term, weight: &Bm25Weight) -> tantivy::Result<Option<Self>> {
        let index = reader.inverted_index(term.field())?;
        let Some(info) = index.get_term_info(term)? else { return Ok(None) };
        let blocks = index.read_block_postings_from_terminfo(&info, IndexRecordOption::WithFreqs)?;
        Ok(Some(List { blocks, lengths: reader.get_fieldnorms_reader(term.field())?, weight: weight.clone() }))
    }

    /// Adds the term's score to all passages that have it, and gives the highest sum.
    fn add_to(&mut self, sums: &mut [Score]) -> Score {
        let mut highest = 0f32;
        while !self.blocks.docs().is_empty() {
            for (&doc, &n) in self.blocks.docs().iter().zip(self.blocks.freqs()) {
                let sum = &mut sums[doc as usize];
                *sum += self.weight.score(self.lengths.fieldnorm_id(doc), n);
                highest = highest.max(*sum);
            }
            self.blocks.advance();
        }
        highest
    }

    /// The term's score in a passage; none that comes before the one asked last is asked for.
    fn score(&mut self, doc: DocId) -> Score {
        let at = self.blocks.seek(doc);
        match self.blocks.doc(at) {
            found if found == doc && found != TERMINATED => {
                self.weight.score(self.lengths.fieldnorm_id(doc), self.blocks.freq(at))
            }
            _ => 0.0,
        }
    }
}

struct Scores {
    /// Of each passage, of the terms so far.
    sums: Vec<Score>,
    highest: Score,
    k: usize,
}

impl Scores {
    fn of(mut lists: Vec<List>, n_docs: DocId, k: usize) -> Vec<(Score, DocId)> {
        lists.sort_by(|a, b| b.weight.max_score().total_cmp(&a.weight.max_score()));
        let rest = rest(&lists);
        let mut scores = Scores { sums: vec![0.0; n_docs as usize], highest: 0.0, k };
        let mut lists = lists.into_iter().zip(rest);
        let mut left = Vec::new();
        while let Some((mut list, rest)) = lists.next() {
            if scores.k_are_above(rest) {
                left.push((list, rest));
                left.extend(lists);
                break;
            }
            scores.highest = list.add_to(&mut scores.sums).max(scores.highest);
        }
        scores.look_up(left)
    }

    /// Whether no passage without a score can be among the best, if the other terms add at most `rest`.
    fn k_are_above(&self, rest: Score) -> bool {
        let rest = rest * ROUNDING;
        self.highest > rest && self.sums.iter().filter(|&&sum| sum > rest).count() >= self.k
    }

    /// Adds what is left for the passages that can still be among the best, and gives these.
    fn look_up(mut self, left: Vec<(List, Score)>) -> Vec<(Score, DocId)> {
        let with_terms = self.sums.iter().zip(0..).filter(|(sum, _)| **sum > 0.0);
        let mut found: Vec<_> = with_terms.map(|(&sum, doc)| (sum, doc)).collect();
        for (mut list, rest) in left {
            self.drop_hopeless(&mut found, rest);
            found.iter_mut().for_each(|(sum, doc)| *sum += list.score(*doc));
        }
        found.sort_by(better);
        found.truncate(self.k);
        found
    }

    /// Drops those that cannot come among the best, if the other terms add at most `rest`.
    fn drop_hopeless(&mut self, found: &mut Vec<(Score, DocId)>, rest: Score) {
        let mut sums: Vec<_> = found.iter().map(|(sum, _)| *sum).collect();
        let Some(last) = self.k.checked_sub(1).filter(|&last| last < sums.len()) else { return };
        let (_, &mut kth, _) = sums.select_nth_unstable_by(last, |a, b| b.total_cmp(a));
        found.retain(|(sum, _)| (sum + rest) * ROUNDING >= kth);
    }
}

/// The most that each list and those after it can add together.
fn rest(lists: &[List]) -> Vec<Score> {
    let mut rest: Vec<_> = lists
        .iter()
        .rev()
        .scan(0.0, |sum, list| {
            *sum += list.weight.max_score();
            Some(*sum)
        })
        .collect();
    rest.reverse();
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use tantivy::collector::TopDocs;
    use tantivy::query::{BooleanQuery, BoostQuery, Query, TermQuery};
    use tantivy::schema::{Field, Schema, TextFieldIndexing, TextOptions};
    use tantivy::{Index, IndexWriter, doc};

    /// An index of these texts in two segments.
    fn index(texts: &[String]) -> (Searcher, Field) {
        let indexing = TextFieldIndexing::default().set_tokenizer("whitespace");
        let indexing = indexing.set_index_option(IndexRecordOption::WithFreqs);
        let mut schema = Schema::builder();
        let field = schema.add_text_field("terms", TextOptions::default().set_indexing_options(indexing));
        let index = Index::create_in_ram(schema.build());
        let mut writer: IndexWriter = index.writer_with_num_threads(1, 15_000_000).unwrap();
        let (some, rest) = texts.split_at(texts.len() / 3);
        for texts in [some, rest] {
            for text in texts {
                writer.add_document(doc!(field => text.as_str())).unwrap();
            }
            writer.commit().unwrap();
        }
        let searcher = index.reader().unwrap().searcher();
        assert_eq!(searcher.segment_readers().len(), 2);
        (searcher, field)
    }

    /// The scores of all passages that have a term, by tantivy's own search.
    fn all(searcher: &Searcher, terms: &[(Term, f32)]) -> Vec<(Score, DocAddress)> {
        let one = |(term, weight): &(Term, f32)| -> Box<dyn Query> {
            let query = TermQuery::new(term.clone(), IndexRecordOption::WithFreqs);
            Box::new(BoostQuery::new(Box::new(query), *weight))
        };
        let query = BooleanQuery::union(terms.iter().map(one).collect());
        searcher.search(&query, &TopDocs::with_limit(10_000).order_by_score()).unwrap()
    }

    fn near(a: Score, b: Score) -> bool {
        (a - b).abs() <= 1e-5 * b
    }

    /// Word `n` for numbers up to 1000, the first words far more often than the last.
    fn word(n: &u32) -> String {
        format!("w{}", n * n / 8000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn they_are_those_of_a_search_that_leaves_nothing_out(
            texts in vec(vec(0u32..1000, 1..40), 400..600),
            asked in vec((0u32..1100, 0.1f32..3.0), 1..40),
            k in 1usize..12,
        ) {
            let texts: Vec<_> = texts.iter().map(|text| text.iter().map(word).collect::<Vec<_>>().join(" ")).collect();
            let (searcher, field) = index(&texts);
            let terms: HashMap<_, _> = asked.iter().map(|(n, weight)| (word(n), *weight)).collect();
            let terms: Vec<_> =
                terms.iter().map(|(term, weight)| (Term::from_field_text(field, term), *weight)).collect();
            let (found, wanted) = (best(&searcher, &terms, k).unwrap(), all(&searcher, &terms));
            let of: HashMap<_, _> = wanted.iter().map(|(score, at)| (at, score)).collect();
            prop_assert_eq!(found.len(), wanted.len().min(k));
            prop_assert!(found.is_sorted_by(|a, b| better(a, b).is_lt()));
            for ((score, at), (wanted, _)) in found.iter().zip(&wanted) {
                prop_assert!(near(*score, *wanted) && near(*score, *of[at]), "{score}, not {wanted} or {}", of[at]);
            }
        }
    }
}
