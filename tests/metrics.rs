//! What Prometheus reads, against what clients were told. The counters are the process's: one test has them for itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/server.rs"]
mod server;

use std::time::Duration;

use blazr::engine::queue::Limits;
use blazr::metrics::{ALL, Kind};
use serde_json::{Value, json};
use server::{Server, Setup, user};

/// The sum of a metric's values over all its labels.
fn sum(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().unwrap())
    });
    values.sum()
}

async fn requests(server: &Server) -> Vec<Value> {
    let prompt = "Once upon a time";
    let mut answers = Vec::new();
    for body in [
        json!({"prompt": prompt, "max_tokens": 5, "ignore_eos": true}),
        json!({"prompt": [prompt, "Mia"], "n": 3, "seed": 1, "max_tokens": 9}),
        json!({"prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 0}),
        json!({"prompt": prompt, "seed": 2, "stop": [" "], "max_tokens": 9}),
    ] {
        answers.push(server.ask("/v1/completions", &body).await);
        let mut streamed = body;
        streamed["stream"] = json!(true);
        streamed["stream_options"] = json!({"include_usage": true});
        answers.push(server.stream("/v1/completions", &streamed).await.pop().unwrap());
    }
    answers.push(server.ask("/v1/chat/completions", &json!({"messages": user("hello"), "seed": 1})).await);
    answers
}

/// Waits until a metric has this value.
async fn wait_for(server: &Server, series: &str, value: f64) {
    let line = format!("{series} {value}");
    wait_until(server, &line, |text| text.lines().any(|found| found == line)).await;
}

async fn wait_until(server: &Server, what: &str, is_so: impl Fn(&str) -> bool) {
    for _ in 0..500 {
        if is_so(&server.metrics().await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not {what}: {}", server.metrics().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_before_the_first_request_and_counters_are_the_sum_of_usage() {
    let server = Setup { limits: Limits { requests: 1, tokens: 10_000 }, ..Setup::default() }.start().await;
    is_complete(&server.metrics().await);
    let answers = requests(&server).await;
    let used = |key: &str| answers.iter().map(|answer| answer["usage"][key].as_f64().unwrap()).sum::<f64>();
    server.get("/v1/models/some/raw/path").send().await.unwrap();
    server.get("/no/such/route").send().await.unwrap();
    // A request is over a moment after its last event.
    wait_for(&server, "blazr_request_time_seconds_count", answers.len() as f64).await;
    let text = server.metrics().await;
    assert_eq!(sum(&text, "blazr_prompt_tokens_total"), used("prompt_tokens"));
    assert_eq!(sum(&text, "blazr_generation_tokens_total"), used("completion_tokens"));
    assert_eq!(sum(&text, "blazr_finished_total"), 2.0 * (1.0 + 6.0 + 1.0 + 1.0) + 1.0);
    let (n_requests, n_scored, n_second_prompts) = (answers.len() as f64, 2.0, 2.0);
    assert_eq!(sum(&text, "blazr_request_time_seconds_count"), n_requests);
    assert_eq!(sum(&text, "blazr_queue_time_seconds_count"), n_requests);
    assert_eq!(sum(&text, "blazr_time_to_first_token_seconds_count"), n_requests - n_scored);
    assert_eq!(sum(&text, "blazr_prefill_time_seconds_count"), n_requests + n_second_prompts);
    assert_eq!(sum(&text, "blazr_decode_time_seconds_count"), n_requests + n_second_prompts - n_scored);
    for part in [
        "blazr_prompt_tokens_total{source=\"computed\"}",
        "route=\"/v1/models/{*id}\",method=\"GET\",status=\"404\"",
        "route=\"other\"",
        "process_resident_memory_bytes",
        "blazr_build_info{version=",
        // Of vLLM's buckets, the ends.
        "blazr_time_to_first_token_seconds_bucket{le=\"0.001\"}",
        "blazr_time_to_first_token_seconds_bucket{le=\"2560\"}",
        "blazr_time_between_tokens_seconds_bucket{le=\"0.0025\"}",
        "blazr_time_between_tokens_seconds_bucket{le=\"80\"}",
        "blazr_request_time_seconds_bucket{le=\"0.3\"}",
        "blazr_request_time_seconds_bucket{le=\"7680\"}",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("some/raw/path") && !text.contains("/no/such"));
    what_is_given_up(&server).await;
    what_is_not_begun().await;
}

/// Every metric has its help and its values.
fn is_complete(text: &str) {
    for metric in ALL {
        let is_set_elsewhere = ["blazr_model_info", "blazr_http_requests_total"].contains(&metric.name);
        assert!(metric.kind != Kind::Counter || metric.name.ends_with("_total"), "{}", metric.name);
        assert!(is_set_elsewhere || text.contains(&format!("# HELP {} ", metric.name)), "{}", metric.name);
    }
    for series in [
        "blazr_cancelled_total{phase=\"prefill\"} 0",
        "blazr_rejected_total{reason=\"queue_full\"} 0",
        "blazr_failed_total{reason=\"panic\"} 0",
        "blazr_finished_total{finish_reason=\"stop\"} 0",
        "blazr_queue_requests 0",
        "blazr_request_time_seconds_count 0",
    ] {
        assert!(text.lines().any(|line| line == series), "{series}: {text}");
    }
}

/// Requests that are refused, and those whose clients go away while they wait and while they are answered.
async fn what_is_given_up(server: &Server) {
    let endless = json!({"prompt": "Once", "max_tokens": 4000, "ignore_eos": true, "n": 16});
    let running = tokio::spawn(server.post("/v1/completions", &endless).send());
    wait_for(server, "blazr_running_requests", 1.0).await;
    let waiting = tokio::spawn(server.post("/v1/completions", &endless).send());
    wait_for(server, "blazr_queue_requests", 1.0).await;
    wait_for(server, "blazr_queue_tokens", 1.0).await;
    wait_until(server, "a state", |text| sum(text, "blazr_state_bytes") > 0.0).await;
    assert_eq!(server.refused("/v1/completions", &endless).await.0, 429);
    wait_for(server, "blazr_rejected_total{reason=\"queue_full\"}", 1.0).await;
    waiting.abort();
    wait_for(server, "blazr_cancelled_total{phase=\"queued\"}", 1.0).await;
    wait_for(server, "blazr_queue_requests", 0.0).await;
    running.abort();
    wait_for(server, "blazr_cancelled_total{phase=\"decode\"}", 1.0).await;
    wait_for(server, "blazr_state_bytes", 0.0).await;
    // Whoever has read `[DONE]` may go at once.
    let finished = sum(&server.metrics().await, "blazr_finished_total");
    let body = json!({"prompt": "Once", "max_tokens": 3, "ignore_eos": true, "stream": true});
    let mut answer = server.post("/v1/completions", &body).send().await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"data: [DONE]\n\n") {
        read.extend(answer.chunk().await.unwrap().unwrap());
    }
    drop(answer);
    assert_eq!(sum(&server.metrics().await, "blazr_finished_total"), finished + 1.0);
    assert_eq!(sum(&server.metrics().await, "blazr_cancelled_total"), 2.0);
    let gone = "blazr_http_requests_total{route=\"/v1/completions\",method=\"POST\",status=\"499\"}";
    wait_for(server, gone, 2.0).await;
}

/// Requests that come before the model is there: those that would generate count.
async fn what_is_not_begun() {
    let server = Setup { is_loaded: false, ..Setup::default() }.start().await;
    let before = sum(&server.metrics().await, "blazr_rejected_total");
    assert_eq!(server.refused("/v1/completions", &json!({"prompt": "Once"})).await.0, 503);
    assert_eq!(server.refused("/tokenize", &json!({"prompt": "Once"})).await.0, 503);
    let after = server.metrics().await;
    assert_eq!(sum(&after, "blazr_rejected_total"), before + 1.0);
    assert!(after.contains("blazr_rejected_total{reason=\"unavailable\"} 1\n"), "{after}");
}
