//! What a generation tells as it goes.

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Tokens of the prompt, for requests with `echo`: all of them before the first [`Event::Token`].
    Prompt(Piece),
    /// A token was generated, with what became certain by it.
    Token(Piece),
    /// The answer is over.
    Done {
        /// Why.
        reason: FinishReason,
        /// What was held back.
        rest: Piece,
        /// What was counted.
        usage: Usage,
    },
}

/// Text that is certain, and the tokens that it is made of. A piece is empty while a character or a stop string is
/// incomplete; those of one answer, joined, are all its text and tokens, but for what a stop string cuts off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// The tokens, one that ended the text included.
    pub told: Vec<Told>,
}

/// A token and how probable it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Its id.
    pub token: u32,
    /// The logarithm of its probability under the model, before temperature and filters. None for the first token of a
    /// prompt, and where `top_logprobs` is none.
    pub logprob: Option<f32>,
    /// The most probable tokens in its place, with theirs, as [`crate::sampling::rank`] gives them.
    pub top: Vec<(u32, f32)>,
    /// How many characters of the text were complete before it.
    pub offset: usize,
    /// The bytes that it adds to the text; not told where `top_logprobs` is none.
    pub bytes: Vec<u8>,
}

/// Why an answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended the text, or a stop string came.
    Stop,
    /// As many tokens as were asked for, or as the model has room for, were generated.
    Length,
    /// Nobody waits for the rest.
    Cancelled,
}

impl FinishReason {
    /// As it is spelled in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How many tokens went in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// The prompt's tokens.
    pub prompt_tokens: usize,
    /// The generated tokens, an end-of-text token included.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
}

impl Usage {
    pub(super) fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}
