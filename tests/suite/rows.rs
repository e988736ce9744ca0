use crate::common::{
    self,
    cases::{self, Rows},
    random::Random,
    tensor::{Layout, Tensor, twice},
};
use halfbyte::{
    Backend, Float,
    ops::{GatherRows, Op, ScatterRows},
};

/// Rows of the table.
const TABLE: usize = 40;

fn gather<B: Backend, T: Float>(backend: &B, case: &Rows) {
    let Rows { n, d, layout, .. } = *case;
    let name = format!("gather_rows {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let table = Tensor::<B, T>::of(backend, [TABLE, d], layout, &random.normal(TABLE * d, 1.0));
    let mut numbers = random.below(n, TABLE as u32);
    // Outside: the last row.
    numbers.iter_mut().skip(1).step_by(5).for_each(|r| *r = TABLE as u32);
    numbers.iter_mut().skip(2).step_by(7).for_each(|r| *r = u32::MAX);
    let rows = Tensor::flat(backend, Layout::Packed, numbers);
    let got = twice(&name, || {
        let mut out = Tensor::<B, T>::poisoned(backend, [n, d], layout);
        GatherRows { table: table.mat(), rows: rows.view(), out: out.mat_mut() }.run(backend).unwrap();
        out.read(backend, &name)
    });
    for (i, (got, &row)) in got.chunks(d).zip(rows.values()).enumerate() {
        let row = (row as usize).min(TABLE - 1);
        assert!(got == &table.values()[row * d..(row + 1) * d], "{name}: row {i} is not row {row} of the table");
    }
}

fn scatter<B: Backend, T: Float>(backend: &B, case: &Rows) {
    let Rows { n, d, layout, .. } = *case;
    let n_out = n + 7;
    let name = format!("scatter_rows {} {case:?}", T::DTYPE.suffix());
    let random = Random::new(&name);
    let x = Tensor::<B, T>::of(backend, [n, d], layout, &random.normal(n * d, 1.0));
    // Distinct: multiples of 3, which has no factor in common with the number of rows, or outside.
    let n_out = if n_out % 3 == 0 { n_out + 1 } else { n_out };
    let number = |i: usize| if i % 6 == 5 { u32::MAX - i as u32 } else { (i * 3 % n_out) as u32 };
    let rows = Tensor::flat(backend, Layout::Packed, (0..n).map(number).collect());
    let mut want: Vec<T> = random.normal(n_out * d, 1.0).into_iter().map(T::from_f32).collect();
    let got = twice(&name, || {
        let mut out = Tensor::new(backend, [n_out, d], layout, want.clone());
        ScatterRows { x: x.mat(), rows: rows.view(), out: out.mat_mut() }.run(backend).unwrap();
        out.read(backend, &name)
    });
    for (i, &row) in rows.values().iter().enumerate().filter(|(_, row)| (**row as usize) < n_out) {
        let row = row as usize;
        want[row * d..(row + 1) * d].copy_from_slice(&x.values()[i * d..(i + 1) * d]);
    }
    assert!(got == want, "{name}: rows differ");
}

fn gather_rows<B: Backend>(backend: &B) {
    for case in cases::rows() {
        each_float!(gather::<B>(backend, &case));
    }
}

fn scatter_rows<B: Backend>(backend: &B) {
    for case in cases::rows() {
        each_float!(scatter::<B>(backend, &case));
    }
}

backends!(gather_rows, scatter_rows);
