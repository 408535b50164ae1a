//! `restage serve`: runs in a browser while they go on, and afterwards. For this machine only, and for who has the token.
//!
//! Everything is below `/TOKEN/`: the list of runs, `run/WORKFLOW/RUN/` for each, `events` below that as server-sent events.
//! The journals are only read, so that a run cares for nobody who watches, and what happens to the run harms no page.

mod follow;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use restage_cache::Store;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use crate::{
    export,
    report::{Table, page},
    run::journal,
};
use follow::Follow;

/// How often a journal is looked at.
const LOOK: Duration = Duration::from_millis(400);

/// A line that says nothing, so that a browser that went away is noticed.
const ALIVE: Duration = Duration::from_secs(15);

/// So many runs are listed, the newest.
const MOST_RUNS: usize = 200;

const LIST: &str = include_str!("list.html");
const LIST_SCRIPT: &str = include_str!("list.js");
const LIVE_SCRIPT: &str = include_str!("live.js");
const STYLE: &str = include_str!("style.css");

/// What is served.
pub(crate) struct Served {
    store: Store,
    /// Folders of the workflows whose runs are shown; all if empty.
    only: Vec<PathBuf>,
    token: String,
    /// Runs that have ended, which say the same for ever.
    ended: Mutex<HashMap<PathBuf, Value>>,
}

impl Served {
    pub(crate) fn new(store: Store, only: Vec<PathBuf>, token: String) -> Self {
        Self { store, only, token, ended: Mutex::default() }
    }

    /// Folders of the runs that are shown, newest first.
    fn runs(&self) -> Result<Vec<PathBuf>, journal::JournalError> {
        let all = journal::runs_of_all(&self.store)?.into_iter().flatten();
        let is_shown =
            |run: &PathBuf| self.only.is_empty() || self.only.iter().any(|folder| run.starts_with(folder));
        let mut runs: Vec<PathBuf> = all.filter(is_shown).filter(|run| journal::is_run(run)).collect();
        runs.sort_by(|a, b| b.file_name().cmp(&a.file_name()));
        Ok(runs)
    }

    /// The run that a path names, `WORKFLOW/RUN`: one of those that are shown, whatever else it looks like.
    fn run(&self, id: &str) -> Option<PathBuf> {
        self.runs().ok()?.into_iter().find(|run| run_id(run).as_deref() == Some(id))
    }

    /// What the list says.
    fn list(&self) -> Vec<Value> {
        let runs = self.runs().unwrap_or_default();
        let summary = |run: &PathBuf| -> Option<Value> {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = ended.get(run) {
                return Some(known.clone());
            }
            let mut follow = Follow::new(run);
            follow.read().ok()?;
            let mut summary = follow.summary()?;
            summary["id"] = run_id(run)?.into();
            if follow.status().has_ended() {
                ended.insert(run.clone(), summary.clone());
            }
            Some(summary)
        };
        runs.iter().take(MOST_RUNS).filter_map(summary).collect()
    }
}

/// A run's folder as a page is called.
fn run_id(run: &Path) -> Option<String> {
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    Some(format!("{}/{}", name(run.parent()?)?, name(run)?))
}

/// Answers until the process ends.
///
/// # Errors
/// If no connection can be taken any more.
pub(crate) async fn serve(listener: TcpListener, served: Served) -> io::Result<Infallible> {
    let served = Arc::new(served);
    loop {
        let (stream, _) = listener.accept().await?;
        let served = served.clone();
        let answer = service_fn(move |request| {
            let served = served.clone();
            async move { Ok::<_, Infallible>(answer(&request, served).await) }
        });
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            // A browser that goes away is no mistake.
            let _ = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(request: &Request<Incoming>, served: Arc<Served>) -> Response<Sent> {
    let mut response = match refused(request, &served.token) {
        Some(refusal) => refusal,
        None => answered(request, served).await,
    };
    // Scripts come from here alone; the report's own policy, which is stricter, is in itself.
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ));
    response
}

/// What is not answered, and why.
fn refused(request: &Request<Incoming>, token: &str) -> Option<Response<Sent>> {
    // A page elsewhere may make its name mean this machine; the browser then still says that name.
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_local(host) {
        return Some(forbidden("This server answers to 127.0.0.1 and localhost only."));
    }
    if request.method() != Method::GET {
        return Some(html(
            StatusCode::METHOD_NOT_ALLOWED,
            message("Only for reading", "Nothing can be changed here."),
        ));
    }
    let given = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
    // Digests are compared in a time that does not depend on where they differ.
    let is_right = blake3::hash(given.as_bytes()) == blake3::hash(token.as_bytes());
    (!is_right).then(|| {
        forbidden("The address lacks the token, or has one of an earlier server. Open the one that restage serve printed.")
    })
}

/// Whether a `Host` header names this machine, at whatever port: a tunnel may have another.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    ["127.0.0.1", "localhost", "::1"].contains(&name)
}

