//! Memory of a backend and windows on it.
//!
//! A window is an address, a length and a lifetime; it is covariant in the lifetime, so that ops can be put together
//! from windows that were made at different times. Only backends look behind the address.
#![allow(unsafe_code)]

mod debug;
mod foreign;
mod mat;

use crate::{element::Element, error::Result};
use mat::area;
pub use mat::{Mat, MatMut};
use std::{any::Any, fmt::Debug, marker::PhantomData, ops::Range};

/// What keeps memory of others alive until it is dropped.
pub type Keeper = Box<dyn Any + Send + Sync>;

/// Where memory lies, and who it belongs to.
#[derive(Debug)]
pub struct Parts<'a, P, O> {
    /// The address of the first element.
    pub ptr: P,
    /// Number of elements.
    pub len: usize,
    /// What keeps the memory and knows its backend.
    pub owner: &'a O,
}

/// What no other crate can name, and so none can implement.
pub(crate) mod sealed {
    pub trait Sealed {}
}

/// How a backend owns memory. Only this crate's backends do.
///
/// # Safety
/// The address is that of as many elements as the length says, in the address space that the owner belongs to; it
/// stays the same and valid as long as the memory lives, or a copy that [`Storage::admit`] made of the owner. Only
/// memory of an admitted owner is ever touched.
pub unsafe trait Storage: sealed::Sealed + Debug {
    /// Owned memory.
    type Memory<T: Element>: Send + Sync;
    /// What keeps memory alive and knows its backend.
    type Owner: Send + Sync + 'static;

    /// Where it lies.
    fn parts<T: Element>(memory: &Self::Memory<T>) -> Parts<'_, *const T, Self::Owner>;
    /// Where it lies, to write.
    fn parts_mut<T: Element>(memory: &mut Self::Memory<T>) -> Parts<'_, *mut T, Self::Owner>;

    /// Whether an op of this backend may use this memory; the op waits for a copy aside of it. Where ops are being
    /// recorded, the memory is kept for as long as the recording lives.
    ///
    /// # Errors
    /// The device cannot wait.
    fn admit(&self, owner: &Self::Owner) -> Result<bool>;

    /// The owner of memory that is others' ([`View::from_raw`]), `bytes` of which are at `address`. No recording takes it.
    ///
    /// # Errors
    /// This backend cannot use such an address.
    fn lend(&self, address: usize, bytes: usize) -> Result<&Self::Owner>;

    /// Memory of others that lives as long as `keeper`, as owned memory.
    ///
    /// # Errors
    /// This backend cannot use such an address.
    ///
    /// # Safety
    /// As for [`Buf::from_raw`].
    unsafe fn adopt<T: Element>(&self, ptr: *mut T, len: usize, keeper: Keeper) -> Result<Self::Memory<T>>;
}

/// Memory of a backend that holds `T`s.
pub struct Buf<B: Storage, T: Element>(pub(crate) B::Memory<T>);

impl<B: Storage, T: Element> Buf<B, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        B::parts(&self.0).len
    }

    /// No elements at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it.
    pub fn view(&self) -> View<'_, B, T> {
        let Parts { ptr, len, owner } = B::parts(&self.0);
        View { ptr, len, owner, memory: PhantomData }
    }

    /// A part of it. Panics when `range` is outside.
    pub fn at(&self, range: Range<usize>) -> View<'_, B, T> {
        self.view().at(range)
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, B, T> {
        let Parts { ptr, len, owner } = B::parts_mut(&mut self.0);
        ViewMut { ptr, len, owner, memory: PhantomData }
    }

    /// A part of it, to write. Panics when `range` is outside.
    pub fn at_mut(&mut self, range: Range<usize>) -> ViewMut<'_, B, T> {
        self.view_mut().into_at(range)
    }

    /// The first `rows * cols` elements as a row-major matrix.
    pub fn mat(&self, rows: usize, cols: usize) -> Mat<'_, B, T> {
        Mat::new(self.at(0..area(rows, cols)), rows, cols)
    }

    /// The first `rows * cols` elements as a row-major matrix, to write.
    pub fn mat_mut(&mut self, rows: usize, cols: usize) -> MatMut<'_, B, T> {
        MatMut::new(self.at_mut(0..area(rows, cols)), rows, cols)
    }
}

/// A read-only window on a [`Buf`].
pub struct View<'a, B: Storage, T: Element> {
    ptr: *const T,
    len: usize,
    owner: &'a B::Owner,
    memory: PhantomData<&'a [T]>,
}

// SAFETY: a view is a shared borrow of memory, and `Storage` demands that memory is `Sync`.
unsafe impl<B: Storage, T: Element> Send for View<'_, B, T> {}
// SAFETY: a shared reference to a view gives no more than a copy of the view, which is `Send`.
unsafe impl<B: Storage, T: Element> Sync for View<'_, B, T> {}

impl<B: Storage, T: Element> Clone for View<'_, B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Storage, T: Element> Copy for View<'_, B, T> {}

fn check(range: &Range<usize>, len: usize) {
    assert!(range.start <= range.end && range.end <= len, "{range:?} of a view of {len} elements");
}

