//! Tests on streams and memory that are others'. They play the others through cudarc, as candle and burn do.
#![allow(unsafe_code)]

use crate::{
    backend::Backend,
    buffer::{Buf, Mat, View, ViewMut},
    cuda::{Cuda, device::gpu},
    dlpack::{self, Device, ManagedTensor, ManagedTensorVersioned},
    ops::{Cast, Dequantize, Linear4, Norm, Op, Quantize},
    quant::{Format, Scales, Weight4},
};
use cudarc::driver::{CudaContext, CudaStream, DevicePtr};
use std::sync::Arc;

/// A stream of others, and a `Cuda` on it; the default stream, or one of their own.
fn given(default: bool) -> Option<(Arc<CudaStream>, Cuda)> {
    gpu()?;
    let context = CudaContext::new(0).unwrap();
    let stream = if default { context.default_stream() } else { context.new_stream().unwrap() };
    let cuda = Cuda::on_stream(stream.clone()).unwrap();
    Some((stream, cuda))
}

const LEN: usize = 32 << 20;

/// What others write before an op, and behind it, is ordered with it, though nobody waits.
#[test]
fn ops_are_ordered_with_what_others_queue() {
    for default in [false, true] {
        let Some((stream, cuda)) = given(default) else { return };
        let mut x = stream.clone_htod(&vec![1_f32; LEN]).unwrap();
        let mut out = cuda.zeros::<f32>(1).unwrap();
        let ptr = x.device_ptr(&stream).0 as *const f32;
        for _ in 0..8 {
            stream.memcpy_htod(&vec![2_f32; LEN], &mut x).unwrap();
            // SAFETY: `x` lives to the end of the test, and others write it in the order of the stream.
            let view = unsafe { View::<Cuda, f32>::from_raw(&cuda, ptr, LEN) }.unwrap();
            Norm { x: view, out: out.view_mut() }.run(&cuda).unwrap();
            stream.memset_zeros(&mut x).unwrap();
            let want = 2.0 * (LEN as f32).sqrt();
            let got = out.to_vec(&cuda).unwrap()[0];
            assert!((got / want - 1.0).abs() < 1e-5, "{got}, not {want}");
        }
    }
}

/// Two of them queue to one stream, and neither knows what the other's kernels write: early launch would read old weights.
#[test]
fn a_weight_that_another_has_just_written_is_read_as_it_is() {
    let Some((stream, reader)) = given(false) else { return };
    let writer = Cuda::on_stream(stream).unwrap();
    let (rows, cols) = (4096, 4096);
    let sources = [1_f32, -2.0].map(|value| writer.upload(&vec![value; rows * cols]).unwrap());
    let mut codes = writer.zeros::<u8>(rows * cols / 2).unwrap();
    let mut absmax = writer.zeros::<f32>(rows * cols / 64).unwrap();
    let (x, mut out) = (reader.upload(&vec![1_f32; cols]).unwrap(), reader.zeros::<f32>(rows).unwrap());
    for round in 0..50 {
        let (codes_ptr, absmax_ptr) = (codes.view().as_ptr(), absmax.view().as_ptr());
        let x_source = sources[round % 2].view();
        let (codes, absmax) = (codes.view_mut(), absmax.view_mut());
        Quantize { x: x_source, format: Format::Nf4, block_size: 64, codes, absmax }.run(&writer).unwrap();
        // SAFETY: both buffers live to the end of the test, and are written in the order of the same stream.
        let (codes, absmax) = unsafe {
            let codes = View::<Cuda, u8>::from_raw(&reader, codes_ptr, rows * cols / 2).unwrap();
            (codes, View::<Cuda, f32>::from_raw(&reader, absmax_ptr, rows * cols / 64).unwrap())
        };
        let weight = Weight4 { format: Format::Nf4, block_size: 64, rows, cols, codes, scales: Scales::Plain(absmax) };
        Linear4 { x: x.mat(1, cols), weight, out: out.mat_mut(1, rows), accumulate: false }.run(&reader).unwrap();
        let want = if round % 2 == 0 { 4096.0 } else { -8192.0 };
        assert!(out.to_vec(&reader).unwrap().iter().all(|got| *got == want), "round {round}");
    }
}

