//! What each op should give: plain loops over exact inputs in f64, from the formulas in `src/ops`, with a bound on
//! what f32 arithmetic may do to the result. No code of either backend is used, nor clever order of sums.

use super::num::Num;

/// `a[i, :] · b[j, :]` of row-major matrices of `k` columns.
pub fn row_by_row(a: &[f64], b: &[f64], k: usize, i: usize, j: usize) -> Num {
    Num::dot(a[i * k..(i + 1) * k].iter().copied().zip(b[j * k..(j + 1) * k].iter().copied()))
}

/// `a[i, :] · b[:, j]`, `b` with `cols` columns.
pub fn row_by_column(a: &[f64], b: &[f64], k: usize, cols: usize, i: usize, j: usize) -> Num {
    Num::dot((0..k).map(|l| (a[i * k + l], b[l * cols + j])))
}

/// `a[:, i] · b[:, j]`.
pub fn column_by_column(a: &[f64], b: &[f64], [a_cols, b_cols]: [usize; 2], i: usize, j: usize) -> Num {
    let n = if a_cols == 0 { 0 } else { a.len() / a_cols };
    Num::dot((0..n).map(|l| (a[l * a_cols + i], b[l * b_cols + j])))
}
