use crate::{Cpu, ops::{Sample}};

pub(super) fn sample(_op: Sample<'_, Cpu>) {
    todo!()
}
