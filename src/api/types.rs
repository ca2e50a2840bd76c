//! The JSON of the OpenAI API, and nothing else: what is asked, and what is answered.
//!
//! Every optional field may be `null`, and whole numbers may be written as floats. Fields are named as in the
//! [API reference](https://platform.openai.com/docs/api-reference), those that it lacks as in vLLM.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::openapi;

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

/// A number, rounded such that it stays on its side of every whole one, as the bounds of parameters are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Real(pub f32);

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let exact = f64::deserialize(deserializer)?;
        let nearest = exact as f32;
        let is_made_whole = nearest.fract() == 0.0 && exact.fract() != 0.0;
        Ok(Self(match f64::from(nearest).total_cmp(&exact) {
            Ordering::Less if is_made_whole => nearest.next_up(),
            Ordering::Greater if is_made_whole => nearest.next_down(),
            _ => nearest,
        }))
    }
}

/// An object: serde takes a list for a struct too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

impl<T: Serialize> Serialize for Object<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
    }
}

/// One value or several.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged, expecting = "expected one of them or a list of them")]
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
#[derive(Clone, Debug, Default, Deserialize, PartialEq, ToSchema)]
pub struct StreamOptions {
    /// A last chunk has the usage.
    pub include_usage: Option<bool>,
    /// Every chunk has the usage so far.
    pub continuous_usage_stats: Option<bool>,
}

