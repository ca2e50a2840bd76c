//! The wire contract, line by line, through a real socket, on the embedded model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/server.rs"]
mod server;

use std::time::Duration;

use blazr::api::app::{ApiKey, Settings};
use blazr::engine::queue::Limits;
use reqwest::StatusCode;
use serde_json::{Value, json};
use server::{Server, Setup, chunks, json_of, user};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// The text of a completion's first choice.
fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

/// What the chunks of one choice add up to.
fn joined(chunks: &[Value], index: usize) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let own = choices.filter(|choice| choice["index"] == index);
    own.filter_map(|choice| choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str())).collect()
}

#[tokio::test]
async fn a_completion_has_every_field() {
    let server = Server::start().await;
    let answer = server.ask(COMPLETIONS, &json!({"model": "nano", "prompt": "Once upon a time", "seed": 1})).await;
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("text_completion"), &json!("nano")));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000 && answer["system_fingerprint"].is_string());
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["logprobs"]), (&json!(0), &Value::Null));
    assert!(!text(&answer).is_empty());
    let usage = &answer["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap();
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    let expected = if count("completion_tokens") == 100 { "length" } else { "stop" };
    assert_eq!(choice["finish_reason"], expected);
}

#[tokio::test]
async fn a_chat_completion_has_every_field() {
    let server = Server::start().await;
    let body = json!({"model": "nano", "messages": user("What is 2 plus 3?"), "temperature": 0});
    let answer = server.ask(CHAT, &body).await;
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": "2 plus 3 is 5.", "refusal": null}));
    assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("stop"), &Value::Null));
    assert!(choice.get("delta").is_none());
}

#[tokio::test]
async fn streamed_and_unstreamed_agree() {
    let server = Server::start().await;
    for stop in [json!(null), json!([" the"]), json!(["zzz", "q"])] {
        for seed in 0..4 {
            let whole = json!({"prompt": "Once upon a time", "seed": seed, "stop": stop, "max_tokens": 60});
            let mut streamed = whole.clone();
            streamed["stream"] = json!(true);
            streamed["stream_options"] = json!({"include_usage": true});
            let answer = server.ask(COMPLETIONS, &whole).await;
            let chunks = server.stream(COMPLETIONS, &streamed).await;
            assert_eq!(joined(&chunks, 0), text(&answer));
            let (last, others) = chunks.split_last().unwrap();
            assert_eq!(last["choices"], json!([]));
            assert_eq!(last["usage"], answer["usage"]);
            assert!(others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
            let reasons: Vec<&Value> = others.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
            let (reason, before) = reasons.split_last().unwrap();
            assert_eq!(**reason, answer["choices"][0]["finish_reason"]);
            assert!(before.iter().all(|reason| reason.is_null()));
            assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "text_completion"));
        }
    }
}

#[tokio::test]
async fn a_chat_stream_has_its_chunks_in_order() {
    let server = Server::start().await;
    let body = json!({"messages": user("What is 2 plus 3?"), "temperature": 0, "stream": true});
    let chunks = server.stream(CHAT, &body).await;
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let last = &chunks[chunks.len() - 1]["choices"][0];
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("stop")));
    assert_eq!(joined(&chunks, 0), "2 plus 3 is 5.");
    for chunk in &chunks {
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert!(chunk.get("usage").is_none());
        assert!(chunk["choices"][0].get("finish_reason").is_some());
    }
}

