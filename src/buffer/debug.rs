//! How memory and windows look in messages: where and how large they are, never what they hold.

use super::{
    Buf, Parts, Storage, View, ViewMut,
    mat::{Mat, MatMut},
};
use crate::element::Element;
use std::fmt::{Debug, Formatter, Result};

impl<B: Storage, T: Element> Debug for Buf<B, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Parts { ptr, len, .. } = B::parts(&self.0);
        f.debug_struct("Buf").field("ptr", &ptr).field("len", &len).finish()
    }
}

impl<B: Storage, T: Element> Debug for View<'_, B, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("View").field("ptr", &self.ptr).field("len", &self.len).finish()
    }
}

impl<B: Storage, T: Element> Debug for ViewMut<'_, B, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ViewMut").field("ptr", &self.ptr).field("len", &self.len).finish()
    }
}

impl<B: Storage, T: Element> Debug for Mat<'_, B, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Mat { view, rows, cols, stride } = self;
        f.debug_struct("Mat").field("ptr", &view.ptr).field("shape", &[rows, cols]).field("stride", stride).finish()
    }
}

impl<B: Storage, T: Element> Debug for MatMut<'_, B, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let MatMut { view, rows, cols, stride } = self;
        f.debug_struct("MatMut").field("ptr", &view.ptr).field("shape", &[rows, cols]).field("stride", stride).finish()
    }
}
