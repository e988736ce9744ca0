use crate::{
    buffer::{Buf, Storage, View, ViewMut},
    element::{Element, Float},
    error::Result,
    meter::MemoryUse,
    ops::{self, Checked, Launch, Op},
    profile::OpTime,
    quant::{Absmax, GROUP, ScaleBufs},
};

/// The table of contents of halfbyte: every op, which is one method of [`Backend`].
///
/// A line gives the method, the op's struct with its types, and the module of the function that has the method's name
/// and runs the op: `cpu::<module>` and `cuda::launch::<module>`. `each_op! { make }` is `make! { all lines }`, and `each_op! {
/// make(what) }` `make! { (what) all lines }`; from them come the methods below, both backends', what is compiled for each type
/// (`compiled.rs`) and [`Launch`]. Of two types, `S, T` are any; of `T, O` the second is the first or f32.
macro_rules! each_op {
    ($make:ident $(($($what:tt)*))?) => {
        $make! {
            $(($($what)*))?
            // 4-bit formats
            quantize(Quantize<T>) in quantize;
            nest_absmax(NestAbsmax) in quantize;
            dequantize(Dequantize<T>) in dequantize;

            // Linear layers
            linear4(Linear4<T, O>) in gemm::linear4;
            linear4_grad(Linear4Grad<T>) in gemm::linear4;
            norm_linear4(NormLinear4<T>) in gemm::norm_linear4;
            linear(Linear<T, O>) in gemm::linear;
            linear_grad(LinearGrad<T>) in gemm::linear;
            weight_grad(WeightGrad<T>) in gemm::weight_grad;
            lora(Lora<T>) in gemm::lora;
            lora_grad(LoraGrad<T>) in gemm::lora;
            lora_linear(LoraLinear<T>) in gemm::lora_linear;
            lora_linear_grad(LoraLinearGrad<T>) in gemm::lora_linear;

            // DoRA
            row_squares(RowSquares<T>) in dora;
            dora_norms(DoraNorms<T>) in dora;
            dora(Dora<T>) in dora;
            dora_grad(DoraGrad<T>) in dora;
            dropped(Dropped<T>) in dora;

            // The layers between
            rms_norm(RmsNorm<T>) in rms_norm;
            rms_norm_grad(RmsNormGrad<T>) in rms_norm;
            qk_norm_rope(QkNormRope<T>) in qk_norm_rope;
            qk_norm_rope_grad(QkNormRopeGrad<T>) in qk_norm_rope;
            attention(Attention<T>) in attention;
            attention_grad(AttentionGrad<T>) in attention;
            decode_attention(DecodeAttention<T>) in decode_attention;
            dequantize_rows(DequantizeRows<T>) in dequantize_rows;
            swiglu(Swiglu<T>) in swiglu;
            swiglu_grad(SwigluGrad<T>) in swiglu;

            // The two ends
            gather_rows(GatherRows<T>) in rows;
            scatter_rows(ScatterRows<T>) in rows;
            noise(Noise<T>) in noise;
            cross_entropy(CrossEntropy<T>) in cross_entropy;
            screen(Screen<T>) in gemm::screen;
            linear_max(LinearMax<T>) in gemm::screen;
            sample(Sample) in sample;

            // Flat vectors
            cast(Cast<S, T>) in cast;
            sum(Sum) in reduce;
            norm(Norm) in reduce;
            adamw(AdamW<T>) in adamw;
            adamw8bit(AdamW8bit<T>) in adamw;
        }
    };
}
pub(crate) use each_op;

