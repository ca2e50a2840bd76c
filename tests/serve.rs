//! `blazr serve` as its users run it: what it prints, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::{Value, json};

struct Serve {
    process: Child,
    log: BufReader<ChildStderr>,
    /// The line that says that it is ready.
    ready: String,
}

impl Serve {
    /// Starts it on the embedded model and waits until it is ready.
    fn start(flags: &[&str]) -> Self {
        Self::start_with_fault(flags, "none")
    }

    /// The same, where something will go wrong in the loop.
    fn start_with_fault(flags: &[&str], fault: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blazr"));
        let command = command.args(["serve", "--port", "0"]).args(flags).env("NO_COLOR", "1").env("FAULT", fault);
        let command = command.stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut serve = Self { process, log, ready: String::new() };
        serve.ready = serve.line_with("serving nano on ");
        serve
    }

    /// The next line of the log that has this text.
    fn line_with(&mut self, text: &str) -> String {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            if line.contains(text) {
                return line;
            }
            line.clear();
        }
        panic!("the log ends without {text:?}");
    }

    fn url(&self, path: &str) -> String {
        let url = self.ready.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        format!("{url}{path}")
    }

    fn complete(&self, body: &Value) -> RequestBuilder {
        reqwest::Client::new().post(self.url("/v1/completions")).json(body)
    }

    /// Waits for it to end by itself, and gives its exit code and the rest of the log.
    fn wait(mut self) -> (Option<i32>, String) {
        let rest = std::io::read_to_string(&mut self.log).unwrap();
        (self.process.wait().unwrap().code(), rest)
    }

    /// Asks it to stop, and gives its exit code and the rest of the log.
    fn stop(self) -> (Option<i32>, String) {
        Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap();
        self.wait()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

#[tokio::test]
async fn each_request_is_logged_in_one_line_without_its_text() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut server = Serve::start(&[]);
    for id in ["first", "second"] {
        let request = server.complete(&json!({"prompt": "my secret", "max_tokens": 1, "no_such_field": 1}));
        let answer = request.header("x-request-id", id).header("traceparent", PARENT).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let line = server.line_with("answered");
    for part in ["id=first", PARENT, "method=\"POST\"", "route=\"/v1/completions\"", "status=200", "seconds="] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let (code, rest) = server.stop();
    assert_eq!(code, Some(0), "{rest}");
    assert_eq!(rest.matches("answered").count(), 1, "{rest}");
    assert!(!rest.contains("no_such_field"), "an unknown field is named once: {rest}");
    assert!(!(line + &rest).contains("my secret"));
}

#[tokio::test]
async fn what_is_asked_is_logged_where_that_is_wanted() {
    let mut server = Serve::start(&["--log-prompts"]);
    server.complete(&json!({"prompt": "my secret", "max_tokens": 1, "no_such_field": 1})).send().await.unwrap();
    server.line_with("no_such_field");
    server.line_with("my secret");
}

#[test]
fn the_command_to_try_works_when_it_is_pasted() {
    for flags in [&[][..], &["--api-key", "sk-1"]] {
        let mut server = Serve::start(flags);
        let (before, command) = server.ready.split_once("try: ").unwrap();
        assert_eq!(before.ends_with("with a key in BLAZR_API_KEY "), !flags.is_empty());
        let command = command.trim().to_owned();
        let output = Command::new("sh").args(["-c", &command]).env("BLAZR_API_KEY", "sk-1").output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!answer["choices"][0]["text"].as_str().unwrap().is_empty(), "{command}: {answer}");
        server.line_with("status=200");
    }
}

