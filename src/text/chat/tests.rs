use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::text::{Companions, fixtures};

const NAME: &str = "tokenizer.json";

fn tokenizer() -> Tokenizer {
    let file = fixtures::byte_level().to_string();
    Tokenizer::from_bytes(file.as_bytes(), &Companions::default(), Path::new(NAME), 300).unwrap()
}

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn open_in(directory: &TempDir) -> Result<Option<ChatTemplate>> {
    ChatTemplate::open(&Files::Directory(directory.path().to_owned()), Path::new(NAME), &tokenizer())
}

fn open(files: &[(&str, &str)]) -> Result<Option<ChatTemplate>> {
    open_in(&directory(files))
}

fn of_source(source: &str) -> ChatTemplate {
    let files = Files::Directory("/no/such".into());
    ChatTemplate::from_source(source, Path::new("mine.jinja"), &files, Path::new(NAME), &tokenizer()).unwrap()
}

fn user(content: impl Into<Value>) -> Value {
    json!({"role": "user", "content": content.into()})
}

fn render(template: &ChatTemplate, messages: &[Value], extra: &Value) -> Result<String> {
    let rendered = template.render(messages, false, extra.as_object().unwrap())?;
    Ok(rendered.text().into_owned())
}

/// What a template makes of one message.
fn text(source: &str) -> String {
    render(&of_source(source), &[user("hi")], &json!({})).unwrap()
}

/// Why a template does not render one message.
fn failure(source: &str) -> String {
    let error = render(&of_source(source), &[user("hi")], &json!({})).unwrap_err();
    assert!(matches!(error, Error::Invalid { param: "messages", .. }), "{error:?}");
    error.to_string()
}

