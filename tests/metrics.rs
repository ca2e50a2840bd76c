//! What Prometheus reads, against what clients were told. The counters are the process's: one test has them for itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/server.rs"]
mod server;

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

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_the_sum_of_usage_and_every_metric_is_told_with_its_help() {
    let server = Setup { limits: Limits { requests: 1, tokens: 100 }, ..Setup::default() }.start().await;
    let answers = requests(&server).await;
    let used = |key: &str| answers.iter().map(|answer| answer["usage"][key].as_f64().unwrap()).sum::<f64>();
    server.get("/v1/models/some/raw/path").send().await.unwrap();
    server.get("/no/such/route").send().await.unwrap();
    server.ask("/v1/completions", &json!({"prompt": "a", "max_tokens": 1, "no_such_field": 1})).await;
    let text = server.metrics().await;
    assert_eq!(sum(&text, "blazr_prompt_tokens_total"), used("prompt_tokens") + 1.0);
    assert_eq!(sum(&text, "blazr_generation_tokens_total"), used("completion_tokens") + 1.0);
    assert_eq!(sum(&text, "blazr_finished_total"), 2.0 * (1.0 + 6.0 + 1.0 + 1.0) + 2.0);
    assert_eq!(sum(&text, "blazr_request_time_seconds_count"), answers.len() as f64 + 1.0);
    assert_eq!(sum(&text, "blazr_time_to_first_token_seconds_count"), answers.len() as f64 - 2.0 + 1.0);
    assert_eq!(sum(&text, "blazr_running_requests") + sum(&text, "blazr_state_bytes"), 0.0);
    for part in [
        "blazr_prompt_tokens_total{source=\"computed\"}",
        "route=\"/v1/models/{*id}\",method=\"GET\",status=\"404\"",
        "route=\"other\"",
        "finish_reason=\"length\"",
        "finish_reason=\"stop\"",
        "process_resident_memory_bytes",
        "blazr_build_info{version=",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("some/raw/path") && !text.contains("/no/such"));
    is_complete(&text);
}

/// Every metric has its help and its values, but for those that count what has not happened.
fn is_complete(text: &str) {
    for metric in ALL {
        assert!(metric.kind != Kind::Counter || metric.name.ends_with("_total"), "{}", metric.name);
        let is_there = text.contains(&format!("# HELP {} ", metric.name));
        let is_of_failures = ["blazr_cancelled_total", "blazr_rejected_total", "blazr_failed_total"];
        let is_set_elsewhere = metric.name == "blazr_model_info";
        assert!(is_there || is_set_elsewhere || is_of_failures.contains(&metric.name), "{}", metric.name);
    }
}
