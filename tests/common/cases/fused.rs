//! Products with 4-bit weights for the kernels that decode inside, on Hopper.

use super::{LAYOUTS, Product, Quantization};

/// The most tokens of the kernels that decode into operand A on Hopper: for 17 and more, and of the input gradient.
pub const MOST_FUSED: usize = 1024;
pub const MOST_FUSED_GRAD: usize = 512;

/// Products for the first of them: tokens on both sides of each of its limits and of each size of its tiles, weights with
/// whole tiles and with tails, with one step of the contraction and with several that CTAs share.
pub fn fused_products() -> Vec<(Product, Quantization)> {
    let tokens = [16, 17, 32, 33, 64, 65, 96, 97, 128, 129, 192, 256, 257, 300, MOST_FUSED, MOST_FUSED + 1];
    let mut products = each_quantized(&tokens, &[[192, 256], [193, 768], [17, 1280], [400, 2560], [1, 256]]);
    // More tiles of 64 outputs than a GPU has multiprocessors, but not of 192.
    products.extend(each_quantized(&[17, 32, 50, 64, 80, 96, 128], &[[8700, 512]]));
    // For 9 to 16 tokens weights are larger: so many tiles of 64 that two CTAs share each, or none, or of 192.
    products.extend(each_quantized(&[9, 16], &[[4096, 4096], [4300, 4096], [8700, 2048]]));
    products
}

/// The same for the second, whose contraction is over the outputs, in steps of 64.
pub fn fused_grad_products() -> Vec<(Product, Quantization)> {
    let tokens = [1, 2, 8, 9, 63, 64, 65, 127, 128, 129, 200, 257, MOST_FUSED_GRAD, MOST_FUSED_GRAD + 1];
    each_quantized(&tokens, &[[64, 256], [200, 768], [65, 1280], [1000, 2560], [1, 256]])
}

fn each_quantized(tokens: &[usize], weights: &[[usize; 2]]) -> Vec<(Product, Quantization)> {
    let all = Quantization::all();
    let of = |(i, n): (usize, usize)| {
        weights.iter().enumerate().map(move |(j, &[outputs, inputs])| {
            let (layout, accumulate) = (LAYOUTS[(i + j) % 3], (i + j) % 2 == 1);
            (Product { n, outputs, inputs, layout, accumulate }, i * weights.len() + j)
        })
    };
    let products = tokens.iter().copied().enumerate().flat_map(of);
    products.map(|(product, i)| (product, all[i * 5 % all.len()])).collect()
}

/// Products that SwiGLU follows in their own kernel on Hopper: tokens on both sides of each limit of its tiles, halves with
/// whole tiles and with tails, tiles of 64 outputs and of 192.
pub fn gated_products() -> Vec<(Product, Quantization)> {
    let tokens = [17, 32, 33, 64, 65, 96, 97, 128, 129];
    let mut products = each_quantized(&tokens, &[[192, 256], [386, 768], [34, 1280], [8702, 512]]);
    products.extend(each_quantized(&[9, 16], &[[4300, 4096], [8702, 2048]]));
    products.into_iter().map(|(product, q)| (Product { accumulate: false, ..product }, q)).collect()
}
