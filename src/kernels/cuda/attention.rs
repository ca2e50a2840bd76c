//! Attention over a growing cache.

use super::kernel::kernel;
use super::launch::{Address, Argument, BLOCK, Launch, ROW_BLOCK, WARP, arguments, room_of_a_row};

/// As in `attention.cu`.
pub(super) const WIDEST: usize = 640;
/// A span of keys is worth a block.
const SPAN: usize = 64;
/// More spans than this are more than the device has room for.
const MOST_SPANS: usize = 64;

/// Keys or values of several heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Where the first begins.
    pub at: Address,
    /// How many numbers lie between a head and the next.
    pub head_stride: usize,
    /// How many numbers lie between a row and the next.
    pub stride: usize,
    /// How many numbers a row has.
    pub width: usize,
}

impl Heads {
    fn strides(&self) -> Argument {
        Argument::Strides([self.head_stride as u64, self.stride as u64])
    }
}

/// Attention of one query for each of `heads` over all of `n_keys`.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    /// How many queries there are, one after the other: `[heads, k.width]`.
    pub heads: usize,
    /// How many heads have keys and values.
    pub kv_heads: usize,
    /// How many keys each has.
    pub n_keys: usize,
    /// The keys.
    pub k: Heads,
    /// The values.
    pub v: Heads,
    /// What the products of queries and keys are multiplied by.
    pub scale: f32,
}

impl Attend {
    /// Whether the kernel takes rows as wide as these.
    pub fn fits(&self) -> bool {
        self.k.width <= WIDEST && self.v.width <= WIDEST
    }

    fn spans(&self) -> usize {
        self.n_keys.div_ceil(SPAN).clamp(1, MOST_SPANS)
    }

    /// How many bytes of room [`Attend::launches`] takes.
    pub fn room(&self) -> usize {
        self.heads * self.spans() * (2 + self.v.width) * size_of::<f32>()
    }

    /// From `q` to `y` `[heads, v.width]`.
    pub fn launches(&self, q: Address, room: Address, y: Address) -> [Launch; 2] {
        let (heads, spans, width) = (self.heads, self.spans(), self.v.width);
        let sums = room + (heads * spans * 2 * size_of::<f32>()) as Address;
        let mut arguments = arguments![q, self.k.at, self.v.at, room, sums];
        arguments.extend([self.k.strides(), self.v.strides()]);
        arguments.extend(arguments![self.k.width, width, self.n_keys, heads / self.kv_heads.max(1), self.scale]);
        let shared = BLOCK / WARP * (2 + width) * size_of::<f32>();
        [
            Launch::new(kernel!("attend"), [heads, spans, 1], BLOCK, shared, arguments),
            Launch::new(kernel!("join"), [heads, 1, 1], BLOCK, 0, arguments![room, sums, y, spans, width]),
        ]
    }
}

/// Softmax in place over `scores` [heads, tokens, keys], whose last key is the last token's own; a token sees so many of
/// the keys before it and its own as `window` says.
pub fn causal_softmax(scores: Address, [heads, tokens, keys]: [usize; 3], window: usize) -> Launch {
    let arguments = arguments![scores, tokens, keys, window];
    Launch::new(kernel!("causal_softmax"), [tokens, heads, 1], ROW_BLOCK, room_of_a_row(), arguments)
}
