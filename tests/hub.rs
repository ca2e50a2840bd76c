//! The real program against a server that is shaped as the Hugging Face Hub, on loopback: models are downloaded, resumed,
//! refused and found again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as Captured, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt;
use serde_json::{Value, json};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";

/// The weights' shards.
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// What goes wrong with a file, each time that it is asked for; nothing once the list is empty.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The connection breaks behind so many bytes.
    Break(usize),
    /// The server can't.
    Status(u16),
    /// The whole file comes, whichever part was asked for.
    NoRanges,
}

/// A request as it came.
#[derive(Clone, Debug)]
struct Asked {
    host: String,
    path: String,
    authorization: Option<String>,
    range: Option<String>,
}

#[derive(Default)]
struct Contents {
    files: BTreeMap<String, Vec<u8>>,
    /// Sizes that the Hub tells in place of the true ones.
    told_sizes: BTreeMap<String, usize>,
    listed_sizes: BTreeMap<String, usize>,
    faults: BTreeMap<String, Vec<Fault>>,
    asked: Vec<Asked>,
    port: u16,
}

type Shared = Arc<Mutex<Contents>>;

/// A Hub with one model, `tiny/llama`, that is also `tiny/private`, `tiny/gated` and, by its old name, `tiny/renamed`.
struct Hub {
    contents: Shared,
    address: SocketAddr,
    home: tempfile::TempDir,
}

impl Hub {
    /// The model is a fixture, and has files that nobody needs.
    fn new(fixture: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families").join(fixture);
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
        };
        let mut files: BTreeMap<_, _> = std::fs::read_dir(directory).unwrap().map(read).collect();
        for name in ["README.md", "pytorch_model.bin", "original/consolidated.safetensors"] {
            files.insert(name.into(), vec![0; 5]);
        }
        let contents = Shared::new(Mutex::new(Contents { files, ..Contents::default() }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        contents.lock().unwrap().port = address.port();
        let app = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(list))
            .route("/{owner}/{name}/resolve/{revision}/{*file}", get(resolve))
            .route("/storage/{*file}", get(store))
            .with_state(Arc::clone(&contents));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        Self { contents, address, home: tempfile::tempdir().unwrap() }
    }

    fn change(&self, change: impl FnOnce(&mut Contents)) {
        change(&mut self.contents.lock().unwrap());
    }

    fn fail(&self, file: &str, faults: &[Fault]) {
        self.change(|contents| drop(contents.faults.insert(file.into(), faults.to_vec())));
    }

    /// What was asked for since the last look.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.contents.lock().unwrap().asked)
    }

    /// blazr with this Hub and an empty cache of its own.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blazr"));
        for name in
            ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"]
        {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", format!("http://{}", self.address)).env("HF_HOME", self.home.path());
        command.args(args);
        command
    }

    /// What is printed by a command that succeeds.
    fn run(&self, args: &[&str]) -> String {
        printed(&self.command(args).output().unwrap())
    }

    /// What is said by a command that fails.
    fn refused(&self, args: &[&str]) -> String {
        said(&self.command(args).output().unwrap())
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hub")
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.cache().join("models--tiny--llama/blobs").join(etag(name))
    }

    fn part(&self, name: &str) -> PathBuf {
        self.blob(&format!("{name}.blazr.incomplete"))
    }

    /// Whether the cache has this file as the Hub does.
    fn has(&self, name: &str) -> bool {
        let link = self.cache().join("models--tiny--llama/snapshots").join(COMMIT).join(name);
        std::fs::read(link).is_ok_and(|bytes| self.contents.lock().unwrap().files[name] == bytes)
    }
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn said(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{said}");
    said
}