/// A copy aside of memory that others overwrite next, on the stream.
#[test]
fn copies_aside_have_read_what_others_write_next() {
    let Some((stream, cuda)) = given(false) else { return };
    let mut x = stream.clone_htod(&vec![7_u8; LEN]).unwrap();
    let ptr = x.device_ptr(&stream).0 as *const u8;
    let mut host = cuda.zeros_on_host::<u8>(LEN).unwrap();
    // SAFETY: `x` lives to the end of the test, and others write it in the order of the stream.
    let view = unsafe { View::<Cuda, u8>::from_raw(&cuda, ptr, LEN) }.unwrap();
    cuda.copy_aside(view, host.view_mut()).unwrap();
    stream.memset_zeros(&mut x).unwrap();
    assert!(cuda.collect(host.view()).unwrap().iter().all(|&byte| byte == 7));
    // And by a `Cuda` with a stream of its own, which waits for nobody but says when it is done.
    let own = gpu().unwrap();
    stream.memcpy_htod(&vec![8_u8; LEN], &mut x).unwrap();
    stream.synchronize().unwrap();
    let mut host = own.zeros_on_host::<u8>(LEN).unwrap();
    // SAFETY: `x` lives to the end of the test, and is written below when `own` has done all that was queued.
    let view = unsafe { View::<Cuda, u8>::from_raw(&own, ptr, LEN) }.unwrap();
    own.copy_aside(view, host.view_mut()).unwrap();
    own.synchronize().unwrap();
    stream.memset_zeros(&mut x).unwrap();
    stream.synchronize().unwrap();
    assert!(own.collect(host.view()).unwrap().iter().all(|&byte| byte == 8));
}

#[test]
fn memory_of_others_is_refused_where_it_cannot_be_used() {
    let Some((stream, cuda)) = given(false) else { return };
    let x = stream.clone_htod(&[1_f32; 4]).unwrap();
    let ptr = x.device_ptr(&stream).0 as *const f32;
    // SAFETY: `x` lives to the end of the test, and nobody writes it.
    let view = unsafe { View::<Cuda, f32>::from_raw(&cuda, ptr, 4) }.unwrap();
    let other = gpu().unwrap();
    let mut out = other.zeros::<f32>(1).unwrap();
    let error = Norm { x: view, out: out.view_mut() }.run(&other).unwrap_err().to_string();
    assert!(error.contains("`x` belongs to another device"), "{error}");
    let pageable = [1_f32; 4];
    // SAFETY: it is refused.
    let error = unsafe { View::<Cuda, f32>::from_raw(&cuda, pageable.as_ptr(), 4) }.unwrap_err().to_string();
    assert!(error.contains("which no GPU knows"), "{error}");
}

/// A graph outlives a view, so it takes buffers only, and keeps what they are made of.
#[test]
fn a_recorded_step_keeps_buffers_and_refuses_views() {
    let (Some((stream, _)), Some(cuda)) = (given(false), gpu()) else { return };
    let x = Arc::new(stream.clone_htod(&[3_f32, 4.0]).unwrap());
    stream.synchronize().unwrap();
    let ptr = x.device_ptr(&stream).0 as *mut f32;
    let mut out = cuda.zeros::<f32>(1).unwrap();
    // SAFETY: `x` lives to the end of the test, and nobody writes it.
    let view = unsafe { View::<Cuda, f32>::from_raw(&cuda, ptr, 2) }.unwrap();
    let mut graph = Default::default();
    let mut step = || cuda.replay(&mut graph, || Norm { x: view, out: out.view_mut() }.run(&cuda));
    step().unwrap();
    let error = step().unwrap_err().to_string();
    assert!(error.contains("Buf::from_raw"), "{error}");

    // SAFETY: the `Arc` keeps `x`, which nobody writes.
    let buf = unsafe { Buf::<Cuda, f32>::from_raw(&cuda, ptr, 2, x.clone()) }.unwrap();
    let mut graph = Default::default();
    for _ in 0..3 {
        cuda.replay(&mut graph, || Norm { x: buf.view(), out: out.view_mut() }.run(&cuda)).unwrap();
    }
    drop(buf);
    assert_eq!((out.to_vec(&cuda).unwrap(), Arc::strong_count(&x)), (vec![5.0], 2));
    drop(graph);
    assert_eq!(Arc::strong_count(&x), 1);
}

/// What others queue meanwhile would become part of a graph, and the default stream cannot be recorded at all.
#[test]
fn steps_run_as_they_are_on_a_stream_that_was_given() {
    for default in [false, true] {
        let Some((_, cuda)) = given(default) else { return };
        let (x, mut out) = (cuda.upload(&[3_f32, 4.0]).unwrap(), cuda.zeros::<f32>(1).unwrap());
        let (mut graph, mut runs) = (Default::default(), 0);
        for _ in 0..3 {
            let step = || {
                runs += 1;
                Norm { x: x.view(), out: out.view_mut() }.run(&cuda)
            };
            cuda.replay(&mut graph, step).unwrap();
        }
        assert_eq!((out.to_vec(&cuda).unwrap(), runs), (vec![5.0], 3));
    }
}

