//! AdamW's moments in memory: in 8 bits and in 32.

use crate::{
    error::{Error, Result},
    lora::Layout,
    settings::Optim,
};
use halfbyte::{
    Backend, Buf, Element, ViewMut,
    ops::Moment8,
    quant::{BLOCK8, n_blocks},
};
use std::ops::Range;

/// The first and the second moment: of numbers up to `codes.len()` in 8 bits, of those behind them in 32.
pub(in crate::train) struct Moments<B: Backend> {
    codes: [Buf<B, u8>; 2],
    absmax: [Buf<B, f32>; 2],
    wide: [Buf<B, f32>; 2],
}

/// The same on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostMoments {
    /// Codes of the signed dynamic map, and of the unsigned one.
    pub codes: [Vec<u8>; 2],
    /// The largest magnitude of each block of 256 of them.
    pub absmax: [Vec<f32>; 2],
    /// Those in 32 bits.
    pub wide: [Vec<f32>; 2],
}

impl<B: Backend> Moments<B> {
    pub(super) fn new(backend: &B, optim: Optim, layout: &Layout) -> Result<Self> {
        let large = layout.groups.iter().filter(|group| group.kind.large);
        let narrow = if optim.in_8_bits() { large.map(|group| group.range.end).max().unwrap_or(0) } else { 0 };
        Ok(Moments {
            codes: both(backend, optim, narrow)?,
            absmax: both(backend, optim, n_blocks(narrow, BLOCK8))?,
            wide: both(backend, optim, layout.len - narrow)?,
        })
    }

    /// Those of a range of numbers in 8 bits, which begins with a block.
    pub(super) fn narrow(&mut self, range: Range<usize>) -> [Moment8<'_, B>; 2] {
        let blocks = range.start / BLOCK8..n_blocks(range.end, BLOCK8);
        let [m, v] = self.codes.each_mut().map(|codes| codes.at_mut(range.clone()));
        let [m_absmax, v_absmax] = self.absmax.each_mut().map(|absmax| absmax.at_mut(blocks.clone()));
        [Moment8 { codes: m, absmax: m_absmax }, Moment8 { codes: v, absmax: v_absmax }]
    }

    /// Those of a range of numbers in 32 bits.
    pub(super) fn wide(&mut self, range: Range<usize>) -> [ViewMut<'_, B, f32>; 2] {
        let before = self.codes[0].len();
        self.wide.each_mut().map(|moment| moment.at_mut(range.start - before..range.end - before))
    }

    /// A copy on the host; waits.
    ///
    /// # Errors
    /// The device refuses, or the host has too little memory.
    pub fn fetch(&self, backend: &B) -> Result<HostMoments> {
        Ok(HostMoments {
            codes: fetch(backend, &self.codes)?,
            absmax: fetch(backend, &self.absmax)?,
            wide: fetch(backend, &self.wide)?,
        })
    }

    /// Takes what was fetched.
    ///
    /// # Errors
    /// They are not as many, or the device refuses.
    pub fn restore(&mut self, backend: &B, host: &HostMoments) -> Result<()> {
        write(backend, &host.codes, &mut self.codes)?;
        write(backend, &host.absmax, &mut self.absmax)?;
        write(backend, &host.wide, &mut self.wide)
    }
}

fn both<B: Backend, T: Element>(backend: &B, optim: Optim, len: usize) -> Result<[Buf<B, T>; 2]> {
    let zeros = || if optim.on_host() { backend.zeros_on_host(len) } else { backend.zeros(len) };
    Ok([zeros()?, zeros()?])
}

fn fetch<B: Backend, T: Element>(backend: &B, [m, v]: &[Buf<B, T>; 2]) -> Result<[Vec<T>; 2]> {
    Ok([m.to_vec(backend)?, v.to_vec(backend)?])
}

/// Each into its own, if it is as long.
fn write<B: Backend, T: Element>(backend: &B, host: &[Vec<T>; 2], moments: &mut [Buf<B, T>; 2]) -> Result<()> {
    for (host, moment) in host.iter().zip(moments) {
        if host.len() != moment.len() {
            let own = format!("the adapter has {}", moment.len());
            return Err(Error::setting("moments of the optimizer", host.len(), own));
        }
        backend.write(host, moment.view_mut())?;
    }
    Ok(())
}