/// The hash that the Hub tells of a file; the tests' own is its name.
fn etag(name: &str) -> String {
    format!("hash-of-{}", name.replace('/', "-"))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

fn note(contents: &Shared, path: &str, headers: &HeaderMap) {
    contents.lock().unwrap().asked.push(Asked {
        host: text(headers, header::HOST).unwrap(),
        path: path.to_owned(),
        authorization: text(headers, header::AUTHORIZATION),
        range: text(headers, header::RANGE),
    });
}

fn refusal(status: StatusCode, code: &'static str, message: &'static str) -> Response {
    (status, [("x-error-code", code), ("x-error-message", message)], json!({ "error": message }).to_string())
        .into_response()
}

/// Why a model can't be had, if it can't.
fn refuse(repo: &str, revision: &str, headers: &HeaderMap) -> Option<Response> {
    let is_known = text(headers, header::AUTHORIZATION) == Some(format!("Bearer {TOKEN}"));
    match repo {
        "tiny/gated" => Some(refusal(StatusCode::FORBIDDEN, "GatedRepo", "Access to model tiny/gated is restricted")),
        "tiny/private" if !is_known => Some(refusal(StatusCode::UNAUTHORIZED, "RepoNotFound", "Repository not found")),
        "tiny/llama" | "tiny/private" | "tiny/renamed" if ["main", "v1", "refs/pr/1", COMMIT].contains(&revision) => {
            None
        }
        "tiny/llama" => Some(refusal(StatusCode::NOT_FOUND, "RevisionNotFound", "Invalid rev id")),
        _ => Some(refusal(StatusCode::NOT_FOUND, "RepoNotFound", "Repository not found")),
    }
}

async fn list(
    State(contents): State<Shared>,
    Captured((owner, name, revision)): Captured<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    note(&contents, &format!("list {owner}/{name}@{revision}"), &headers);
    if let Some(refusal) = refuse(&format!("{owner}/{name}"), &revision, &headers) {
        return refusal;
    }
    let mut contents = contents.lock().unwrap();
    if let Some(Fault::Status(status)) = next_fault(&mut contents, "the list") {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    if owner == "tiny" && name == "renamed" {
        let location = format!("/api/models/tiny/llama/revision/{revision}?blobs=true");
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response();
    }
    let size = |(name, bytes): (&String, &Vec<u8>)| contents.listed_sizes.get(name).copied().unwrap_or(bytes.len());
    let sibling = |(name, bytes)| json!({"rfilename": name, "size": size((name, bytes))});
    let siblings: Vec<Value> = contents.files.iter().map(sibling).collect();
    json!({"id": "tiny/llama", "sha": COMMIT, "siblings": siblings}).to_string().into_response()
}

fn next_fault(contents: &mut Contents, file: &str) -> Option<Fault> {
    let faults = contents.faults.get_mut(file).filter(|faults| !faults.is_empty())?;
    Some(faults.remove(0))
}

/// Small files come at once; for weights there is a storage under another host's name.
async fn resolve(
    State(contents): State<Shared>,
    Captured((owner, name, revision, file)): Captured<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    note(&contents, &format!("resolve {file}"), &headers);
    if let Some(refusal) = refuse(&format!("{owner}/{name}"), &revision, &headers) {
        return refusal;
    }
    if name == "renamed" {
        let location = format!("/tiny/llama/resolve/{revision}/{file}");
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response();
    }
    let mut contents = contents.lock().unwrap();
    let Some(bytes) = contents.files.get(&file).cloned() else {
        return refusal(StatusCode::NOT_FOUND, "EntryNotFound", "Entry not found");
    };
    let quoted = format!("\"{}\"", etag(&file));
    if !file.ends_with(".safetensors") {
        let fault = next_fault(&mut contents, &file);
        let mut response = serve(&bytes, &headers, fault);
        response.headers_mut().insert(header::ETAG, HeaderValue::from_str(&quoted).unwrap());
        return response;
    }
    let size = contents.told_sizes.get(&file).copied().unwrap_or(bytes.len()).to_string();
    let location = format!("http://localhost:{}/storage/{file}", contents.port);
    let told =
        [("x-linked-etag", quoted), ("x-linked-size", size), ("x-repo-commit", COMMIT.into()), ("location", location)];
    (StatusCode::FOUND, told).into_response()
}

async fn store(State(contents): State<Shared>, Captured(file): Captured<String>, headers: HeaderMap) -> Response {
    note(&contents, &format!("store {file}"), &headers);
    let mut contents = contents.lock().unwrap();
    let fault = next_fault(&mut contents, &file);
    let mut response = serve(&contents.files[&file], &headers, fault);
    response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"the storage's own\""));
    response
}

