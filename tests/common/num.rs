//! Numbers that know how far f32 arithmetic may be from them.

use halfbyte::{DType, Float};

/// One ulp of 1 in f32. Twice what one rounding may do: kernels may fuse or not, and tensor cores cut off.
const EPS: f64 = 1.0 / 8_388_608.0;

/// Half an ulp of 1: what rounding to `T` does at most, relatively.
pub fn unit<T: Float>() -> f64 {
    match T::DTYPE {
        DType::Bf16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        DType::F32 => 2f64.powi(-24),
    }
}

/// What rounding does at most to a number too small for `T`: half its smallest step, or all of what may be flushed.
pub fn tiny<T: Float>() -> f64 {
    match T::DTYPE {
        DType::F16 => 2f64.powi(-25),
        DType::Bf16 | DType::F32 => 2f64.powi(-126),
    }
}

/// An exact value, and a bound on the error of a computation of it in f32: a running error analysis
/// (Higham, "Accuracy and stability of numerical algorithms", section 3.3). Each operation passes on the errors of its
/// operands by the mean value theorem and adds one rounding.
#[derive(Debug, Clone, Copy)]
pub struct Num {
    pub v: f64,
    pub err: f64,
}

impl From<f64> for Num {
    fn from(v: f64) -> Self {
        Num { v, err: 0.0 }
    }
}

impl From<f32> for Num {
    fn from(v: f32) -> Self {
        f64::from(v).into()
    }
}

impl Num {
    pub const ZERO: Num = Num { v: 0.0, err: 0.0 };

    fn computed(v: f64, inherited: f64, roundings: f64) -> Num {
        Num { v, err: inherited + roundings * EPS * v.abs() }
    }

    /// Division, by an approximate reciprocal too.
    pub fn recip(self) -> Num {
        let nearest = (self.v.abs() - self.err).max(f64::MIN_POSITIVE);
        Num::computed(1.0 / self.v, self.err / (nearest * self.v.abs()), 2.0)
    }

    pub fn sqrt(self) -> Num {
        let root = self.v.sqrt();
        Num::computed(root, if root > 0.0 { self.err / root } else { self.err.sqrt() }, 2.0)
    }

    /// The argument is rounded when it is turned to base 2, hence the share of `|v|`.
    pub fn exp(self) -> Num {
        let (v, below) = (self.v.exp(), self.err.exp_m1());
        Num::computed(v, v * below, 4.0 + self.v.abs())
    }

    pub fn ln(self) -> Num {
        let relative = self.err / (self.v - self.err).max(f64::MIN_POSITIVE);
        let v = self.v.ln();
        // Near 1 an approximate logarithm has an absolute error.
        Num { v, err: relative + 4.0 * EPS * (v.abs() + 1.0) }
    }

    /// `1 / (1 + exp(-x))`.
    pub fn sigmoid(self) -> Num {
        // exp(-x) may overflow where the result is 0 in any case; (1 + e) loses nothing.
        let e = (-self).exp();
        let v = 1.0 / (1.0 + e.v);
        Num::computed(v, v * v * e.err, 4.0)
    }

    /// Rounded to `T` on the way (by contract): what is kept is within half an ulp.
    pub fn rounded<T: Float>(self) -> Num {
        if T::DTYPE == DType::F32 {
            return self;
        }
        Num { v: self.v, err: self.err + unit::<T>() * (self.v.abs() + self.err) + tiny::<T>() }
    }

    /// Sums in any order. The worst case grows with the number of terms; the bound here is the probabilistic one,
    /// `4 sqrt(n) eps` of the sum of magnitudes (Higham and Mary, "A new approach to probabilistic rounding error
    /// analysis", 2019: exceeded with probability below 1e-3 for one sum even if all roundings were as large as
    /// possible, while real ones cancel).
    pub fn sum(terms: impl Iterator<Item = Num>) -> Num {
        let (mut v, mut err, mut size, mut n) = (0.0, 0.0, 0.0, 0.0);
        for term in terms {
            v += term.v;
            err += term.err;
            size += term.v.abs();
            n += 1.0;
        }
        Num { v, err: err + sum_error(n) * size }
    }

    /// The inner product of exact numbers, summed in f32.
    pub fn dot(pairs: impl Iterator<Item = (f64, f64)>) -> Num {
        let (mut v, mut size, mut n) = (0.0, 0.0, 0.0);
        for (a, b) in pairs {
            let term: f64 = a * b;
            v += term;
            size += term.abs();
            n += 1.0;
        }
        Num { v, err: sum_error(n) * size }
    }

    /// How far a `T` may be from `v` that was computed in f32 and rounded once.
    pub fn tolerance<T: Float>(self) -> f64 {
        self.err + unit::<T>() * (self.v.abs() + self.err) + tiny::<T>()
    }
}

/// Relative to the sum of magnitudes.
pub fn sum_error(n: f64) -> f64 {
    4.0 * n.sqrt() * EPS
}

impl std::ops::Add for Num {
    type Output = Num;
    fn add(self, other: Num) -> Num {
        Num::computed(self.v + other.v, self.err + other.err, 1.0)
    }
}

impl std::ops::Sub for Num {
    type Output = Num;
    fn sub(self, other: Num) -> Num {
        self + -other
    }
}

impl std::ops::Neg for Num {
    type Output = Num;
    fn neg(self) -> Num {
        Num { v: -self.v, err: self.err }
    }
}

impl std::ops::Mul for Num {
    type Output = Num;
    fn mul(self, other: Num) -> Num {
        let inherited = self.v.abs() * other.err + other.v.abs() * self.err + self.err * other.err;
        Num::computed(self.v * other.v, inherited, 1.0)
    }
}

impl std::ops::Div for Num {
    type Output = Num;
    fn div(self, other: Num) -> Num {
        std::ops::Mul::mul(self, other.recip())
    }
}
