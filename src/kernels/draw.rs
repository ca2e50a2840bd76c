//! A draw of one token from logits that stay on a GPU.

/// How a token is drawn: what is left of a request's parameters once there is a random number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// One over the temperature.
    pub per_temperature: f32,
    /// Logits that are further below the largest can't be drawn: `min_p`; ∞ is off.
    pub within: f64,
    /// What else restricts them.
    pub among: Among,
    /// Where in the weights that are left, laid end to end, the token is, as a share of their sum: above 0, at most 1.
    pub unit: f64,
}

/// Which tokens can be drawn, and the order in which their weights are laid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Among {
    /// All, by their ids.
    All,
    /// The `top_k` most probable ones, the most probable first; of these the first that together reach `top_p` of their weight.
    Best {
        /// How many.
        top_k: usize,
        /// 1 is off.
        top_p: f64,
    },
    /// The most probable ones that together reach `top_p` of the weight of all, by their ids.
    Nucleus {
        /// Below 1.
        top_p: f64,
    },
}

/// The token that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// Its id, the index of its logit.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
    /// Whether any logit is NaN.
    pub has_nan: bool,
}