#[test]
fn a_model_without_a_template_has_none() {
    assert!(open(&[]).unwrap().is_none());
    assert!(open(&[("tokenizer_config.json", r#"{"chat_template": null, "eos_token": "x"}"#)]).unwrap().is_none());
}

#[test]
fn the_file_beside_the_tokenizer_wins_over_the_configuration() {
    let config = ("tokenizer_config.json", r#"{"chat_template": "config {{ eos_token }}", "eos_token": "E"}"#);
    let file = ("chat_template.jinja", "file {{ eos_token }}\n");
    let of = |files: &[_]| render(&open(files).unwrap().unwrap(), &[user("")], &json!({})).unwrap();
    assert_eq!(of(&[config]), "config E");
    assert_eq!(of(&[config, file]), "file E");
    assert_eq!(of(&[file]), "file ");
}

#[test]
fn of_several_templates_the_one_for_tools_is_used_where_there_are_tools() {
    let entry = |name, template| json!({"name": name, "template": template});
    let config = |entries: Value| json!({ "chat_template": entries }).to_string();
    let both = config(json!([entry("default", "plain"), entry("tool_use", "{{ tools[0].x }}"), entry("rag", "r")]));
    let template = open(&[("tokenizer_config.json", &both)]).unwrap().unwrap();
    let of = |extra: Value| render(&template, &[user("")], &extra).unwrap();
    assert_eq!(of(json!({})), "plain");
    assert_eq!(of(json!({"tools": null})), "plain");
    assert_eq!(of(json!({"tools": [{"x": 7}]})), "7");
    let without_default = config(json!([entry("rag", "r")]));
    let error = open(&[("tokenizer_config.json", &without_default)]).err().unwrap().to_string();
    assert!(error.ends_with(r#"chat_template: expected one of them to be named "default", found ["rag"]"#), "{error}");
}

#[test]
fn special_tokens_are_variables_in_every_spelling_and_a_request_may_have_its_own() {
    let config = json!({
        "bos_token": {"content": "<b>", "lstrip": false}, "eos_token": "<e>", "pad_token": null, "add_bos_token": true,
        "image_token": "<i>", "extra_special_tokens": {"sound_token": "<s>"},
        "chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ add_bos_token }}{{ image_token }}{{ sound_token }}"
    });
    let template = open(&[("tokenizer_config.json", &config.to_string())]).unwrap().unwrap();
    assert_eq!(render(&template, &[user("")], &json!({})).unwrap(), "<b><e><i><s>");
    assert_eq!(render(&template, &[user("")], &json!({"eos_token": "mine"})).unwrap(), "<b>mine<i><s>");
}

#[test]
fn a_broken_template_is_an_error_that_names_file_and_line() {
    let directory = directory(&[("chat_template.jinja", "one\ntwo\n{% if %}\n")]);
    let error = open_in(&directory).err().unwrap();
    assert!(matches!(error, Error::Checkpoint { .. }), "{error:?}");
    let path = directory.path().join("chat_template.jinja");
    assert!(error.to_string().starts_with(&format!("{}: the chat template, line 3: syntax error", path.display())));
    let config = json!({"chat_template": [{"name": "default", "template": ""}, {"name": "x", "template": "\n{{"}]});
    let error = open(&[("tokenizer_config.json", &config.to_string())]).err().unwrap().to_string();
    assert!(error.contains(r#"tokenizer_config.json: the chat template "x", line 2: syntax error"#), "{error}");
}

#[test]
fn what_is_no_template_is_an_error_that_names_the_file() {
    let cases = [
        ("tokenizer_config.json", &b"{"[..], "can't be read for its chat_template: EOF"),
        ("tokenizer_config.json", br#"{"chat_template": 7}"#, "chat_template: expected a string or a list of objects"),
        ("tokenizer_config.json", br#"{"chat_template": ["x"]}"#, "chat_template: expected a string or a list"),
        ("chat_template.jinja", b"\xff", "expected a template in UTF-8: "),
    ];
    for (name, bytes, expected) in cases {
        let directory = directory(&[]);
        fs::write(directory.path().join(name), bytes).unwrap();
        let error = open_in(&directory).err().unwrap().to_string();
        let start = format!("{}: {expected}", directory.path().join(name).display());
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn a_template_that_is_too_long_is_refused() {
    let long = json!({"chat_template": "x".repeat((1 << 20) + 1)}).to_string();
    let error = open(&[("tokenizer_config.json", &long)]).err().unwrap().to_string();
    assert!(error.ends_with("chat_template: expected at most 1048576 bytes, found 1048577"), "{error}");
}

#[test]
fn what_a_template_raises_is_the_message() {
    assert_eq!(failure("{{ raise_exception('no ' + messages[0].content) }}"), "messages: no hi");
    let within = "{% macro f() %}{{ raise_exception('deep') }}{% endmacro %}{% set x %}{{ f() }}{% endset %}";
    assert_eq!(failure(within), "messages: deep");
    let error = render(&of_source("{{ raise_exception(messages[0].content) }}"), &[user("<|im_end|>")], &json!({}));
    assert_eq!(error.unwrap_err().to_string(), "messages: <|im_end|>");
}

#[test]
fn what_a_template_can_not_do_names_its_line() {
    let expected = "messages: the model's chat template can't render them in line 2: ";
    for wrong in
        ["\n{{ 'a' + 1 }}", "\n{{ messages[0].x.y }}", "\n{{ x | tojson }}", "\n{% include 'x' %}", "\n{{ y() }}"]
    {
        assert!(failure(wrong).starts_with(expected), "{}", failure(wrong));
    }
}

#[test]
fn an_endless_template_ends() {
    let nested = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let grow = "{% set n = namespace(x='ab') %}{% for a in range(99999) %}{% set n.x = n.x + n.x %}{% endfor %}";
    let dump = "{% set n = namespace(x='a' * 99999) %}{% for a in range(99999) %}{{ [n.x, n.x] | tojson }}{% endfor %}";
    for source in [nested, grow, dump] {
        let failure = failure(source);
        assert!(failure.contains("takes more than 4000000 steps"), "{source}: {failure}");
    }
}

#[test]
fn endless_recursion_is_an_error() {
    let cases = [
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% set n = namespace() %}{% set n.x = [n] %}{% for a in [n.x] recursive %}{{ loop(a) }}{% endfor %}",
        "{% set n = namespace() %}{% set n.x = [n] %}{{ n.x | tojson }}",
    ];
    for source in cases {
        let failure = failure(source);
        assert!(failure.contains("can't render them"), "{failure}");
    }
}

#[test]
fn values_that_are_nested_as_deeply_as_steps_allow_are_freed() {
    let nest = "{% set n = namespace(x=1) %}{% for a in range(99999) %}{% for b in range(99999) %}{% set n.x = [n.x] %}\
                {% endfor %}{% endfor %}";
    assert!(failure(nest).contains("steps"));
    for use_ in ["{{ n.x }}", "{{ n.x == n.y }}", "{{ n.x | tojson }}", "{{ n.x | list | length }}"] {
        let nest = "{% set n = namespace(x=1, y=1) %}{% for b in range(99999) %}{% set n.x = [n.x] %}{% set n.y = [n.y] %}\
                    {% endfor %}";
        let _ = render(&of_source(&format!("{nest}{use_}")), &[user("hi")], &json!({}));
    }
}

#[test]
fn values_of_a_request_are_nested_to_a_bound() {
    let nested = |depth| (0..depth).fold(json!(1), |value, _| json!([value]));
    let template = of_source("{{ tools | tojson }}");
    let of = |depth| render(&template, &[user("")], &json!({"tools": nested(depth)}));
    assert_eq!(of(127).unwrap().len(), 255);
    let expected = "chat_template_kwargs: expected values nested at most 128 deep, found deeper ones";
    assert_eq!(of(128).unwrap_err().to_string(), expected);
    let message = json!({"role": "user", "content": "", "more": nested(200)});
    assert!(
        render(&template, &[message], &json!({})).unwrap_err().to_string().starts_with("messages: expected values")
    );
}

#[test]
fn messages_of_another_shape_are_refused() {
    let template = of_source("{{ messages[0].content }}");
    let failure = |messages: &[Value]| render(&template, messages, &json!({})).unwrap_err().to_string();
    assert_eq!(failure(&[]), "messages: expected at least one message, found none");
    assert_eq!(failure(&[json!("hi")]), "messages: expected objects with a role and a content, found a string");
    assert!(failure(&[user(7)]).ends_with("content: expected a string, null or a list of text parts, found a number"));
    let image = json!([{"type": "image_url", "image_url": {}}]);
    let expected = "content: expected parts with the type \"text\" and a text, found image_url";
    assert!(failure(&[user(image)]).ends_with(expected));
}

#[test]
fn content_is_what_the_template_takes() {
    let of_text = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    let of_parts = "{% for m in messages %}<{% for p in m.content %}{{ p.text }}{% endfor %}>{% endfor %}";
    let of_either = "{% for m in messages %}<{% if m.content is string %}{{ m.content }}{% else %}\
                     {% for p in m.content %}{{ p['text'] }}{% endfor %}{% endif %}>{% endfor %}";
    let of_trimmed = "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}";
    let of_concatenated = "{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}";
    let part = |text| json!({"type": "text", "text": text});
    let messages = [user("one"), user(json!([part("a"), part("b")]))];
    let cases = [
        (of_text, Content::Text, "<one><a\nb>"),
        (of_parts, Content::Parts, "<one><ab>"),
        (of_either, Content::Either, "<one><ab>"),
        (of_trimmed, Content::Text, "<one><a\nb>"),
        (of_concatenated, Content::Text, "<one><a\nb>"),
        ("{{ raise_exception('always') if messages | length == 1 }}ok", Content::Text, "ok"),
    ];
    for (source, content, expected) in cases {
        let template = of_source(source);
        assert_eq!(template.content, content, "{source}");
        assert_eq!(render(&template, &messages, &json!({})).unwrap(), expected, "{source}");
    }
}

#[test]
fn arguments_of_a_call_are_objects_also_where_a_client_sends_them_as_json() {
    let template = of_source("{{ messages[0].tool_calls[0].function.arguments | tojson }}");
    let of = |arguments: Value| {
        let calls = json!([{"function": {"name": "f", "arguments": arguments}}]);
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        render(&template, &[message], &json!({})).unwrap()
    };
    assert_eq!(of(json!({"b": 1, "a": 2})), r#"{"b": 1, "a": 2}"#);
    assert_eq!(of(json!(r#"{"b":1,"a":2}"#)), r#"{"b": 1, "a": 2}"#);
    assert_eq!(of(json!("not json")), r#""not json""#);
}

#[test]
fn the_variables_of_transformers_are_there() {
    let source = "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ strftime_now is defined }}\
                  {{ x is defined }}{{ messages[0].name is defined }}";
    assert_eq!(text(source), "TrueTrueFalseTrueFalseFalse");
    let null = json!({"role": "user", "content": null, "name": null});
    let template = of_source("{{ messages[0].content is defined }}{{ messages[0] }}");
    assert_eq!(render(&template, &[null], &json!({})).unwrap(), "False{'role': 'user'}");
}

#[test]
fn generation_statements_are_scopes_with_the_same_spaces() {
    let plain = source::plain;
    assert_eq!(plain("{% generation %}x{% endgeneration %}"), "{% with %}x{% endwith %}");
    assert_eq!(plain("{%-generation+%}x{%+  endgeneration -%}"), "{%-with+%}x{%+  endwith -%}");
    assert_eq!(plain("{%- generation\n%}"), "{%- with\n%}");
    for other in ["{% generations %}", "{% set generation = 1 %}", "{{ generation }}", "{% generation", "{% %}", "{%"] {
        assert_eq!(plain(other), other);
    }
    assert_eq!(plain("a\r\nb\rc"), "a\nb\nc");
}

#[test]
fn templates_are_shared_by_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    shared(&of_source(""));
}
