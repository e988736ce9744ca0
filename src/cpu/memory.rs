//! Views of the CPU's memory as slices.
#![allow(unsafe_code)]

use crate::{Cpu, Element, Parts, Storage, View, ViewMut};

// SAFETY: a vector's buffer stays where it is while the vector is not changed, and no one changes the length of these.
// All CPU memory is one address space, and nothing is recorded.
unsafe impl Storage for Cpu {
    type Memory<T: Element> = Vec<T>;
    type Owner = ();

    fn parts<T: Element>(memory: &Vec<T>) -> Parts<'_, *const T, ()> {
        Parts { ptr: memory.as_ptr(), len: memory.len(), owner: &() }
    }

    fn parts_mut<T: Element>(memory: &mut Vec<T>) -> Parts<'_, *mut T, ()> {
        Parts { ptr: memory.as_mut_ptr(), len: memory.len(), owner: &() }
    }

    fn admit(&self, _owner: &()) -> bool {
        true
    }
}

impl<'a, T: Element> View<'a, Cpu, T> {
    /// The elements.
    pub(super) fn slice(self) -> &'a [T] {
        // SAFETY: a view of the CPU's memory borrows that many elements of a vector for `'a` (`Storage for Cpu`).
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl<'a, T: Element> ViewMut<'a, Cpu, T> {
    /// The elements.
    pub(super) fn into_slice(mut self) -> &'a mut [T] {
        // SAFETY: a mutable view of the CPU's memory borrows that many elements of a vector exclusively for `'a`.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }
}
