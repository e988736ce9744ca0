use super::check::{Check, Op};
use crate::{
    buffer::{Mat, MatMut, Storage, View},
    element::Float,
    error::Result,
};

/// `out[i, :] = table[rows[i], :]`: the embedding look-up, and the choice of some rows of a matrix.
///
/// A row number outside the table takes the table's last row.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (table, rows) = (cpu.upload(&[0_f32, 1.0, 2.0, 3.0, 4.0, 5.0])?, cpu.upload(&[2, 0])?);
/// let mut out = cpu.zeros(4)?;
/// GatherRows { table: table.mat(3, 2), rows: rows.view(), out: out.mat_mut(2, 2) }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [4.0, 5.0, 0.0, 1.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[doc(alias = "embedding")]
#[derive(Debug)]
pub struct GatherRows<'a, B: Storage, T: Float> {
    /// `[n_table, d]`.
    pub table: Mat<'a, B, T>,
    /// `[n]`.
    pub rows: View<'a, B, u32>,
    /// `[n, d]`.
    pub out: MatMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for GatherRows<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let [table, d] = self.table.shape();
        check.mat("table", &self.table, [table, d])?;
        check.view("rows", &self.rows)?;
        check.value(table > 0, "the table", 0, "it must have rows")?;
        check.mat_mut("out", &self.out, [self.rows.len(), d])
    }
}

/// `out[rows[i], :] = x[i, :]`; the other rows are left alone. Row numbers must differ; those outside are dropped.
///
/// ```
/// use halfbyte::{Backend, Cpu, ops::*};
///
/// let cpu = Cpu::new();
/// let (x, rows, mut out) = (cpu.upload(&[1_f32, 2.0])?, cpu.upload(&[2])?, cpu.zeros(6)?);
/// ScatterRows { x: x.mat(1, 2), rows: rows.view(), out: out.mat_mut(3, 2) }.run(&cpu)?;
/// assert_eq!(out.to_vec(&cpu)?, [0.0, 0.0, 0.0, 0.0, 1.0, 2.0]);
/// # Ok::<(), halfbyte::Error>(())
/// ```
#[derive(Debug)]
pub struct ScatterRows<'a, B: Storage, T: Float> {
    /// `[n, d]`.
    pub x: Mat<'a, B, T>,
    /// `[n]`.
    pub rows: View<'a, B, u32>,
    /// `[n_out, d]`.
    pub out: MatMut<'a, B, T>,
}

impl<B: Storage, T: Float> Op<B> for ScatterRows<'_, B, T> {
    fn verify(&self, check: &Check<'_, B>) -> Result<()> {
        let [n_out, d] = self.out.shape();
        check.view("rows", &self.rows)?;
        check.mat("x", &self.x, [self.rows.len(), d])?;
        check.mat_mut("out", &self.out, [n_out, d])
    }
}