#[test]
fn a_raw_stream_is_taken_and_one_of_another_context_is_not() {
    let Some((stream, _)) = given(false) else { return };
    // SAFETY: the stream lives to the end of the test; null is the default stream.
    let both = unsafe {
        let raw = Cuda::on_raw_stream(0, stream.cu_stream().cast());
        [raw, Cuda::on_raw_stream(0, std::ptr::null_mut())]
    };
    for cuda in both {
        let cuda = cuda.unwrap();
        let (x, mut out) = (cuda.upload(&[1.5_f32]).unwrap(), cuda.zeros::<half::bf16>(1).unwrap());
        Cast { x: x.view(), out: out.view_mut() }.run(&cuda).unwrap();
        assert_eq!(out.to_vec(&cuda).unwrap()[0].to_f32(), 1.5);
    }
    let of_each_thread = Cuda::on_stream(stream.context().per_thread_stream());
    assert!(of_each_thread.is_err_and(|e| e.to_string().contains("of each thread")));
    let context = CudaContext::new_non_primary(0, 0).unwrap();
    let stream = context.new_stream().unwrap();
    // SAFETY: it is refused.
    let refused = unsafe { Cuda::on_raw_stream(0, stream.cu_stream().cast()) };
    assert!(refused.is_err_and(|e| e.to_string().contains("`stream` belongs to another device")));
    // In a context of its own everything works as in the primary one.
    let cuda = Cuda::on_stream(stream).unwrap();
    let (codes, absmax) = (cuda.upload(&[0xff_u8; 32]).unwrap(), cuda.upload(&[0.5_f32]).unwrap());
    let (format, block_size, scales) = (Format::Nf4, 64, Scales::Plain(absmax.view()));
    let weight = Weight4 { format, block_size, rows: 1, cols: 64, codes: codes.view(), scales };
    let mut out = cuda.zeros::<f32>(64).unwrap();
    Dequantize { weight, out: out.view_mut() }.run(&cuda).unwrap();
    assert_eq!(out.to_vec(&cuda).unwrap(), [0.5; 64]);
}

#[test]
fn dlpack_takes_and_gives_memory_of_the_gpu() {
    let Some((stream, cuda)) = given(false) else { return };
    let alive = Arc::new(());
    let mut x = stream.clone_htod(&[1_f32, 2.0, 3.0, 4.0]).unwrap();
    let ptr = x.device_ptr(&stream).0 as *mut f32;
    // SAFETY: `x` outlives what is made of it, and nobody else writes it.
    let buf = unsafe { Buf::<Cuda, f32>::from_raw(&cuda, ptr, 4, alive.clone()) }.unwrap();
    let raw = dlpack::into_raw::<ManagedTensorVersioned, _, _>(&cuda, buf, &[2, 2]).unwrap();
    // SAFETY: nobody else has the tensor.
    let tensor = unsafe { dlpack::from_raw::<_, _, f32>(&cuda, raw) }.unwrap();
    assert_eq!(cuda.download(tensor.view()).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    drop(tensor);
    assert_eq!(Arc::strong_count(&alive), 1);
    let host = cuda.zeros_on_host::<f32>(4).unwrap();
    for (buf, kind) in [(cuda.zeros::<f32>(4).unwrap(), Device::CUDA), (host, Device::CUDA_HOST)] {
        let raw = dlpack::into_raw::<ManagedTensor, _, _>(&cuda, buf, &[4]).unwrap();
        // SAFETY: nobody else has the tensor, which is given back below.
        unsafe {
            assert_eq!(raw.as_ref().tensor.device, Device { kind, id: 0 });
            dlpack::Managed::delete(raw);
        }
    }
    // SAFETY: `x` lives to the end of the test, and is written below in the order of the stream.
    let mut out = unsafe { ViewMut::<Cuda, f32>::from_raw(&cuda, ptr, 4) }.unwrap();
    cuda.write(&[9.0; 4], out.reborrow()).unwrap();
    assert_eq!(Mat::new(out.view(), 2, 2).shape(), [2, 2]);
    stream.memcpy_htod(&[5_f32; 4], &mut x).unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [5.0; 4]);
}
