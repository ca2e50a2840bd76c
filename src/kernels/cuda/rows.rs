//! What happens to rows of activations between products.

use super::kernel::kernel;
use super::launch::{Address, BLOCK, Launch, ROW_BLOCK, arguments, room_of_a_row};

/// `y` = `x` over the root of its mean square times `weight` `[size]`, for each of `rows` of `size`.
pub fn rms_norm(x: Address, weight: Address, y: Address, [rows, size]: [usize; 2], eps: f32) -> Launch {
    let arguments = arguments![x, weight, y, size, eps];
    Launch::new(kernel!("rms_norm"), [rows, 1, 1], ROW_BLOCK, room_of_a_row(), arguments)
}

/// `silu(gate · factor) · up`, in the place of `up`.
pub fn swiglu(gate: Address, factor: f32, up: Address, count: usize) -> Launch {
    let arguments = arguments![gate, up, count as u64, factor];
    Launch::new(kernel!("swiglu"), [count.div_ceil(BLOCK), 1, 1], BLOCK, 0, arguments)
}

/// `x + y · factor`, in the place of `y`.
pub fn add_to_scaled(x: Address, factor: f32, y: Address, count: usize) -> Launch {
    let arguments = arguments![x, y, count as u64, factor];
    Launch::new(kernel!("add_to_scaled"), [count.div_ceil(BLOCK), 1, 1], BLOCK, 0, arguments)
}

/// Turns the first `pairs` of each vector of `x` [tokens, heads, width] in place, by `cos` and `sin` `[tokens, pairs]`.
pub fn rotate(
    x: Address,
    [tokens, heads, width]: [usize; 3],
    (cos, sin): (Address, Address),
    pairs: usize,
    are_neighbours: bool,
) -> Launch {
    let arguments = arguments![x, cos, sin, width, pairs, are_neighbours];
    Launch::new(kernel!("rotate"), [tokens, heads, 1], pairs.clamp(1, BLOCK), 0, arguments)
}
