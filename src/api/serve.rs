//! Connections: each is served by itself, within bounds of time that no slow or silent client can stretch.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_io_timeout::TimeoutStream;
use tower_http::add_extension::AddExtension;

use super::app::App;
use super::owed::Owed;
use super::{metrics_router, router};

/// A request's headers have to be there in this time, and a connection may be silent between requests for as long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that takes nothing of an answer for so long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// After an accept that failed, as it does where there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers that were cut off have this long to reach their clients, and so have those who are asking for one.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How often it is looked whether a drain is complete.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Metrics that nobody scrapes are tidied up so often.
const TIDY_UP_EVERY: Duration = Duration::from_secs(5);

/// Where requests come in.
#[derive(Debug)]
pub struct Listeners {
    /// For all of them.
    pub api: TcpListener,
    /// For metrics alone, if they have a port of their own.
    pub metrics: Option<TcpListener>,
}

/// Serves `app` on `listeners` until `shutdown`; then finishes what was taken in, within `drain_timeout`.
///
/// Returns whether everything was finished and delivered.
pub async fn serve(
    listeners: Listeners,
    app: App,
    shutdown: impl Future<Output = ()>,
    drain_timeout: Duration,
) -> bool {
    let Listeners { api, metrics } = listeners;
    let background = [Some(tokio::spawn(tidy_up(app.clone()))), metrics.map(|listener| serve_metrics(listener, &app))];
    let (connections, owed) = (GracefulShutdown::new(), Owed::default());
    let routes = router(app.clone());
    tokio::select! {
        () = accept(&api, &routes, &connections, &owed) => {}
        () = shutdown => {}
    }
    app.drain();
    let is_clean = drain(api, &app, routes, connections, &owed, Instant::now() + drain_timeout).await;
    background.iter().flatten().for_each(JoinHandle::abort);
    is_clean
}

/// Metrics are told to the very end.
fn serve_metrics(listener: TcpListener, app: &App) -> JoinHandle<()> {
    let routes = metrics_router(app.clone());
    tokio::spawn(async move { accept(&listener, &routes, &GracefulShutdown::new(), &Owed::default()).await })
}

async fn accept(listener: &TcpListener, routes: &Router, connections: &GracefulShutdown, owed: &Owed) {
    loop {
        let opened = listener.accept().await.and_then(|(stream, _)| open(stream, routes, connections, owed));
        match opened {
            Ok(()) => {}
            Err(error) if is_of_one_connection(error.kind()) => {}
            Err(error) => {
                tracing::warn!("no connection can be taken: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

fn open(stream: TcpStream, routes: &Router, connections: &GracefulShutdown, owed: &Owed) -> io::Result<()> {
    let _ = stream.set_nodelay(true); // each token goes out at once
    let (stream, twin) = twins(stream)?;
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let service = TowerToHyperService::new(AddExtension::new(routes.clone(), owed.connection()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .half_close(false)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let watched = connections.watch(connection);
    tokio::spawn(async move {
        tokio::select! {
            ended = watched => if let Err(error) = ended {
                tracing::debug!("a connection ended: {error}");
            },
            () = closed(&twin) => {}
        }
    });
    Ok(())
}

/// The connection, and once more to watch it by.
fn twins(stream: TcpStream) -> io::Result<(TcpStream, TcpStream)> {
    let stream = stream.into_std()?;
    let twin = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, TcpStream::from_std(twin)?))
}

/// Waits until the client has hung up. While it answers a request, hyper sees that only where the client has sent
/// nothing behind it.
async fn closed(twin: &TcpStream) {
    loop {
        match twin.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => {
                // There is something to read, which is not for us: only what comes next is of interest.
                let _ = twin.try_io(Interest::READABLE, || io::Result::<()>::Err(ErrorKind::WouldBlock.into()));
            }
            _ => return,
        }
    }
}

/// Answers what was taken in and tells newcomers that nothing is taken in any more.
async fn drain(
    listener: TcpListener,
    app: &App,
    routes: Router,
    connections: GracefulShutdown,
    owed: &Owed,
    deadline: Instant,
) -> bool {
    let late = GracefulShutdown::new();
    let is_over = async {
        while !app.is_idle() && !app.is_cut_off() {
            sleep(DRAIN_POLL).await;
        }
    };
    tokio::select! {
        () = accept(&listener, &routes, &late, owed) => {}
        _ = timeout_at(deadline, is_over) => {}
    }
    drop(listener);
    let is_finished = app.is_idle();
    if !is_finished {
        app.cut_off();
    }
    let all = async { tokio::join!(connections.shutdown(), late.shutdown()) };
    tokio::select! {
        _ = all => {}
        () = deliver(owed, deadline) => {}
    }
    is_finished && !owed.is_any()
}

/// Waits until nothing is left that could be lost: whoever is still sending a request has nothing.
async fn deliver(owed: &Owed, deadline: Instant) {
    sleep(LAST_WORDS).await;
    while owed.is_any() && Instant::now() < deadline {
        sleep(DRAIN_POLL).await;
    }
}

async fn tidy_up(app: App) {
    loop {
        sleep(TIDY_UP_EVERY).await;
        app.tidy_up();
    }
}