/// How many `U`s `len` `T`s from `ptr` are. Any bytes are elements of any type, since all elements are plain data.
fn cast_len<T: Element, U: Element>(ptr: *const T, len: usize) -> usize {
    let (bytes, size) = (len * size_of::<T>(), size_of::<U>());
    assert!(bytes.is_multiple_of(size), "a view of {bytes} bytes as elements of {size}");
    assert!(ptr.cast::<U>().is_aligned(), "a view from {ptr:?} as elements of {size} bytes");
    bytes / size
}

impl<'a, B: Storage, T: Element> View<'a, B, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No elements at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whose memory it is.
    pub(crate) fn owner(&self) -> &'a B::Owner {
        self.owner
    }

    /// The address, on CUDA the device's. Whoever reads there does so behind the backend's back: in the order of its stream,
    /// and while the memory is borrowed.
    pub fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// A part of it. Panics when `range` is outside.
    pub fn at(self, range: Range<usize>) -> Self {
        check(&range, self.len);
        View { ptr: self.ptr.wrapping_add(range.start), len: range.len(), ..self }
    }

    /// The same bytes as elements of another type. Panics when they are no whole number of them, or not aligned.
    pub fn cast<U: Element>(self) -> View<'a, B, U> {
        let len = cast_len::<T, U>(self.ptr, self.len);
        View { ptr: self.ptr.cast(), len, owner: self.owner, memory: PhantomData }
    }
}

/// A window on a [`Buf`] to write through.
pub struct ViewMut<'a, B: Storage, T: Element> {
    ptr: *mut T,
    len: usize,
    owner: &'a B::Owner,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: a mutable view is an exclusive borrow of memory, and `Storage` demands that memory is `Send`.
unsafe impl<B: Storage, T: Element> Send for ViewMut<'_, B, T> {}
// SAFETY: through a shared reference to a mutable view the memory, which is `Sync`, can only be read.
unsafe impl<B: Storage, T: Element> Sync for ViewMut<'_, B, T> {}

impl<'a, B: Storage, T: Element> ViewMut<'a, B, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No elements at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whose memory it is.
    pub(crate) fn owner(&self) -> &'a B::Owner {
        self.owner
    }

    /// The address, on CUDA the device's; see [`View::as_ptr`].
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }

    /// `[0, mid)` and `[mid, len)`. Panics when `mid` is outside.
    pub fn split(self, mid: usize) -> (Self, Self) {
        check(&(mid..self.len), self.len);
        let second = ViewMut { ptr: self.ptr.wrapping_add(mid), len: self.len - mid, ..self };
        (ViewMut { len: mid, ..self }, second)
    }

    /// Windows on these ranges, in the order of `ranges`. Panics when one is outside, or two have elements in common.
    pub fn into_disjoint(self, ranges: &[Range<usize>]) -> Vec<Self> {
        let mut ascending: Vec<_> = ranges.iter().enumerate().collect();
        ascending.sort_by_key(|(_, range)| (range.start, range.end));
        let (mut start, mut rest, mut windows) = (0, self, Vec::new());
        for (place, range) in ascending {
            assert!(start <= range.start, "{range:?} and what ends at {start} have elements in common");
            let (window, behind) = rest.split(range.start - start).1.split(range.len());
            windows.push((place, window));
            (start, rest) = (range.end, behind);
        }
        windows.sort_by_key(|(place, _)| *place);
        windows.into_iter().map(|(_, window)| window).collect()
    }

    /// A part of it. Panics when `range` is outside.
    pub fn into_at(self, range: Range<usize>) -> Self {
        check(&range, self.len);
        ViewMut { ptr: self.ptr.wrapping_add(range.start), len: range.len(), ..self }
    }

    /// A part of it, for a while. Panics when `range` is outside.
    pub fn at_mut(&mut self, range: Range<usize>) -> ViewMut<'_, B, T> {
        self.reborrow().into_at(range)
    }

    /// The same window, for a while.
    pub fn reborrow(&mut self) -> ViewMut<'_, B, T> {
        ViewMut { ptr: self.ptr, len: self.len, owner: self.owner, memory: PhantomData }
    }

    /// The same window, to read.
    pub fn view(&self) -> View<'_, B, T> {
        View { ptr: self.ptr, len: self.len, owner: self.owner, memory: PhantomData }
    }

    /// The same bytes as elements of another type. Panics when they are no whole number of them, or not aligned.
    pub fn cast<U: Element>(self) -> ViewMut<'a, B, U> {
        let len = cast_len::<T, U>(self.ptr, self.len);
        ViewMut { ptr: self.ptr.cast(), len, owner: self.owner, memory: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use crate::{backend::Backend, cpu::Cpu};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn windows_come_in_the_order_that_was_asked_for() {
        let cpu = Cpu::new();
        let mut buf = cpu.upload(&[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let windows = buf.view_mut().into_disjoint(&[3..5, 0..1, 6..6]);
        let got: Vec<_> = windows.iter().map(|window| cpu.download(window.view()).unwrap()).collect();
        assert_eq!(got, [vec![3.0, 4.0], vec![0.0], vec![]]);
        for wrong in [[1..3, 0..2], [4..7, 0..1]] {
            let cut = || drop(buf.view_mut().into_disjoint(&wrong));
            assert!(catch_unwind(AssertUnwindSafe(cut)).is_err(), "{wrong:?}");
        }
    }
}
