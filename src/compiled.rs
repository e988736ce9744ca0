//! Where ops are compiled: in this crate, once for each compute type.
//!
//! A generic function is compiled anew by each crate that calls it, and the CPU's kernels are most of what a program
//! that uses halfbyte consists of. So the generic methods of [`Backend`](crate::backend::Backend) do no more than to call what
//! a compute type has for each op, which is not generic.

use crate::{backend::each_op, buffer::Storage, element::Float, error::Result, ops};
use half::{bf16, f16};

/// A method for each op of one or two compute types, of which this is the first.
macro_rules! declared {
    ($($name:ident($Op:ident $(<$($T:ident),+>)?) in $($module:ident)::+;)*) => {
        $(declared! { @ $name $Op $($($T)+)? })*
    };
    (@ $name:ident $Op:ident) => {};
    (@ $name:ident $Op:ident $T:ident) => {
        fn $name(backend: &B, op: ops::$Op<'_, B, Self>) -> Result<()>
        where
            Self: Float;
    };
    (@ $name:ident $Op:ident $T:ident $O:ident) => {
        fn $name<$O: Float>(backend: &B, op: ops::$Op<'_, B, Self, $O>) -> Result<()>
        where
            Self: Float;
    };
}

/// A method for each op of two, of which this is the second.
macro_rules! declared_with {
    ($($name:ident($Op:ident $(<$($T:ident),+>)?) in $($module:ident)::+;)*) => {
        $(declared_with! { @ $name $Op $($($T)+)? })*
    };
    (@ $name:ident $Op:ident $T:ident $O:ident) => {
        fn $name(backend: &B, op: ops::$Op<'_, B, T, Self>) -> Result<()>
        where
            Self: Float;
    };
    (@ $($other:ident)+) => {};
}

/// A compute type for which the ops of `B` are compiled.
pub trait Compiled<B: Storage>: Sized {
    each_op! { declared }
}

/// The same of ops that read `T` and write this.
pub trait CompiledWith<B: Storage, T: Float>: Sized {
    each_op! { declared_with }
}

/// The methods of `impl Backend for B`. `run!(backend, op, function)` runs an op by a function.
macro_rules! dispatched {
    (($run:ident) $($name:ident($Op:ident $(<$($T:ident),+>)?) in $($module:ident)::+;)*) => {
        $($crate::compiled::dispatched! { @ $run $name $Op [$($($T)+)?] $($module)::+ })*
    };
    (@ $run:ident $name:ident $Op:ident [] $($module:ident)::+) => {
        fn $name(&self, op: Checked<ops::$Op<'_, Self>>) -> Result<()> {
            $run!(self, op.into_inner(), $($module)::+::$name)
        }
    };
    (@ $run:ident $name:ident $Op:ident [$T:ident $($O:ident)?] $($module:ident)::+) => {
        fn $name<$T: Float $(, $O: Float)?>(&self, op: Checked<ops::$Op<'_, Self, $T $(, $O)?>>) -> Result<()> {
            <$T as Compiled<Self>>::$name(self, op.into_inner())
        }
    };
}
pub(crate) use dispatched;

/// The methods of `impl Compiled<B>`.
macro_rules! compiled {
    (($B:ident $run:ident) $($name:ident($Op:ident $(<$($T:ident),+>)?) in $($module:ident)::+;)*) => {
        $($crate::compiled::compiled! { @ $B $run $name $Op [$($($T)+)?] $($module)::+ })*
    };
    (@ $B:ident $run:ident $name:ident $Op:ident [] $($module:ident)::+) => {};
    (@ $B:ident $run:ident $name:ident $Op:ident [$T:ident] $($module:ident)::+) => {
        fn $name(backend: &$B, op: ops::$Op<'_, $B, Self>) -> Result<()> {
            $run!(backend, op, $($module)::+::$name)
        }
    };
    (@ $B:ident $run:ident $name:ident $Op:ident [$T:ident $O:ident] $($module:ident)::+) => {
        fn $name<$O: Float>(backend: &$B, op: ops::$Op<'_, $B, Self, $O>) -> Result<()> {
            <$O as CompiledWith<$B, Self>>::$name(backend, op)
        }
    };
}
pub(crate) use compiled;

/// The methods of `impl CompiledWith<B, First>`: `every` op, or only the `casts` (`S, T` in the list), where this is a type that
/// a product of `First` (`T, O` there) may not have as its output.
macro_rules! compiled_with {
    (($B:ident $First:ident $which:ident $run:ident)
     $($name:ident($Op:ident $(<$($T:ident),+>)?) in $($module:ident)::+;)*) => {
        $($crate::compiled::compiled_with! { @ $B $First $which $run $name $Op [$($($T)+)?] $($module)::+ })*
    };
    (@ $B:ident $First:ident casts $run:ident $name:ident $Op:ident [T O] $($module:ident)::+) => {
        fn $name(backend: &$B, _: ops::$Op<'_, $B, $First, Self>) -> Result<()> {
            Check::new(stringify!($name), backend).other_output(Self::DTYPE) // for who did not ask whether it may be
        }
    };
    (@ $B:ident $First:ident $which:ident $run:ident $name:ident $Op:ident [$T:ident $O:ident] $($module:ident)::+) => {
        fn $name(backend: &$B, op: ops::$Op<'_, $B, $First, Self>) -> Result<()> {
            $run!(backend, op, $($module)::+::$name)
        }
    };
    (@ $B:ident $First:ident $which:ident $run:ident $name:ident $Op:ident [$($other:ident)?] $($module:ident)::+) => {};
}
pub(crate) use compiled_with;

/// Compiles the ops of a backend, in whose module it stands, for all compute types.
macro_rules! compile {
    ($B:ident by $run:ident) => {
        compile! { @ $B $run f32: f32 every, bf16 casts, f16 casts }
        compile! { @ $B $run bf16: f32 every, bf16 every, f16 casts }
        compile! { @ $B $run f16: f32 every, bf16 casts, f16 every }
    };
    (@ $B:ident $run:ident $First:ident: $($O:ident $which:ident),+) => {
        impl Compiled<$B> for $First {
            each_op! { compiled($B $run) }
        }
        $(impl CompiledWith<$B, $First> for $O {
            each_op! { compiled_with($B $First $which $run) }
        })+
    };
}
pub(crate) use compile;

/// A compute type for which all ops of `B` are compiled.
pub trait On<B: Storage>: Compiled<B> + CompiledWith<B, bf16> + CompiledWith<B, f16> + CompiledWith<B, f32> {}

impl<B: Storage, T> On<B> for T where
    T: Compiled<B> + CompiledWith<B, bf16> + CompiledWith<B, f16> + CompiledWith<B, f32>
{
}