#[tokio::test(flavor = "multi_thread")] // the client hangs up on a thread of its own
async fn a_client_that_goes_before_its_answer_is_logged_too() {
    let mut server = Serve::start(&[]);
    let endless = json!({"prompt": "Once", "max_tokens": 4000, "ignore_eos": true, "n": 16});
    for (stream, status) in [(false, 499), (true, 200)] {
        let mut body = endless.clone();
        body["stream"] = json!(stream);
        let request = server.complete(&body).timeout(Duration::from_millis(300));
        let read = async { request.send().await?.bytes().await };
        assert!(read.await.unwrap_err().is_timeout());
        let line = server.line_with("broken off");
        assert!(line.contains(&format!("status={status}")), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_say_nothing_are_drawn_as_the_authors_have_it_if_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("nano"); // a copy of the embedded one
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/nano/model")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    std::fs::write(model.join("generation_config.json"), r#"{"do_sample": false}"#).unwrap();
    let serve = Serve::start(&["--model", model.to_str().unwrap(), "--generation-config"]);
    let text = async |more: Value| {
        let mut body = json!({"prompt": "Once upon a time", "max_tokens": 24});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer: Value = serve.complete(&body).send().await.unwrap().json().await.unwrap();
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let greedy = text(json!({"temperature": 0})).await;
    assert_eq!(text(json!({})).await, greedy);
    assert_ne!(text(json!({"temperature": 2, "seed": 1})).await, greedy);
}

#[tokio::test]
async fn a_panic_in_the_loop_fails_one_request_alone() {
    let serve = Serve::start_with_fault(&[], "panic");
    let statuses = async || serve.complete(&json!({"prompt": "Once", "max_tokens": 1})).send().await.unwrap().status();
    assert_eq!((statuses().await.as_u16(), statuses().await.as_u16()), (500, 200));
    let (code, log) = serve.stop();
    assert!(code == Some(0) && log.contains("the inference loop panicked on this request"), "{log}");
}

#[tokio::test]
async fn a_loop_that_dies_tells_who_waits_and_ends_the_process() {
    let serve = Serve::start_with_fault(&[], "death");
    let answer = serve.complete(&json!({"prompt": "Once", "max_tokens": 1})).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    let (code, log) = serve.wait();
    assert!(code == Some(1) && log.contains("error: internal error: the inference loop has died"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_hangs_is_unhealthy_and_then_ends_the_process() {
    let serve = Serve::start_with_fault(&["--stall-timeout", "4"], "stall");
    let request = serve.complete(&json!({"prompt": "Once", "max_tokens": 1}));
    let waiting = tokio::spawn(async move { request.send().await.unwrap().status().as_u16() });
    let health = serve.url("/health");
    loop {
        let answer = reqwest::get(&health).await.unwrap();
        if answer.status() == 503 {
            assert_eq!(answer.json::<Value>().await.unwrap()["status"], "stalled");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = serve.complete(&json!({"prompt": "Once", "max_tokens": 1})).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    let metrics = reqwest::get(serve.url("/metrics")).await.unwrap().text().await.unwrap();
    let age = metrics.lines().find_map(|line| line.strip_prefix("blazr_loop_step_age_seconds ")).unwrap();
    assert!(age.parse::<f64>().unwrap() >= 2.0, "{age}");
    assert_eq!(waiting.await.unwrap(), 503);
    let (code, log) = serve.wait();
    assert!(code == Some(1) && log.contains("a step of the inference loop takes longer than --stall-timeout"), "{log}");
}

#[test]
fn a_healthcheck_tells_whether_a_server_answers() {
    let healthcheck = |port: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blazr"));
        command.args(["healthcheck", "--host", "0.0.0.0"]).env("BLAZR_PORT", port).output().unwrap()
    };
    let serve = Serve::start(&[]);
    let port = serve.url("").rsplit(':').next().unwrap().to_owned();
    let found = healthcheck(&port);
    let told = String::from_utf8(found.stdout).unwrap();
    assert!(found.status.code() == Some(0) && told.contains(r#"{"status":"ok"}"#), "{told}");
    assert_eq!(serve.stop().0, Some(0));
    let gone = healthcheck(&port);
    assert!(gone.status.code() == Some(1) && String::from_utf8(gone.stderr).unwrap().contains("refused"));
}

/// Takes what is told to a collector.
async fn collector() -> (String, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let (sender, told) = tokio::sync::mpsc::unbounded_channel();
    let take = move |body: axum::body::Bytes| {
        let sender = sender.clone();
        async move { sender.send(body.to_vec()).map_or(500, |()| 200).to_string() }
    };
    let routes = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, routes).await });
    (address, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_told_of_a_request_and_its_phases_below_the_callers_span() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (address, mut told) = collector().await;
    let serve = Serve::start(&["--otlp-endpoint", &address]);
    let request = serve.complete(&json!({"prompt": "my secret", "max_tokens": 2}));
    assert_eq!(request.header("traceparent", PARENT).send().await.unwrap().status(), 200);
    assert_eq!(tokio::task::spawn_blocking(|| serve.stop().0).await.unwrap(), Some(0));
    let mut spans = Vec::new();
    while let Ok(more) = told.try_recv() {
        spans.extend(more);
    }
    let has = |part: &[u8]| spans.windows(part.len()).any(|window| window == part);
    for name in ["blazr", "POST /v1/completions", "http.response.status_code", "queue", "prefill", "decode"] {
        assert!(has(name.as_bytes()), "{name}");
    }
    let trace = 0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes();
    assert!(has(&trace) && has(&0xb7ad6b7169203331_u64.to_be_bytes()), "the caller's span is not the parent");
    assert!(!has(b"my secret"));
}