/// The bytes, from where they were asked for, up to where the connection breaks.
fn serve(bytes: &[u8], headers: &HeaderMap, fault: Option<Fault>) -> Response {
    if let Some(Fault::Status(status)) = fault {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    let range = text(headers, header::RANGE).filter(|_| !matches!(fault, Some(Fault::NoRanges)));
    let start =
        range.map(|range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse::<usize>().unwrap());
    if start.is_some_and(|start| start >= bytes.len()) {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let rest = bytes[start.unwrap_or(0)..].to_vec();
    let length = rest.len();
    let body = match fault {
        Some(Fault::Break(count)) => {
            let sent = vec![Ok(Bytes::from(rest[..count].to_vec())), Err(std::io::Error::other("broken"))];
            // What was sent before must have left when the connection breaks.
            Body::from_stream(futures_util::stream::iter(sent).then(async |part| {
                tokio::time::sleep(Duration::from_millis(if part.is_err() { 100 } else { 0 })).await;
                part
            }))
        }
        _ => Body::from(rest),
    };
    let response = Response::builder().header(header::CONTENT_LENGTH, length);
    let response = match start {
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range)
        }
        None => response,
    };
    response.body(body).unwrap()
}

fn paths(asked: &[Asked]) -> Vec<&str> {
    let mut paths: Vec<&str> = asked.iter().map(|asked| asked.path.as_str()).collect();
    paths.sort_unstable();
    paths
}

#[test]
fn a_model_is_pulled_once_and_then_found_in_the_cache_that_all_tools_share() {
    let hub = Hub::new("llama");
    let snapshot = hub.run(&["pull", "tiny/llama"]);
    let root = hub.cache().join("models--tiny--llama");
    assert_eq!(Path::new(snapshot.trim_end()), root.join("snapshots").join(COMMIT));
    let needed = ["config.json", "model.safetensors.index.json", SHARDS[0], SHARDS[1]];
    let listed = |path: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(
        listed(Path::new(snapshot.trim_end())),
        ["config.json", SHARDS[0], SHARDS[1], "model.safetensors.index.json"]
    );
    assert!(needed.iter().all(|name| hub.has(name)));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let blobs = ["config.json", SHARDS[0], SHARDS[1], "model.safetensors.index.json"].map(etag);
    assert_eq!(listed(&root.join("blobs")), blobs.each_ref().map(String::as_str));
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(root.join("snapshots").join(COMMIT).join("config.json")).unwrap(),
        Path::new("../../blobs/hash-of-config.json")
    );
    assert_eq!(hub.asked().len(), 1 + 2 + 2 * 2);

    assert_eq!(hub.run(&["pull", "tiny/llama"]), snapshot);
    assert_eq!(paths(&hub.asked()), ["list tiny/llama@main"]);
}

#[test]
fn every_command_takes_the_name_of_a_model_and_list_knows_it() {
    let hub = Hub::new("llama");
    assert_eq!(hub.run(&["list"]), "MODEL  REVISION  SIZE  FAMILY\n");
    let info: Value = serde_json::from_str(&hub.run(&["info", "--model", "tiny/llama@v1", "--check"])).unwrap();
    assert_eq!((&info["id"], &info["family"]), (&json!("tiny/llama"), &json!("llama")));
    hub.run(&["pull", "tiny/llama@refs/pr/1"]);
    assert_eq!(
        hub.run(&["list"]),
        "MODEL       REVISION            SIZE  FAMILY\ntiny/llama  refs/pr/1, v1  167.45 kB  llama\n"
    );
    let listed: Value = serde_json::from_str(&hub.run(&["list", "--json"])).unwrap();
    assert_eq!((&listed[0]["repo"], &listed[0]["commit"]), (&json!("tiny/llama"), &json!(COMMIT)));
    assert_eq!((&listed[0]["family"], &listed[0]["error"]), (&json!("llama"), &Value::Null));
    std::fs::remove_file(hub.cache().join("models--tiny--llama/blobs").join(etag(SHARDS[1]))).unwrap();
    let listed: Value = serde_json::from_str(&hub.run(&["list", "--json"])).unwrap();
    assert!(listed[0]["error"].as_str().unwrap().contains(SHARDS[1]), "{listed}");
}

