//! Matrix products: ways for many rows ([`forward`], [`blocked`]), for few ([`gemv`]) and for factors of adapters ([`narrow`]),
//! over whatever a [`source`] reads.

mod blocked;
mod epilogue;
mod forward;
mod gemv;
pub(super) mod linear;
pub(super) mod linear4;
pub(super) mod lora;
pub(super) mod lora_linear;
mod narrow;
pub(super) mod norm_linear4;
pub(super) mod operand;
pub(super) mod screen;
pub(super) mod source;
pub(super) mod weight_grad;
