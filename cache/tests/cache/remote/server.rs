//! Servers in the test's own process: S3 (of `s3s-fs`, which checks signatures) and plain files, both of which can be told
//! to misbehave.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use restage_cache::Remote;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What a server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It answers 503.
    Busy,
    /// It answers 403.
    Denied,
    /// It does what it is told, and the connection ends before the reply.
    LostReply,
    /// The connection ends in the middle of the reply.
    CutBody,
    /// One bit of the reply is another.
    ChangedBody,
}

/// To which requests.
#[derive(Debug, Clone)]
struct Planned {
    fault: Fault,
    method: Option<Method>,
    /// How many are left alone first, and how many are hit then.
    skip: usize,
    times: usize,
}

#[derive(Debug, Default)]
struct Faults {
    planned: Option<Planned>,
    /// How many requests came.
    seen: usize,
}

/// A server on this machine, up until it is dropped.
pub(crate) struct Server {
    port: u16,
    folder: PathBuf,
    faults: Arc<Mutex<Faults>>,
    _folder: Option<TempDir>,
    _runtime: Runtime,
}

pub(crate) const BUCKET: &str = "bucket";
const KEY: (&str, &str) = ("AKEXAMPLE", "secret-of-the-tests");

/// The connection is to end.
#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server was told to hang up")
    }
}

impl std::error::Error for Broken {}

type Body = BoxBody<Bytes, Broken>;

/// What answers, before anything goes wrong.
#[derive(Clone)]
enum Answers {
    S3(S3Service),
    Files(PathBuf),
}

impl Server {
    /// An S3 server with an empty bucket.
    pub(crate) fn s3() -> Server {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY.0, KEY.1));
        let path = folder.path().to_path_buf();
        Server::start(Answers::S3(builder.build()), path, Some(folder))
    }

    /// A web server for the files of a folder.
    pub(crate) fn files(folder: PathBuf) -> Server {
        Server::start(Answers::Files(folder.clone()), folder, None)
    }

    fn start(answers: Answers, folder: PathBuf, kept: Option<TempDir>) -> Server {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Mutex::new(Faults::default()));
        let told = faults.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let (answers, faults) = (answers.clone(), told.clone());
                let service = service_fn(move |request| answer(answers.clone(), faults.clone(), request));
                tokio::spawn(async move {
                    // It ends in an error when it was told to.
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Server { port, folder, faults, _folder: kept, _runtime: runtime }
    }

    /// The bucket as a remote.
    pub(crate) fn remote(&self) -> Remote {
        self.remote_with(KEY.1)
    }

    /// The bucket as a remote, for somebody with this secret.
    pub(crate) fn remote_with(&self, secret: &str) -> Remote {
        let endpoint = self.url();
        let settings = [
            ("aws_endpoint", endpoint.as_str()),
            ("aws_access_key_id", KEY.0),
            ("aws_secret_access_key", secret),
            ("aws_region", "us-east-1"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Remote::open_with(&format!("s3://{BUCKET}/team/cache"), &settings).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where the bucket's objects of this remote lie.
    pub(crate) fn objects(&self) -> PathBuf {
        self.folder.join(BUCKET).join("team/cache")
    }

    /// From now on `times` requests with this method (any, for none) go wrong, after `skip` of them.
    pub(crate) fn misbehave(&self, fault: Fault, method: Option<Method>, skip: usize, times: usize) {
        let mut faults = self.faults.lock().unwrap();
        *faults = Faults { planned: Some(Planned { fault, method, skip, times }), seen: 0 };
    }

    pub(crate) fn behave(&self) {
        *self.faults.lock().unwrap() = Faults::default();
    }

    /// How many requests with the planned method came since the last plan.
    pub(crate) fn seen(&self) -> usize {
        self.faults.lock().unwrap().seen
    }
}

async fn answer(
    answers: Answers,
    faults: Arc<Mutex<Faults>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Broken> {
    let fault = next(&mut faults.lock().unwrap(), request.method());
    match fault {
        Some(Fault::Busy) => return Ok(status(StatusCode::SERVICE_UNAVAILABLE)),
        Some(Fault::Denied) => return Ok(status(StatusCode::FORBIDDEN)),
        _ => {}
    }
    let (head, bytes) = match answers {
        Answers::S3(service) => {
            let (head, body) = Service::call(&service, request).await.map_err(|_| Broken)?.into_parts();
            (head, body.collect().await.map_err(|_| Broken)?.to_bytes())
        }
        Answers::Files(folder) => {
            match std::fs::read(folder.join(request.uri().path().trim_start_matches('/'))) {
                Ok(bytes) => {
                    let (mut head, ()) = Response::new(()).into_parts();
                    head.headers.insert("content-length", bytes.len().into());
                    (head, if request.method() == Method::HEAD { Bytes::new() } else { bytes.into() })
                }
                Err(_) => return Ok(status(StatusCode::NOT_FOUND)),
            }
        }
    };
    let body = match fault {
        Some(Fault::LostReply) => return Err(Broken),
        Some(Fault::CutBody) if !bytes.is_empty() => {
            let half = Frame::data(bytes.slice(..bytes.len() / 2));
            StreamBody::new(stream::iter([Ok(half), Err(Broken)])).boxed()
        }
        Some(Fault::ChangedBody) if !bytes.is_empty() => {
            let mut changed = bytes.to_vec();
            changed[bytes.len() / 2] ^= 1;
            whole(changed.into())
        }
        _ => whole(bytes),
    };
    Ok(Response::from_parts(head, body))
}

fn next(faults: &mut Faults, method: &Method) -> Option<Fault> {
    let planned = faults.planned.as_mut()?;
    if planned.method.as_ref().is_some_and(|wanted| wanted != method) {
        return None;
    }
    faults.seen += 1;
    if planned.skip > 0 {
        planned.skip -= 1;
        return None;
    }
    planned.times = planned.times.checked_sub(1)?;
    Some(planned.fault)
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}
