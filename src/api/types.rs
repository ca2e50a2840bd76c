//! The JSON of the OpenAI API, and nothing else: what is asked, and what is answered.
//!
//! Every optional field may be `null`, and whole numbers may be written as floats. Fields are named as in the
//! [API reference](https://platform.openai.com/docs/api-reference), those that it lacks as in vLLM.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

// --------------------------------------------------------------------------- what is asked

/// A whole number of type `T`, which JSON may have as `16.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<T>(pub T);

impl<'de, T: TryFrom<i128>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor(PhantomData))
    }
}

struct WholeVisitor<T>(PhantomData<T>);

impl<T: TryFrom<i128>> WholeVisitor<T> {
    fn fit<E: de::Error>(&self, number: i128, found: Unexpected<'_>) -> Result<Whole<T>, E> {
        T::try_from(number).map(Whole).map_err(|_| E::invalid_value(found, self))
    }
}

impl<T: TryFrom<i128>> Visitor<'_> for WholeVisitor<T> {
    type Value = Whole<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if T::try_from(-1).is_ok() { "a whole number" } else { "a whole number of 0 or more" })
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whole<T>, E> {
        self.fit(number.into(), Unexpected::Unsigned(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Whole<T>, E> {
        self.fit(number.into(), Unexpected::Signed(number))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Whole<T>, E> {
        const EXACT: f64 = (1u64 << 53) as f64;
        let found = Unexpected::Float(number);
        if number.fract() == 0.0 && number.abs() <= EXACT {
            self.fit(number as i128, found)
        } else {
            Err(E::invalid_value(found, &self))
        }
    }
}

/// One value or several.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// By itself.
    One(T),
    /// In a list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// All of them.
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// What a completion continues.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged, expecting = "expected a string, a list of strings, a list of token ids, or a list of such lists")]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// A text as token ids.
    Tokens(Vec<Whole<u32>>),
    /// Several of those.
    TokenLists(Vec<Vec<Whole<u32>>>),
}

/// What a stream has besides its text.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct StreamOptions {
    /// A last chunk has the usage.
    pub include_usage: Option<bool>,
    /// Every chunk has the usage so far.
    pub continuous_usage_stats: Option<bool>,
}

/// A request's fields, behind those that all requests for a generation have.
macro_rules! generation_request {
    ($(#[$attribute:meta])* $name:ident { $($(#[$field_attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, Deserialize)]
        pub struct $name {
            $($(#[$field_attribute])* pub $field: $type,)*
            /// The model's id.
            pub model: Option<String>,
            /// From 0 to 2; 0 is greedy.
            pub temperature: Option<f32>,
            /// From 0 to 1; 1 is off.
            pub top_p: Option<f32>,
            /// 0 is off.
            pub top_k: Option<Whole<usize>>,
            /// From 0 to 1; 0 is off.
            pub min_p: Option<f32>,
            /// The same seed gives the same tokens.
            pub seed: Option<Whole<i128>>,
            /// How many answers to each prompt.
            pub n: Option<Whole<usize>>,
            /// Up to 16 texts before which the answer ends.
            pub stop: Option<OneOrMany<String>>,
            /// From −2 to 2.
            pub frequency_penalty: Option<f32>,
            /// From −2 to 2.
            pub presence_penalty: Option<f32>,
            /// Above 0; 1 is off.
            pub repetition_penalty: Option<f32>,
            /// Token ids as strings, and what to add to their logits.
            pub logit_bias: Option<BTreeMap<String, f32>>,
            /// Whether the model can't end the text.
            pub ignore_eos: Option<bool>,
            /// So many tokens come before the model may end the text.
            pub min_tokens: Option<Whole<usize>>,
            /// The caller's own name for whoever asks; not used.
            pub user: Option<Value>,
            /// Whether the answer comes piece by piece.
            pub stream: Option<bool>,
            /// What the stream has besides.
            pub stream_options: Option<StreamOptions>,
        }

        impl $name {
            /// The fields that all requests have.
            pub fn shared(&self) -> Shared {
                let this = self.clone();
                Shared {
                    model: this.model, temperature: this.temperature, top_p: this.top_p, top_k: this.top_k,
                    min_p: this.min_p, seed: this.seed, n: this.n, stop: this.stop,
                    frequency_penalty: this.frequency_penalty, presence_penalty: this.presence_penalty,
                    repetition_penalty: this.repetition_penalty, logit_bias: this.logit_bias,
                    ignore_eos: this.ignore_eos, min_tokens: this.min_tokens, stream: this.stream,
                    stream_options: this.stream_options,
                }
            }
        }
    };
}

/// The fields that all requests for a generation have.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "documented where they are declared")]
pub struct Shared {
    pub model: Option<String>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<Whole<usize>>,
    pub min_p: Option<f32>,
    pub seed: Option<Whole<i128>>,
    pub n: Option<Whole<usize>>,
    pub stop: Option<OneOrMany<String>>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub logit_bias: Option<BTreeMap<String, f32>>,
    pub ignore_eos: Option<bool>,
    pub min_tokens: Option<Whole<usize>>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
}

generation_request! {
    /// `POST /v1/completions`.
    CompletionRequest {
        /// What to continue.
        prompt: Prompt,
        /// At most this many tokens; 0 only with `echo`.
        max_tokens: Option<Whole<usize>>,
        /// How many of the most probable tokens are told beside each one, up to 5.
        logprobs: Option<Whole<usize>>,
        /// Whether the answer begins with the prompt.
        echo: Option<bool>,
        /// Only as many as `n`.
        best_of: Option<Whole<usize>>,
        /// Not supported.
        suffix: Option<Value>,
    }
}

generation_request! {
    /// `POST /v1/chat/completions`.
    ChatRequest {
        /// The conversation so far.
        messages: Vec<Message>,
        /// At most this many tokens, by its older name.
        max_tokens: Option<Whole<usize>>,
        /// At most this many tokens.
        max_completion_tokens: Option<Whole<usize>>,
        /// Whether log-probabilities are told.
        logprobs: Option<bool>,
        /// How many of the most probable tokens are told beside each one, up to 20.
        top_logprobs: Option<Whole<usize>>,
        /// Not supported yet.
        tools: Option<Value>,
        /// Not supported yet, but for `none` and `auto`.
        tool_choice: Option<Value>,
        /// Not supported.
        functions: Option<Value>,
        /// Not supported.
        function_call: Option<Value>,
        /// Not supported yet, but for `{"type": "text"}`.
        response_format: Option<Value>,
        /// Not supported, but for `["text"]`.
        modalities: Option<Value>,
        /// Not supported.
        audio: Option<Value>,
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Option<Content>,
    /// What else the template may look at.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

/// What is said in a turn.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(untagged, expecting = "expected a string or a list of parts {\"type\": \"text\", \"text\": …}")]
pub enum Content {
    /// As one text.
    Text(String),
    /// In parts.
    Parts(Vec<TextPart>),
}

/// A part of what is said; other kinds than text are not supported.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum TextPart {
    /// A text.
    Text {
        /// The text.
        text: String,
    },
}

/// `POST /tokenize`.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenizeRequest {
    /// The text.
    pub prompt: String,
    /// Whether the tokens that the model expects around a prompt are added; true if left out.
    pub add_special_tokens: Option<bool>,
    /// The model's id.
    pub model: Option<String>,
}

/// `POST /detokenize`.
#[derive(Clone, Debug, Deserialize)]
pub struct DetokenizeRequest {
    /// The token ids.
    pub tokens: Vec<Whole<u32>>,
    /// The model's id.
    pub model: Option<String>,
}

// --------------------------------------------------------------------------- what is answered

/// The answer to a request for a generation, or a chunk of it.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct Answer<Choice> {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
    pub choices: Vec<Choice>,
    #[serde(skip_serializing_if = "UsageField::is_absent")]
    pub usage: UsageField,
}

#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct CompletionChoice {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: Option<&'static str>,
}

/// Parallel arrays, one entry for each token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CompletionLogprobs {
    /// How each token is spelled.
    pub tokens: Vec<String>,
    /// Its log-probability; null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// Those of the most probable tokens.
    pub top_logprobs: Vec<Option<Ranking>>,
    /// How many characters of the text are before it.
    pub text_offset: Vec<usize>,
}

/// Spelled tokens and their log-probabilities, as an object: the same floats as beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking(pub Vec<(String, f32)>);

impl Serialize for Ranking {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

/// A whole answer, or what a chunk adds to it.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct ChatChoice {
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<AssistantMessage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct AssistantMessage {
    pub role: &'static str,
    pub content: String,
    pub refusal: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct ChatLogprobs {
    pub content: Vec<ChatLogprob>,
    pub refusal: Option<Vec<ChatLogprob>>,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct ChatLogprob {
    #[serde(flatten)]
    pub chosen: TokenLogprob,
    pub top_logprobs: Vec<TokenLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct TokenLogprob {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
}

/// How many of the prompt's tokens were found in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct PromptTokensDetails {
    pub cached_tokens: usize,
}

/// `usage`: left out, null or there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it")]
pub enum UsageField {
    Absent,
    Null(Option<()>),
    There(Usage),
}

impl UsageField {
    fn is_absent(&self) -> bool {
        *self == Self::Absent
    }
}

#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct ModelList {
    pub object: &'static str,
    pub data: Vec<ModelInfo>,
}

#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct ModelInfo {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub owned_by: &'static str,
    /// As vLLM has it.
    pub max_model_len: usize,
}

/// The answer of `POST /tokenize`.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "named as in vLLM")]
pub struct Tokenized {
    pub tokens: Vec<u32>,
    pub count: usize,
    pub max_model_len: usize,
}

/// The answer of `POST /detokenize`.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "named as in vLLM")]
pub struct Detokenized {
    pub prompt: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_may_be_floats_and_nothing_else() {
        let read =
            |json: Value| serde_json::from_value::<Option<Whole<usize>>>(json).map_err(|error| error.to_string());
        assert_eq!(read(json!(16.0)), Ok(Some(Whole(16))));
        assert_eq!(read(json!(16)), Ok(Some(Whole(16))));
        assert_eq!(read(json!(null)), Ok(None));
        for wrong in [json!(1.5), json!(-1), json!(-1.0), json!(1e300), json!("1"), json!(true), json!([1])] {
            let message = read(wrong.clone()).unwrap_err();
            assert!(message.ends_with("expected a whole number of 0 or more"), "{wrong}: {message}");
        }
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let read = |json: Value| serde_json::from_value::<Prompt>(json);
        assert_eq!(read(json!("a")).unwrap(), Prompt::Text("a".into()));
        assert_eq!(read(json!(["a", "b"])).unwrap(), Prompt::Texts(vec!["a".into(), "b".into()]));
        assert_eq!(read(json!([1, 2.0])).unwrap(), Prompt::Tokens(vec![Whole(1), Whole(2)]));
        assert_eq!(
            read(json!([[1], [2, 3]])).unwrap(),
            Prompt::TokenLists(vec![vec![Whole(1)], vec![Whole(2), Whole(3)]])
        );
        assert!(read(json!([1, "a"])).unwrap_err().to_string().starts_with("expected a string, a list of strings"));
    }

    #[test]
    fn usage_is_left_out_null_or_there() {
        let chunk = |usage| Answer::<()> {
            id: "cmpl-1".into(),
            object: "text_completion",
            created: 1,
            model: "m".into(),
            system_fingerprint: "f".into(),
            choices: Vec::new(),
            usage,
        };
        let json = |usage| serde_json::to_value(chunk(usage)).unwrap();
        assert_eq!(json(UsageField::Absent).get("usage"), None);
        assert_eq!(json(UsageField::Null(None)).get("usage"), Some(&Value::Null));
        let counted = Usage { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3, ..Usage::default() };
        assert_eq!(json(UsageField::There(counted))["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    }
}