#[tokio::test]
async fn every_form_of_prompt_and_n_answers_to_each() {
    let server = Server::start().await;
    let tokens = server.ask("/tokenize", &json!({"prompt": "Mia had a"})).await["tokens"].clone();
    let ask = |prompt: Value, n: usize| {
        let body = json!({"prompt": prompt, "n": n, "seed": 3, "max_tokens": 8.0, "ignore_eos": true});
        let server = &server;
        async move { server.ask(COMPLETIONS, &body).await }
    };
    let alone = ask(json!("Mia had a"), 1).await;
    assert_eq!(text(&ask(tokens.clone(), 1).await), text(&alone));
    let several = ask(json!([tokens, tokens]), 2).await;
    let choices = several["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let texts: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!((texts[0], texts[1]), (texts[2], texts[3]));
    assert_eq!(texts[0], text(&alone));
    assert_ne!(texts[0], texts[1]);
    assert_eq!(several["usage"]["completion_tokens"], 32);
    assert_eq!(several["usage"]["prompt_tokens"].as_u64(), alone["usage"]["prompt_tokens"].as_u64().map(|n| 2 * n));
}

#[tokio::test]
async fn echoed_log_probabilities_are_parallel_arrays() {
    let server = Server::start().await;
    let body = json!({"prompt": "Mia had a kite.", "echo": true, "logprobs": 2, "max_tokens": 3, "temperature": 0});
    let answer = server.ask(COMPLETIONS, &body).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    let array = |key: &str| logprobs[key].as_array().unwrap().clone();
    let (tokens, scores, tops) = (array("tokens"), array("token_logprobs"), array("top_logprobs"));
    let total = answer["usage"]["total_tokens"].as_u64().unwrap() as usize;
    assert!([tokens.len(), scores.len(), tops.len(), array("text_offset").len()].iter().all(|n| *n == total));
    assert!(text(&answer).starts_with("Mia had a kite."));
    assert_eq!((&scores[0], &tops[0]), (&Value::Null, &Value::Null));
    for at in 1..total {
        assert_eq!(tops[at][tokens[at].as_str().unwrap()], scores[at], "token {at}");
        assert!(scores[at].as_f64().unwrap() <= 0.0);
    }
    for (token, offset) in tokens.iter().zip(array("text_offset")) {
        let rest: String = text(&answer).chars().skip(offset.as_u64().unwrap() as usize).collect();
        assert!(rest.starts_with(token.as_str().unwrap()) || token.as_str().unwrap().starts_with("<|"));
    }
    let nothing_more = json!({"prompt": "Mia had a kite.", "echo": true, "logprobs": 0, "max_tokens": 0});
    let answer = server.ask(COMPLETIONS, &nothing_more).await;
    assert_eq!(text(&answer), "Mia had a kite.");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    let logprobs = &answer["choices"][0]["logprobs"];
    for (top, token) in logprobs["top_logprobs"].as_array().unwrap().iter().zip(logprobs["tokens"].as_array().unwrap())
    {
        assert!(top.as_object().is_none_or(|top| top.len() == 1 && top.contains_key(token.as_str().unwrap())));
    }
}

#[tokio::test]
async fn an_echoed_prompt_is_the_prompt_also_where_it_has_special_tokens() {
    let server = Server::start().await;
    let prompt = "<|user|>hi 🙂<|end|><|assistant|>";
    let body = json!({"prompt": prompt, "echo": true, "max_tokens": 4, "temperature": 0, "logprobs": 0});
    let answer = server.ask(COMPLETIONS, &body).await;
    let rest = text(&answer).strip_prefix(prompt).unwrap();
    assert_eq!(
        rest,
        text(&server.ask(COMPLETIONS, &json!({"prompt": prompt, "max_tokens": 4, "temperature": 0})).await)
    );
    let logprobs = &answer["choices"][0]["logprobs"];
    let offsets: Vec<u64> = serde_json::from_value(logprobs["text_offset"].clone()).unwrap();
    assert_eq!((offsets[0], offsets[1]), (0, "<|user|>".len() as u64));
    for (token, offset) in logprobs["tokens"].as_array().unwrap().iter().zip(offsets) {
        let token = token.as_str().unwrap();
        let rest: String = text(&answer).chars().skip(offset as usize).collect();
        assert!(rest.starts_with(token) || token.starts_with("bytes:"), "{token} at {offset}");
    }
}

#[tokio::test]
async fn stop_strings_cut_answers_and_not_the_prompt() {
    let server = Server::start().await;
    let tokens = server.ask("/tokenize", &json!({"prompt": "🙂"})).await["tokens"].as_array().unwrap().clone();
    let cut = &tokens[..tokens.len() - 1];
    let body = json!({"prompt": cut, "echo": true, "max_tokens": 0, "stop": ["\u{fffd}"], "logprobs": 1});
    let choice = server.ask(COMPLETIONS, &body).await["choices"][0].clone();
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("\u{fffd}"), &json!("length")));
    let base = json!({"prompt": "Once", "temperature": 0, "logprobs": 1, "max_tokens": 1});
    let first = text(&server.ask(COMPLETIONS, &base).await).to_owned();
    let mut stopped = base;
    stopped["stop"] = json!(first);
    let choice = server.ask(COMPLETIONS, &stopped).await["choices"][0].clone();
    assert_eq!((&choice["text"], &choice["logprobs"]["tokens"]), (&json!(""), &json!([])));
}

#[tokio::test]
async fn the_bytes_of_a_chats_tokens_are_its_text() {
    let server = Server::start().await;
    let body = json!({"messages": user("Tell me a story."), "seed": 5, "logprobs": true, "top_logprobs": 3});
    let answer = server.ask(CHAT, &body).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let bytes: Vec<u8> =
        content.iter().flat_map(|token| serde_json::from_value::<Vec<u8>>(token["bytes"].clone()).unwrap()).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), answer["choices"][0]["message"]["content"].as_str().unwrap());
    for token in &content {
        let top = token["top_logprobs"].as_array().unwrap();
        let own = top.iter().find(|other| other["token"] == token["token"]).unwrap();
        assert_eq!(own["logprob"], token["logprob"]);
    }
    assert_eq!(answer["choices"][0]["logprobs"].get("refusal"), Some(&Value::Null));
    let mut streamed = body;
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let mut chunks = server.stream(CHAT, &streamed).await;
    let last = chunks.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &answer["usage"]));
    let is_silent = |chunk: &Value| chunk["choices"][0]["delta"] == json!({"content": ""});
    assert!(!chunks.iter().any(is_silent), "{chunks:?}");
    let parts = chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(parts.flatten().cloned().collect::<Vec<_>>(), content);
}

