//! The body of a request, its first byte saying to which route: whatever it is, the server answers it, with no fault of
//! its own, and goes on.
#![no_main]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use blazr::api::app::{App, Served, Settings, now};
use blazr::api::serve::{Listeners, serve};
use blazr::checkpoint::Checkpoint;
use blazr::engine::Engine;
use blazr::engine::queue::Limits;
use blazr::metrics::Exposition;
use blazr::model::weights;
use blazr::nano;
use blazr::sampling::Params;
use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::net::TcpListener;

const ROUTES: [&str; 4] = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"];

/// Longer than all but what would be generated for longer.
const REQUEST_SECONDS: u64 = 2;

static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let (sender, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(api.local_addr().unwrap()).unwrap();
            serve(Listeners { api, metrics: None }, app(), std::future::pending(), Duration::ZERO).await
        })
    });
    address.recv().unwrap()
});

fn app() -> App {
    let timeout = Duration::from_secs(REQUEST_SECONDS);
    let app = App::new(
        Settings {
            api_keys: Vec::new(),
            cors_origins: Vec::new(),
            has_metrics_port: false,
            logs_prompts: false,
            body_limit: 1 << 20,
            queue_timeout: timeout,
            request_timeout: timeout,
        },
        Exposition::install().unwrap(),
    );
    let checkpoint = Checkpoint::embedded(&nano::MODEL).unwrap();
    let tokenizer = Arc::new(checkpoint.tokenizer().unwrap());
    let template = checkpoint.chat_template(None, &tokenizer).unwrap();
    let config = checkpoint.config().clone();
    let model = checkpoint.load(&Device::Cpu, weights::Settings::EXACT).unwrap();
    let limits = Limits { requests: 64, tokens: 100_000 };
    app.serve(Served {
        id: "nano".into(),
        aliases: Vec::new(),
        config,
        template,
        engine: Engine::start(model, Arc::clone(&tokenizer), limits, 1, Duration::from_secs(60)).unwrap().0,
        tokenizer,
        sampling: Params::default(),
        fingerprint: "fuzz".into(),
        created: now(),
    });
    app
}

/// A request for a short answer that is the same each time, where it doesn't say how long it is to be.
fn shortened(body: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else { return body.to_vec() };
    fields.entry("seed").or_insert(1.into());
    if fields.get("max_completion_tokens").is_none_or(Value::is_null) {
        fields.entry("max_tokens").and_modify(|most| if most.is_null() { *most = 2.into() }).or_insert(2.into());
    }
    serde_json::to_vec(&fields).unwrap()
}

/// The status and the whole answer.
fn exchange(head: &str, body: &[u8]) -> (String, String) {
    let mut connection = TcpStream::connect(*SERVER).unwrap();
    connection.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).expect("text");
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("an answer");
    (status.to_owned(), answer)
}

fuzz_target!(|input: &[u8]| {
    let Some((route, body)) = input.split_first() else { return };
    let (route, body) = (ROUTES[usize::from(*route) % ROUTES.len()], shortened(body));
    let usual = "Host: blazr\r\nConnection: close\r\n";
    let length = body.len();
    let head = format!("POST {route} HTTP/1.1\r\n{usual}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    let (status, answer) = exchange(&head, &body);
    assert!(["200", "400", "404", "413", "422", "429", "503", "504"].contains(&&status[..]), "{answer}");
    if status.starts_with('5') {
        let begun = Instant::now();
        while exchange(&format!("GET /health/ready HTTP/1.1\r\n{usual}\r\n"), &[]).0 != "200" {
            assert!(begun.elapsed() < Duration::from_secs(10 * REQUEST_SECONDS), "it does not go on after {answer}");
            thread::sleep(Duration::from_millis(50));
        }
    }
});
