//! A server on the embedded model, on a free port of this machine, and a client that asks it.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct Server {
    pub address: SocketAddr,
    pub metrics_address: Option<SocketAddr>,
    pub app: App,
    pub client: Client,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<bool>,
}

pub struct Setup {
    pub settings: Settings,
    pub limits: Limits,
    pub drain_timeout: Duration,
    pub has_template: bool,
    pub is_loaded: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let settings = Settings {
            api_keys: Vec::new(),
            cors_origins: Vec::new(),
            has_metrics_port: false,
            logs_prompts: false,
            body_limit: 1 << 20,
            queue_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(60),
        };
        let limits = Limits { requests: 64, tokens: 100_000 };
        Self { settings, limits, drain_timeout: Duration::from_secs(20), has_template: true, is_loaded: true }
    }
}

impl Setup {
    pub async fn start(self) -> Server {
        let has_metrics_port = self.settings.has_metrics_port;
        let app = App::new(self.settings, Exposition::install().unwrap());
        if self.is_loaded {
            app.serve(served(self.limits, self.has_template));
        }
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = api.local_addr().unwrap();
        let (metrics, metrics_address) = if has_metrics_port {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            (Some(listener), Some(address))
        } else {
            (None, None)
        };
        let (stop, stopped) = oneshot::channel();
        let until = async {
            let _ = stopped.await;
        };
        let running = tokio::spawn(serve(Listeners { api, metrics }, app.clone(), until, self.drain_timeout));
        Server { address, metrics_address, app, client: Client::new(), stop: Some(stop), running }
    }
}

fn served(limits: Limits, has_template: bool) -> Served {
    let checkpoint = Checkpoint::embedded(&nano::MODEL).unwrap();
    let tokenizer = Arc::new(checkpoint.tokenizer().unwrap());
    let template = checkpoint.chat_template(None, &tokenizer).unwrap().filter(|_| has_template);
    let config = checkpoint.config().clone();
    let model = checkpoint.load(&Device::Cpu, weights::Settings::EXACT).unwrap();
    let (engine, _) = Engine::start(model, Arc::clone(&tokenizer), limits, 1, Duration::from_secs(60)).unwrap();
    let (id, aliases) = ("nano".to_owned(), vec!["other/name".to_owned()]);
    Served {
        id,
        aliases,
        config,
        tokenizer,
        template,
        sampling: Params::default(),
        engine,
        fingerprint: "test".into(),
        created: now(),
    }
}

impl Server {
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(self.url(path)).json(body)
    }

    /// The answer to a good request.
    pub async fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = json_of(self.post(path, body).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{body}: {answer}");
        answer
    }

    /// The status and the error of a bad request.
    pub async fn refused(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path, body).send().await.unwrap();
        assert!(response.headers().contains_key("x-request-id"), "{body}");
        let (status, answer) = json_of(response).await;
        let error = answer["error"].clone();
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "{body}: {answer}");
        }
        (status.as_u16(), error)
    }

    /// The chunks of a stream, which must end with `[DONE]`.
    pub async fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.post(path, body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{body}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        chunks(&response.text().await.unwrap())
    }

    pub async fn metrics(&self) -> String {
        self.get("/metrics").send().await.unwrap().text().await.unwrap()
    }

    /// Asks the server to stop.
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits for its end, and tells whether everything was finished.
    pub async fn ended(self) -> bool {
        self.running.await.unwrap()
    }
}

pub async fn json_of(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status}, not JSON ({error}): {text}")))
}

/// The data of each event.
pub fn chunks(text: &str) -> Vec<Value> {
    let mut events: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(events.pop(), Some(""), "the stream breaks off");
    assert_eq!(events.pop(), Some("data: [DONE]"));
    events.iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

/// A conversation of one message.
pub fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}
