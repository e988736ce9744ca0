//! What belongs to rows of a table that an adapter trains.

use super::rows::Rows;
use crate::{
    error::Result,
    lora::{Table, TokenLayout},
};
use halfbyte::{Backend, Buf, Float, elements, host};
use std::ops::Range;

/// What belongs to the trained rows of a table.
pub(super) struct PickedRows<B: Backend, T: Float> {
    pub table: Table,
    /// Of the rows, in the adapter's flat buffers.
    pub range: Range<usize>,
    pub columns: usize,
    /// `[vocab, columns]`: a 1 where a token has its row.
    pub one_hot: Buf<B, T>,
    /// `[n, columns]`
    pub picked: Rows<B, T>,
}

impl<B: Backend, T: Float> PickedRows<B, T> {
    pub fn new(backend: &B, tokens: &TokenLayout, vocab: usize, capacity: usize) -> Result<Self> {
        let TokenLayout { table, columns, rows: ref range, .. } = *tokens;
        let mut one_hot: Vec<T> = host::zeros(elements::<T>(&[vocab, columns])?)?;
        for (column, &id) in tokens.ids.iter().enumerate() {
            one_hot[id as usize * columns + column] = T::from_f32(1.0);
        }
        let (one_hot, picked) = (backend.upload(&one_hot)?, Rows::new(backend, capacity, columns)?);
        Ok(PickedRows { table, range: range.clone(), columns, one_hot, picked })
    }
}
