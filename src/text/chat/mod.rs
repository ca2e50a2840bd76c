//! Chat templates, as the transformers library has them: a conversation to the text that the model was trained on.
//!
//! A template is a program in Jinja, written for Python. [`python`] is what it finds there; [`source`] is where it and
//! the names of special tokens come from; [`message`] makes the request's messages what it expects.
//!
//! A template is as little trusted as any file of a checkpoint: it has no files, no clock but its date, and ends after
//! [`FUEL`] steps, on a stack of its own.

mod json;
mod message;
mod python;
mod source;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use minijinja::{Environment, ErrorKind, Value as Variable};
use serde_json::{Map, Value};

use self::message::{Content, Marking};
use self::python::Raised;
use self::source::{Source, TokenizerConfig};
use super::Tokenizer;
use super::control::{ControlTokens, without_reserved};
use crate::error::{Error, Result};
use crate::files::Files;

/// The most steps of one rendering; one is an instruction or 64 bytes. A message takes some hundreds, and all of it
/// less than a second.
const FUEL: u64 = 4_000_000;

/// The stack of a rendering, in bytes: values that a template nests as deeply as [`FUEL`] lets it are freed by
/// recursion. It is reserved, and used only where it is touched.
const STACK_BYTES: usize = 512 << 20;

/// The template that is used where no other is asked for.
const DEFAULT: &str = "default";

/// The template that is used where there are tools, if the model has it.
const TOOL_USE: &str = "tool_use";

/// The chat templates of a model, compiled.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and all others that the tokenizer's configuration names, as variables.
    special_tokens: Vec<(String, String)>,
    control: Arc<ControlTokens>,
    content: Content,
    path: PathBuf,
}

impl ChatTemplate {
    /// The template of the model whose tokenizer is called `name` among its `files`; none if it has none. It is
    /// `chat_template.jinja` beside the tokenizer, or else `chat_template` in `tokenizer_config.json`: a string, or
    /// several with a name, of which `tool_use` is used where a request has tools, and `default` elsewhere.
    ///
    /// # Errors
    /// A file can't be read, or a template does not compile.
    pub fn open(files: &Files, name: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let config = TokenizerConfig::read(files, name)?;
        match Source::read(files, name, &config)? {
            Some(source) => Self::new(source, config, tokenizer).map(Some),
            None => Ok(None),
        }
    }

    /// The template `source` in place of the model's own. Errors name `origin`.
    ///
    /// # Errors
    /// `tokenizer_config.json` can't be read, or the template does not compile.
    pub fn from_source(source: &str, origin: &Path, files: &Files, name: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let config = TokenizerConfig::read(files, name)?;
        Self::new(Source::single(source.to_owned(), origin.to_owned()), config, tokenizer)
    }

    fn new(source: Source, config: TokenizerConfig, tokenizer: &Tokenizer) -> Result<Self> {
        let mut environment = python::environment();
        environment.set_fuel(Some(FUEL));
        for (name, text) in source.templates {
            let key = if name == DEFAULT { String::new() } else { format!(" {name:?}") };
            let added = environment.add_template_owned(name, source::plain(&text));
            added.map_err(|error| {
                let line = error.line().unwrap_or(1);
                Error::checkpoint(&source.path, format!("the chat template{key}, line {line}: {}", reason(&error)))
            })?;
        }
        if environment.get_template(DEFAULT).is_err() {
            let names: Vec<&str> = environment.templates().map(|(name, _)| name).collect();
            let message = format!("chat_template: expected one of them to be named {DEFAULT:?}, found {names:?}");
            return Err(Error::checkpoint(&source.path, message));
        }
        let mut this = Self {
            environment,
            special_tokens: config.special_tokens,
            control: tokenizer.control_tokens(),
            content: Content::Text,
            path: source.path,
        };
        let marking = Marking { control: &this.control, param: "messages" };
        this.content =
            Content::probe(|message| this.run(DEFAULT, &this.context(vec![marking.value(message)?], true, vec![])));
        Ok(this)
    }

    /// Where the template comes from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of `messages` with, if `add_generation_prompt`, the beginning of the answer.
    ///
    /// A message is an object with a `role` and a `content`: a string, null, or text parts. The variables in `extra`
    /// are the template's, among them `tools` and `documents`; they win over special tokens of the same name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for messages that are no such objects or that the template refuses or can't take.
    pub fn render(
        &self,
        messages: &[Value],
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<Rendered> {
        if messages.is_empty() {
            return Err(Error::invalid("messages", "expected at least one message, found none"));
        }
        let prepare = |message| message::prepare(message, self.content, &self.control);
        let messages = messages.iter().map(prepare).collect::<Result<_>>()?;
        let marking = Marking { control: &self.control, param: "chat_template_kwargs" };
        let has_tools = extra.get("tools").is_some_and(|tools| !tools.is_null());
        let extra = extra.iter().map(|(name, value)| Ok((name.as_str(), marking.value(value)?)));
        let context = self.context(messages, add_generation_prompt, extra.collect::<Result<_>>()?);
        let name = if has_tools && self.environment.get_template(TOOL_USE).is_ok() { TOOL_USE } else { DEFAULT };
        Ok(Rendered { marked: self.run(name, &context)? })
    }

    /// All variables of a rendering; of two with one name, the later counts.
    fn context(&self, messages: Vec<Variable>, add_generation_prompt: bool, extra: Vec<(&str, Variable)>) -> Variable {
        let none = ["tools", "documents"].map(|name| (name, Variable::from(())));
        let special = self.special_tokens.iter().map(|(name, text)| (name.as_str(), Variable::from(text.as_str())));
        let own = [("messages", messages.into()), ("add_generation_prompt", add_generation_prompt.into())];
        Variable::from_pairs(none.into_iter().chain(special).chain(extra).chain(own))
    }

    /// Runs a template on a stack that no template overflows.
    fn run(&self, name: &str, context: &Variable) -> Result<String> {
        let render = || self.environment.get_template(name)?.render(context.clone());
        let work = || render().map_err(|error| Error::invalid("messages", explain(&error)));
        let failed = |error| Error::Internal(format!("no thread to render a chat in: {error}"));
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("chat template".into()).stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, work).map_err(failed)?;
            thread.join().map_err(|_| Error::Internal("the template engine panicked".into()))?
        })
    }
}

/// A chat as text, in which the template's control tokens are told from those in the messages:
/// [`Tokenizer::encode_chat`] makes ids of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    marked: String,
}

impl Rendered {
    /// The text alone.
    pub fn text(&self) -> Cow<'_, str> {
        without_reserved(&self.marked)
    }

    /// The text with its marks.
    pub(super) fn marked(&self) -> &str {
        &self.marked
    }
}

/// Why a template refuses a conversation, in its own words, or fails on it.
fn explain(error: &minijinja::Error) -> String {
    if let Some(Raised(message)) = python::raised(error) {
        return without_reserved(message).into_owned();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("the model's chat template takes more than {FUEL} steps for them; send fewer or shorter ones");
    }
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    format!("the model's chat template can't render them{line}: {}", without_reserved(&reason(error)))
}

/// Kind and detail of an error, without where it is.
fn reason(error: &minijinja::Error) -> String {
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{}{detail}", error.kind())
}

#[cfg(test)]
mod tests;