/// The methods of the trait.
macro_rules! methods {
    ($($name:ident($Op:ident $(<$($T:ident),+>)?) in $($module:ident)::+;)*) => {$(
        #[doc = concat!("Runs [`", stringify!($Op), "`](ops::", stringify!($Op), ").")]
        fn $name $(<$($T: Float),+>)? (&self, op: Checked<ops::$Op<'_, Self $($(, $T)+)?>>) -> Result<()>;
    )*};
}

/// A machine that holds buffers and runs kernels: one method for each op, documented where the op is defined.
///
/// Work is queued in order; only [`Backend::download`] and [`Backend::synchronize`] wait for it.
pub trait Backend: Storage + Sized + Send + Sync + 'static {
    /// A recorded sequence of ops; see [`Backend::replay`].
    type Graph: Default + Send;

    /// What it is, for people: `cpu (avx512-bf16, 2 threads)`, `cuda:0 (NVIDIA H200)`.
    fn name(&self) -> String;

    /// `len` zeros.
    fn zeros<T: Element>(&self, len: usize) -> Result<Buf<Self, T>>;
    /// `len` zeros in the host's memory, where there is more of it. Ops use them as any other, at the speed of the bus.
    /// They are not counted as memory of the device; on the CPU there is no other.
    fn zeros_on_host<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        self.zeros(len)
    }
    /// A copy of `host`.
    fn upload<T: Element>(&self, host: &[T]) -> Result<Buf<Self, T>>;
    /// A copy on the host; waits.
    fn download<T: Element>(&self, view: View<'_, Self, T>) -> Result<Vec<T>>;
    /// `host` into memory that exists. Lengths must agree.
    fn write<T: Element>(&self, host: &[T], out: ViewMut<'_, Self, T>) -> Result<()>;
    /// `x` into `out`. Lengths must agree.
    fn copy<T: Element>(&self, x: View<'_, Self, T>, out: ViewMut<'_, Self, T>) -> Result<()>;
    /// As [`Backend::copy`], beside the ops that follow: the first of them that uses memory of `x` or `out` waits for it.
    fn copy_aside<T: Element>(&self, x: View<'_, Self, T>, out: ViewMut<'_, Self, T>) -> Result<()> {
        self.copy(x, out)
    }
    /// A copy on the host of what a copy aside brought there ([`Backend::zeros_on_host`]); waits for that copy, and not for
    /// what was queued since.
    fn collect<T: Element>(&self, view: View<'_, Self, T>) -> Result<Vec<T>> {
        self.download(view)
    }
    /// Whether work is queued and done later, so that it pays not to wait for one piece of it before the next.
    fn runs_behind(&self) -> bool {
        false
    }
    /// For how many vectors at most [`LinearMax`](ops::LinearMax) reads less than [`Linear`](ops::Linear).
    fn most_screened(&self) -> usize;
    /// Zeros into `out`.
    fn clear<T: Element>(&self, out: ViewMut<'_, Self, T>) -> Result<()>;
    /// Waits until everything that was queued is done, and reports what went wrong in it.
    fn synchronize(&self) -> Result<()>;
    /// Begins in the background what the first large product would wait for (on CUDA, opening cuBLASLt). Worth calling
    /// before something else that takes time.
    fn warm_up(&self) {}
    /// What its buffers take, and took at most. Of the whole process see [`crate::host::process_peak`].
    fn memory(&self) -> MemoryUse;
    /// Bytes that buffers can still take; none where that is not known.
    fn free_memory(&self) -> Option<usize>;
    /// From now on [`MemoryUse::peak`] is the most that buffers take from now on: one of several measurements in a
    /// process has its own.
    fn restart_peak(&self);

    /// Runs `step`, which must queue the same ops on the same memory each time and wait for nothing.
    /// A backend that can record queues (CUDA graphs) records it into `graph` the first time and
    /// from then on replays that.
    fn replay(&self, graph: &mut Self::Graph, step: impl FnMut() -> Result<()>) -> Result<()>;

    /// From now on notes how long each op takes, and records nothing ([`Backend::replay`] runs its steps as they are): ops
    /// of other threads count too. On CUDA no kernel is started before the op before it has ended, so that times add up
    /// to more than those of a replayed step.
    ///
    /// # Errors
    /// The device refuses.
    fn begin_profile(&self) -> Result<()>;
    /// What each op took since, the longest first; waits, and notes no longer.
    ///
    /// # Errors
    /// The device refuses, or reports what went wrong in what was queued before.
    fn end_profile(&self) -> Result<Vec<OpTime>>;
    /// Runs an op; between [`Backend::begin_profile`] and [`Backend::end_profile`] with a clock beside it.
    ///
    /// # Errors
    /// Those of `run`; the device refuses.
    fn timed(&self, op: &'static str, flops: f64, run: impl FnOnce() -> Result<()>) -> Result<()>;

    each_op! { methods }
}

/// [`Launch`] for every op, by the method of its name.
macro_rules! launches {
    ($($name:ident($Op:ident $(<$($T:ident),+>)?) in $($module:ident)::+;)*) => {$(
        impl<B: Backend $($(, $T: Float)+)?> Launch<B> for ops::$Op<'_, B $($(, $T)+)?> {
            const NAME: &'static str = stringify!($name);

            fn launch(op: Checked<Self>, backend: &B) -> Result<()> {
                backend.timed(Self::NAME, op.get().flops(), || backend.$name(op))
            }
        }
    )*};
}

each_op! { launches }

impl<B: Backend, T: Element> Buf<B, T> {
    /// A copy on the host; waits for everything that was queued before.
    ///
    /// # Errors
    /// The device refuses, or reports what went wrong in what was queued before.
    pub fn to_vec(&self, backend: &B) -> Result<Vec<T>> {
        backend.download(self.view())
    }
}

impl<B: Backend> ScaleBufs<B> {
    /// Zeros for `blocks` blocks.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn zeros(backend: &B, blocks: usize, double_quant: bool) -> Result<Self> {
        if !double_quant {
            return Ok(Absmax::Plain(backend.zeros(blocks)?));
        }
        Ok(Absmax::Nested { codes: backend.zeros(blocks)?, groups: backend.zeros(blocks.div_ceil(GROUP))? })
    }
}