#[tokio::test]
async fn bad_input_is_a_400_that_names_the_parameter() {
    let server = Server::start().await;
    let cases = [
        (COMPLETIONS, json!({"prompt": "a", "temperature": 2.5}), "temperature"),
        (COMPLETIONS, json!({"prompt": "a", "temperature": "hot"}), "temperature"),
        (COMPLETIONS, json!({"prompt": "a", "max_tokens": -1}), "max_tokens"),
        (COMPLETIONS, json!({"prompt": "a", "max_tokens": 0}), "max_tokens"),
        (COMPLETIONS, json!({"prompt": "a", "max_tokens": 1.5}), "max_tokens"),
        (COMPLETIONS, json!({"prompt": "a", "top_p": 1.5}), "top_p"),
        (COMPLETIONS, json!({"prompt": "a", "top_k": -1}), "top_k"),
        (COMPLETIONS, json!({"prompt": "a", "min_p": -0.1}), "min_p"),
        (COMPLETIONS, json!({"prompt": "a", "frequency_penalty": 2.1}), "frequency_penalty"),
        (COMPLETIONS, json!({"prompt": "a", "presence_penalty": -2.1}), "presence_penalty"),
        (COMPLETIONS, json!({"prompt": "a", "repetition_penalty": 0}), "repetition_penalty"),
        (COMPLETIONS, json!({"prompt": "a", "logit_bias": {"5": 101}}), "logit_bias"),
        (COMPLETIONS, json!({"prompt": "a", "min_tokens": -1}), "min_tokens"),
        (COMPLETIONS, json!({"prompt": "a", "guided_json": {"type": "object"}}), "guided_json"),
        (COMPLETIONS, json!({"prompt": "a", "stop_token_ids": [5]}), "stop_token_ids"),
        (COMPLETIONS, json!({}), "prompt"),
        (COMPLETIONS, json!({"prompt": vec![vec![7; 4000]; 11], "n": 16, "echo": true, "logprobs": 5}), "logprobs"),
        (CHAT, json!({}), "messages"),
        (CHAT, json!({"messages": user("a"), "echo": true}), "echo"),
        (CHAT, json!({"messages": user("a"), "best_of": 2}), "best_of"),
        (CHAT, json!({"messages": user("a"), "tool_choice": "required"}), "tool_choice"),
        (CHAT, json!({"messages": user("a"), "functions": [{"name": "f"}]}), "functions"),
        (CHAT, json!({"messages": user("a"), "function_call": {"name": "f"}}), "function_call"),
        (CHAT, json!({"messages": user("a"), "modalities": ["audio"]}), "modalities"),
        (CHAT, json!({"messages": user("a"), "audio": {"voice": "alloy"}}), "audio"),
        (COMPLETIONS, json!({"prompt": "a", "n": 17}), "n"),
        (COMPLETIONS, json!({"prompt": "a", "n": 0}), "n"),
        (COMPLETIONS, json!({"prompt": "a", "best_of": 2}), "best_of"),
        (COMPLETIONS, json!({"prompt": "a", "suffix": "b"}), "suffix"),
        (COMPLETIONS, json!({"prompt": "a", "logprobs": 6}), "logprobs"),
        (COMPLETIONS, json!({"prompt": "a", "logit_bias": {"x": 1}}), "logit_bias"),
        (COMPLETIONS, json!({"prompt": "a", "logit_bias": {"+5": 1}}), "logit_bias"),
        (COMPLETIONS, json!({"prompt": "a", "user": 5}), "user"),
        (COMPLETIONS, json!({"prompt": "a", "stream": true, "stream_options": [true, false]}), "stream_options"),
        (CHAT, json!({"messages": [{"role": "user", "content": [["text", "a"]]}]}), "messages"),
        (CHAT, json!({"messages": [{"role": "user", "content": [{"type": 0, "text": "a"}]}]}), "messages"),
        (COMPLETIONS, json!({"prompt": "a", "logit_bias": {"99999": 1}}), "logit_bias"),
        (COMPLETIONS, json!({"prompt": "a", "stop": vec!["a"; 17]}), "stop"),
        (COMPLETIONS, json!({"prompt": "a", "stream_options": {"include_usage": true}}), "stream_options"),
        (COMPLETIONS, json!({"prompt": [99999]}), "prompt"),
        (COMPLETIONS, json!({"prompt": []}), "prompt"),
        (COMPLETIONS, json!({"prompt": ""}), "prompt"),
        (COMPLETIONS, json!({"prompt": {"a": 1}}), "prompt"),
        (COMPLETIONS, json!({"prompt": "a", "stop": "x".repeat(1025)}), "stop"),
        (CHAT, json!({"messages": []}), "messages"),
        (CHAT, json!({"messages": [{"role": "wizard", "content": "a"}]}), "messages"),
        (CHAT, json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages"),
        (CHAT, json!({"messages": user("a"), "top_logprobs": 2}), "top_logprobs"),
        (CHAT, json!({"messages": user("a"), "logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (CHAT, json!({"messages": user("a"), "tools": [{"type": "function"}]}), "tools"),
        (CHAT, json!({"messages": user("a"), "response_format": {"type": "json_object"}}), "response_format"),
    ];
    for (path, body, param) in cases {
        let (status, error) = server.refused(path, &body).await;
        assert_eq!(
            (status, &error["param"], &error["type"]),
            (400, &json!(param), &json!("invalid_request_error")),
            "{body}: {error}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(!message.contains("untagged") && !message.contains("struct"), "{message}");
    }
    // What serde_json::Value can't hold.
    for (body, param) in [
        (r#"{"prompt": "a", "temperature": 1e400}"#, "temperature"),
        (r#"{"prompt": "a", "max_tokens": 1e400}"#, "max_tokens"),
        (r#"{"prompt": "a", "n": 1, "n": 1}"#, "n"),
    ] {
        let request = server.client.post(server.url(COMPLETIONS)).header("content-type", "application/json");
        let (status, answer) = json_of(request.body(body).send().await.unwrap()).await;
        assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!(param)), "{body}: {answer}");
    }
}

#[tokio::test]
async fn what_is_too_long_says_both_numbers() {
    let server = Server::start().await;
    let words = |count: usize| "the cat ".repeat(count);
    let counted = server.ask("/tokenize", &json!({"prompt": words(3000)})).await["count"].to_string();
    let turns = vec![user("a")[0].clone(); 5000];
    for (path, body, param, found) in [
        (COMPLETIONS, json!({"prompt": vec![7; 5000]}), "prompt", "5000"),
        (COMPLETIONS, json!({"prompt": words(3000)}), "prompt", &counted),
        (COMPLETIONS, json!({"prompt": words(20_000)}), "prompt", "or more"),
        (CHAT, json!({"messages": user(&words(3000))}), "messages", "the prompt has"),
        (CHAT, json!({"messages": user(&words(20_000))}), "messages", "or more"),
        (CHAT, json!({"messages": turns}), "messages", "5000 or more"),
    ] {
        let (status, error) = server.refused(path, &body).await;
        assert_eq!((status, &error["code"]), (400, &json!("context_length_exceeded")), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(found) && message.contains("4352"), "{message}");
        assert_eq!(error["param"], param);
    }
}

#[tokio::test]
async fn every_optional_may_be_null_and_unknown_fields_are_counted() {
    let server = Server::start().await;
    let shared = "model temperature top_p top_k min_p seed n best_of stop frequency_penalty presence_penalty \
                  repetition_penalty logit_bias ignore_eos min_tokens user stream stream_options guided_json";
    let completion = json!({"prompt": "a", "max_tokens": 1, "no_such_field": {"deep": 1}});
    let chat = json!({"messages": user("a"), "max_tokens": 1, "store": false});
    for (path, mut body, own) in [
        (COMPLETIONS, completion, "echo suffix logprobs"),
        (
            CHAT,
            chat,
            "max_completion_tokens logprobs top_logprobs tools tool_choice functions function_call response_format \
             modalities audio",
        ),
    ] {
        for key in shared.split_whitespace().chain(own.split_whitespace()) {
            body[key] = Value::Null;
        }
        server.ask(path, &body).await;
    }
}

#[tokio::test]
async fn options_do_what_they_say() {
    let server = Server::start().await;
    let ask = async |options: Value| {
        let mut body = json!({"prompt": "Once upon a time", "temperature": 0, "max_tokens": 4, "model": "other/name"});
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        server.ask(COMPLETIONS, &body).await
    };
    let usual = ask(json!({})).await;
    let all_stops: Vec<String> = (0..16).map(|i| format!("no such text {i}")).collect();
    let same =
        json!({"n": 1, "best_of": 1, "stop": all_stops, "frequency_penalty": 0, "user": "somebody", "top_p": 0.5});
    assert_eq!(ask(same).await["choices"], usual["choices"]);
    let end = server.ask("/tokenize", &json!({"prompt": "<|endoftext|>"})).await["tokens"][0].to_string();
    let ended = ask(json!({"logit_bias": {end.as_str(): 100}})).await;
    assert_eq!((text(&ended), &ended["choices"][0]["finish_reason"]), ("", &json!("stop")));
    assert_eq!(ended["usage"]["completion_tokens"], 1);
    let kept = ask(json!({"logit_bias": {end.as_str(): 100}, "min_tokens": 3})).await;
    assert_eq!(kept["usage"]["completion_tokens"], 4);
    assert_ne!(text(&ask(json!({"temperature": 2, "top_p": 1, "top_k": 0, "seed": 1})).await), text(&usual));
}

#[tokio::test]
async fn streamed_answers_to_several_prompts_keep_their_index() {
    let server = Server::start().await;
    let body = json!({"prompt": ["Mia", "Tom"], "n": 2, "seed": 5, "max_tokens": 9, "echo": true});
    let whole = server.ask(COMPLETIONS, &body).await;
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let chunks = server.stream(COMPLETIONS, &streamed).await;
    for index in 0..4 {
        assert_eq!(joined(&chunks, index), whole["choices"][index]["text"].as_str().unwrap());
    }
}

#[tokio::test]
async fn models_are_listed_and_found_by_ids_with_slashes() {
    let server = Server::start().await;
    let get = async |path: &str| json_of(server.get(path).send().await.unwrap()).await;
    let (_, list) = get("/v1/models").await;
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("nano")));
    assert!(list["data"][0]["created"].as_u64().unwrap() > 0);
    assert!(list["data"][0]["owned_by"].is_string() && list["data"][0]["object"] == "model");
    assert_eq!(get("/v1/models/nano").await.0, 200);
    assert_eq!(get("/v1/models/other/name").await.1["id"], "nano");
    let (status, answer) = get("/v1/models/some/other").await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (404, &json!("model_not_found")));
    let (status, error) = server.refused(COMPLETIONS, &json!({"model": "gpt-5", "prompt": "a"})).await;
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn every_failure_has_the_envelope() {
    let server = Server::start().await;
    let send = |request: reqwest::RequestBuilder| async {
        let response = request.send().await.unwrap();
        assert!(response.headers().contains_key("x-request-id"));
        let (status, answer) = json_of(response).await;
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        (status.as_u16(), answer["error"]["code"].as_str().unwrap_or("null").to_owned())
    };
    let client = &server.client;
    let url = |path: &str| server.url(path);
    assert_eq!(send(client.get(url("/v2/none"))).await, (404, "not_found".into()));
    assert_eq!(send(client.get(url("/v1/models/%ff"))).await, (400, "null".into()));
    assert_eq!(send(client.get(url(COMPLETIONS))).await, (405, "method_not_allowed".into()));
    assert_eq!(send(client.post(url(COMPLETIONS)).body("{}")).await, (415, "unsupported_media_type".into()));
    let json = |body: String| client.post(url(COMPLETIONS)).header("content-type", "application/json").body(body);
    assert_eq!(send(json("{".into())).await, (400, "null".into()));
    assert_eq!(send(json("{}".into())).await, (400, "null".into()));
    assert_eq!(send(json("[]".into())).await, (400, "null".into()));
    assert_eq!(send(json("[".repeat(100_000))).await, (400, "null".into()));
    assert_eq!(send(json("x".repeat((1 << 20) + 1))).await, (413, "request_too_large".into()));
}

#[tokio::test]
async fn a_request_keeps_its_id() {
    let server = Server::start().await;
    let id = async |given: Option<&str>| {
        let request = server.get("/health");
        let request = match given {
            Some(given) => request.header("x-request-id", given),
            None => request,
        };
        request.send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id(Some("abc-1")).await, "abc-1");
    assert_ne!(id(Some("with space")).await, "with space");
    assert_ne!(id(Some(&"x".repeat(200))).await.len(), 200);
    assert_ne!(id(None).await, id(None).await);
}

#[tokio::test]
async fn without_a_key_only_health_answers() {
    let keys = ["first", "second"].map(|key| key.parse::<ApiKey>().unwrap());
    let settings = Settings { api_keys: keys.into(), ..Setup::default().settings };
    assert!(!format!("{settings:?}").contains("first"));
    let server = Setup { settings, ..Setup::default() }.start().await;
    let status = async |path: &str, key: Option<&str>| {
        let request = server.get(path);
        let request = match key {
            Some(key) => request.header("authorization", key),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/v1/models", None).await, 401);
    assert_eq!(status("/metrics", None).await, 401);
    assert_eq!(status("/v1/models", Some("Bearer firs")).await, 401);
    assert_eq!(status("/v1/models", Some("Bearer first ")).await, 200);
    assert_eq!(status("/v1/models", Some("bearer second")).await, 200);
    assert_eq!(status("/health", None).await, 200);
    let response = server.get("/v1/models").send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let (_, answer) = json_of(response).await;
    assert_eq!(answer["error"]["code"], "invalid_api_key");
    assert_eq!(answer["error"]["type"], "authentication_error");
}

#[tokio::test]
async fn other_origins_are_let_in_only_if_they_are_named() {
    let closed = Server::start().await;
    let origin = async |server: &Server| {
        let response = server.get("/health").header("origin", "https://a.example").send().await.unwrap();
        response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(origin(&closed).await, None);
    let settings = Settings { cors_origins: vec!["https://a.example".parse().unwrap()], ..Setup::default().settings };
    let open = Setup { settings, ..Setup::default() }.start().await;
    assert_eq!(origin(&open).await.as_deref(), Some("https://a.example"));
    let origins = ["*", "https://b.example"].map(|origin| origin.parse().unwrap());
    let settings = Settings { cors_origins: origins.into(), ..Setup::default().settings };
    let wide = Setup { settings, ..Setup::default() }.start().await;
    assert_eq!(origin(&wide).await.as_deref(), Some("*"));
    let preflight = wide.client.request(reqwest::Method::OPTIONS, wide.url(CHAT)).header("origin", "https://a.example");
    let asks = preflight.header("access-control-request-method", "POST");
    let asks = asks.header("access-control-request-headers", "authorization,content-type").send().await.unwrap();
    assert_eq!(asks.headers()["access-control-allow-headers"], "authorization,content-type");
}

#[tokio::test]
async fn while_it_loads_it_says_so() {
    let server = Setup { is_loaded: false, ..Setup::default() }.start().await;
    let (status, answer) = json_of(server.get("/health").send().await.unwrap()).await;
    assert_eq!((status.as_u16(), &answer["status"]), (503, &json!("loading")));
    let response = server.post(COMPLETIONS, &json!({"prompt": "a"})).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let (status, answer) = json_of(response).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (503, &json!("model_loading")));
    assert_eq!(server.get("/health/live").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_model_without_a_template_says_what_to_do() {
    let server = Setup { has_template: false, ..Setup::default() }.start().await;
    let (status, error) = server.refused(CHAT, &json!({"messages": user("a")})).await;
    assert_eq!((status, &error["param"]), (400, &json!("messages")));
    assert!(error["message"].as_str().unwrap().contains("--chat-template"), "{error}");
}

#[tokio::test]
async fn messages_have_five_roles_and_three_forms_of_content() {
    let server = Server::start().await;
    let messages = json!([
        {"role": "system", "content": "be kind."},
        {"role": "developer", "content": "be helpful."},
        {"role": "user", "content": [{"type": "text", "text": "what is 2 "}, {"type": "text", "text": "plus 3?"}]},
        {"role": "assistant", "content": null},
        {"role": "tool", "content": "5", "tool_call_id": "call-1"},
        {"role": "user", "content": "what is 2 plus 3?", "name": "Mia"},
    ]);
    let answer = server.ask(CHAT, &json!({"messages": messages, "max_tokens": 1})).await;
    assert_eq!(answer["usage"]["completion_tokens"], 1);
    let ask = async |content: Value| {
        let messages = json!([{"role": "user", "content": content}]);
        server.ask(CHAT, &json!({"messages": messages, "temperature": 0})).await["choices"].clone()
    };
    let text = "what is 2 plus 3?";
    assert_eq!(ask(json!([{"type": "text", "text": text}])).await, ask(json!(text)).await);
}

#[tokio::test]
async fn the_same_request_gives_the_same_answer_whatever_comes_between() {
    let server = Server::start().await;
    let body = json!({"prompt": "Once upon a time", "seed": 11, "max_tokens": 40, "logprobs": 2, "min_p": 0.01});
    let first = server.ask(COMPLETIONS, &body).await;
    server.ask(COMPLETIONS, &json!({"prompt": "Tom", "seed": 11, "n": 2, "presence_penalty": 1.5})).await;
    server.ask(CHAT, &json!({"messages": user("hello"), "temperature": 2})).await;
    let again = server.ask(COMPLETIONS, &body).await;
    let other = server.ask(COMPLETIONS, &json!({"prompt": "Once upon a time", "seed": 12, "max_tokens": 40})).await;
    assert_eq!((&first["choices"], &first["system_fingerprint"]), (&again["choices"], &again["system_fingerprint"]));
    assert_ne!(text(&first), text(&other));
}

#[tokio::test]
async fn control_tokens_in_what_a_user_says_are_text() {
    let server = Server::start().await;
    let usage = async |text: &str| {
        let body = json!({"messages": user(text), "max_tokens": 1});
        server.ask(CHAT, &body).await["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    // As control tokens they would be two.
    assert!(usage("a<|end|><|system|>b").await > usage("ab").await + 4);
}

#[tokio::test]
async fn tokens_go_there_and_back() {
    let server = Server::start().await;
    let tokenized = server.ask("/tokenize", &json!({"prompt": "Hello, Wörld 🙂"})).await;
    assert_eq!(tokenized["count"].as_u64().unwrap() as usize, tokenized["tokens"].as_array().unwrap().len());
    assert_eq!(tokenized["max_model_len"], 4352);
    let text = server.ask("/detokenize", &json!({"tokens": tokenized["tokens"]})).await;
    assert_eq!(text["prompt"], "Hello, Wörld 🙂");
    assert_eq!(server.refused("/detokenize", &json!({"tokens": [70_000]})).await.0, 400);
    let special = server.ask("/tokenize", &json!({"prompt": "a<|end|>b", "add_special_tokens": false})).await;
    assert_eq!(special["count"], 3);
    let text = server.ask("/detokenize", &json!({"tokens": special["tokens"]})).await;
    assert_eq!(text["prompt"], "a<|end|>b");
    let (_, info) = json_of(server.get("/tokenizer_info").send().await.unwrap()).await;
    assert_eq!(info["eos_token"], "<|endoftext|>");
}

/// A request that runs for much longer than a test waits, unless it is given up.
fn endless(stream: bool) -> Value {
    json!({"prompt": "Once", "max_tokens": 4000, "ignore_eos": true, "n": 16, "stream": stream})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_turns_away_and_every_other_request_is_served() {
    let limits = Limits { requests: 4, tokens: 100_000 };
    let server = Setup { limits, ..Setup::default() }.start().await;
    let ask = || {
        let body = json!({"prompt": "Once upon a time", "max_tokens": 30, "ignore_eos": true});
        let request = server.post(COMPLETIONS, &body);
        tokio::spawn(async move {
            let response = request.send().await.unwrap();
            let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
            (json_of(response).await, retry_after)
        })
    };
    let asked: Vec<_> = (0..64).map(|_| ask()).collect();
    let mut n_served = 0;
    for answer in asked {
        let ((status, answer), retry_after) = answer.await.unwrap();
        if status == 200 {
            assert_eq!(answer["usage"]["completion_tokens"], 30);
            n_served += 1;
        } else {
            assert_eq!((status.as_u16(), &answer["error"]["code"]), (429, &json!("queue_full")));
            assert_eq!(answer["error"]["type"], "rate_limit_error");
            assert!((1..=120).contains(&retry_after.unwrap().parse::<u64>().unwrap()));
        }
    }
    assert!(n_served >= 5, "{n_served}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_not_ready_but_in_good_health() {
    let limits = Limits { requests: 1, tokens: 100_000 };
    let server = Setup { limits, ..Setup::default() }.start().await;
    let status = async |path: &str| json_of(server.get(path).send().await.unwrap()).await;
    let until_ready_is = async |expected: u16| {
        while server.get("/health/ready").send().await.unwrap().status() != expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    until_ready_is(200).await;
    let running = tokio::spawn(server.post(COMPLETIONS, &endless(false)).send());
    while server.app.is_idle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = tokio::spawn(server.post(COMPLETIONS, &endless(false)).send());
    until_ready_is(503).await;
    assert_eq!(status("/health/ready").await.1["status"], "busy");
    assert_eq!(status("/health").await, (StatusCode::OK, json!({"status": "ok"})));
    // One that waits and goes away leaves at once, though the loop is busy.
    waiting.abort();
    until_ready_is(200).await;
    assert!(!server.app.is_idle() && !running.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_on_their_way_are_bounded_together() {
    let settings = Settings { body_limit: 1000, ..Setup::default().settings };
    let server = Setup { settings, ..Setup::default() }.start().await;
    let head =
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    let mut slow = Vec::new();
    let body = json!({"prompt": "a ".repeat(20), "max_tokens": 1});
    let status = async || server.post(COMPLETIONS, &body).send().await.unwrap().status().as_u16();
    // One of the slow ones is refused itself where it comes while the other request is on its way.
    while status().await != 429 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(format!("{head}{}", " ".repeat(999)).as_bytes()).await.unwrap();
        slow.push(stream);
    }
    assert!(slow.len() >= 16, "{} bodies were too many", slow.len());
    drop(slow);
    while status().await != 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_that_wait_are_bounded_too() {
    let limits = Limits { requests: 64, tokens: 10 };
    let server = Setup { limits, ..Setup::default() }.start().await;
    let _running = tokio::spawn(server.post(COMPLETIONS, &endless(false)).send());
    while server.app.is_idle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // One of two may wait, and is not answered while it does.
    let ask = || server.post(COMPLETIONS, &json!({"prompt": vec![7; 8], "stream": true})).send();
    let first = tokio::select! { answer = ask() => answer, answer = ask() => answer };
    let (status, error) = json_of(first.unwrap()).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (429, &json!("queue_full")));
    assert!(error["error"]["message"].as_str().unwrap().contains("of at most 10 prompt tokens"), "{error}");
}

/// Waits until nothing waits and nothing runs.
async fn idle(server: &Server) {
    for _ in 0..300 {
        if server.app.is_idle() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the loop is still busy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_the_loop() {
    let server = Server::start().await;
    let long: Vec<u32> = (0..4000).map(|at| 5 + at % 1000).collect();
    let prefill = |stream: bool| json!({"prompt": long, "max_tokens": 100, "stream": stream});
    for stream in [false, true] {
        for body in [endless(stream), prefill(stream)] {
            let request = server.post(COMPLETIONS, &body).send();
            assert!(
                tokio::time::timeout(Duration::from_millis(80), async { request.await?.text().await }).await.is_err()
            );
            idle(&server).await;
        }
        // One that waits behind another.
        let running = tokio::spawn(server.post(COMPLETIONS, &endless(false)).send());
        while server.app.is_idle() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let waiting = server.post(COMPLETIONS, &endless(stream)).send();
        assert!(tokio::time::timeout(Duration::from_millis(80), waiting).await.is_err());
        running.abort();
        idle(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_sent_more_and_goes_away_frees_the_loop_too() {
    let server = Server::start().await;
    for stream in [false, true] {
        let body = endless(stream).to_string();
        let head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}GET /health HTTP/1.1\r\n", body.len());
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        while server.app.is_idle() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(client);
        idle(&server).await;
    }
}

#[tokio::test]
async fn usage_may_be_told_as_it_grows() {
    let server = Server::start().await;
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let body =
        json!({"prompt": [40, 41.0], "max_tokens": 4, "ignore_eos": true, "stream": true, "stream_options": options});
    let chunks = server.stream(COMPLETIONS, &body).await;
    let totals: Vec<u64> = chunks.iter().map(|chunk| chunk["usage"]["total_tokens"].as_u64().unwrap()).collect();
    assert!(totals.is_sorted() && totals[0] >= 3, "{totals:?}");
    assert_eq!(totals[totals.len() - 1], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_bounded() {
    let settings = Settings {
        queue_timeout: Duration::from_millis(100),
        request_timeout: Duration::from_millis(400),
        ..Setup::default().settings
    };
    let server = Setup { settings, ..Setup::default() }.start().await;
    let running = tokio::spawn(server.post(COMPLETIONS, &endless(false)).send());
    while server.app.is_idle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let response = server.post(COMPLETIONS, &json!({"prompt": "a", "stream": true})).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(json_of(response).await.1["error"]["code"], "queue_timeout");
    let (status, answer) = json_of(running.await.unwrap().unwrap()).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (504, &json!("request_timeout")));
    // In mid-stream the error is an event.
    let stream = server.stream(COMPLETIONS, &endless(true)).await;
    assert_eq!(stream[stream.len() - 1]["error"]["code"], "request_timeout");
    // An echoed prompt begins no stream: its time may be over before the first token.
    let long = json!({"prompt": vec![vec![7; 4000]; 9], "echo": true, "max_tokens": 1, "logprobs": 1, "stream": true});
    let first_alone = json!({"prompt": vec![7; 4000], "echo": true, "max_tokens": 1, "stream": true});
    let settings = Settings { request_timeout: Duration::from_millis(20), ..Setup::default().settings };
    let hasty = Setup { settings, ..Setup::default() }.start().await;
    for body in [long, first_alone] {
        let (status, error) = hasty.refused(COMPLETIONS, &body).await;
        assert_eq!((status, &error["code"]), (504, &json!("request_timeout")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_in_is_finished_before_the_end() {
    let mut server = Server::start().await;
    let body = json!({"prompt": "Once", "max_tokens": 200, "ignore_eos": true, "stream": true});
    let running: Vec<_> = (0..3).map(|_| tokio::spawn(server.post(COMPLETIONS, &body).send())).collect();
    tokio::time::sleep(Duration::from_millis(150)).await;
    server.stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let response = server.post(COMPLETIONS, &json!({"prompt": "a"})).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let (status, answer) = json_of(response).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (503, &json!("shutting_down")));
    for path in ["/health", "/health/ready"] {
        let (status, answer) = json_of(server.get(path).send().await.unwrap()).await;
        assert_eq!((status.as_u16(), &answer["status"]), (503, &json!("draining")));
    }
    for stream in running {
        let text = stream.await.unwrap().unwrap().text().await.unwrap();
        let chunks = chunks(&text);
        assert_eq!(chunks[chunks.len() - 1]["choices"][0]["finish_reason"], "length");
    }
    assert!(server.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_longer_than_the_drain_ends_with_an_error() {
    let mut server = Setup { drain_timeout: Duration::from_millis(200), ..Setup::default() }.start().await;
    let running = tokio::spawn(server.post(COMPLETIONS, &endless(true)).send());
    tokio::time::sleep(Duration::from_millis(150)).await;
    server.stop();
    let chunks = chunks(&running.await.unwrap().unwrap().text().await.unwrap());
    assert_eq!(chunks[chunks.len() - 1]["error"]["code"], "shutting_down");
    assert!(!server.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_whatever_clients_do() {
    let server = Server::start().await;
    let _busy = tokio::spawn(server.post(COMPLETIONS, &endless(false)).send());
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n").await.unwrap();
        silent.push(stream);
    }
    for _ in 0..20 {
        let asked = std::time::Instant::now();
        assert_eq!(server.get("/health").send().await.unwrap().status(), 200);
        assert!(asked.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_order() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let get = |path: &str, close: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n{close}\r\n");
    let all = get("/health/live", "") + &get("/nowhere", "") + &get("/v1/models", "connection: close\r\n");
    stream.write_all(all.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| answer.get(..3).unwrap()).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
}

#[tokio::test]
async fn the_api_describes_itself() {
    let server = Server::start().await;
    let (_, document) = json_of(server.get("/openapi.json").send().await.unwrap()).await;
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    let operations: Vec<&str> = paths
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(operations.iter().collect::<std::collections::BTreeSet<_>>().len(), operations.len(), "{operations:?}");
    for (path, methods) in paths {
        let method = methods.as_object().unwrap().keys().next().unwrap().to_uppercase();
        let request = server.client.request(method.parse().unwrap(), server.url(path));
        let status = request.send().await.unwrap().status().as_u16();
        assert!(methods[&method.to_lowercase()]["responses"].get(status.to_string()).is_some(), "{path}: {status}");
        assert!(methods[&method.to_lowercase()]["responses"].get("401").is_none());
    }
    let schema = &document["components"]["schemas"]["CompletionRequest"]["properties"];
    assert_eq!(schema["prompt"]["anyOf"][2]["items"]["maximum"], 2047);
    let settings = Settings { api_keys: vec!["key".parse::<ApiKey>().unwrap()], ..Setup::default().settings };
    let server = Setup { settings, ..Setup::default() }.start().await;
    let request = server.get("/openapi.json").header("authorization", "Bearer key");
    let (_, document) = json_of(request.send().await.unwrap()).await;
    assert!(document["paths"]["/v1/models"]["get"]["responses"].get("401").is_some());
    assert_eq!(document["components"]["securitySchemes"]["key"]["scheme"], "bearer");
    assert!(document["paths"]["/health"]["get"].get("security").is_none());
}

#[tokio::test]
async fn metrics_may_have_a_port_of_their_own() {
    let settings = Settings {
        api_keys: vec!["key".parse::<ApiKey>().unwrap()],
        has_metrics_port: true,
        ..Setup::default().settings
    };
    let server = Setup { settings, ..Setup::default() }.start().await;
    let on_metrics_port = async |path: &str| {
        let url = format!("http://{}{path}", server.metrics_address.unwrap());
        server.client.get(url).send().await.unwrap()
    };
    assert!(on_metrics_port("/metrics").await.text().await.unwrap().contains("blazr_build_info"));
    let (status, answer) = json_of(on_metrics_port("/v1/models").await).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (404, &json!("not_found")));
    let status = server.get("/metrics").header("authorization", "Bearer key").send().await.unwrap().status();
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_stop_string_cuts_log_probabilities_with_the_text() {
    let server = Server::start().await;
    let base = json!({"prompt": "Once upon a time", "seed": 4, "max_tokens": 40});
    let whole = text(&server.ask(COMPLETIONS, &base).await).to_owned();
    for at in [1, 5, 20, 33] {
        let mut body = base.clone();
        body["stop"] = json!(whole.chars().skip(at).take(4).collect::<String>());
        body["logprobs"] = json!(0);
        let answer = server.ask(COMPLETIONS, &body).await;
        let n_characters = text(&answer).chars().count() as u64;
        let offsets = answer["choices"][0]["logprobs"]["text_offset"].as_array().unwrap().clone();
        assert!(offsets.iter().all(|offset| offset.as_u64().unwrap() < n_characters), "{answer}");
        assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() as usize >= offsets.len());
    }
}

#[tokio::test]
async fn several_answers_count_their_prompt_once() {
    let server = Server::start().await;
    let prompt: Vec<u32> = (0..300).map(|at| 5 + at % 1000).collect();
    let body = json!({"prompt": prompt, "n": 16, "max_tokens": 1, "ignore_eos": true, "seed": 1});
    let answer = server.ask(COMPLETIONS, &body).await;
    assert_eq!(answer["choices"].as_array().unwrap().len(), 16);
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(300), &json!(16)));
}

#[tokio::test]
async fn a_connection_whose_body_was_not_read_says_that_it_ends() {
    let keys = Settings { api_keys: vec!["key".parse::<ApiKey>().unwrap()], ..Setup::default().settings };
    let locked = Setup { settings: keys, ..Setup::default() }.start().await;
    let open = Server::start().await;
    let body = json!({"prompt": "a"});
    let asks = [
        (locked.post(COMPLETIONS, &body), 401, true),
        (open.post("/nowhere", &body), 404, true),
        (open.client.put(open.url(COMPLETIONS)).json(&body), 405, true),
        (open.client.post(open.url(COMPLETIONS)).body("text"), 415, true),
        (open.client.post(open.url(COMPLETIONS)).json(&"x".repeat(2 << 20)), 413, true),
        (open.post(COMPLETIONS, &json!({"prompt": 5})), 400, false),
        (open.get("/nowhere"), 404, false),
    ];
    for (request, status, is_closed) in asks {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().get("connection").is_some_and(|value| value == "close"), is_closed, "{status}");
    }
}
