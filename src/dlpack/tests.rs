//! Tensors made by hand, as other libraries make them.

use super::{
    Tensor, Typed,
    abi::{DataType, Device, Managed, ManagedTensor, ManagedTensorVersioned, READ_ONLY, RawTensor, Version},
    from_raw, into_raw,
};
use crate::{backend::Backend, buffer::Buf, cpu::Cpu, error::Result};
use half::{bf16, f16};
use std::{
    ffi::c_void,
    ptr::{NonNull, null_mut},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A tensor of another library, which counts how often it was given back.
struct Foreign {
    data: Vec<f32>,
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    given_back: AtomicUsize,
}

impl Foreign {
    fn new(shape: &[i64], strides: Option<&[i64]>) -> Self {
        let data = (0..24_u8).map(f32::from).collect();
        Foreign { data, shape: shape.into(), strides: strides.map(Into::into), given_back: AtomicUsize::new(0) }
    }

    fn raw(&mut self) -> RawTensor {
        RawTensor {
            data: self.data.as_mut_ptr().cast(),
            device: Device { kind: Device::CPU, id: 0 },
            ndim: self.shape.len() as i32,
            dtype: f32::TYPE,
            shape: self.shape.as_mut_ptr(),
            strides: self.strides.as_mut().map_or(null_mut(), |strides| strides.as_mut_ptr()),
            byte_offset: 0,
        }
    }

    fn context(&self) -> *mut c_void {
        (&raw const self.given_back).cast_mut().cast()
    }

    fn versioned(&mut self, flags: u64) -> ManagedTensorVersioned {
        let version = Version { major: 1, minor: 0 };
        let (context, tensor) = (self.context(), self.raw());
        ManagedTensorVersioned { version, context, deleter: Some(count_versioned), flags, tensor }
    }

    fn plain(&mut self) -> ManagedTensor {
        let (context, tensor) = (self.context(), self.raw());
        ManagedTensor { tensor, context, deleter: Some(count) }
    }

    fn given_back(&self) -> usize {
        self.given_back.load(Ordering::Relaxed)
    }
}

unsafe extern "C" fn count(tensor: *mut ManagedTensor) {
    // SAFETY: `Foreign::plain` made the tensor, whose context is a counter that outlives it.
    unsafe { &*(*tensor).context.cast::<AtomicUsize>() }.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C" fn count_versioned(tensor: *mut ManagedTensorVersioned) {
    // SAFETY: `Foreign::versioned` made the tensor, whose context is a counter that outlives it.
    unsafe { &*(*tensor).context.cast::<AtomicUsize>() }.fetch_add(1, Ordering::Relaxed);
}

/// What the CPU makes of a tensor.
fn take<M: Managed, T: Typed>(managed: &mut M) -> Result<Tensor<Cpu, T>> {
    // SAFETY: the tests below keep their tensors, which are as long as they say or longer, until they are done with them.
    unsafe { from_raw(&Cpu::new(), NonNull::from(managed)) }
}

#[test]
fn a_tensor_is_read_where_it_lies_and_given_back_once() {
    for strides in [None, Some(&[12, 4, 1][..])] {
        let mut foreign = Foreign::new(&[2, 3, 4], strides);
        let address = foreign.data.as_ptr();
        let mut managed = foreign.plain();
        let tensor = take::<_, f32>(&mut managed).unwrap();
        assert_eq!((tensor.shape(), tensor.mat().unwrap().shape()), (&[2, 3, 4][..], [6, 4]));
        assert_eq!(tensor.view().as_ptr(), address);
        assert_eq!(Cpu::new().download(tensor.view()).unwrap(), foreign.data);
        assert_eq!(foreign.given_back(), 0);
        drop(tensor);
        assert_eq!(foreign.given_back(), 1);
    }
}

#[test]
fn a_tensor_is_written_unless_it_is_read_only() {
    let cpu = Cpu::new();
    let mut foreign = Foreign::new(&[4], None);
    let mut managed = foreign.versioned(0);
    managed.tensor.byte_offset = 8;
    let mut tensor = take::<_, f32>(&mut managed).unwrap();
    cpu.write(&[-1.0, -2.0, -3.0, -4.0], tensor.view_mut().unwrap()).unwrap();
    drop(tensor.into_buf().unwrap());
    assert_eq!(foreign.given_back(), 1);
    assert_eq!(foreign.data[..7], [0.0, 1.0, -1.0, -2.0, -3.0, -4.0, 6.0]);
    let mut managed = foreign.versioned(READ_ONLY);
    let mut tensor = take::<_, f32>(&mut managed).unwrap();
    let error = tensor.view_mut().unwrap_err().to_string();
    assert!(error.contains("read-only") && error.contains(".copy()"), "{error}");
    assert!(tensor.into_buf().is_err());
    assert_eq!(foreign.given_back(), 2, "also where it is refused late");
}

#[test]
fn layouts_with_gaps_are_refused_with_a_way_out() {
    let bad: [(&[i64], &[i64]); 5] =
        [(&[3, 2], &[1, 3]), (&[3, 2], &[4, 1]), (&[4], &[2]), (&[2, 2], &[-2, 1]), (&[2, 3], &[0, 1])];
    for (shape, strides) in bad {
        let mut foreign = Foreign::new(shape, Some(strides));
        let error = take::<_, f32>(&mut foreign.plain()).unwrap_err().to_string();
        assert!(error.contains(".contiguous()") && error.contains(&format!("{strides:?}")), "{error}");
        assert_eq!(foreign.given_back(), 0, "it stays the caller's");
    }
    let good: [(&[i64], &[i64]); 4] =
        [(&[1, 4], &[7, 1]), (&[4, 1], &[1, 9]), (&[0, 3], &[5, 5]), (&[2, 1, 3], &[3, 0, 1])];
    for (shape, strides) in good {
        let mut foreign = Foreign::new(shape, Some(strides));
        let mut managed = foreign.plain();
        assert!(take::<_, f32>(&mut managed).is_ok(), "{shape:?} {strides:?}");
    }
}

/// Changes one thing, and says what is heard of it.
fn refusal<T: Typed>(change: impl Fn(&mut ManagedTensorVersioned)) -> String {
    let mut foreign = Foreign::new(&[2, 3], None);
    let mut managed = foreign.versioned(0);
    change(&mut managed);
    let error = take::<_, T>(&mut managed).unwrap_err().to_string();
    assert_eq!(foreign.given_back(), 0, "it stays the caller's");
    error
}

#[test]
fn what_cannot_be_read_is_refused() {
    let said = [
        (refusal::<bf16>(|_| ()), "float32, but it was to be bfloat16"),
        (refusal::<f32>(|m| m.tensor.dtype = DataType { code: DataType::INT, bits: 64, lanes: 1 }), "int64"),
        (refusal::<f32>(|m| m.tensor.dtype.lanes = 4), "4 x 32 bits"),
        (refusal::<f32>(|m| m.tensor.device = Device { kind: Device::CUDA, id: 1 }), "cuda:1, but it must be the host"),
        (refusal::<f32>(|m| m.version.major = 2), "max_version"),
        (refusal::<f32>(|m| m.tensor.ndim = -1), "the shape is -1"),
        (refusal::<f32>(|m| m.tensor.shape = null_mut()), "null"),
        (refusal::<f32>(|m| m.tensor.data = null_mut()), "the address is 0x0"),
        (refusal::<f32>(|m| m.tensor.byte_offset = 2), "aligned"),
    ];
    for (error, want) in said {
        assert!(error.contains(want), "{error}: no `{want}`");
    }
    for shape in [&[-1, 2][..], &[i64::MAX, i64::MAX], &[1 << 62, 2]] {
        let mut foreign = Foreign::new(shape, None);
        assert!(take::<_, f32>(&mut foreign.plain()).is_err(), "{shape:?}");
    }
}

#[test]
fn a_scalar_and_a_tensor_without_deleter_are_tensors() {
    let mut foreign = Foreign::new(&[], None);
    let mut managed = ManagedTensor { deleter: None, ..foreign.plain() };
    let tensor = take::<_, f32>(&mut managed).unwrap();
    assert_eq!((tensor.view().len(), tensor.mat().is_err()), (1, true));
}

/// Out and in again, by both structs; the buffer goes with its last tensor.
fn round_trip<M: Managed, T: Typed + PartialEq>(host: &[T]) {
    let cpu = Cpu::new();
    let alive = Arc::new(());
    let mut host = host.to_vec();
    // SAFETY: `host` outlives all that is made of it.
    let buf = unsafe { Buf::<Cpu, T>::from_raw(&cpu, host.as_mut_ptr(), host.len(), alive.clone()) }.unwrap();
    let raw = into_raw::<M, _, _>(&cpu, buf, &[host.len() / 2, 1, 2]).unwrap();
    // SAFETY: nobody else has the tensor.
    let tensor = unsafe { from_raw::<_, _, T>(&cpu, raw) }.unwrap();
    assert_eq!((tensor.shape(), Arc::strong_count(&alive)), (&[host.len() / 2, 1, 2][..], 2));
    assert!(cpu.download(tensor.view()).unwrap() == host);
    drop(tensor);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn all_element_types_go_out_and_come_back() {
    round_trip::<ManagedTensor, u8>(&[1, 2, 3, 4]);
    round_trip::<ManagedTensorVersioned, i32>(&[-1, i32::MAX]);
    round_trip::<ManagedTensor, u32>(&[u32::MAX, 0]);
    round_trip::<ManagedTensorVersioned, f32>(&[0.5, -2.0, 1e30, 0.0]);
    round_trip::<ManagedTensor, f16>(&[0.5, -2.0].map(f16::from_f32));
    round_trip::<ManagedTensorVersioned, bf16>(&[0.5, -2.0].map(bf16::from_f32));
}

#[test]
fn a_shape_that_is_not_the_buffers_is_refused() {
    let cpu = Cpu::new();
    for shape in [&[3][..], &[2, 3], &[], &[usize::MAX, usize::MAX]] {
        let buf = cpu.zeros::<f32>(4).unwrap();
        assert!(into_raw::<ManagedTensor, _, _>(&cpu, buf, shape).is_err(), "{shape:?}");
    }
}
