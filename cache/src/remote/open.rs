//! From a URL to something that can be asked: which kinds there are, what they are told, and how long to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::Remote;
use crate::durable::Disk;
use crate::error::{Error, Result};
use crate::layout::Layout;

/// How often a request that may succeed later is sent again, and for how long.
const RETRIES: usize = 5;
const RETRY_FOR: Duration = Duration::from_secs(60);

/// How long nothing may arrive before a request counts as failed. Not how long a transfer may take.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) fn open(text: &str, settings: &BTreeMap<String, String>) -> Result<Remote> {
    // What cannot be parsed may hold a password anywhere, so it is not shown either.
    let refused = |shown: &str, why: &str| Error::RemoteUrl { url: shown.to_owned(), why: why.to_owned() };
    let url = Url::parse(text).map_err(|error| refused("the text", &error.to_string()))?;
    let shown = shown(&url);
    let wrong = |error: object_store::Error| refused(&shown, &super::transfer::words(&error));
    let mut group = None;
    let objects: Arc<dyn ObjectStore> = match url.scheme() {
        "file" => {
            let (objects, shared) = folder(&url).map_err(|why| refused(&shown, &why))?;
            group = shared;
            Arc::new(objects)
        }
        "s3" => Arc::new(bucket(&url, settings).map_err(|why| refused(&shown, &why))?),
        "http" | "https" => Arc::new(
            HttpBuilder::new()
                .with_url(url.as_str())
                .with_client_options(options().with_allow_http(url.scheme() == "http"))
                .with_retry(retry())
                .build()
                .map_err(wrong)?,
        ),
        other => return Err(refused(&shown, &format!("nothing here speaks `{other}`"))),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("remote")
        .enable_all()
        .build()
        .map_err(|error| refused(&shown, &error.to_string()))?;
    Ok(Remote {
        group,
        read_only: matches!(url.scheme(), "http" | "https"),
        url: shown,
        objects,
        names: Layout::new(PathBuf::new()),
        found: OnceLock::new(),
        damaged: Mutex::new(BTreeSet::new()),
        runtime: Some(runtime),
    })
}

/// The URL without what is nobody's business.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Refused by URLs that cannot have them, which then do not.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// It must be there: a folder that is made where a share is not mounted takes everything and gives it to nobody.
fn folder(url: &Url) -> Result<(LocalFileSystem, Option<(PathBuf, Disk)>), String> {
    let path = url.to_file_path().map_err(|()| "it is no absolute path of this machine".to_owned())?;
    if !path.is_dir() {
        return Err("there is no such folder; create it if this is the place".to_owned());
    }
    let mut disk = Disk::default();
    disk.suit(&path, Layout::new(path.clone()).stagings()).map_err(|error| error.to_string())?;
    let objects = LocalFileSystem::new_with_prefix(&path).map_err(|error| super::transfer::words(&error))?;
    let group = disk.is_shared().then_some((path, disk));
    Ok((objects, group))
}

fn bucket(url: &Url, settings: &BTreeMap<String, String>) -> Result<PrefixStore<AmazonS3>, String> {
    let name = url.host_str().ok_or("it names no bucket")?;
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(name);
    for (name, value) in settings {
        let key: AmazonS3ConfigKey = name.parse().map_err(|_| format!("S3 has no setting `{name}`"))?;
        builder = builder.with_config(key, value);
    }
    // Who writes `http://` wants it.
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let store = builder.with_client_options(options().with_allow_http(plain)).with_retry(retry()).build();
    let prefix = Path::parse(url.path()).map_err(|error| error.to_string())?;
    Ok(PrefixStore::new(store.map_err(|error| super::transfer::words(&error))?, prefix))
}

fn options() -> ClientOptions {
    // The one that compiles without a C toolchain's help; an earlier choice of the program's stands.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(10))
        .with_read_timeout(SILENCE)
        // Large files take as long as they take.
        .with_timeout_disabled()
}

fn retry() -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_FOR }
}