#[test]
fn a_shard_that_breaks_off_is_gone_on_with_where_it_broke() {
    let hub = Hub::new("llama");
    hub.fail(SHARDS[0], &[Fault::Break(1000), Fault::Break(500), Fault::Status(503)]);
    hub.run(&["pull", "tiny/llama"]);
    assert!(SHARDS.iter().all(|name| hub.has(name)));
    let asked = hub.asked();
    let ranges: Vec<Option<&str>> = asked
        .iter()
        .filter(|asked| asked.path == format!("store {}", SHARDS[0]))
        .map(|asked| asked.range.as_deref())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=1000-"), Some("bytes=1500-"), Some("bytes=1500-")]);
    assert!(!hub.part(SHARDS[0]).exists());
}

#[test]
fn what_came_of_a_file_is_kept_for_the_next_time() {
    let hub = Hub::new("llama");
    let lasting = [Fault::Break(1000), Fault::Status(404)];
    hub.fail(SHARDS[1], &lasting);
    let said = hub.refused(&["pull", "tiny/llama"]);
    assert!(said.contains("404") && said.contains("tiny/llama"), "{said}");
    assert_eq!(std::fs::metadata(hub.part(SHARDS[1])).unwrap().len(), 1000);
    let offline = hub.command(&["pull", "tiny/llama"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(self::said(&offline).contains("not in the cache"));
    hub.asked();
    hub.run(&["pull", "tiny/llama"]);
    assert!(SHARDS.iter().all(|name| hub.has(name)));
    assert!(hub.asked().iter().any(|asked| asked.range.as_deref() == Some("bytes=1000-")));
}

#[test]
fn a_server_that_knows_no_ranges_sends_all_of_it_again() {
    let hub = Hub::new("llama");
    hub.fail(SHARDS[0], &[Fault::Break(1000), Fault::NoRanges, Fault::NoRanges]);
    hub.run(&["pull", "tiny/llama"]);
    assert!(hub.has(SHARDS[0]));
}

#[test]
fn parts_that_are_whole_or_too_long_are_taken_or_thrown_away() {
    let hub = Hub::new("llama");
    let whole = hub.contents.lock().unwrap().files[SHARDS[0]].clone();
    std::fs::create_dir_all(hub.part("x").parent().unwrap()).unwrap();
    std::fs::write(hub.part(SHARDS[0]), &whole).unwrap();
    std::fs::write(hub.part(SHARDS[1]), [whole.as_slice(), &whole].concat()).unwrap();
    hub.run(&["pull", "tiny/llama"]);
    assert!(SHARDS.iter().all(|name| hub.has(name)));
}

#[test]
fn a_file_of_another_size_than_the_hub_told_is_not_taken() {
    let hub = Hub::new("llama");
    let size = hub.contents.lock().unwrap().files[SHARDS[0]].len();
    hub.change(|contents| {
        contents.told_sizes.insert(SHARDS[0].into(), size + 7);
        contents.listed_sizes.insert(SHARDS[0].into(), size + 7);
    });
    let said = hub.refused(&["pull", "tiny/llama"]);
    assert!(said.contains(&format!("{size} bytes came, expected {} in all", size + 7)), "{said}");
    assert!(!hub.has(SHARDS[0]) && !hub.blob(SHARDS[0]).exists());
}

#[test]
fn more_than_the_hub_told_is_not_read_and_two_sizes_are_none() {
    let hub = Hub::new("llama");
    let size = hub.contents.lock().unwrap().files[SHARDS[0]].len();
    hub.change(|contents| contents.listed_sizes.extend([(SHARDS[0].into(), size - 7)]));
    let said = hub.refused(&["pull", "tiny/llama"]);
    assert!(said.contains(&format!("the Hub lists {} bytes, but {size} are to come", size - 7)), "{said}");
    hub.change(|contents| contents.told_sizes.extend([(SHARDS[0].into(), size - 7)]));
    let said = hub.refused(&["pull", "tiny/llama"]);
    assert!(said.contains(&format!("{} bytes came, expected {} in all", size - 6, size - 7)), "{said}");
    assert!(!hub.blob(SHARDS[0]).exists());
}

#[test]
fn odd_answers_end_as_errors() {
    let hub = Hub::new("llama");
    hub.fail(SHARDS[0], &[Fault::Status(416)]);
    let said = hub.refused(&["pull", "tiny/llama"]);
    assert!(said.contains("416"), "{said}");
    let said = hub.refused(&["info", "--model", "tiny/typo"]);
    assert!(said.contains("there is no file or directory of this name"), "{said}");
    let said = self::said(&hub.command(&["pull", "tiny/llama"]).env("HF_TOKEN", "a b").output().unwrap());
    assert!(said.contains("HF_TOKEN: expected a token of visible ASCII characters"), "{said}");
}

#[test]
fn what_another_tool_began_is_finished() {
    let hub = Hub::new("llama");
    let snapshot = hub.cache().join("models--tiny--llama/snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(snapshot.join(SHARDS[0]), &hub.contents.lock().unwrap().files[SHARDS[0]]).unwrap();
    hub.run(&["info", "--model", &format!("tiny/llama@{COMMIT}")]);
    assert!(SHARDS.iter().all(|name| hub.has(name)));
}

#[test]
fn refusals_say_what_to_do() {
    let hub = Hub::new("llama");
    for (model, expected) in [
        ("tiny/nothing", &["404", "Repository not found", "check the name"][..]),
        ("tiny/llama@v9", &["404", "there is no revision v9"]),
        ("tiny/private", &["401", "private", "set HF_TOKEN"]),
        ("tiny/gated", &["403", "gated", "agree to its terms at http://127.0.0.1", "/tiny/gated", "HF_TOKEN"]),
        ("tiny/llama/q4.gguf", &["tiny/llama/q4.gguf", "there is no file q4.gguf"]),
    ] {
        let said = hub.refused(&["pull", model]);
        assert!(said.starts_with(&format!("error: {model}: ")), "{said}");
        assert!(expected.iter().all(|expected| said.contains(expected)), "{said}");
    }
    let wrong = hub.command(&["pull", "tiny/private"]).env("HF_TOKEN", "hf_wrong").output().unwrap();
    let wrong = said(&wrong);
    assert!(wrong.contains("the token in HF_TOKEN is not valid for it") && !wrong.contains("hf_wrong"), "{wrong}");
    assert!(!hub.cache().exists() || std::fs::read_dir(hub.cache()).unwrap().count() <= 1, "nothing was kept");
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let hub = Hub::new("llama");
    printed(&hub.command(&["pull", "tiny/private"]).env("HF_TOKEN", TOKEN).output().unwrap());
    let bearer = format!("Bearer {TOKEN}");
    for asked in hub.asked() {
        let is_hub = asked.host.starts_with("127.0.0.1");
        assert_eq!(asked.authorization.as_deref() == Some(&bearer), is_hub, "{asked:?}");
    }
    std::fs::remove_dir_all(hub.cache()).unwrap();
    std::fs::write(hub.home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    hub.run(&["pull", "tiny/private"]);
}

#[test]
fn redirects_to_a_new_name_are_followed() {
    let hub = Hub::new("llama");
    hub.run(&["info", "--model", "tiny/renamed"]);
    let asked = hub.asked();
    assert!(asked.iter().any(|asked| asked.path == "list tiny/llama@main"), "{asked:?}");
}

#[test]
fn a_busy_hub_is_asked_again_and_an_unreachable_one_is_not_needed_for_what_is_there() {
    let hub = Hub::new("llama");
    hub.fail("the list", &[Fault::Status(429), Fault::Status(500)]);
    let snapshot = hub.run(&["pull", "tiny/llama"]);
    let nowhere = |args: &[&str]| hub.command(args).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    let found = nowhere(&["pull", "tiny/llama"]);
    assert_eq!(printed(&found), snapshot);
    assert!(String::from_utf8_lossy(&found.stderr).contains("taking what the cache has"));
    hub.asked();
    let offline = hub.command(&["info", "--model", "tiny/llama"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    printed(&offline);
    assert!(hub.asked().is_empty());
    let offline = hub.command(&["info", "--model", "tiny/other"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(said(&offline).contains("HF_HUB_OFFLINE forbids"));
    let wrong = hub.command(&["pull", "tiny/llama"]).env("HF_ENDPOINT", "huggingface.co").output().unwrap();
    assert!(said(&wrong).contains("HF_ENDPOINT: expected an http address"));
}

#[test]
fn a_password_in_an_address_is_not_told() {
    let hub = Hub::new("llama");
    let tell = |args: &[&str], endpoint: &str| {
        let output = hub.command(args).env("HF_ENDPOINT", endpoint).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let refused = tell(&["pull", "tiny/not-there"], &format!("http://user:secret@{}", hub.address));
    assert!(refused.contains("answers 404") && !refused.contains("secret"), "{refused}");
    let wrong = tell(&["pull", "tiny/llama"], "ftp://user:secret@host");
    assert!(wrong.contains("found one of ftp") && !wrong.contains("secret"), "{wrong}");
}

#[test]
fn families_that_are_not_supported_are_refused_before_their_weights_are_asked_for() {
    let hub = Hub::new("llama");
    let config = br#"{"model_type": "gemma3", "architectures": ["Gemma3ForCausalLM"]}"#.to_vec();
    hub.change(|contents| drop(contents.files.insert("config.json".into(), config)));
    let said = hub.refused(&["serve", "--port", "0", "--model", "tiny/llama"]);
    assert!(said.contains("\"gemma3\" is not supported: expected one of bamba"), "{said}");
    assert!(!hub.asked().iter().any(|asked| asked.path.contains("model-0000")));
}

#[test]
fn weights_that_are_none_or_several_are_said() {
    let hub = Hub::new("llama");
    hub.change(|contents| contents.files.retain(|name, _| !name.contains("safetensors")));
    let said = hub.refused(&["pull", "tiny/llama"]);
    assert!(said.contains("found pytorch_model.bin: convert it to safetensors"), "{said}");
    hub.change(|contents| contents.files.extend(["q4.gguf", "q8.gguf"].map(|name| (name.into(), vec![1, 2]))));
    let said = hub.refused(&["pull", "tiny/llama"]);
    assert!(said.contains("name one of them") && said.contains("q4.gguf, q8.gguf"), "{said}");
    let path = hub.run(&["pull", "tiny/llama/q8.gguf"]);
    assert!(path.trim_end().ends_with("q8.gguf") && hub.has("q8.gguf") && !hub.has("q4.gguf"));
    let parts = ["q2-00001-of-00002.gguf", "q2-00002-of-00002.gguf"];
    hub.change(|contents| contents.files.extend(parts.map(|name| (name.into(), vec![3]))));
    hub.run(&["pull", "tiny/llama/q2-00001-of-00002.gguf"]);
    assert!(parts.iter().all(|name| hub.has(name)));
}

#[test]
fn names_that_lead_out_of_the_cache_are_not_followed() {
    let hub = Hub::new("llama");
    hub.change(|contents| {
        contents.files.insert("../../../evil.safetensors".into(), vec![1]);
        let index = r#"{"weight_map": {"x": "../../../evil.safetensors"}}"#;
        contents.files.insert("model.safetensors.index.json".into(), index.into());
    });
    let said = hub.refused(&["pull", "tiny/llama"]);
    assert!(said.contains("expected plain file names of shards"), "{said}");
    assert!(!hub.home.path().join("evil.safetensors").exists());
}

/// Writing to `/dev/full` fails as it does on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_what_is_there_stays() {
    let hub = Hub::new("llama");
    std::fs::create_dir_all(hub.part("x").parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", hub.part(SHARDS[1])).unwrap();
    let said = hub.refused(&["pull", "tiny/llama"]);
    assert!(said.contains("No space left on device") && said.contains("set HF_HOME to a larger disk"), "{said}");
    assert!(said.contains(&etag(SHARDS[1])), "{said}");
    assert!(hub.has("config.json"));
    std::fs::remove_file(hub.part(SHARDS[1])).unwrap();
    hub.run(&["pull", "tiny/llama"]);
    assert!(SHARDS.iter().all(|name| hub.has(name)));
}

#[test]
fn several_starts_at_once_give_one_model() {
    let hub = Hub::new("llama");
    for _ in 0..4 {
        std::thread::scope(|scope| {
            let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| hub.run(&["info", "--model", "tiny/llama"]))).collect();
            for start in starts {
                start.join().unwrap();
            }
        });
        assert!(SHARDS.iter().all(|name| hub.has(name)));
        std::fs::remove_dir_all(hub.cache()).unwrap();
    }
}
