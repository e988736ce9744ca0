//! Questions with their options in several orders, which tells knowledge from a liking for a letter.

use halfbyte::rng::philox;
use serde::Serialize;

use super::questions::Question;
use crate::error::{Error, Result};

/// Sets these random numbers apart from other uses of the same seed ("order").
const STREAM: u32 = 0x6f72_6465;

/// A question as it is asked, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The question, with its options and its answer in this order.
    pub question: Question,
    /// Which order it is, from 0: the file's own.
    pub order: usize,
    /// The option of the file that stands at each place.
    pub places: Vec<usize>,
}

/// Each question once, as the file has it.
pub fn as_given(questions: &[Question]) -> Vec<Item> {
    let item = |question: &Question| Item { question: question.clone(), order: 0, places: places(question) };
    questions.iter().map(item).collect()
}

fn places(question: &Question) -> Vec<usize> {
    (0..question.options.len()).collect()
}

/// Each question in `orders` orders of its options, or in as many as it has options if that is less. The first order is
/// the file's; in all together no option stands at a place twice, so that with as many orders as options each one stands
/// at each place once, the right one too. The orders depend on the seed and on the question's index.
///
/// # Errors
/// `orders` is 0, or more than any question has options.
pub fn shuffled(questions: &[Question], orders: usize, seed: u64) -> Result<Vec<Item>> {
    let most = questions.iter().map(|question| question.options.len()).max().unwrap_or(0);
    if orders == 0 || orders > most {
        let want = format!("it must be 1 to {most}, the most options of a question");
        return Err(Error::setting("the number of orders of the options", orders, want));
    }
    let mut items = Vec::new();
    for (index, question) in questions.iter().enumerate() {
        let seats = seats(question.options.len(), index, seed);
        let orders = 0..orders.min(seats.len());
        items.extend(orders.map(|order| reordered(question, order, &seats)));
    }
    Ok(items)
}

/// The places `0..n`, as they sit around a table: in each order all options move on by one seat more.
fn seats(n: usize, question: usize, seed: u64) -> Vec<usize> {
    let mut seats: Vec<_> = (0..n).collect();
    let question = question as u64;
    seats.sort_by_cached_key(|&place| philox([place as u32, question as u32, (question >> 32) as u32, STREAM], seed));
    seats
}

fn reordered(question: &Question, order: usize, seats: &[usize]) -> Item {
    let mut places = vec![0; seats.len()];
    for (seat, &option) in seats.iter().enumerate() {
        places[seats[(seat + order) % seats.len()]] = option;
    }
    let mut question = question.clone();
    question.options = places.iter().map(|&option| question.options[option].clone()).collect();
    question.answer = question.answer.and_then(|answer| places.iter().position(|&option| option == answer));
    Item { question, order, places }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn question(n: usize, answer: usize) -> Question {
        Question {
            id: "q".into(),
            context: String::new(),
            instruction: String::new(),
            question: "?".into(),
            options: (0..n).map(|option| format!("option {option}")).collect(),
            answer: Some(answer),
        }
    }

    proptest! {
        #[test]
        fn every_option_stands_at_every_place_once(n in 2..27usize, answer in 0..26usize, seed: u64) {
            let given = question(n, answer % n);
            let items = shuffled(std::slice::from_ref(&given), n, seed).unwrap();
            prop_assert_eq!(&items[0].question, &given);
            prop_assert_eq!(items.len(), n);
            for place in 0..n {
                let mut there: Vec<_> = items.iter().map(|item| item.places[place]).collect();
                there.sort_unstable();
                prop_assert_eq!(there, places(&given));
            }
            let mut right: Vec<_> = items.iter().map(|item| item.question.answer.unwrap()).collect();
            right.sort_unstable();
            prop_assert_eq!(right, places(&given));
            for Item { question, places, .. } in &items {
                let right = question.answer.unwrap();
                prop_assert_eq!(&question.options[right], &given.options[given.answer.unwrap()]);
                prop_assert!((0..n).all(|place| question.options[place] == given.options[places[place]]));
            }
        }
    }

    #[test]
    fn orders_depend_on_seed_and_question_and_nothing_else() {
        let questions = vec![question(4, 1); 20];
        let orders =
            |seed| shuffled(&questions, 4, seed).unwrap().into_iter().map(|item| item.places).collect::<Vec<_>>();
        assert_eq!(orders(1), orders(1));
        assert_ne!(orders(1), orders(2));
        let first_of_each: Vec<_> = orders(1).chunks(4).map(|orders| orders[1].clone()).collect();
        assert!(first_of_each.iter().any(|order| *order != first_of_each[0]));
    }

    #[test]
    fn fewer_options_have_fewer_orders() {
        let questions = [question(2, 0), question(4, 3)];
        let items = shuffled(&questions, 4, 0).unwrap();
        assert_eq!(items.iter().map(|item| item.order).collect::<Vec<_>>(), [0, 1, 0, 1, 2, 3]);
        for orders in [0, 5] {
            let error = shuffled(&questions, orders, 0).unwrap_err().to_string();
            assert!(error.ends_with(&format!("is {orders}, but it must be 1 to 4, the most options of a question")));
        }
        let given = as_given(&questions);
        assert_eq!(given, [items[0].clone(), items[2].clone()]);
    }
}