async fn answered(request: &Request<Incoming>, served: Arc<Served>) -> Response<Sent> {
    let path = request.uri().path().trim_start_matches('/');
    let Some((_, place)) = path.split_once('/') else {
        // So that what a page names is found beside it.
        let mut response = html(StatusCode::PERMANENT_REDIRECT, String::new());
        if let Ok(to) = HeaderValue::from_str(&format!("/{path}/")) {
            response.headers_mut().insert(header::LOCATION, to);
        }
        return response;
    };
    match place {
        "" => return html(StatusCode::OK, LIST.to_owned()),
        "list.js" => return file("text/javascript", LIST_SCRIPT),
        "style.css" => return file("text/css", STYLE),
        "runs.json" => {
            let list = blocking(move || served.list()).await.unwrap_or_default();
            return file("application/json", Value::Array(list).to_string());
        }
        _ => {}
    }
    let parts: Vec<&str> = place.split('/').collect();
    let ["run", workflow, run, what] = parts[..] else { return not_found() };
    let id = format!("{workflow}/{run}");
    let lookup = served.clone();
    let Some(run) = blocking(move || lookup.run(&id)).await.flatten() else { return not_found() };
    match what {
        "" => blocking(move || report(&served, &run)).await.unwrap_or_else(not_found),
        "metrics.json" => blocking(move || metrics(&served, &run)).await.unwrap_or_else(not_found),
        "events" => events(run),
        _ => not_found(),
    }
}

/// What the run gave so far.
fn report(served: &Served, run: &Path) -> Response<Sent> {
    let mut follow = Follow::new(run);
    let Some(outcome) = follow.read().ok().and(follow.outcome) else { return not_found() };
    let table = Table::new(&outcome, &served.store);
    let mut response = html(StatusCode::OK, page::html(&outcome, &table, &served.store, Some(LIVE_SCRIPT)));
    // What it may do is said by itself, and stricter.
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'"));
    response
}

fn metrics(served: &Served, run: &Path) -> Response<Sent> {
    let mut follow = Follow::new(run);
    let Some(outcome) = follow.read().ok().and(follow.outcome) else { return not_found() };
    file("application/json", export::metrics(&outcome, &served.store, true).to_string())
}

/// The run as it goes on: `now` whenever something changed, `results` when something ended, `end` when nothing more comes.
fn events(run: PathBuf) -> Response<Sent> {
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        let mut follow = Follow::new(&run);
        let (mut last, mut ended, mut told) = (String::new(), None, Instant::now());
        loop {
            let Some(read) = blocking(move || follow.read().map(|()| follow)).await else { return };
            let Ok(read) = read else { return };
            follow = read;
            let now = follow.told().to_string();
            let mut lines = String::new();
            if now != last {
                lines += &event("now", &now);
                last = now;
            }
            if ended.replace(follow.ended()).is_some_and(|before| before != follow.ended()) {
                lines += &event("results", &json!({ "ended": follow.ended() }).to_string());
            }
            let is_over = follow.status().has_ended();
            if is_over {
                lines += &event("end", &json!({ "status": follow.status().word() }).to_string());
            }
            if lines.is_empty() && told.elapsed() > ALIVE {
                lines += ":\n\n";
            }
            if !lines.is_empty() {
                told = Instant::now();
                if sender.send(Bytes::from(lines)).await.is_err() {
                    return;
                }
            }
            if is_over {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    let mut response = Response::new(Sent::Events(receiver));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// `data` is one line.
fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// Reads files where that keeps nobody else waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn file(kind: &'static str, text: impl Into<Bytes>) -> Response<Sent> {
    let mut response = Response::new(Sent::Whole(Some(text.into())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn html(status: StatusCode, text: String) -> Response<Sent> {
    let mut response = file("text/html; charset=utf-8", text);
    *response.status_mut() = status;
    response
}

fn forbidden(why: &str) -> Response<Sent> {
    html(StatusCode::FORBIDDEN, message("Not for you", why))
}

fn not_found() -> Response<Sent> {
    html(
        StatusCode::NOT_FOUND,
        message("Nothing here", "The run is gone from the store, or is not one of those that are shown."),
    )
}

fn message(title: &str, text: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" \
         content=\"light dark\"><title>restage: {title}</title><body style=\"font: 1rem/1.5 system-ui; max-width: 40rem; margin: 4rem auto; \
         padding: 0 1rem\"><h1>{title}</h1><p>{text}</p></body></html>"
    )
}

/// An answer: whole, or as it comes.
enum Sent {
    Whole(Option<Bytes>),
    Events(mpsc::Receiver<Bytes>),
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events.poll_recv(context).map(|bytes| Some(Ok(Frame::data(bytes?)))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in ["127.0.0.1:8765", "localhost", "localhost:1", "[::1]:8765"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8765",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
            "0.0.0.0",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