/// Requests for a generation: each has its own fields and those that all have. (`#[serde(flatten)]` would lose the paths
/// of errors and the names of unknown fields.)
macro_rules! generation_requests {
    (all have $shared:tt $($(#[$attribute:meta])* $name:ident $own:tt)*) => {
        $(generation_requests! { @one $(#[$attribute])* $name $own $shared })*
    };
    (@one $(#[$attribute:meta])* $name:ident
        { $($(#[$own_attribute:meta])* $own:ident: $own_type:ty,)* }
        { $($(#[$shared_attribute:meta])* $shared:ident: $shared_type:ty,)* }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, Deserialize, ToSchema)]
        pub struct $name {
            $($(#[$own_attribute])* pub $own: $own_type,)*
            $($(#[$shared_attribute])* pub $shared: $shared_type,)*
        }

        impl $name {
            /// The fields that all requests have.
            pub fn shared(&self) -> Shared {
                Shared { $($shared: self.$shared.clone(),)* }
            }
        }
    };
}

generation_requests! {
    all have {
        /// The model's id.
        model: Option<String>,
        /// 0 is greedy.
        #[schema(value_type = Option<f32>, minimum = 0, maximum = 2, default = 0.7)]
        temperature: Option<Real>,
        /// 1 is off.
        #[schema(value_type = Option<f32>, minimum = 0, maximum = 1, default = 0.9)]
        top_p: Option<Real>,
        /// 0 is off.
        #[schema(value_type = Option<u64>, maximum = 18_446_744_073_709_551_615u64, default = 40)]
        top_k: Option<Whole<usize>>,
        /// 0 is off.
        #[schema(value_type = Option<f32>, minimum = 0, maximum = 1, default = 0)]
        min_p: Option<Real>,
        /// The same seed gives the same tokens.
        #[schema(value_type = Option<i64>)]
        seed: Option<Whole<i64>>,
        /// How many answers to each prompt.
        #[schema(value_type = Option<u64>, minimum = 1, maximum = 16, default = 1)]
        n: Option<Whole<usize>>,
        /// Only as many as `n`.
        #[schema(value_type = Option<u64>, minimum = 1, maximum = 16)]
        best_of: Option<Whole<usize>>,
        /// Up to 16 texts before which the answer ends.
        #[schema(schema_with = openapi::stop)]
        stop: Option<OneOrMany<String>>,
        /// For each time that a token was generated.
        #[schema(value_type = Option<f32>, minimum = -2, maximum = 2, default = 0)]
        frequency_penalty: Option<Real>,
        /// For tokens that were generated.
        #[schema(value_type = Option<f32>, minimum = -2, maximum = 2, default = 0)]
        presence_penalty: Option<Real>,
        /// For tokens that are in the prompt or were generated; 1 is off.
        #[schema(value_type = Option<f32>, minimum = 1.5e-45, maximum = 10, default = 1)]
        repetition_penalty: Option<Real>,
        /// Token ids as strings, and what to add to their logits, from −100 to 100.
        #[schema(schema_with = openapi::logit_bias)]
        logit_bias: Option<BTreeMap<String, Real>>,
        /// Whether the model can't end the text.
        ignore_eos: Option<bool>,
        /// So many tokens come before the model may end the text.
        #[schema(value_type = Option<u64>, maximum = 18_446_744_073_709_551_615u64, default = 0)]
        min_tokens: Option<Whole<usize>>,
        /// The caller's own name for whoever asks; not used.
        user: Option<String>,
        /// Whether the answer comes piece by piece.
        stream: Option<bool>,
        /// What the stream has besides; only possible with `stream`.
        #[schema(value_type = Option<StreamOptions>)]
        stream_options: Option<Object<StreamOptions>>,
    }

    /// The fields that all requests for a generation have.
    Shared {}

    /// `POST /v1/completions`.
    CompletionRequest {
        /// What to continue.
        #[schema(schema_with = openapi::prompt)]
        prompt: Prompt,
        /// At most this many tokens; 0 only with `echo`.
        #[schema(value_type = Option<u64>, maximum = 18_446_744_073_709_551_615u64, default = 100)]
        max_tokens: Option<Whole<usize>>,
        /// How many of the most probable tokens are told beside each one.
        #[schema(value_type = Option<u64>, maximum = 5)]
        logprobs: Option<Whole<usize>>,
        /// Whether the answer begins with the prompt.
        echo: Option<bool>,
        /// Not supported, but for an empty one.
        #[schema(value_type = Option<String>, max_length = 0)]
        suffix: Option<Value>,
    }

    /// `POST /v1/chat/completions`.
    ChatRequest {
        /// The conversation so far.
        #[schema(min_items = 1)]
        messages: Vec<Message>,
        /// At most this many tokens, by its older name.
        #[schema(value_type = Option<u64>, minimum = 1, maximum = 18_446_744_073_709_551_615u64, default = 100)]
        max_tokens: Option<Whole<usize>>,
        /// At most this many tokens.
        #[schema(value_type = Option<u64>, minimum = 1, maximum = 18_446_744_073_709_551_615u64, default = 100)]
        max_completion_tokens: Option<Whole<usize>>,
        /// Whether log-probabilities are told.
        logprobs: Option<bool>,
        /// How many of the most probable tokens are told beside each one; only possible with `logprobs`.
        #[schema(value_type = Option<u64>, maximum = 20)]
        top_logprobs: Option<Whole<usize>>,
        /// Not supported yet, but for none.
        #[schema(value_type = Option<Vec<Value>>, max_items = 0)]
        tools: Option<Value>,
        /// Not supported yet, but for `none` and `auto`.
        #[schema(value_type = Option<NoTool>)]
        tool_choice: Option<Value>,
        /// Not supported, but for none.
        #[schema(value_type = Option<Vec<Value>>, max_items = 0)]
        functions: Option<Value>,
        /// Not supported, but for `none` and `auto`.
        #[schema(value_type = Option<NoTool>)]
        function_call: Option<Value>,
        /// Not supported yet, but for plain text.
        #[schema(value_type = Option<PlainText>)]
        response_format: Option<Value>,
        /// Not supported, but for text alone.
        #[schema(value_type = Option<Vec<TextOnly>>, min_items = 1, max_items = 1)]
        modalities: Option<Value>,
        /// Not supported.
        #[schema(schema_with = openapi::null)]
        audio: Option<Value>,
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(expecting = "an object with a role and a content")]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    #[schema(schema_with = openapi::content)]
    pub content: Option<Content>,
    /// What else the template may look at.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Map<String, Value>,
}

/// The one format that answers have.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct PlainText {
    pub r#type: TextOnly,
}

/// The one kind of content.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the name says it")]
pub enum TextOnly {
    Text,
}

/// What calls of tools may be asked for as long as there are none.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum NoTool {
    None,
    Auto,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, ToSchema)]
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
    Parts(Vec<Object<TextPart>>),
}

/// A part of what is said; other kinds than text are not supported.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, ToSchema)]
pub struct TextPart {
    /// Its kind.
    pub r#type: TextOnly,
    /// The text.
    pub text: String,
}

/// `POST /tokenize`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// The text.
    pub prompt: String,
    /// Whether the tokens that the model expects around a prompt are added; true if left out.
    pub add_special_tokens: Option<bool>,
    /// The model's id.
    pub model: Option<String>,
}

/// `POST /detokenize`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// The token ids.
    #[schema(schema_with = openapi::token_ids)]
    pub tokens: Vec<Whole<u32>>,
    /// The model's id.
    pub model: Option<String>,
}

// --------------------------------------------------------------------------- what is answered

/// A server-sent event: a chunk of the answer as JSON, or `[DONE]`.
#[derive(ToSchema)]
#[expect(missing_docs, reason = "named as in the standard")]
pub struct ServerSentEvent {
    pub data: String,
}

/// The answer to a request for a generation, or a chunk of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct Answer<Choice> {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
    pub choices: Vec<Choice>,
    #[serde(skip_serializing_if = "UsageField::is_absent")]
    #[schema(value_type = Option<Usage>, required = false)]
    pub usage: UsageField,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct CompletionChoice {
    pub index: usize,
    pub text: String,
    #[schema(required)]
    pub logprobs: Option<CompletionLogprobs>,
    #[schema(required)]
    pub finish_reason: Option<&'static str>,
}

/// Parallel arrays, one entry for each token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// How each token is spelled.
    pub tokens: Vec<String>,
    /// Its log-probability; null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// Those of the most probable tokens.
    #[schema(value_type = Vec<Option<BTreeMap<String, f32>>>)]
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
#[derive(Clone, Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct ChatChoice {
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<AssistantMessage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    #[schema(required)]
    pub logprobs: Option<ChatLogprobs>,
    #[schema(required)]
    pub finish_reason: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct AssistantMessage {
    pub role: &'static str,
    pub content: String,
    pub refusal: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct ChatLogprobs {
    pub content: Vec<ChatLogprob>,
    pub refusal: Option<Vec<ChatLogprob>>,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct ChatLogprob {
    #[serde(flatten)]
    pub chosen: TokenLogprob,
    pub top_logprobs: Vec<TokenLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct TokenLogprob {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
}

/// How many of the prompt's tokens were found in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
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

#[derive(Clone, Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in the API reference")]
pub struct ModelList {
    pub object: &'static str,
    pub data: Vec<ModelInfo>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
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
#[derive(Clone, Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in vLLM")]
pub struct Tokenized {
    pub tokens: Vec<u32>,
    pub count: usize,
    pub max_model_len: usize,
}

/// The answer of `POST /detokenize`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in vLLM")]
pub struct Detokenized {
    pub prompt: String,
}

/// The answer of `GET /tokenizer_info`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[expect(missing_docs, reason = "named as in vLLM")]
pub struct TokenizerInfo {
    pub eos_token: Option<String>,
    pub eos_token_ids: Vec<u32>,
    pub vocab_size: usize,
    pub max_model_len: usize,
}

/// The answer of the health routes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, or why not.
    pub status: &'static str,
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
    fn numbers_stay_on_their_side_of_whole_ones() {
        let read = |json: &str| serde_json::from_str::<Real>(json).unwrap().0;
        assert_eq!((read("0.7"), read("1"), read("2.0")), (0.7, 1.0, 2.0));
        assert!(read("1.0000000001") > 1.0 && read("0.9999999999") < 1.0);
        assert!(read("-2.0000000001") < -2.0 && read("-1e-60") < 0.0);
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
